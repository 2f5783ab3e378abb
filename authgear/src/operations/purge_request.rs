//! Requests to purge cached verdicts: their arguments, and protection against cross-site requests.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use thiserror::Error;

use super::webhook::MAX_USER_ID;

/// Maximum size of a form, or of a query, in bytes.
pub const MAX_FORM: usize = 4096;

/// Arguments of a request to purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeForm {
    /// Purge the user with this id.
    User(Vec<u8>),
    /// Purge everything.
    All,
}

/// Error for invalid arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("arguments must be either user=ID or all=1")]
pub struct BadArguments;

impl PurgeForm {
    /// Parses the query and the form of a request: `user=ID` or `all=1`, exactly one.
    ///
    /// # Errors
    ///
    /// For anything else, also for no argument: a misspelt argument must not purge more. For a
    /// query or a form longer than [`MAX_FORM`].
    pub fn read(query: &[u8], form: &[u8]) -> Result<Self, BadArguments> {
        if query.len().max(form.len()) > MAX_FORM {
            return Err(BadArguments);
        }
        let mut target = None;
        let pairs = [query, form].into_iter().flat_map(|text| text.split(|&byte| byte == b'&'));
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let at = pair.iter().position(|&byte| byte == b'=').ok_or(BadArguments)?;
            let (name, value) = pair.split_at(at);
            let value = decode(value.get(1..).unwrap_or_default());
            let named = match name {
                b"user" if !value.is_empty() && value.len() <= MAX_USER_ID => Self::User(value),
                b"all" if value == b"1" => Self::All,
                _ => return Err(BadArguments),
            };
            if target.replace(named).is_some() {
                return Err(BadArguments);
            }
        }
        target.ok_or(BadArguments)
    }
}

/// Decodes a value of a form (WHATWG URL, section 5.1).
fn decode(value: &[u8]) -> Vec<u8> {
    let spaced: Cow<'_, [u8]> = if value.contains(&b'+') {
        value.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect::<Vec<_>>().into()
    } else {
        value.into()
    };
    percent_decode(&spaced).collect()
}

/// Whether a `Content-Type` is that of a form.
pub fn is_form(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

/// Whether a page of another site made the browser send this request. `Sec-Fetch-Site` (Fetch
/// Metadata) decides; without it, `Origin` does. Clients other than browsers send neither.
///
/// Pages of the same site are allowed, such as `app.example.com` for `api.example.com`.
pub fn is_cross_site(
    fetch_site: Option<&[u8]>,
    origin: Option<&[u8]>,
    host: Option<&[u8]>,
) -> bool {
    match (fetch_site, origin) {
        (Some(site), _) => !matches!(site, b"same-origin" | b"same-site" | b"none"),
        (None, None) => false,
        (None, Some(origin)) => {
            // The scheme is not compared, since a proxy may terminate TLS.
            let (scheme, authority) = match origin {
                [b'h', b't', b't', b'p', b's', b':', b'/', b'/', rest @ ..] => ("https", rest),
                [b'h', b't', b't', b'p', b':', b'/', b'/', rest @ ..] => ("http", rest),
                // Including `null`: a sandboxed page, or a redirect from another site.
                _ => return true,
            };
            let default: &[u8] = if scheme == "https" { b":443" } else { b":80" };
            let bare = |text| <[u8]>::strip_suffix(text, default).unwrap_or(text);
            !host.is_some_and(|host| bare(host).eq_ignore_ascii_case(bare(authority)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exactly_one_valid_argument_is_accepted() {
        let user = |id: &str| Ok(PurgeForm::User(id.into()));
        let longest = format!("user={}", "a".repeat(MAX_USER_ID));
        for (query, form, expected) in [
            ("user=alice", "", user("alice")),
            ("", "user=alice", user("alice")),
            ("&user=alice&", "&", user("alice")),
            ("user=a%20b+c%2B", "", user("a b c+")),
            ("user=%zz", "", user("%zz")),
            ("user=a=b", "", user("a=b")),
            ("all=1", "", Ok(PurgeForm::All)),
            ("", "all=1", Ok(PurgeForm::All)),
            (&longest, "", user(&longest[5..])),
            (&format!("{longest}a"), "", Err(BadArguments)),
            ("", "", Err(BadArguments)),
            ("user=", "", Err(BadArguments)),
            ("user", "", Err(BadArguments)),
            ("all=0", "", Err(BadArguments)),
            ("all", "", Err(BadArguments)),
            ("all=1", "all=1", Err(BadArguments)),
            ("user=a", "user=b", Err(BadArguments)),
            ("user=a&all=1", "", Err(BadArguments)),
            ("user=a&project=p", "", Err(BadArguments)),
            ("User=a", "", Err(BadArguments)),
            ("users=a", "", Err(BadArguments)),
        ] {
            let target = PurgeForm::read(query.as_bytes(), form.as_bytes());
            assert_eq!(target, expected, "{query:.40} {form}");
        }
    }

    #[test]
    fn only_the_urlencoded_type_is_a_form() {
        for (value, expected) in [
            ("application/x-www-form-urlencoded", true),
            ("Application/X-WWW-Form-Urlencoded ; charset=utf-8", true),
            ("application/json", false),
            ("multipart/form-data", false),
            ("", false),
        ] {
            assert_eq!(is_form(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn requests_from_pages_of_other_sites_are_detected() {
        let rows = [
            (None, None, Some("a.example"), false),
            (Some("same-origin"), None, None, false),
            (Some("same-site"), Some("https://b.example"), Some("a.example"), false),
            (Some("none"), None, None, false),
            (Some("cross-site"), None, Some("a.example"), true),
            (Some("cross-site"), Some("https://a.example"), Some("a.example"), true),
            (Some(""), None, None, true),
            (None, Some("https://a.example"), Some("a.example"), false),
            (None, Some("http://A.example"), Some("a.example"), false),
            (None, Some("https://a.example"), Some("a.example:443"), false),
            (None, Some("http://a.example"), Some("a.example:80"), false),
            (None, Some("https://a.example:8443"), Some("a.example:8443"), false),
            (None, Some("https://a.example:8443"), Some("a.example"), true),
            (None, Some("https://a.example.evil.test"), Some("a.example"), true),
            (None, Some("https://evil.test"), Some("a.example"), true),
            (None, Some("null"), Some("a.example"), true),
            (None, Some(""), Some("a.example"), true),
            (None, Some("https://a.example"), None, true),
        ];
        for (site, origin, host, expected) in rows {
            let bytes = |value: Option<&'static str>| value.map(str::as_bytes);
            let cross_site = is_cross_site(bytes(site), bytes(origin), bytes(host));
            assert_eq!(cross_site, expected, "{site:?} {origin:?} {host:?}");
        }
    }

    proptest! {
        #[test]
        fn any_percent_encoded_user_is_decoded(id in prop::collection::vec(any::<u8>(), 1..80)) {
            let encoded = percent_encoding::percent_encode(&id, percent_encoding::NON_ALPHANUMERIC);
            let query = format!("user={encoded}");
            prop_assert_eq!(PurgeForm::read(query.as_bytes(), b""), Ok(PurgeForm::User(id)));
        }

        #[test]
        fn reading_any_bytes_never_panics(query in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = PurgeForm::read(&query, &query);
            is_cross_site(None, Some(&query), Some(&query));
        }
    }
}
