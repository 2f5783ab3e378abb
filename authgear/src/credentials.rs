//! The credentials of a request, as Authgear's resolver would read them.
//!
//! The resolver looks at the first `Authorization` field if its scheme is `bearer`
//! (`pkg/lib/oauth/resolver.go`) and at three cookies (`pkg/lib/session/cookie.go`). Nothing else
//! of a request is a credential, and nothing else is sent.

mod binding;

use std::fmt;

use smallvec::SmallVec;

use crate::token;
use thiserror::Error;

pub use binding::{token_check, LookupMode, TokenCheck};

/// Longest `http.cookie_prefix`, in bytes.
pub const MAX_COOKIE_PREFIX: usize = 64;

/// Longest `Authorization` value that is sent, in bytes.
pub const MAX_AUTHORIZATION: usize = 16 * 1024;

/// Longest cookie that is sent, name and value, in bytes: what browsers store at most
/// (RFC 6265 section 6.1).
pub const MAX_COOKIE: usize = 4096;

/// Most cookies that are sent.
pub const MAX_COOKIES: usize = 16;

/// The cookies the resolver reads, by their names without the project's prefix.
const SESSION: &[u8] = b"session";
const APP_ACCESS_TOKEN: &[u8] = b"app_access_token";
const COOKIES: [&[u8]; 3] = [SESSION, b"app_session", APP_ACCESS_TOKEN];

/// Why a text is no cookie prefix. The message continues a sentence about the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CookiePrefixError {
    /// Longer than [`MAX_COOKIE_PREFIX`].
    #[error("is longer than {MAX_COOKIE_PREFIX} bytes")]
    TooLong,
    /// A byte that no cookie name can have.
    #[error("has an invalid character")]
    Character,
}

/// The names of a project's cookies: `session`, `app_session` and `app_access_token` after its
/// `http.cookie_prefix`.
///
/// The default has no prefix, as Authgear's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CookieNames {
    prefix: Box<[u8]>,
}

impl CookieNames {
    /// Names with this prefix, which may be empty.
    ///
    /// # Errors
    ///
    /// A cookie name is a token (RFC 6265 section 4.1.1): other bytes are refused, as is a prefix
    /// longer than [`MAX_COOKIE_PREFIX`].
    pub fn new(prefix: &[u8]) -> Result<Self, CookiePrefixError> {
        if prefix.len() > MAX_COOKIE_PREFIX {
            return Err(CookiePrefixError::TooLong);
        }
        if !prefix.iter().all(|&byte| is_token_byte(byte)) {
            return Err(CookiePrefixError::Character);
        }
        Ok(Self { prefix: prefix.into() })
    }

    /// Whether this is one of the names, byte by byte.
    pub fn contains(&self, name: &[u8]) -> bool {
        name.strip_prefix(&*self.prefix).is_some_and(|name| COOKIES.contains(&name))
    }

    /// What is left of the value of a `Cookie` field without the project's cookies, whether they
    /// would be sent or not.
    pub fn remove_from(&self, field: &[u8]) -> Remainder {
        let is_other = |cookie: &&[u8]| !self.contains(cookie_name(trim(cookie)));
        let cookies = || field.split(|&byte| byte == b';');
        if cookies().all(|cookie| is_other(&cookie)) {
            return Remainder::All;
        }
        let others: Vec<&[u8]> = cookies().filter(is_other).collect();
        if others.iter().all(|other| trim(other).is_empty()) {
            return Remainder::Nothing;
        }
        Remainder::Part(trim(&others.join(&b';')).to_vec())
    }
}

/// What is left of a value that something was taken out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remainder {
    /// Nothing was taken out.
    All,
    /// This.
    Part(Vec<u8>),
    /// It held nothing else.
    Nothing,
}

/// Whether the scheme of an `Authorization` value is `bearer`, with a token behind it or without.
pub fn has_bearer_scheme(authorization: &[u8]) -> bool {
    let mut parts = trim(authorization).split(|&byte| !is_token_byte(byte));
    parts.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

/// What of a request is sent to the resolver as credentials.
///
/// What cannot be sent, or is beyond a cap, is left out as if the client had not sent it. That
/// fails closed: a session comes only from a credential the resolver sees, so leaving one out can
/// lose a session but never make one. With several credentials in one request the resolver may
/// then decide on another of them, as it does itself when one is invalid.
///
/// The default is those of a request that has none.
#[derive(Clone, Default)]
pub struct Credentials<'a> {
    authorization: Option<&'a [u8]>,
    cookies: SmallVec<[&'a [u8]; 4]>,
}

impl<'a> Credentials<'a> {
    /// Reads the credentials of a request.
    ///
    /// `authorization` is the value of the first `Authorization` field. It counts if its scheme,
    /// which ends at the first space, is `bearer` in any case, and a token follows: all that is
    /// behind that one space.
    ///
    /// `cookies` are the values of the `Cookie` fields. Every cookie of the given names is kept as
    /// it stands and in its order: of several with one name it is for the resolver to choose.
    ///
    /// Left out are values with a control byte, which no HTTP field can carry
    /// (RFC 9110 section 5.5), an `authorization` longer than [`MAX_AUTHORIZATION`], cookies longer
    /// than [`MAX_COOKIE`], and cookies after the first [`MAX_COOKIES`].
    pub fn read(
        authorization: Option<&'a [u8]>,
        cookies: impl IntoIterator<Item = &'a [u8]>,
        names: &CookieNames,
    ) -> Self {
        let authorization = authorization.map(trim).filter(|value| {
            is_bearer(value) && value.len() <= MAX_AUTHORIZATION && is_field_value(value)
        });
        let cookies = cookies
            .into_iter()
            .flat_map(|field| field.split(|&byte| byte == b';'))
            .map(trim)
            .filter(|cookie| {
                names.contains(cookie_name(cookie))
                    && cookie.len() <= MAX_COOKIE
                    && is_field_value(cookie)
            })
            .take(MAX_COOKIES)
            .collect();
        Self { authorization, cookies }
    }

    /// Whether there is nothing to ask the resolver about.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.cookies.is_empty()
    }

    /// The `Authorization` value to send, scheme included.
    pub fn authorization(&self) -> Option<&'a [u8]> {
        self.authorization
    }

    /// The bearer token: what follows the scheme in [`authorization`](Self::authorization).
    pub fn bearer(&self) -> Option<&'a [u8]> {
        self.authorization.and_then(bearer_of)
    }

    /// The same credentials, had the request no cookies.
    pub fn without_cookies(&self) -> Self {
        Self { authorization: self.authorization, cookies: SmallVec::new() }
    }

    /// Whether any of the project's cookies is there.
    pub fn has_cookies(&self) -> bool {
        !self.cookies.is_empty()
    }

    /// The `Cookie` value to send: the project's cookies and no other.
    pub fn cookie_header(&self) -> Option<Vec<u8>> {
        self.has_cookies().then(|| self.cookies.join(&b"; "[..]))
    }

    /// When the first of its tokens that are JWTs expires, in seconds since 1970. Those that had
    /// expired before `now` did not decide, and do not count.
    ///
    /// See [`token::expires_at`]: nothing is verified.
    pub fn expires_at(&self, names: &CookieNames, now: u64) -> Option<u64> {
        let tokens = self.bearer().into_iter().chain(self.cookie_values(names, APP_ACCESS_TOKEN));
        tokens.filter_map(token::expires_at).filter(|&exp| exp > now).min()
    }

    /// Whether there is a session cookie of the form that Authgear makes, `<id>.<32 alnum>`
    /// (`pkg/lib/session/idpsession/provider.go`): about that the resolver says something.
    pub fn has_session(&self, names: &CookieNames) -> bool {
        self.cookie_values(names, SESSION).any(|value| {
            let mut parts = value.split(|&byte| byte == b'.');
            let id = parts.next().is_some_and(|id| {
                // Nothing that Go's net/http would drop: then Authgear does not see the cookie.
                !id.is_empty() && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            });
            let secret = parts.next().is_some_and(|secret| {
                secret.len() == 32 && secret.iter().all(u8::is_ascii_alphanumeric)
            });
            id && secret && parts.next().is_none()
        })
    }

    /// The values of the cookies `PREFIXname`.
    fn cookie_values<'s>(
        &'s self,
        names: &'s CookieNames,
        name: &'static [u8],
    ) -> impl Iterator<Item = &'a [u8]> + 's {
        self.cookies.iter().filter_map(move |cookie| {
            let mut parts = cookie.splitn(2, |&byte| byte == b'=');
            let found = parts.next().map(trim)?.strip_prefix(&*names.prefix)?;
            let value = parts.next().map(trim)?;
            // RFC 6265 section 4.1.1: quotes are no part of the value for Go's net/http.
            let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            (found == name).then_some(bare.unwrap_or(value))
        })
    }

    /// Appends an encoding of exactly what would be sent, for use in a key.
    ///
    /// It is injective and says where it ends: two requests have equal encodings if and only if
    /// [`authorization`](Self::authorization) and [`cookie_header`](Self::cookie_header) are equal,
    /// whatever follows. It holds the credentials in clear: hash it, do not keep it.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        self.feed_canonical(|bytes| out.extend_from_slice(bytes));
    }

    /// Gives `sink` what [`write_canonical`](Self::write_canonical) writes, piece by piece.
    pub(crate) fn feed_canonical(&self, mut sink: impl FnMut(&[u8])) {
        // An authorization is never empty: length 0 is its absence.
        feed_bytes(&mut sink, self.authorization.unwrap_or_default());
        feed_length(&mut sink, self.cookies.len());
        for cookie in &self.cookies {
            feed_bytes(&mut sink, cookie);
        }
    }
}

impl fmt::Debug for Credentials<'_> {
    /// Tells what is there, never its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorization", &self.authorization.is_some())
            .field("cookies", &self.cookies.len())
            .finish()
    }
}

fn is_bearer(value: &[u8]) -> bool {
    bearer_of(value).is_some_and(|token| !token.is_empty())
}

/// What follows the scheme `bearer` and one space.
fn bearer_of(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// The name of a cookie: all of it when there is no `=`, as Go's `net/http` reads it.
pub(crate) fn cookie_name(cookie: &[u8]) -> &[u8] {
    cookie.split(|&byte| byte == b'=').next().map(trim).unwrap_or_default()
}

/// Removes the white space around a value, which is no part of it (RFC 9110 section 5.5).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether an HTTP field can carry these bytes.
fn is_field_value(value: &[u8]) -> bool {
    // No end before the last byte: so the compiler looks at many bytes at once.
    let control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    !value.iter().fold(false, |found, &byte| found | control(byte))
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn feed_bytes(sink: &mut impl FnMut(&[u8]), bytes: &[u8]) {
    feed_length(sink, bytes.len());
    sink(bytes);
}

fn feed_length(sink: &mut impl FnMut(&[u8]), length: usize) {
    // The caps keep every length far below 2^32.
    sink(&(length as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn names() -> CookieNames {
        CookieNames::default()
    }

    fn bearer(value: &[u8]) -> Option<Vec<u8>> {
        Credentials::read(Some(value), [], &names()).authorization().map(<[u8]>::to_vec)
    }

    fn cookies(prefix: &str, fields: &[&[u8]]) -> Option<Vec<u8>> {
        let names = CookieNames::new(prefix.as_bytes()).unwrap();
        Credentials::read(None, fields.iter().copied(), &names).cookie_header()
    }

    fn canonical(credentials: &Credentials<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        credentials.write_canonical(&mut out);
        out
    }

    #[test]
    fn bearer_is_read_as_authgear_does() {
        for value in [
            "Bearer token",
            "bearer token",
            "BEARER token",
            "Bearer  token",
            "Bearer a b",
            "Bearer \ttoken",
            "Bearer \u{e9}",
            "bearer ,",
        ] {
            assert_eq!(bearer(value.as_bytes()).as_deref(), Some(value.as_bytes()), "{value:?}");
        }
        for value in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Bearer   ",
            "Bearer \t ",
            "Bearertoken",
            "Bearer\ttoken",
            "Bearer\u{a0}token",
            "Bearer: token",
            "Basic Bearer token",
            "Basic dXNlcjpwYXNz",
            "DPoP token",
            "token",
            "Bearer a\0b",
            "Bearer a\nb",
            "Bearer a\r\nCookie: session=b",
            "Bearer a\x7fb",
            "\u{b}Bearer a",
        ] {
            assert_eq!(bearer(value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn space_around_a_field_value_is_no_part_of_it() {
        assert_eq!(bearer(b" \tBearer  token\t "), Some(b"Bearer  token".to_vec()));
    }

    #[test]
    fn authorization_has_a_cap() {
        let mut value = b"Bearer ".to_vec();
        value.resize(MAX_AUTHORIZATION, b'a');
        assert_eq!(bearer(&value), Some(value.clone()));
        value.push(b'a');
        assert_eq!(bearer(&value), None);
    }

    #[test]
    fn only_the_three_cookies_are_taken() {
        for (prefix, fields, sent) in [
            ("", &["session=a"][..], Some("session=a")),
            ("", &["app_session=a"], Some("app_session=a")),
            ("", &["app_access_token=a"], Some("app_access_token=a")),
            ("", &["lang=en; session=a; theme=x"], Some("session=a")),
            ("", &["session=a;session=b", "session=c"], Some("session=a; session=b; session=c")),
            ("", &["app_session=a; session=b"], Some("app_session=a; session=b")),
            ("", &[" \tsession = a \t; x"], Some("session = a")),
            ("", &["session=a=b"], Some("session=a=b")),
            ("", &["session=\"a b\""], Some("session=\"a b\"")),
            ("", &["session="], Some("session=")),
            ("", &["session"], Some("session")),
            ("", &["session=\u{e9}"], Some("session=\u{e9}")),
            ("", &[";;; ;session=a;"], Some("session=a")),
            ("", &[], None),
            ("", &[""], None),
            ("", &["=session"], None),
            ("", &["Session=a; SESSION=a; sessions=a; xsession=a; session2=a"], None),
            ("", &["same_site_strict=true; csrf_token=a; device_token=b"], None),
            ("", &["x=session=a"], None),
            ("", &["x=\"; session=a\""], Some("session=a\"")),
            ("", &["session=a\x01; session=b\x7f; session=c"], Some("session=c")),
            ("", &["session=a\r\nx: y"], None),
            ("", &["\nsession=a"], None),
            ("my_", &["session=a; my_session=b; My_session=c"], Some("my_session=b")),
            (
                "my_",
                &["my_app_session=a; my_app_access_token=b"],
                Some("my_app_session=a; my_app_access_token=b"),
            ),
            ("my_", &["my_; my_my_session=a"], None),
            (
                "app_",
                &["app_session=a; session=b; app_app_session=c"],
                Some("app_session=a; app_app_session=c"),
            ),
        ] {
            let bytes: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
            assert_eq!(
                cookies(prefix, &bytes).as_deref(),
                sent.map(str::as_bytes),
                "{prefix:?} {fields:?}"
            );
        }
    }

    #[test]
    fn other_cookies_stay_as_they_are() {
        let part = |text: &str| Remainder::Part(text.as_bytes().to_vec());
        for (prefix, field, left) in [
            ("", "lang=en; theme=x", Remainder::All),
            ("", "", Remainder::All),
            ("", " a = b ;;", Remainder::All),
            ("", "Session=a; sessions=b; xsession=c", Remainder::All),
            ("my_", "session=a", Remainder::All),
            ("", "session=a", Remainder::Nothing),
            ("", "session", Remainder::Nothing),
            ("", ";; session=a;", Remainder::Nothing),
            ("", " session = a ; app_session=b;app_access_token=c; ", Remainder::Nothing),
            ("my_", "my_session=a; session=b", part("session=b")),
            ("", "lang=en; session=a; theme=\"x\"", part("lang=en; theme=\"x\"")),
            ("", "session=a; lang=en", part("lang=en")),
            ("", "lang=en; session=a", part("lang=en")),
            ("", "a=1;session=a;b=2;  c=3", part("a=1;b=2;  c=3")),
            ("", "a=1; session=a; session=b; a=2", part("a=1; a=2")),
        ] {
            let names = CookieNames::new(prefix.as_bytes()).unwrap();
            assert_eq!(names.remove_from(field.as_bytes()), left, "{prefix:?} {field:?}");
        }
    }

    #[test]
    fn bearer_schemes() {
        for value in ["Bearer a", "BEARER", "bearer ", " \tBearer a", "Bearer\ta", "bearer, a"] {
            assert!(has_bearer_scheme(value.as_bytes()), "{value:?}");
        }
        for value in ["", "Basic bearer", "Bearertoken", "bearer-x y", "Bear er"] {
            assert!(!has_bearer_scheme(value.as_bytes()), "{value:?}");
        }
    }

    #[test]
    fn cookies_have_caps() {
        let mut long = b"session=".to_vec();
        long.resize(MAX_COOKIE, b'a');
        assert_eq!(cookies("", &[&long]), Some(long.clone()));
        long.push(b'a');
        assert_eq!(cookies("", &[&long, b"session=b"]), Some(b"session=b".to_vec()));

        // Foreign cookies do not use up the places.
        let many = format!("{}{}", "x=1; ".repeat(100), "session=a; ".repeat(100));
        let kept = "session=a; ".repeat(MAX_COOKIES);
        assert_eq!(
            cookies("", &[many.as_bytes()]).as_deref(),
            Some(kept.trim_end_matches("; ").as_bytes())
        );
    }

    #[test]
    fn cookie_prefix_is_a_token() {
        assert_eq!(CookieNames::new(b""), Ok(CookieNames::default()));
        assert!(CookieNames::new(b"__Secure-a.b_").unwrap().contains(b"__Secure-a.b_session"));
        assert!(CookieNames::new(&[b'a'; MAX_COOKIE_PREFIX]).is_ok());
        assert_eq!(
            CookieNames::new(&[b'a'; MAX_COOKIE_PREFIX + 1]),
            Err(CookiePrefixError::TooLong)
        );
        for prefix in ["a b", "a=", "a;", "a,", "\"", "a\0", "\u{e9}", "a\t", "(", "/"] {
            assert_eq!(
                CookieNames::new(prefix.as_bytes()),
                Err(CookiePrefixError::Character),
                "{prefix:?}"
            );
        }
        assert_eq!(CookiePrefixError::TooLong.to_string(), "is longer than 64 bytes");
    }

    #[test]
    fn emptiness() {
        let none = Credentials::read(Some(b"Basic x"), [&b"a=b"[..]], &names());
        assert!(none.is_empty() && !none.has_cookies());
        assert_eq!((none.authorization(), none.cookie_header()), (None, None));
        let bearer = Credentials::read(Some(b"Bearer x"), [], &names());
        assert!(!bearer.is_empty() && !bearer.has_cookies());
        let cookie = Credentials::read(None, [&b"session=x"[..]], &names());
        assert!(!cookie.is_empty() && cookie.has_cookies());
    }

    #[test]
    fn debug_shows_no_credential() {
        let credentials =
            Credentials::read(Some(b"Bearer secret"), [&b"session=secret"[..]], &names());
        let text = format!("{credentials:?}");
        assert_eq!(text, "Credentials { authorization: true, cookies: 1 }");
    }

    #[test]
    fn canonical_form() {
        let names = names();
        let form = |authorization: Option<&'static str>, cookies: &[&'static str]| {
            canonical(&Credentials::read(
                authorization.map(str::as_bytes),
                cookies.iter().map(|cookie| cookie.as_bytes()),
                &names,
            ))
        };
        assert_eq!(form(None, &[]), [0; 8]);
        assert_eq!(
            form(Some("bearer a"), &["session"]),
            b"\0\0\0\x08bearer a\0\0\0\x01\0\0\0\x07session"
        );
        // How the client spread its cookies over fields is not sent.
        assert_eq!(
            form(None, &["session=a;x=y;session=b"]),
            form(None, &["session=a", "session=b"])
        );
        assert_ne!(form(Some("bearer a"), &[]), form(Some("Bearer a"), &[]));
        assert_ne!(form(None, &["session=a; session=b"]), form(None, &["session=b; session=a"]));
    }

    /// A request whose few bytes make equal credentials likely.
    fn request() -> impl Strategy<Value = (Option<Vec<u8>>, Vec<Vec<u8>>)> {
        let authorization = r"([bB]earer|Basic)[ \t](session|[\x00 ])?=?";
        let field = r"([ \t]?(session|x)=?(session|[=;\x7f ])?;?){0,2}";
        (
            option::of(authorization.prop_map(String::into_bytes)),
            vec(field.prop_map(String::into_bytes), 0..3),
        )
    }

    fn read(request: &(Option<Vec<u8>>, Vec<Vec<u8>>)) -> Credentials<'_> {
        Credentials::read(request.0.as_deref(), request.1.iter().map(Vec::as_slice), &names())
    }

    /// Undoes `write_canonical`; returns what follows too.
    fn decode(mut bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>, &[u8]) {
        fn length(bytes: &mut &[u8]) -> usize {
            let (length, rest) = bytes.split_first_chunk::<4>().unwrap();
            *bytes = rest;
            u32::from_be_bytes(*length) as usize
        }
        fn take(bytes: &mut &[u8]) -> Vec<u8> {
            let length = length(bytes);
            let (taken, rest) = bytes.split_at(length);
            *bytes = rest;
            taken.to_vec()
        }
        let authorization = take(&mut bytes);
        let cookies = (0..length(&mut bytes)).map(|_| take(&mut bytes)).collect();
        (authorization, cookies, bytes)
    }

    #[test]
    fn a_session_cookie_of_authgears_form() {
        let secret = "0123456789abcdefABCDEF0123456789";
        let names = CookieNames::new(b"dev_").expect("a prefix");
        for (cookie, expected) in [
            (format!("dev_session=id.{secret}"), true),
            (format!("a=b; dev_session=\"id.{secret}\""), true),
            (format!("dev_session=x; dev_session=id.{secret}"), true),
            (format!("session=id.{secret}"), false),
            (format!("dev_app_session=id.{secret}"), false),
            (format!("dev_session=.{secret}"), false),
            (format!("dev_session=\u{e9}.{secret}"), false),
            (format!("dev_session=id.{secret}0"), false),
            (format!("dev_session=id.{}", &secret[1..]), false),
            (format!("dev_session=id.{}-", &secret[1..]), false),
            (format!("dev_session=i.d.{secret}"), false),
            ("dev_session=".to_owned(), false),
            ("dev_session".to_owned(), false),
        ] {
            let credentials = Credentials::read(None, [cookie.as_bytes()], &names);
            assert_eq!(credentials.has_session(&names), expected, "{cookie}");
        }
    }

    #[test]
    fn the_first_token_to_expire_counts() {
        // {"exp":1000}, {"exp":2000}, {"exp":3000}
        let [one, two, three] =
            ["eyJ.eyJleHAiOjEwMDB9.", "eyJ.eyJleHAiOjIwMDB9.", "eyJ.eyJleHAiOjMwMDB9."];
        let names = CookieNames::default();
        let expires_at = |bearer: &str, cookie: &str, now| {
            let bearer = format!("Bearer {bearer}");
            let cookie = format!("app_access_token={cookie}");
            let credentials =
                Credentials::read(Some(bearer.as_bytes()), [cookie.as_bytes()], &names);
            credentials.expires_at(&names, now)
        };
        assert_eq!(expires_at(three, two, 0), Some(2000));
        assert_eq!(expires_at(two, three, 0), Some(2000));
        assert_eq!(expires_at(one, three, 999), Some(1000));
        assert_eq!(expires_at(one, three, 1000), Some(3000));
        assert_eq!(expires_at(one, "opaque", 1000), None);
        assert_eq!(expires_at("opaque", "opaque", 0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn canonical_forms_are_equal_when_what_is_sent_is(a in request(), b in request()) {
            let (a, b) = (read(&a), read(&b));
            let sent_equal = a.authorization() == b.authorization()
                && a.cookie_header() == b.cookie_header();
            prop_assert_eq!(canonical(&a) == canonical(&b), sent_equal);
        }

        #[test]
        fn canonical_form_can_be_undone(request in request(), tail in vec(any::<u8>(), 0..8)) {
            let credentials = read(&request);
            let mut bytes = canonical(&credentials);
            bytes.extend_from_slice(&tail);
            let (authorization, cookies, rest) = decode(&bytes);
            prop_assert_eq!(authorization, credentials.authorization().unwrap_or_default());
            let header = (!cookies.is_empty()).then(|| cookies.join(&b"; "[..]));
            prop_assert_eq!(header, credentials.cookie_header());
            prop_assert_eq!(rest, tail.as_slice());
        }

        #[test]
        fn what_is_left_has_all_others_and_none_of_the_projects(
            field in r"([ \t]?(session|app_session|x)?[ ]?=?(session|[=;\x00 ])?;?){0,5}",
        ) {
            let (names, field) = (names(), field.into_bytes());
            let left = match names.remove_from(&field) {
                Remainder::All => field.clone(),
                Remainder::Part(left) => left,
                Remainder::Nothing => Vec::new(),
            };
            let others = |field: &[u8]| -> Vec<Vec<u8>> {
                let cookies = field.split(|&byte| byte == b';').map(trim);
                let others = cookies.filter(|c| !c.is_empty() && !names.contains(cookie_name(c)));
                others.map(<[u8]>::to_vec).collect()
            };
            prop_assert_eq!(others(&left), others(&field));
            prop_assert_eq!(names.remove_from(&left), Remainder::All);
        }

        #[test]
        fn what_is_sent_is_read_as_the_same(request in request()) {
            let credentials = read(&request);
            let header = credentials.cookie_header();
            let again = Credentials::read(credentials.authorization(), header.as_deref(), &names());
            prop_assert_eq!(canonical(&again), canonical(&credentials));
        }

        #[test]
        fn anything_kept_can_be_sent(
            authorization in option::of(vec(any::<u8>(), 0..40)),
            fields in vec(vec(any::<u8>(), 0..40), 0..4),
        ) {
            let bearer = authorization.map(|token| [b"bearer ", token.as_slice()].concat());
            let fields: Vec<_> =
                fields.into_iter().map(|value| [b"session=", value.as_slice()].concat()).collect();
            let credentials = Credentials::read(
                bearer.as_deref(),
                fields.iter().map(Vec::as_slice),
                &names(),
            );
            for value in [credentials.authorization().map(<[u8]>::to_vec), credentials.cookie_header()] {
                prop_assert!(value.is_none_or(|value| http::HeaderValue::from_bytes(&value).is_ok()));
            }
        }
    }
}
