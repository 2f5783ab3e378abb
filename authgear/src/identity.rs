//! Whom a session belongs to: the `x-authgear-*` fields of the resolver's answer.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// What the names of all identity fields begin with.
pub const PREFIX: &str = "x-authgear-";

/// Longest name of a field, prefix included, in bytes.
pub const MAX_NAME: usize = 128;

/// Longest value of a field, in bytes. A role key has at most 40 bytes
/// (`pkg/lib/rolesgroups/key.go`): this is room for some 400 roles.
pub const MAX_VALUE: usize = 16 * 1024;

/// Most fields of an identity. Authgear sends 8.
pub const MAX_FIELDS: usize = 64;

/// Most bytes of an identity, all names and values together.
pub const MAX_TOTAL: usize = 64 * 1024;

/// The signature of Authgear's webhooks (`pkg/lib/hook/http.go`), which shares the prefix but says
/// nothing about a user.
const BODY_SIGNATURE: &[u8] = b"x-authgear-body-signature";

/// The field with the user's id.
const USER_ID: &[u8] = b"x-authgear-user-id";

/// Whether a backend could take a request header of this name for one of Authgear's identity
/// fields.
///
/// Servers and gateways fold names before they look at them: CGI turns `-` into `_`, others `.`
/// too. So letters count in any case and every byte that is no ASCII letter or digit counts as
/// `-`. `x-authgear-body-signature` itself, in any case, is none; its aliases are.
pub fn is_identity_header(name: &[u8]) -> bool {
    // Nearly all names end here.
    let [b'x' | b'X', ..] = name else {
        return false;
    };
    name.len() >= PREFIX.len()
        && name.iter().zip(PREFIX.bytes()).all(|(&byte, expected)| fold(byte) == expected)
        && !name.eq_ignore_ascii_case(BODY_SIGNATURE)
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

/// Whether `name`, lower-case and in full, is the prefix and this suffix as it stands in the name
/// of an nginx variable: `_` for `-`, letters in any case.
fn has_suffix(name: &str, suffix: &[u8]) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|own| {
        own.len() == suffix.len()
            && own.bytes().zip(suffix).all(|(own, &byte)| match byte {
                b'_' => own == b'-',
                _ => own == byte.to_ascii_lowercase(),
            })
    })
}

/// The value of the first of these fields whose name has the suffix.
pub(crate) fn find_suffix<'a>(
    mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    suffix: &[u8],
) -> Option<&'a [u8]> {
    fields.find(|(name, _)| has_suffix(name, suffix)).map(|(_, value)| value)
}

/// Why a field cannot be part of an [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The name is not [`PREFIX`] with letters, digits and hyphens after it, is longer than
    /// [`MAX_NAME`], or is that of a webhook's signature.
    #[error("invalid name of an identity field")]
    Name,
    /// The value has a control byte.
    #[error("control byte in an identity field")]
    Value,
    /// The name is there already: which value would count is anyone's guess.
    #[error("duplicate identity field")]
    Duplicate,
    /// More than [`MAX_FIELDS`], or a value longer than [`MAX_VALUE`], or more than [`MAX_TOTAL`]
    /// bytes in all.
    #[error("too large an identity")]
    TooLarge,
}

/// The names that Authgear sends: what has one of them need not keep it.
pub(crate) const NAMES: [&str; 9] = [
    "x-authgear-session-valid",
    "x-authgear-user-id",
    "x-authgear-user-anonymous",
    "x-authgear-user-verified",
    "x-authgear-user-can-reauthenticate",
    "x-authgear-user-roles",
    "x-authgear-session-acr",
    "x-authgear-session-amr",
    "x-authgear-session-authenticated-at",
];

#[derive(Clone, PartialEq, Eq)]
struct Field {
    name: FieldName,
    /// Of the values.
    value: Range<u32>,
}

#[derive(Clone, PartialEq, Eq)]
enum FieldName {
    /// A place in [`NAMES`].
    Known(u8),
    /// Of the other names.
    Other(Range<u32>),
}

/// What Authgear says of a session and its user: fields in the order they came.
///
/// Every name is lower-case, there once, and one that [`is_identity_header`] recognises: what is
/// given to a backend takes the place of something removed from the client's request. Values can
/// be sent in a header as they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identity {
    fields: Vec<Field>,
    /// All values, one after the other.
    values: Vec<u8>,
    /// All names that are not in [`NAMES`], one after the other.
    names: String,
}

impl Identity {
    /// Starts an identity without fields.
    pub fn builder() -> IdentityBuilder {
        IdentityBuilder::default()
    }

    /// The same, with room for as many fields and bytes of values.
    pub(crate) fn builder_for(fields: usize, values: usize) -> IdentityBuilder {
        let (fields, values) = (Vec::with_capacity(fields), Vec::with_capacity(values));
        let identity = Self { fields, values, names: String::new() };
        IdentityBuilder { identity, ..IdentityBuilder::default() }
    }

    /// The fields: full lower-case name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.fields.iter().map(|field| (self.name(&field.name), self.value(&field.value)))
    }

    fn name(&self, name: &FieldName) -> &str {
        match name {
            FieldName::Known(place) => NAMES.get(usize::from(*place)).copied().unwrap_or_default(),
            FieldName::Other(range) => self.names.get(to_usize(range)).unwrap_or_default(),
        }
    }

    fn value(&self, range: &Range<u32>) -> &[u8] {
        self.values.get(to_usize(range)).unwrap_or_default()
    }

    /// The value of the field with this full lower-case name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(own, _)| own.as_bytes() == name).map(|(_, value)| value)
    }

    /// The value of the field with this name after [`PREFIX`], as nginx variables spell it:
    /// `user_id`, in any case.
    pub fn get_suffix(&self, suffix: &[u8]) -> Option<&[u8]> {
        find_suffix(self.iter(), suffix)
    }

    /// The user's id, an opaque text. Tokens of machines have none.
    pub fn user_id(&self) -> Option<&[u8]> {
        self.get(USER_ID)
    }
}

impl fmt::Debug for Identity {
    /// Tells the names, never the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity ")?;
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// An [`Identity`] in the making.
#[derive(Clone, Debug, Default)]
pub struct IdentityBuilder {
    identity: Identity,
    /// Bytes of the names of its fields.
    names_len: usize,
    /// Which of [`NAMES`] it has: bit n stands for place n.
    known: u16,
}

impl IdentityBuilder {
    /// Adds a field. The name may be in any case; the value may be empty.
    ///
    /// # Errors
    ///
    /// See [`IdentityError`]; the identity is then as it was.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), IdentityError> {
        let known = NAMES.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        let other = match known {
            Some(_) => String::new(),
            None => field_name(name).ok_or(IdentityError::Name)?,
        };
        if is_control(value) {
            return Err(IdentityError::Value);
        }
        let (names, values) = (self.identity.names.len(), self.identity.values.len());
        self.identity.names.push_str(&other);
        self.identity.values.extend_from_slice(value);
        let name = match known {
            Some(place) => FieldName::Known(place as u8),
            None => FieldName::Other(names as u32..self.identity.names.len() as u32),
        };
        self.finish(name, values).inspect_err(|_| self.identity.names.truncate(names))
    }

    /// As [`push`](Self::push), for a name by its place in [`NAMES`], and a value without control
    /// bytes that `write` appends. None if it does not.
    pub(crate) fn push_known(
        &mut self,
        place: u8,
        write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> Option<Result<(), IdentityError>> {
        let start = self.identity.values.len();
        write(&mut self.identity.values)?;
        Some(self.finish(FieldName::Known(place), start))
    }

    /// Makes a field of `name` and of the values from `start` on, or takes those back.
    fn finish(&mut self, name: FieldName, start: usize) -> Result<(), IdentityError> {
        let Identity { fields, values, .. } = &self.identity;
        let names_len = self.names_len + self.identity.name(&name).len();
        let bit = match name {
            FieldName::Known(place) => 1_u16.checked_shl(place.into()).unwrap_or(0),
            FieldName::Other(_) => 0,
        };
        let is_duplicate = match name {
            FieldName::Known(_) => self.known & bit != 0,
            FieldName::Other(_) => {
                self.identity.get(self.identity.name(&name).as_bytes()).is_some()
            }
        };
        let too_large = fields.len() == MAX_FIELDS
            || values.len() - start > MAX_VALUE
            || names_len + values.len() > MAX_TOTAL;
        if is_duplicate || too_large {
            self.identity.values.truncate(start);
            return Err(match is_duplicate {
                true => IdentityError::Duplicate,
                false => IdentityError::TooLarge,
            });
        }
        let value = start as u32..values.len() as u32;
        self.identity.fields.push(Field { name, value });
        self.names_len = names_len;
        self.known |= bit;
        Ok(())
    }

    /// The identity.
    pub fn build(self) -> Identity {
        self.identity
    }
}

/// Whether there are bytes that no header's value can have.
pub(crate) fn is_control(value: &[u8]) -> bool {
    // No end before the last byte: so the compiler looks at many bytes at once.
    value.iter().fold(false, |found, byte| found | byte.is_ascii_control())
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn field_name(name: &[u8]) -> Option<String> {
    if name.len() > MAX_NAME || !is_identity_header(name) {
        return None;
    }
    let name: String = name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    let suffix = name.strip_prefix(PREFIX).filter(|suffix| !suffix.is_empty())?;
    suffix.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn identity(fields: &[(&str, &str)]) -> Result<Identity, IdentityError> {
        let mut builder = Identity::builder();
        for (name, value) in fields {
            builder.push(name.as_bytes(), value.as_bytes())?;
        }
        Ok(builder.build())
    }

    /// The eight fields of `pkg/api/model/session_info.go`.
    const FIELDS: [(&str, &str); 8] = [
        ("X-Authgear-Session-Valid", "true"),
        ("X-Authgear-User-Id", "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f"),
        ("X-Authgear-User-Anonymous", "false"),
        ("X-Authgear-User-Verified", "true"),
        ("X-Authgear-User-Can-Reauthenticate", "true"),
        ("X-Authgear-User-Roles", "admin,store:view"),
        ("X-Authgear-Session-Amr", ""),
        ("X-Authgear-Session-Authenticated-At", "1700000000"),
    ];

    #[test]
    fn what_authgear_sends_is_kept_in_order() {
        let identity = identity(&FIELDS).unwrap();
        let expected: Vec<_> = FIELDS
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes()))
            .collect();
        let fields: Vec<_> =
            identity.iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(fields, expected);

        for (name, value) in expected {
            assert_eq!(identity.get(name.as_bytes()), Some(value));
            let suffix = name.strip_prefix(PREFIX).unwrap();
            for suffix in [suffix, &suffix.replace('-', "_"), &suffix.to_ascii_uppercase()] {
                assert_eq!(identity.get_suffix(suffix.as_bytes()), Some(value), "{suffix}");
            }
        }
        assert_eq!(identity.user_id(), Some(FIELDS[1].1.as_bytes()));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let identity = identity(&[("x-authgear-user-id", "a")]).unwrap();
        for name in ["", "user-id", "x-authgear-", "x-authgear-user", "X-Authgear-User-Id"] {
            assert_eq!(identity.get(name.as_bytes()), None, "{name}");
        }
        for suffix in ["", "user", "user_id_", "user.id", "user_roles", "_user_id"] {
            assert_eq!(identity.get_suffix(suffix.as_bytes()), None, "{suffix}");
        }
        assert_eq!(Identity::default().user_id(), None);
    }

    #[test]
    fn names_are_checked() {
        let longest = format!("{PREFIX}{}", "a".repeat(MAX_NAME - PREFIX.len()));
        let too_long = format!("{longest}a");
        for (name, result) in [
            ("x-authgear-a", Ok(())),
            ("X-AUTHGEAR-A9-b", Ok(())),
            ("x-authgear--", Ok(())),
            (&longest, Ok(())),
            (&too_long, Err(IdentityError::Name)),
            ("", Err(IdentityError::Name)),
            ("x-authgear", Err(IdentityError::Name)),
            ("x-authgear-", Err(IdentityError::Name)),
            ("x-authgear_user-id", Err(IdentityError::Name)),
            ("x_authgear_user_id", Err(IdentityError::Name)),
            ("x-authgear-user_id", Err(IdentityError::Name)),
            ("x-authgear-user id", Err(IdentityError::Name)),
            ("x-authgear-user:", Err(IdentityError::Name)),
            ("x-authgear-\u{e9}", Err(IdentityError::Name)),
            ("x-authgear-a\r\nb", Err(IdentityError::Name)),
            ("authorization", Err(IdentityError::Name)),
            ("X-Authgear-Body-Signature", Err(IdentityError::Name)),
        ] {
            assert_eq!(identity(&[(name, "v")]).map(drop), result, "{name:?}");
        }
    }

    #[test]
    fn values_are_checked() {
        for value in ["", " ", "a b", "a,b", "\u{e9}", "\u{80}"] {
            assert!(identity(&[("x-authgear-a", value)]).is_ok(), "{value:?}");
        }
        for value in ["\0", "a\tb", "a\r\nb", "\n", "\x1f", "\x7f"] {
            let result = identity(&[("x-authgear-a", value)]);
            assert_eq!(result, Err(IdentityError::Value), "{value:?}");
        }
    }

    #[test]
    fn duplicates_are_refused() {
        for name in ["x-authgear-user-id", "X-AUTHGEAR-user-id"] {
            assert_eq!(
                identity(&[("x-authgear-user-id", "a"), (name, "a")]),
                Err(IdentityError::Duplicate)
            );
        }
    }

    #[test]
    fn sizes_have_caps() {
        let mut builder = Identity::builder();
        let value = vec![b'a'; MAX_VALUE + 1];
        assert_eq!(builder.push(b"x-authgear-a", &value), Err(IdentityError::TooLarge));
        assert_eq!(builder.push(b"x-authgear-a", &value[1..]), Ok(()));
        assert_eq!(builder.push(b"x-authgear-b", &value[1..]), Ok(()));
        assert_eq!(builder.push(b"x-authgear-c", &value[1..]), Ok(()));
        assert_eq!(builder.push(b"x-authgear-d", &value[1..]), Err(IdentityError::TooLarge));
        let rest = MAX_TOTAL - 3 * (MAX_VALUE + 12) - 12;
        assert_eq!(builder.push(b"x-authgear-d", &value[..=rest]), Err(IdentityError::TooLarge));
        assert_eq!(builder.push(b"x-authgear-d", &value[..rest]), Ok(()));
        assert_eq!(builder.build().iter().count(), 4);

        let mut builder = Identity::builder();
        for n in 0..MAX_FIELDS {
            assert_eq!(builder.push(format!("x-authgear-{n}").as_bytes(), b""), Ok(()));
        }
        assert_eq!(builder.push(b"x-authgear-more", b""), Err(IdentityError::TooLarge));
        assert_eq!(builder.build().iter().count(), MAX_FIELDS);
    }

    #[test]
    fn debug_shows_no_value() {
        let identity = identity(&[("x-authgear-user-id", "alice")]).unwrap();
        assert_eq!(format!("{identity:?}"), "Identity {\"x-authgear-user-id\"}");
    }

    #[test]
    fn aliases_of_identity_headers_are_recognised() {
        for name in [
            "x-authgear-user-id",
            "X-Authgear-User-Id",
            "X-AUTHGEAR-SESSION-VALID",
            "x_authgear_user_id",
            "x.authgear.user.id",
            "X_Authgear-User.Roles",
            "x authgear user id",
            "x\0authgear\u{7f}user",
            "x-authgear-",
            "x-authgear-anything-new",
            "x-authgear-body_signature",
            "x_authgear_body_signature",
            "x-authgear-body-signature2",
            "x-authgear-body-signatur",
            "x-authgear-body-signature-",
        ] {
            assert!(is_identity_header(name.as_bytes()), "{name:?}");
        }
        for name in [
            "",
            "x",
            "x-authgear",
            "xx-authgear-user-id",
            "-x-authgear-user-id",
            "x--authgear-user-id",
            "x-auth-gear-user-id",
            "x-authgears-user-id",
            "x-authgear0user-id",
            "authgear-user-id",
            "http-x-authgear-user-id",
            "x-forwarded-for",
            "authorization",
            "x-authgear-body-signature",
            "X-Authgear-Body-Signature",
        ] {
            assert!(!is_identity_header(name.as_bytes()), "{name:?}");
        }
    }

    /// `is_identity_header` as its documentation says it.
    fn is_identity_header_by_the_book(name: &[u8]) -> bool {
        let lower = name.to_ascii_lowercase();
        let folded: Vec<u8> = lower
            .iter()
            .map(|byte| if byte.is_ascii_alphanumeric() { *byte } else { b'-' })
            .collect();
        folded.starts_with(b"x-authgear-") && lower != b"x-authgear-body-signature"
    }

    /// Names a few bytes away from the ones that matter.
    fn near_name() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec![
            "x-authgear-",
            "x-authgear-user-id",
            "x-authgear-body-signature",
        ]);
        let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (name, changes, any::<bool>()).prop_map(|(name, changes, upper)| {
            let mut name = name.as_bytes().to_vec();
            if upper {
                name.make_ascii_uppercase();
            }
            for (index, byte) in changes {
                *index.get_mut(&mut name) = byte;
            }
            name
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_name_is_judged_by_the_book(name in vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(is_identity_header(&name), is_identity_header_by_the_book(&name));
        }

        #[test]
        fn near_names_are_judged_by_the_book(name in near_name()) {
            prop_assert_eq!(is_identity_header(&name), is_identity_header_by_the_book(&name));
        }

        #[test]
        fn identities_are_safe_to_send(
            fields in vec((prop_oneof![near_name(), vec(any::<u8>(), 0..20)], vec(any::<u8>(), 0..4)), 0..8),
        ) {
            let mut builder = Identity::builder();
            for (name, value) in &fields {
                let _ = builder.push(name, value);
            }
            let identity = builder.build();
            for (name, value) in identity.iter() {
                prop_assert!(is_identity_header(name.as_bytes()));
                prop_assert!(http::HeaderName::from_lowercase(name.as_bytes()).is_ok());
                prop_assert!(!value.iter().any(|&byte| byte < 0x20 || byte == 0x7f));
                prop_assert_eq!(identity.get(name.as_bytes()), Some(value));
                prop_assert_eq!(identity.iter().filter(|(other, _)| *other == name).count(), 1);
            }
        }

        #[test]
        fn control_bytes_are_refused(
            mut value in vec(any::<u8>(), 1..40),
            at in any::<prop::sample::Index>(),
            control in prop_oneof![0..0x20u8, Just(0x7f)],
        ) {
            *at.get_mut(&mut value) = control;
            let result = Identity::builder().push(b"x-authgear-a", &value);
            prop_assert_eq!(result, Err(IdentityError::Value));
        }
    }
}
