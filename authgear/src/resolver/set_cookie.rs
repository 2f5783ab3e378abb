//! Cookies that Authgear sets or clears in its answer.
//!
//! The resolver clears the cookie of a session that has ended (`pkg/lib/session/middleware.go`).
//! If the browser never received that, it would send the cookie with every request.

use std::fmt;

use crate::credentials::{cookie_name, CookieNames, MAX_COOKIE, MAX_COOKIES};

/// `Set-Cookie` values of an answer. Send them only to the client whose credentials were looked up.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SetCookies(Vec<Box<[u8]>>);

impl SetCookies {
    /// Selects the values that set the project's own cookies.
    ///
    /// Drops values without `=`, of other names, with a control byte, or longer than
    /// [`MAX_COOKIE`]. Keeps the first [`MAX_COOKIES`] of the rest.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a [u8]>, names: &CookieNames) -> Self {
        let own = |value: &&[u8]| {
            // The length first, so that no more than that is looked at.
            let pair = || value.split(|&byte| byte == b';').next().unwrap_or_default();
            value.len() <= MAX_COOKIE
                && pair().contains(&b'=')
                && names.contains(cookie_name(pair()))
                && !value.iter().any(u8::is_ascii_control)
        };
        Self(values.into_iter().filter(own).take(MAX_COOKIES).map(Box::from).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the values in their original order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|value| &**value)
    }
}

impl fmt::Debug for SetCookies {
    /// Shows the number of values, never their bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SetCookies").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prefix: &str, values: &[&str]) -> Vec<String> {
        let names = CookieNames::new(prefix.as_bytes()).unwrap();
        let cookies = SetCookies::read(values.iter().map(|value| value.as_bytes()), &names);
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        cookies.iter().map(text).collect()
    }

    #[test]
    fn only_the_projects_own_cookies_are_relayed() {
        let clear = "session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly";
        for (prefix, value, taken) in [
            ("", clear, true),
            ("", "app_session=a", true),
            ("", "app_access_token=a.b.c; Secure", true),
            ("", " session = a", true),
            ("my_", "my_session=a", true),
            ("my_", "session=a", false),
            ("", "Session=a", false),
            ("", "csrf=a; session=b", false),
            ("", "session", false),
            ("", "session; a=b", false),
            ("", "=session", false),
            ("", "", false),
            ("", "session=a\r\nX: y", false),
            ("", "session=a\tb", false),
            ("", "session=a\0", false),
            ("", "session=a\x7f", false),
        ] {
            let expected: &[&str] = if taken { &[value] } else { &[] };
            assert_eq!(read(prefix, &[value]), expected, "{prefix:?} {value:?}");
        }
    }

    #[test]
    fn long_values_and_values_beyond_the_cap_are_dropped() {
        let longest = format!("session={}", "a".repeat(MAX_COOKIE - 8));
        let longer = format!("{longest}a");
        assert_eq!(read("", &[&longer, &longest]), [longest.as_str()]);
        assert_eq!(read("", &["a=b", "session=a"].repeat(100)).len(), MAX_COOKIES);
    }

    #[test]
    fn debug_shows_no_cookie() {
        let names = CookieNames::default();
        let cookies = SetCookies::read([&b"session=secret"[..]], &names);
        assert_eq!(format!("{cookies:?}"), "SetCookies(1)");
        assert!(!cookies.is_empty() && SetCookies::default().is_empty());
    }
}
