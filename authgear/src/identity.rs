//! Identity of a session: the `x-authgear-*` fields of the resolver's answer.

mod grant;
mod site_header;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use thiserror::Error;

pub(crate) use grant::join_audiences;
pub use grant::{Grant, MAX_AUDIENCES, MAX_CLIENT_ID, MAX_SCOPE};
pub use site_header::{is_site_value, SiteHeader, SiteHeaderError};

/// Prefix of the names of all identity fields.
pub const PREFIX: &str = "x-authgear-";

/// Longest name of a field, prefix included, in bytes.
pub const MAX_NAME: usize = 128;

/// Longest value of a field, in bytes. A role key has at most 40 bytes
/// (`pkg/lib/rolesgroups/key.go`), so some 400 roles fit.
pub const MAX_VALUE: usize = 16 * 1024;

/// Maximum number of fields. Authgear sends 8.
pub const MAX_FIELDS: usize = 64;

/// Maximum size of all names and values together, in bytes.
pub const MAX_TOTAL: usize = 64 * 1024;

/// Request headers that share the prefix and are no identity fields. Clients and Authgear's own
/// servers send them, so the module leaves them alone. Only these exact names, in any case; their
/// aliases, such as `x_authgear_xhr`, are removed like all others.
///
/// - `x-authgear-body-signature`: signature of a webhook (`pkg/lib/hook/http.go`). The receiver
///   behind nginx verifies it.
/// - `x-authgear-xhr`: sent by the scripts of Authgear's login pages, which then expect JSON. Without
///   it nobody can log in where these pages are behind the same nginx.
/// - `x-authgear-portal-is-proxied`: sent by Authgear's portal to its admin API.
const OTHER_HEADERS: [&[u8]; 3] =
    [b"x-authgear-body-signature", b"x-authgear-xhr", b"x-authgear-portal-is-proxied"];

/// Field with the user's id.
const USER_ID: &[u8] = b"x-authgear-user-id";

/// Whether an upstream could read a request header of this name as an identity field.
///
/// Servers and gateways fold header names: CGI maps `-` to `_`, others also map `.`. So the case of
/// letters is ignored, and every byte that is not an ASCII letter or digit counts as `-`. The names
/// in [`OTHER_HEADERS`] are excluded.
pub fn is_identity_header(name: &[u8]) -> bool {
    // Fast path for nearly all names.
    let [b'x' | b'X', ..] = name else {
        return false;
    };
    name.len() >= PREFIX.len()
        && name.iter().zip(PREFIX.bytes()).all(|(&byte, expected)| fold(byte) == expected)
        && !OTHER_HEADERS.iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

/// Whether the full lower-case `name` is the prefix followed by `suffix`, which is spelled as in an
/// nginx variable: `_` for `-`, letters in any case.
fn has_suffix(name: &str, suffix: &[u8]) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|own| {
        own.len() == suffix.len()
            && own.bytes().zip(suffix).all(|(own, &byte)| match byte {
                b'_' => own == b'-',
                _ => own == byte.to_ascii_lowercase(),
            })
    })
}

/// Returns the value of the first field whose name has the suffix.
pub(crate) fn find_suffix<'a>(
    mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    suffix: &[u8],
) -> Option<&'a [u8]> {
    fields.find(|(name, _)| has_suffix(name, suffix)).map(|(_, value)| value)
}

/// Error of [`IdentityBuilder::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The name is not [`PREFIX`] with letters, digits and hyphens after it, is longer than
    /// [`MAX_NAME`], or is in [`OTHER_HEADERS`].
    #[error("invalid name of an identity field")]
    Name,
    /// The value has a control byte.
    #[error("control byte in an identity field")]
    Value,
    /// The name exists already, so it would be ambiguous which value counts.
    #[error("duplicate identity field")]
    Duplicate,
    /// More than [`MAX_FIELDS`] fields, a value longer than [`MAX_VALUE`], or more than
    /// [`MAX_TOTAL`] bytes in all.
    #[error("identity too large")]
    TooLarge,
}

/// Names that Authgear sends. A field stores the index of such a name instead of the text.
pub const NAMES: [&str; 9] = [
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

/// Name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// Index in [`NAMES`].
    Known(usize),
    /// Any other name, in lower case.
    Other(&'a str),
}

impl<'a> Name<'a> {
    /// The full lower-case name.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Known(place) => NAMES.get(place).copied().unwrap_or_default(),
            Self::Other(name) => name,
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Field {
    name: FieldName,
    /// Range in [`Identity::values`].
    value: Range<u32>,
}

#[derive(Clone, PartialEq, Eq)]
enum FieldName {
    /// Index in [`NAMES`].
    Known(u8),
    /// Range in [`Identity::names`].
    Other(Range<u32>),
}

/// Authgear's information about a session and its user: fields in their original order.
///
/// Every name is lower-case, unique, and recognised by [`is_identity_header`], so the module removes
/// client headers of the same name before it sets a field. Values are valid in a header.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identity {
    fields: Vec<Field>,
    /// All values, concatenated; also those of the grant.
    values: Vec<u8>,
    /// See [`Identity::grant`].
    grant: Option<grant::Ranges>,
    /// All names that are not in [`NAMES`], concatenated.
    names: String,
}

impl Identity {
    /// Starts an identity without fields.
    pub fn builder() -> IdentityBuilder {
        IdentityBuilder::default()
    }

    /// Scope, client and audiences, if the session is that of a token which this module verified.
    /// The resolver tells none of them.
    pub fn grant(&self) -> Option<Grant<'_>> {
        self.grant.as_ref().map(|ranges| ranges.read(&self.values))
    }

    /// Starts an identity with room for this many fields and bytes of values.
    pub(crate) fn builder_for(fields: usize, values: usize) -> IdentityBuilder {
        let (fields, values) = (Vec::with_capacity(fields), Vec::with_capacity(values));
        let identity = Self { fields, values, grant: None, names: String::new() };
        IdentityBuilder { identity, ..IdentityBuilder::default() }
    }

    /// Iterates over the fields: full lower-case name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.named().map(|(name, value)| (name.as_str(), value))
    }

    /// Number of fields.
    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// Like [`Self::iter`], with names as they are stored.
    pub fn named(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> + Clone {
        self.fields.iter().map(|field| (self.name(&field.name), self.value(&field.value)))
    }

    fn name(&self, name: &FieldName) -> Name<'_> {
        match name {
            FieldName::Known(place) => Name::Known(usize::from(*place)),
            FieldName::Other(range) => {
                Name::Other(self.names.get(to_usize(range)).unwrap_or_default())
            }
        }
    }

    fn value(&self, range: &Range<u32>) -> &[u8] {
        self.values.get(to_usize(range)).unwrap_or_default()
    }

    /// Returns the value of the field with this full lower-case name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(own, _)| own.as_bytes() == name).map(|(_, value)| value)
    }

    /// Returns the value of the field with this name after [`PREFIX`], spelled as in an nginx
    /// variable: `user_id`, in any case.
    pub fn get_suffix(&self, suffix: &[u8]) -> Option<&[u8]> {
        find_suffix(self.iter(), suffix)
    }

    /// Returns the user's id, an opaque text. Machines have none.
    pub fn user_id(&self) -> Option<&[u8]> {
        self.get(USER_ID)
    }
}

impl Hash for Identity {
    /// Values alone tell identities apart well enough.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

impl fmt::Debug for Identity {
    /// Shows the names, never the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity ")?;
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// Builder of an [`Identity`].
#[derive(Clone, Debug, Default)]
pub struct IdentityBuilder {
    identity: Identity,
    /// Total length of the fields' names.
    names_len: usize,
    /// Known names that are set: bit n is for `NAMES[n]`.
    known: u16,
}

impl IdentityBuilder {
    /// Sets the grant. Call it once, after the fields.
    pub(crate) fn set_grant(&mut self, grant: Grant<'_>) {
        self.identity.grant = Some(grant::Ranges::append(&mut self.identity.values, grant));
    }

    /// Adds a field. The name may be in any case; the value may be empty.
    ///
    /// # Errors
    ///
    /// See [`IdentityError`]. On error the identity is unchanged.
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

    /// Like [`push`](Self::push), for a name given by its index in [`NAMES`]. `write` appends the
    /// value, without control bytes, or returns `None`, which is passed on.
    pub(crate) fn push_known(
        &mut self,
        place: u8,
        write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> Option<Result<(), IdentityError>> {
        let start = self.identity.values.len();
        write(&mut self.identity.values)?;
        Some(self.finish(FieldName::Known(place), start))
    }

    /// Adds a field whose value starts at `start` in the values. On error, removes that value.
    fn finish(&mut self, name: FieldName, start: usize) -> Result<(), IdentityError> {
        let Identity { fields, values, .. } = &self.identity;
        let names_len = self.names_len + self.identity.name(&name).as_str().len();
        let bit = match name {
            FieldName::Known(place) => 1_u16.checked_shl(place.into()).unwrap_or(0),
            FieldName::Other(_) => 0,
        };
        let is_duplicate = match name {
            FieldName::Known(_) => self.known & bit != 0,
            FieldName::Other(_) => {
                self.identity.get(self.identity.name(&name).as_str().as_bytes()).is_some()
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

    /// Returns the identity.
    pub fn build(self) -> Identity {
        self.identity
    }
}

/// Whether `value` contains a control byte, which is invalid in a header.
pub(crate) fn is_control(value: &[u8]) -> bool {
    // `fold` has no early exit, so the compiler can vectorize it.
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
    fn fields_keep_their_order_and_are_found_by_name_and_suffix() {
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
    fn other_names_and_suffixes_find_nothing() {
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
    fn only_valid_identity_names_are_accepted() {
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
            ("X-Authgear-XHR", Err(IdentityError::Name)),
            ("X-Authgear-Portal-Is-Proxied", Err(IdentityError::Name)),
        ] {
            assert_eq!(identity(&[(name, "v")]).map(drop), result, "{name:?}");
        }
    }

    #[test]
    fn values_with_control_bytes_are_rejected() {
        for value in ["", " ", "a b", "a,b", "\u{e9}", "\u{80}"] {
            assert!(identity(&[("x-authgear-a", value)]).is_ok(), "{value:?}");
        }
        for value in ["\0", "a\tb", "a\r\nb", "\n", "\x1f", "\x7f"] {
            let result = identity(&[("x-authgear-a", value)]);
            assert_eq!(result, Err(IdentityError::Value), "{value:?}");
        }
    }

    #[test]
    fn duplicate_names_are_rejected() {
        for name in ["x-authgear-user-id", "X-AUTHGEAR-user-id"] {
            assert_eq!(
                identity(&[("x-authgear-user-id", "a"), (name, "a")]),
                Err(IdentityError::Duplicate)
            );
        }
    }

    #[test]
    fn fields_and_bytes_are_capped() {
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
            "x_authgear_xhr",
            "x-authgear_xhr",
            "x.authgear.xhr",
            "x-authgear-xhr-",
            "x_authgear_portal_is_proxied",
            "x-authgear-portal-is_proxied",
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
            "X-Authgear-XHR",
            "x-authgear-xhr",
            "X-Authgear-Portal-Is-Proxied",
        ] {
            assert!(!is_identity_header(name.as_bytes()), "{name:?}");
        }
    }

    /// `is_identity_header`, implemented literally from its documentation.
    fn is_identity_header_literally(name: &[u8]) -> bool {
        let lower = name.to_ascii_lowercase();
        let folded: Vec<u8> = lower
            .iter()
            .map(|byte| if byte.is_ascii_alphanumeric() { *byte } else { b'-' })
            .collect();
        let other: [&[u8]; 3] =
            [b"x-authgear-body-signature", b"x-authgear-xhr", b"x-authgear-portal-is-proxied"];
        folded.starts_with(b"x-authgear-") && !other.contains(&&*lower)
    }

    /// Names that differ in a few bytes from relevant ones.
    fn near_name() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec![
            "x-authgear-",
            "x-authgear-user-id",
            "x-authgear-body-signature",
            "x-authgear-xhr",
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
        fn any_name_matches_the_literal_implementation(name in vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(is_identity_header(&name), is_identity_header_literally(&name));
        }

        #[test]
        fn similar_names_match_the_literal_implementation(name in near_name()) {
            prop_assert_eq!(is_identity_header(&name), is_identity_header_literally(&name));
        }

        #[test]
        fn any_identity_is_valid_in_headers(
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
        fn any_control_byte_is_rejected(
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
