//! Key of a cached verdict: a keyed hash of the credentials and of the scope.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::credentials::{CanonicalSink, Credentials};

/// Secret of the keyed hash. Without the secret, an attacker can neither find two credentials with
/// the same key nor test guessed credentials against a key.
#[derive(Clone)]
pub struct KeySecret([u8; 16]);

impl KeySecret {
    /// Makes a secret of these bytes, which must come from a secure random number generator.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the secret.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for KeySecret {
    /// Writes the type's name only, so that no log contains the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret")
    }
}

/// Key of a cached verdict: SipHash-2-4 with 128 bits of the scope and the credentials.
///
/// Under one secret, keys are equal if and only if the scopes are equal and the same credentials
/// would be sent to Authgear, byte for byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 16]);

impl Key {
    /// Makes the key of `credentials`. `scope` stands for everything else that the verdict depends
    /// on: the project's settings and the server that is asked.
    pub fn of(secret: &KeySecret, scope: &[u8], credentials: &Credentials<'_>) -> Self {
        KeysOfScope::new(secret, scope).key(credentials)
    }

    /// Returns the bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Maker of the keys of one scope, which is hashed once for all of them.
#[derive(Clone)]
pub struct KeysOfScope(SipHasher24);

impl KeysOfScope {
    /// See [`Key::of`].
    pub fn new(secret: &KeySecret, scope: &[u8]) -> Self {
        let mut hasher = SipHasher24::new_with_key(&secret.0);
        hasher.write(&(scope.len() as u64).to_be_bytes());
        hasher.write(scope);
        Self(hasher)
    }

    /// Makes the key of `credentials`.
    pub fn key(&self, credentials: &Credentials<'_>) -> Key {
        let mut hash = KeyHash(self.0);
        credentials.feed_canonical(&mut hash);
        Key(hash.0.finish128().as_bytes())
    }
}

/// The hash of one key.
struct KeyHash(SipHasher24);

impl CanonicalSink for KeyHash {
    fn take_length(&mut self, bytes: [u8; 4]) {
        // Does as write() does with these bytes.
        self.0.write_u32(u32::from_ne_bytes(bytes));
    }

    fn take_bytes(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

impl fmt::Debug for KeysOfScope {
    /// Writes the type's name only: the state of the hash stands for the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeysOfScope")
    }
}

impl Hash for Key {
    /// Feeds the first half of the key, which is already a hash.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Hasher for maps from [`Key`]s only. A key is already a hash under a secret, so the hasher passes
/// it through.
pub type KeyHasher = BuildHasherDefault<AsIs>;

/// The pass-through hasher of [`KeyHasher`].
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
    /// Writes the key in hexadecimal. Without the secret, a key reveals nothing of the credentials.
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

    /// Does as [`Key::of`], but hashes all bytes in one call.
    fn key_of_whole(secret: &KeySecret, scope: &[u8], credentials: &Credentials<'_>) -> Key {
        let mut bytes = (scope.len() as u64).to_be_bytes().to_vec();
        bytes.extend_from_slice(scope);
        credentials.write_canonical(&mut bytes);
        Key(SipHasher24::new_with_key(secret.as_bytes()).hash(&bytes).as_bytes())
    }

    /// The first two and the last of the test vectors of SipHash's authors (`vectors.h`,
    /// `vectors_sip128`). The secret is 00 01 .. 0f; the input is 00 01 .. of the given length.
    #[test]
    fn keys_are_siphash_2_4_128() {
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
        assert_eq!(format!("{:?}", KeysOfScope::new(&SECRET, b"scope")), "KeysOfScope");
        let mut bytes = [0; 16];
        bytes[1] = 0xab;
        let key = Key::from_bytes(bytes);
        assert_eq!(format!("{key:?}"), "Key(00ab0000000000000000000000000000)");
    }

    #[test]
    fn bytes_moved_between_scope_and_credentials_change_the_key() {
        let credentials = read(Some(b"bearer a"), &[]);
        let scope = [&0_u64.to_be_bytes()[..], b"x"].concat();
        let keys = [&b""[..], b"x", &scope, &scope[..8]]
            .map(|scope| Key::of(&SECRET, scope, &credentials));
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "{n}");
        }
    }

    /// The two keys have the same hash in a map.
    #[test]
    fn maps_distinguish_keys_with_the_same_hash() {
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
        fn keys_are_equal_when_scope_and_sent_bytes_are(
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
        fn any_change_of_secret_scope_or_credentials_changes_the_key(
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
        fn hashing_in_pieces_gives_the_key_of_the_whole(
            scope in vec(any::<u8>(), 0..20),
            authorization in authorization(),
            fields in cookies(),
        ) {
            let credentials = read(authorization.as_deref(), &fields);
            let key = Key::of(&SECRET, &scope, &credentials);
            prop_assert_eq!(key, key_of_whole(&SECRET, &scope, &credentials));
            let keys = KeysOfScope::new(&SECRET, &scope);
            keys.key(&Credentials::default());
            prop_assert_eq!(keys.key(&credentials), key);
        }
    }
}
