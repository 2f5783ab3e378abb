//! Scope, client and audiences of a verified token, as a part of its identity.
//!
//! Policy reads these on each request, also from a cached verdict. All bytes are in the identity's
//! own buffer, so that a grant costs no allocation.

use std::ops::Range;

/// Longest scope that is kept, in bytes. A longer one counts as empty.
pub const MAX_SCOPE: usize = 4096;

/// Longest client id that is kept, in bytes. That of a client-id metadata document is a URL. A
/// longer one counts as empty.
pub const MAX_CLIENT_ID: usize = 1024;

/// Maximum size of all audiences that are kept, in bytes. Those beyond it do not count.
pub const MAX_AUDIENCES: usize = 4096;

/// Separator of audiences: no configured audience contains a control byte.
const SEPARATOR: u8 = b'\n';

/// Ranges of a grant's parts in the values of an identity.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ranges {
    scope: Range<u32>,
    client_id: Range<u32>,
    audiences: Range<u32>,
}

/// Scope, client and audiences of a token that this module verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant<'a> {
    scope: &'a [u8],
    client_id: &'a [u8],
    audiences: &'a [u8],
}

impl<'a> Grant<'a> {
    /// Creates a grant from encoded parts: the audiences joined as by
    /// [`join_audiences`].
    pub(crate) fn from_parts(scope: &'a [u8], client_id: &'a [u8], audiences: &'a [u8]) -> Self {
        let capped = |bytes: &'a [u8], most| if bytes.len() <= most { bytes } else { &[] };
        Self {
            scope: capped(scope, MAX_SCOPE),
            client_id: capped(client_id, MAX_CLIENT_ID),
            audiences: capped(audiences, MAX_AUDIENCES),
        }
    }

    /// Returns scope, client id and joined audiences.
    pub(crate) fn parts(&self) -> [&'a [u8]; 3] {
        [self.scope, self.client_id, self.audiences]
    }

    /// Value of the claim `scope`: names separated by spaces.
    pub fn scope(&self) -> &'a [u8] {
        self.scope
    }

    /// Value of the claim `client_id`, which is empty if the token has none.
    pub fn client_id(&self) -> &'a [u8] {
        self.client_id
    }

    /// Whether this scope was granted, compared byte by byte (RFC 6749 section 3.3).
    pub fn has_scope(&self, wanted: &str) -> bool {
        let mut granted = self.scope.split(|&byte| byte == b' ');
        !wanted.is_empty() && granted.any(|own| own == wanted.as_bytes())
    }

    /// Whether the token is for this audience, compared byte by byte.
    pub fn has_audience(&self, wanted: &str) -> bool {
        let mut own = self.audiences.split(|&byte| byte == SEPARATOR);
        !wanted.is_empty() && own.any(|own| own == wanted.as_bytes())
    }
}

/// Joins audiences up to [`MAX_AUDIENCES`]. Drops those that contain a control byte, which can never
/// be configured.
pub(crate) fn join_audiences<'a>(audiences: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut joined = Vec::new();
    for audience in audiences {
        if audience.is_empty() || audience.bytes().any(|byte| byte.is_ascii_control()) {
            continue;
        }
        if joined.len() + 1 + audience.len() > MAX_AUDIENCES {
            break;
        }
        if !joined.is_empty() {
            joined.push(SEPARATOR);
        }
        joined.extend_from_slice(audience.as_bytes());
    }
    joined
}

impl Ranges {
    /// Appends the parts of a grant to the values of an identity.
    pub(super) fn append(values: &mut Vec<u8>, grant: Grant<'_>) -> Self {
        let mut append = |bytes: &[u8]| {
            let start = values.len() as u32;
            values.extend_from_slice(bytes);
            start..values.len() as u32
        };
        let [scope, client_id, audiences] = grant.parts().map(&mut append);
        Self { scope, client_id, audiences }
    }

    /// Reads the grant from the values of an identity.
    pub(super) fn read<'a>(&self, values: &'a [u8]) -> Grant<'a> {
        let part = |range: &Range<u32>| {
            values.get(range.start as usize..range.end as usize).unwrap_or_default()
        };
        Grant {
            scope: part(&self.scope),
            client_id: part(&self.client_id),
            audiences: part(&self.audiences),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn with(scope: &str, client_id: &str, audiences: &[&str]) -> Identity {
        let mut builder = Identity::builder();
        builder.push(b"x-authgear-user-id", b"alice").unwrap();
        let audiences = join_audiences(audiences.iter().copied());
        let grant = Grant::from_parts(scope.as_bytes(), client_id.as_bytes(), &audiences);
        builder.set_grant(grant);
        builder.build()
    }

    #[test]
    fn scopes_and_audiences_match_as_whole_words() {
        let identity = with("openid tools:read", "dcrc_a", &["https://a.test", "https://b.test/x"]);
        let grant = identity.grant().unwrap();
        assert_eq!(grant.client_id(), b"dcrc_a");
        assert_eq!(grant.scope(), b"openid tools:read");
        for (scope, has) in [
            ("openid", true),
            ("tools:read", true),
            ("tools", false),
            ("openid tools:read", false),
            ("", false),
        ] {
            assert_eq!(grant.has_scope(scope), has, "{scope}");
        }
        for (audience, has) in [
            ("https://a.test", true),
            ("https://b.test/x", true),
            ("https://b.test", false),
            ("https://a.test\nhttps://b.test/x", false),
            ("", false),
        ] {
            assert_eq!(grant.has_audience(audience), has, "{audience}");
        }
        assert_eq!(identity.get(b"x-authgear-user-id"), Some(&b"alice"[..]));
        assert_eq!(identity.iter().count(), 1);
    }

    #[test]
    fn a_resolver_session_has_no_grant() {
        let mut builder = Identity::builder();
        builder.push(b"x-authgear-user-id", b"alice").unwrap();
        assert_eq!(builder.build().grant(), None);
    }

    #[test]
    fn parts_beyond_their_caps_do_not_count() {
        let long = "a".repeat(MAX_AUDIENCES + 1);
        let identity = with(&long, &long, &["https://a.test", &long, "https://b.test"]);
        let grant = identity.grant().unwrap();
        assert_eq!((grant.scope(), grant.client_id()), (&b""[..], &b""[..]));
        assert!(grant.has_audience("https://a.test"));
        assert!(!grant.has_audience("https://b.test") && !grant.has_audience(&long));
    }

    #[test]
    fn audiences_with_control_bytes_are_dropped() {
        let identity = with("", "", &["a\nhttps://b.test", "", "c"]);
        let grant = identity.grant().unwrap();
        assert!(!grant.has_audience("https://b.test") && grant.has_audience("c"));
        assert!(!grant.has_scope(""));
    }
}
