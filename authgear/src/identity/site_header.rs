//! Names of request headers that a site gives to its backends (`authgear_header`).

use thiserror::Error;

use super::{fold, is_identity_header, MAX_NAME, NAMES, OTHER_HEADERS, PREFIX};

/// Headers that nginx, proxies or the framing of a request depend on, as [`fold`] writes them.
const RESERVED: [&str; 26] = [
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "date",
    "depth",
    "destination",
    "early-data",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "overwrite",
    "pragma",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-http-method-override",
    "x-real-ip",
];

/// Beginnings of such names.
const RESERVED_PREFIXES: [&str; 9] = [
    "accept",
    "content-",
    "if-",
    "proxy-",
    "sec-",
    "x-forwarded-",
    "x-original-",
    "x-rewrite-",
    PREFIX,
];

/// Error of [`SiteHeader::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SiteHeaderError {
    /// Not letters, digits, `-` and `_`, or without a letter or digit at the start, or too long.
    #[error(
        "it must be the name of a header: letters, digits, \"-\" and \"_\", at most {MAX_NAME}"
    )]
    Syntax,
    /// The name is in [`RESERVED`], or begins as [`RESERVED_PREFIXES`] say.
    #[error(
        "nginx or proxies use this header themselves: it must be one of the application's own, \
         such as X-WEBAUTH-USER"
    )]
    Reserved,
}

/// Name of a header that only the site sets: that of a client is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteHeader(Box<str>);

impl SiteHeader {
    /// Reads a name in any case.
    ///
    /// # Errors
    ///
    /// See [`SiteHeaderError`].
    pub fn parse(name: &str) -> Result<Self, SiteHeaderError> {
        Self::check_syntax(name)?;
        let folded: Vec<u8> = name.bytes().map(fold).collect();
        if RESERVED.iter().any(|own| own.as_bytes() == folded)
            || RESERVED_PREFIXES.iter().any(|own| folded.starts_with(own.as_bytes()))
        {
            return Err(SiteHeaderError::Reserved);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// Reads the name of the header for an assertion, which may begin as those of the identity do,
    /// but is none of them.
    ///
    /// # Errors
    ///
    /// See [`SiteHeaderError`].
    pub fn of_assertion(name: &str) -> Result<Self, SiteHeaderError> {
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix(PREFIX) {
            // The rest has the syntax of a name too.
            Some(rest) if is_identity_header(lower.as_bytes()) => {
                Self::check_syntax(rest)?;
                Self::check_syntax(&lower)?;
                let header = Self(lower.into());
                let mut others = NAMES.iter().map(|name| name.as_bytes()).chain(OTHER_HEADERS);
                if others.any(|other| header.is_alias(other)) {
                    return Err(SiteHeaderError::Reserved);
                }
                Ok(header)
            }
            _ => Self::parse(name),
        }
    }

    fn check_syntax(name: &str) -> Result<(), SiteHeaderError> {
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !begins || name.len() > MAX_NAME || !name.bytes().all(is_named) {
            return Err(SiteHeaderError::Syntax);
        }
        Ok(())
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether a backend could read a request header of this name as this one. Names are
    /// folded as for [`is_identity_header`](super::is_identity_header).
    pub fn is_alias(&self, name: &[u8]) -> bool {
        name.len() == self.0.len()
            && name.iter().zip(self.0.bytes()).all(|(&byte, own)| fold(byte) == fold(own))
    }
}

/// Returns whether the value has no control bytes, so that it cannot end its header early.
pub fn is_site_value(value: &[u8]) -> bool {
    !value.iter().any(u8::is_ascii_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_applications_are_accepted_in_any_case() {
        for name in ["X-WEBAUTH-USER", "Remote-User", "REMOTE_USER", "x-user", "User", "7"] {
            let header = SiteHeader::parse(name).unwrap();
            assert_eq!(header.as_str(), name.to_ascii_lowercase());
        }
    }

    #[test]
    fn headers_of_nginx_and_proxies_are_refused_under_every_alias() {
        let names = RESERVED.iter().map(|&name| name.to_owned());
        let prefixed = RESERVED_PREFIXES.iter().map(|prefix| format!("{prefix}x"));
        for name in names.chain(prefixed).chain(["Accept".into(), "Content-Length".into()]) {
            for name in [name.clone(), name.to_ascii_uppercase(), name.replace('-', "_")] {
                assert_eq!(SiteHeader::parse(&name), Err(SiteHeaderError::Reserved), "{name}");
            }
        }
    }

    #[test]
    fn an_assertion_may_have_a_name_beside_those_of_the_identity() {
        for name in ["X-Authgear-Assertion", "x-authgear-jwt", "X-Jwt"] {
            let header = SiteHeader::of_assertion(name).unwrap();
            assert_eq!(header.as_str(), name.to_ascii_lowercase());
        }
        for (name, error) in [
            ("x-authgear-user-id", SiteHeaderError::Reserved),
            ("X-Authgear-User-Roles", SiteHeaderError::Reserved),
            ("x-authgear-xhr", SiteHeaderError::Reserved),
            ("x_authgear_user_id", SiteHeaderError::Reserved),
            ("x-authgear-user_id", SiteHeaderError::Reserved),
            ("x-authgear-body_signature", SiteHeaderError::Reserved),
            ("x-authgear-portal_is-proxied", SiteHeaderError::Reserved),
            ("authorization", SiteHeaderError::Reserved),
            ("x-authgear-", SiteHeaderError::Syntax),
            ("x-authgear-a b", SiteHeaderError::Syntax),
        ] {
            assert_eq!(SiteHeader::of_assertion(name), Err(error), "{name}");
        }
    }

    #[test]
    fn other_text_is_no_name() {
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", "-x", "_x", "x:", "x y", "x\r\nHost", "caf\u{e9}", "x.y", long.as_str()] {
            assert_eq!(SiteHeader::parse(name), Err(SiteHeaderError::Syntax), "{name:?}");
        }
    }

    #[test]
    fn aliases_differ_in_case_and_punctuation_only() {
        let header = SiteHeader::parse("X-WebAuth-User").unwrap();
        for name in ["x-webauth-user", "X_WEBAUTH_USER", "X.Webauth~User", "x webauth\u{1}user"] {
            assert!(header.is_alias(name.as_bytes()), "{name:?}");
        }
        for name in ["x-webauth-users", "x-webauth-use", "y-webauth-user", "", "xwebauthuser"] {
            assert!(!header.is_alias(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn values_with_control_bytes_are_refused() {
        assert!(is_site_value(b"") && is_site_value(b"a b") && is_site_value("\u{e9}".as_bytes()));
        for value in [&b"a\r\nb"[..], b"\0", b"a\tb", b"\x7f"] {
            assert!(!is_site_value(value), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn every_accepted_name_is_its_own_alias(name in "[ -~]{0,40}") {
            if let Ok(header) = SiteHeader::parse(&name) {
                prop_assert!(header.is_alias(name.as_bytes()));
                prop_assert!(header.is_alias(name.replace('-', "_").to_ascii_uppercase().as_bytes()));
                prop_assert!(!is_identity_header(name.as_bytes()));
            }
        }
    }
}
