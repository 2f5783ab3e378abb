//! The cache key of a verdict: a keyed hash of credentials and of the project that judges them.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::credentials::Credentials;

/// Secret of the hash. Without it, nobody can make two requests share a key, or try credentials
/// against a key.
#[derive(Clone)]
pub struct KeySecret([u8; 16]);

impl KeySecret {
    /// Makes a secret of these bytes, which must come from a random number generator.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for KeySecret {
    /// Shows the name of the type only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret")
    }
}

/// Key of the verdict about some credentials: SipHash-2-4 with 128 bits.
///
/// Under one secret, two keys are equal if the scopes are, and the bytes sent to Authgear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 16]);

impl Key {
    /// Returns the key of these credentials. The verdict about them depends on `scope` too: the
    /// settings of the project, and the resolver that is asked.
    pub fn of(secret: &KeySecret, scope: &[u8], credentials: &Credentials<'_>) -> Self {
        let mut hasher = SipHasher24::new_with_key(&secret.0);
        hasher.write(&(scope.len() as u64).to_be_bytes());
        hasher.write(scope);
        credentials.feed_canonical(|bytes| hasher.write(bytes));
        Self(hasher.finish128().as_bytes())
    }

    /// Returns its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl Hash for Key {
    /// Writes a part of the key, which is a hash already.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Hasher for maps of [`Key`]s only: keys are hashes already, under a secret.
pub type KeyHasher = BuildHasherDefault<AsIs>;

/// See [`KeyHasher`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
}

impl fmt::Debug for Key {
    /// Shows the key in hexadecimal. Without the secret, it reveals nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::CookieNames;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECRET: KeySecret = KeySecret::from_bytes([7; 16]);

    fn read<'a>(authorization: Option<&'a [u8]>, cookies: &'a [Vec<u8>]) -> Credentials<'a> {
        let cookies = cookies.iter().map(Vec::as_slice);
        Credentials::read(authorization, cookies, &CookieNames::default())
    }

    /// As [`Key::of`], with one call of the hash.
    fn key_of_whole(secret: &KeySecret, scope: &[u8], credentials: &Credentials<'_>) -> Key {
        let mut bytes = (scope.len() as u64).to_be_bytes().to_vec();
        bytes.extend_from_slice(scope);
        credentials.write_canonical(&mut bytes);
        Key(SipHasher24::new_with_key(secret.as_bytes()).hash(&bytes).as_bytes())
    }

    /// First, second and last of the test vectors of SipHash's authors (`vectors.h`,
    /// `vectors_sip128`): the key is 00 01 .. 0f, the input as many bytes 00 01 ..
    #[test]
    fn the_hash_is_siphash_2_4_128() {
        let secret: [u8; 16] = std::array::from_fn(|n| n as u8);
        let input: Vec<u8> = (0..63).collect();
        for (length, hash) in [
            (0, 0xa3817f04ba25a8e66df67214c7550293_u128),
            (1, 0xda87c1d86b99af44347659119b22fc45),
            (63, 0x5150d1772f50834a503e069a973fbd7c),
        ] {
            let mut hasher = SipHasher24::new_with_key(&secret);
            input[..length].chunks(5).for_each(|bytes| hasher.write(bytes));
            assert_eq!(Key(hasher.finish128().as_bytes()), Key(hash.to_be_bytes()), "{length}");
        }
    }

    #[test]
    fn debug_shows_the_key_and_no_secret() {
        assert_eq!(format!("{SECRET:?}"), "KeySecret");
        let mut bytes = [0; 16];
        bytes[1] = 0xab;
        let key = Key::from_bytes(bytes);
        assert_eq!(format!("{key:?}"), "Key(00ab0000000000000000000000000000)");
    }

    /// The border between scope and credentials is a part of the hash.
    #[test]
    fn parts_do_not_run_together() {
        let credentials = read(Some(b"bearer a"), &[]);
        let scope = [&0_u64.to_be_bytes()[..], b"x"].concat();
        let keys = [&b""[..], b"x", &scope, &scope[..8]]
            .map(|scope| Key::of(&SECRET, scope, &credentials));
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "{n}");
        }
    }

    /// The first 8 bytes of these keys, and so their hashes, are equal.
    #[test]
    fn maps_tell_keys_with_equal_hashes_apart() {
        let mut bytes = [7; 16];
        let first = Key::from_bytes(bytes);
        bytes[15] = 8;
        let second = Key::from_bytes(bytes);
        let map = HashMap::<_, _, KeyHasher>::from_iter([(first, 1), (second, 2)]);
        assert_eq!((map.get(&first), map.get(&second)), (Some(&1), Some(&2)));
    }

    fn authorization() -> impl Strategy<Value = Option<Vec<u8>>> {
        option::of("[bB]earer [ab]{1,2}".prop_map(String::into_bytes))
    }

    fn cookies() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let field = "(session=[ab]?;?|app_session=a;?|x;){0,2}";
        vec(field.prop_map(String::into_bytes), 0..3)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn keys_are_equal_when_scope_and_sent_bytes_are_equal(
            scopes in ("[ab]{0,2}", "[ab]{0,2}"),
            authorizations in (authorization(), authorization()),
            fields in (cookies(), cookies()),
        ) {
            let a = read(authorizations.0.as_deref(), &fields.0);
            let b = read(authorizations.1.as_deref(), &fields.1);
            let equal = scopes.0 == scopes.1
                && a.authorization() == b.authorization()
                && a.cookie_header() == b.cookie_header();
            let keys = (
                Key::of(&SECRET, scopes.0.as_bytes(), &a),
                Key::of(&SECRET, scopes.1.as_bytes(), &b),
            );
            prop_assert_eq!(keys.0 == keys.1, equal);
        }

        #[test]
        fn any_change_changes_the_key(
            scope in vec(any::<u8>(), 1..20),
            token in "[a-z]{1,40}",
            mut values in vec("[a-z]{1,40}", 1..4),
            which in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
        ) {
            let bearer = |token: &str| format!("Bearer {token}").into_bytes();
            let field = |values: &[String]| {
                vec![values.join("; session=").into_bytes()]
                    .into_iter()
                    .map(|field| [b"session=", field.as_slice()].concat())
                    .collect::<Vec<_>>()
            };
            let change = |text: &str| {
                let mut bytes = text.as_bytes().to_vec();
                let byte = at.get_mut(&mut bytes);
                *byte = byte.to_ascii_uppercase();
                String::from_utf8(bytes).unwrap()
            };
            let key = |secret: &KeySecret, scope: &[u8], token: &str, values: &[String]| {
                Key::of(secret, scope, &read(Some(&bearer(token)), &field(values)))
            };
            let mut keys = vec![key(&SECRET, &scope, &token, &values)];
            keys.push(key(&SECRET, &scope, &change(&token), &values));
            keys.push(Key::of(&SECRET, &scope, &read(Some(&bearer(&token)), &[])));
            keys.push(Key::of(&SECRET, &scope, &read(None, &field(&values))));
            let mut other = scope.clone();
            *at.get_mut(&mut other) ^= 1;
            keys.push(key(&SECRET, &other, &token, &values));
            keys.push(key(&SECRET, &scope[1..], &token, &values));
            let mut secret = *SECRET.as_bytes();
            *at.get_mut(&mut secret) ^= 1;
            keys.push(key(&KeySecret::from_bytes(secret), &scope, &token, &values));
            let value = which.get_mut(&mut values);
            *value = change(value);
            keys.push(key(&SECRET, &scope, &token, &values));
            for (n, key) in keys.iter().enumerate() {
                prop_assert!(!keys[..n].contains(key), "{}", n);
            }
        }

        #[test]
        fn hashing_in_parts_gives_the_hash_of_the_whole(
            scope in vec(any::<u8>(), 0..20),
            authorization in authorization(),
            fields in cookies(),
        ) {
            let credentials = read(authorization.as_deref(), &fields);
            let key = Key::of(&SECRET, &scope, &credentials);
            prop_assert_eq!(key, key_of_whole(&SECRET, &scope, &credentials));
        }
    }
}
