//! Requests to Authgear's servers, and the meaning of the resolver's answer.
//!
//! The body of an answer is empty or text for people, and never read.

pub mod endpoint;
pub mod set_cookie;
pub mod system_names;
pub mod trace_context;

use std::net::IpAddr;

use http::header::{HeaderValue, ACCEPT, AUTHORIZATION, COOKIE, HOST, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};

use self::endpoint::Endpoint;
use self::set_cookie::SetCookies;
use self::trace_context as trace;
use crate::credentials::{CookieNames, Credentials};
use crate::identity::{self, Identity, IdentityError};
use crate::verdict::{NoSession, Unavailable, Verdict};

/// Longest `User-Agent` that is sent, in bytes. A longer one is truncated.
pub const MAX_USER_AGENT: usize = 1024;

/// Header field with the session's state (`pkg/api/model/session_info.go`).
const SESSION_VALID: &str = "x-authgear-session-valid";

/// The client of a request. Authgear records it in the session's access events.
///
/// Values that are not valid in a header are omitted: no verdict depends on them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientInfo<'a> {
    /// IP address in text form. Other addresses, such as `unix:`, are not sent.
    pub address: Option<&'a [u8]>,
    /// Value of `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// Values of `traceparent` and `tracestate` (W3C Trace Context).
    pub trace: (Option<&'a [u8]>, Option<&'a [u8]>),
    /// nginx's id of the client's request, sent as `X-Request-ID`.
    pub request_id: Option<&'a [u8]>,
}

/// Builds the request to the resolver, which listens at `path`.
///
/// The trace context and the request id of [`ClientInfo`] connect traces and logs of both sides.
///
/// `Host` and `X-Forwarded-Host` are the endpoint's authority and `X-Forwarded-Proto` its scheme:
/// Authgear compares a token's `aud` with them. `X-Forwarded-For` is the client. Nothing else of
/// the client's request is passed on: Authgear would believe `Forwarded` and `X-Original-*`
/// (`pkg/util/httputil`).
///
/// # Errors
///
/// When `path` is no path in origin form (RFC 9112 section 3.2.1).
pub fn request(
    endpoint: &Endpoint,
    path: &str,
    credentials: &Credentials<'_>,
    client: &ClientInfo<'_>,
) -> Result<Request<()>, http::Error> {
    let mut request = request_as(endpoint, path)?;
    let headers = request.headers_mut();
    if let Some(address) = client.address.and_then(forwarded_for) {
        headers.insert("x-forwarded-for", address);
    }
    if let Some(user_agent) = client.user_agent.and_then(user_agent) {
        headers.insert(USER_AGENT, user_agent);
    }
    let (parent, state) = client.trace;
    if let Some(parent) = parent.filter(|value| trace::is_parent(value)) {
        headers.insert("traceparent", HeaderValue::from_bytes(parent)?);
        if let Some(state) = state.filter(|value| trace::is_state(value)) {
            headers.insert("tracestate", HeaderValue::from_bytes(state)?);
        }
    }
    if let Some(id) = client.request_id.filter(|value| trace::is_request_id(value)) {
        headers.insert("x-request-id", HeaderValue::from_bytes(id)?);
    }
    if let Some(authorization) = credentials.authorization() {
        headers.insert(AUTHORIZATION, sensitive(authorization)?);
    }
    if let Some(cookie) = credentials.cookie_header() {
        headers.insert(COOKIE, sensitive(&cookie)?);
    }
    Ok(request)
}

/// Builds the request for the project's key set, at `path` of Authgear's main server.
///
/// The main server redirects requests whose scheme or host differ from the public origin
/// (`pkg/auth/webapp/public_origin_middleware.go`), so `Host` and `X-Forwarded-*` name the origin.
///
/// # Errors
///
/// When `path` is no path in origin form (RFC 9112 section 3.2.1).
pub fn jwks_request(endpoint: &Endpoint, path: &str) -> Result<Request<()>, http::Error> {
    let mut request = request_as(endpoint, path)?;
    let accept = HeaderValue::from_static("application/jwk-set+json, application/json");
    request.headers_mut().insert(ACCEPT, accept);
    Ok(request)
}

/// Builds a GET for `path` with the project's public origin in `Host` and `X-Forwarded-*`: by these
/// Authgear selects the project.
fn request_as(endpoint: &Endpoint, path: &str) -> Result<Request<()>, http::Error> {
    // A new request has GET and HTTP/1.1.
    let mut request = Request::new(());
    // `Uri` would read a text without the leading slash as a host; the empty text is an error.
    *request.uri_mut() = Uri::try_from(if path.starts_with('/') { path } else { "" })?;
    let headers = request.headers_mut();
    // Room for all fields, since a growing map is rebuilt.
    headers.reserve(10);
    let authority = HeaderValue::from_str(endpoint.authority())?;
    headers.insert(HOST, authority.clone());
    headers.insert("x-forwarded-host", authority);
    headers.insert("x-forwarded-proto", HeaderValue::from_static(endpoint.scheme().as_str()));
    Ok(request)
}

fn forwarded_for(address: &[u8]) -> Option<HeaderValue> {
    std::str::from_utf8(address).ok()?.parse::<IpAddr>().ok()?;
    HeaderValue::from_bytes(address).ok()
}

fn user_agent(value: &[u8]) -> Option<HeaderValue> {
    let value = value.get(..MAX_USER_AGENT).unwrap_or(value);
    HeaderValue::from_bytes(value).ok()
}

fn sensitive(value: &[u8]) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::from_bytes(value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Which credentials a look-up sends, as far as the meaning of the answer depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// A bearer token.
    pub bearer: bool,
    /// An IdP session cookie, whatever its value.
    pub session_cookie: bool,
}

impl Presented {
    /// Reads it from the credentials to send. `names` are the project's cookie names.
    pub fn of(credentials: &Credentials<'_>, names: &CookieNames) -> Self {
        let session_cookie = credentials.has_session_cookie(names);
        Self { bearer: credentials.bearer().is_some(), session_cookie }
    }
}

/// An answer of the resolver.
#[derive(Clone, Debug)]
pub struct ResolverAnswer {
    /// Verdict on the credentials. Cacheable, and valid for every request that presents them.
    pub verdict: Verdict,
    /// Cookies for the client of this look-up; never cached.
    pub set_cookies: SetCookies,
}

impl ResolverAnswer {
    /// Reads the status and header of an answer. `names` are the project's cookie names.
    pub fn read(status: StatusCode, headers: &HeaderMap, names: &CookieNames) -> Self {
        let verdict = verdict(status, headers);
        // Only a genuine answer of the resolver may set cookies.
        let set_cookies = match verdict {
            Verdict::Unavailable(_) => SetCookies::default(),
            _ => {
                let values = headers.get_all(SET_COOKIE).iter();
                SetCookies::read(values.map(HeaderValue::as_bytes), names)
            }
        };
        Self { verdict, set_cookies }
    }

    /// Interprets the answer by the credentials that it is about.
    ///
    /// - `false` to a bearer token without a session cookie is
    ///   [`BearerNotAccepted`](Verdict::BearerNotAccepted): it is the token that the resolver does
    ///   not accept. With both, either may be meant.
    /// - `Set-Cookie` is dropped if there was a bearer token. The answer is then about the token, but
    ///   clears the cookie, which may be a good one of somebody else.
    pub fn about(mut self, presented: Presented) -> Self {
        if presented.bearer {
            self.set_cookies = SetCookies::default();
            if self.verdict == Verdict::Invalid && !presented.session_cookie {
                self.verdict = Verdict::BearerNotAccepted;
            }
        }
        self
    }
}

impl From<Unavailable> for ResolverAnswer {
    fn from(why: Unavailable) -> Self {
        Self { verdict: Verdict::Unavailable(why), set_cookies: SetCookies::default() }
    }
}

/// Derives the verdict from the status and header of the resolver's answer.
///
/// The resolver answers 200 with or without a session, never 401 or 403
/// (`pkg/resolver/handler/resolve.go`), so another status is not its answer. A session needs exactly
/// one `x-authgear-session-valid` with the value `true`, and a user id.
pub fn verdict(status: StatusCode, headers: &HeaderMap) -> Verdict {
    if status != StatusCode::OK {
        return Verdict::Unavailable(match status.is_client_error() {
            true => Unavailable::Refused,
            false => Unavailable::BadStatus,
        });
    }
    let mut values = headers.get_all(SESSION_VALID).iter();
    match (values.next(), values.next()) {
        (None, _) => Verdict::None(NoSession::Resolver),
        (Some(value), None) if value == "true" => match identity(headers) {
            Ok(identity) => Verdict::Valid(identity),
            Err(why) => Verdict::Unavailable(why),
        },
        (Some(_), None) => Verdict::Invalid,
        (Some(_), Some(_)) => Verdict::Unavailable(Unavailable::BadAnswer),
    }
}

/// Collects the identity fields of an answer.
fn identity(headers: &HeaderMap) -> Result<Identity, Unavailable> {
    // Room for all fields that Authgear sends and their usual size.
    let mut builder = Identity::builder_for(identity::NAMES.len(), 128);
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with(identity::PREFIX) && identity::is_identity_header(name.as_bytes()) {
            builder.push(name.as_bytes(), value.as_bytes()).map_err(|error| match error {
                IdentityError::TooLarge => Unavailable::TooLarge,
                _ => Unavailable::BadAnswer,
            })?;
        }
    }
    let identity = builder.build();
    // Authgear always sends the user id with a valid session. Without one nobody is logged in.
    match identity.user_id() {
        Some(id) if !id.is_empty() => Ok(identity),
        _ => Err(Unavailable::BadAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, Method, Version};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn endpoint() -> Endpoint {
        Endpoint::parse("https://myapp.authgear.cloud:8443").unwrap()
    }

    fn credentials() -> Credentials<'static> {
        Credentials::read(
            Some(b"Bearer token"),
            [&b"lang=en; session=a"[..], b"app_session=b"],
            &CookieNames::default(),
        )
    }

    fn fields(request: &Request<()>) -> Vec<(&str, &[u8])> {
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    fn ask(client: &ClientInfo<'_>) -> Request<()> {
        request(&endpoint(), "/_resolver/resolve", &credentials(), client).unwrap()
    }

    #[test]
    fn a_request_names_the_origin_the_client_and_the_credentials() {
        let client = ClientInfo {
            address: Some(b"192.0.2.1"),
            user_agent: Some(b"curl/8.0"),
            ..ClientInfo::default()
        };
        let request = ask(&client);
        assert_eq!(request.method(), Method::GET);
        assert_eq!(request.version(), Version::HTTP_11);
        assert_eq!(request.uri(), "/_resolver/resolve");
        assert!(request.uri().authority().is_none());
        assert_eq!(
            fields(&request),
            [
                ("host", &b"myapp.authgear.cloud:8443"[..]),
                ("x-forwarded-host", b"myapp.authgear.cloud:8443"),
                ("x-forwarded-proto", b"https"),
                ("x-forwarded-for", b"192.0.2.1"),
                ("user-agent", b"curl/8.0"),
                ("authorization", b"Bearer token"),
                ("cookie", b"session=a; app_session=b"),
            ]
        );
        let sensitive: Vec<_> = request
            .headers()
            .iter()
            .filter(|(_, value)| value.is_sensitive())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(sensitive, ["authorization", "cookie"]);
        assert!(!format!("{request:?}").contains("token"));
    }

    #[test]
    fn absent_values_send_no_header() {
        let none = Credentials::read(Some(b"Basic x"), [&b"a=b"[..]], &CookieNames::default());
        let endpoint = Endpoint::parse("http://[::1]/").unwrap();
        let request = request(&endpoint, "/resolve", &none, &ClientInfo::default()).unwrap();
        assert_eq!(
            fields(&request),
            [
                ("host", &b"[::1]"[..]),
                ("x-forwarded-host", b"[::1]"),
                ("x-forwarded-proto", b"http"),
            ]
        );
    }

    #[test]
    fn only_genuine_answers_set_cookies() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("session=; Path=/"));
        headers.append("set-cookie", HeaderValue::from_static("other=a"));
        let read = |status, headers: &HeaderMap| {
            ResolverAnswer::read(status, headers, &CookieNames::default())
                .set_cookies
                .iter()
                .count()
        };
        assert_eq!(read(StatusCode::OK, &headers), 1);
        assert_eq!(read(StatusCode::INTERNAL_SERVER_ERROR, &headers), 0);
        headers.append(SESSION_VALID, HeaderValue::from_static("false"));
        assert_eq!(read(StatusCode::OK, &headers), 1);
        headers.append(SESSION_VALID, HeaderValue::from_static("true"));
        assert_eq!(read(StatusCode::OK, &headers), 0);
        assert!(ResolverAnswer::from(Unavailable::Dns).set_cookies.is_empty());
    }

    #[test]
    fn false_to_a_bearer_alone_means_that_the_bearer_is_not_accepted() {
        let invalid = (StatusCode::OK, "false");
        let none = (StatusCode::OK, "");
        let failed = (StatusCode::INTERNAL_SERVER_ERROR, "false");
        let no_session = Verdict::None(NoSession::Resolver);
        for ((status, said), bearer, session_cookie, expected) in [
            (invalid, true, false, Verdict::BearerNotAccepted),
            (invalid, true, true, Verdict::Invalid),
            (invalid, false, true, Verdict::Invalid),
            (invalid, false, false, Verdict::Invalid),
            (none, true, false, no_session),
            (failed, true, false, Verdict::Unavailable(Unavailable::BadStatus)),
        ] {
            let mut headers = HeaderMap::new();
            if !said.is_empty() {
                headers.append(SESSION_VALID, HeaderValue::from_static(said));
            }
            let answer = ResolverAnswer::read(status, &headers, &CookieNames::default());
            let presented = Presented { bearer, session_cookie };
            assert_eq!(answer.about(presented).verdict, expected, "{presented:?} {said}");
        }
    }

    #[test]
    fn an_answer_about_a_bearer_sets_no_cookie() {
        let mut headers = HeaderMap::new();
        headers.append(SESSION_VALID, HeaderValue::from_static("false"));
        headers.append("set-cookie", HeaderValue::from_static("session=; Path=/"));
        for (bearer, session_cookie, count) in
            [(false, true, 1), (false, false, 1), (true, true, 0), (true, false, 0)]
        {
            let answer = ResolverAnswer::read(StatusCode::OK, &headers, &CookieNames::default());
            let presented = Presented { bearer, session_cookie };
            assert_eq!(answer.about(presented).set_cookies.iter().count(), count, "{presented:?}");
        }
    }

    #[test]
    fn presented_credentials_are_a_bearer_and_any_session_cookie() {
        let names = CookieNames::new(b"my_").unwrap();
        for (authorization, cookie, bearer, session_cookie) in [
            (None, "", false, false),
            (Some("Bearer a"), "my_app_session=a", true, false),
            (Some("bearer a"), "my_session=", true, true),
            (Some("Basic a"), "session=a", false, false),
            (None, "my_app_access_token=a; my_session=\"b\"", false, true),
        ] {
            let authorization = authorization.map(str::as_bytes);
            let credentials = Credentials::read(authorization, [cookie.as_bytes()], &names);
            let expected = Presented { bearer, session_cookie };
            assert_eq!(Presented::of(&credentials, &names), expected, "{cookie}");
        }
    }

    #[test]
    fn only_an_ip_address_is_forwarded() {
        for address in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let request =
                ask(&ClientInfo { address: Some(address.as_bytes()), ..ClientInfo::default() });
            assert_eq!(request.headers()["x-forwarded-for"], address);
        }
        for address in [
            "",
            "unix:",
            "localhost",
            "192.0.2.1:80",
            "[::1]",
            "1.1.1.1, 2.2.2.2",
            "1.1.1.1\r\n",
            "\u{e9}",
        ] {
            let request =
                ask(&ClientInfo { address: Some(address.as_bytes()), ..ClientInfo::default() });
            assert!(!request.headers().contains_key("x-forwarded-for"), "{address:?}");
        }
        let request = ask(&ClientInfo { address: Some(b"\xff"), ..ClientInfo::default() });
        assert!(!request.headers().contains_key("x-forwarded-for"));
    }

    #[test]
    fn a_valid_user_agent_is_sent_up_to_its_cap() {
        let sent = |value: &[u8]| {
            let request = ask(&ClientInfo { user_agent: Some(value), ..ClientInfo::default() });
            request.headers().get(USER_AGENT).map(|value| value.as_bytes().to_vec())
        };
        assert_eq!(sent(b"a\tb \xff"), Some(b"a\tb \xff".to_vec()));
        assert_eq!(sent(b""), Some(Vec::new()));
        assert_eq!(sent(b"a\r\nx: y"), None);
        assert_eq!(sent(b"a\0"), None);
        assert_eq!(sent(&[b'a'; MAX_USER_AGENT]), Some(vec![b'a'; MAX_USER_AGENT]));
        assert_eq!(sent(&[b'a'; MAX_USER_AGENT + 1]), Some(vec![b'a'; MAX_USER_AGENT]));
    }

    #[test]
    fn the_path_must_be_in_origin_form() {
        for path in ["", "resolve", "a b", "http://a/", "a:80", "/\r\n", "\u{e9}"] {
            let request = request(&endpoint(), path, &credentials(), &ClientInfo::default());
            assert!(request.is_err(), "{path:?} {request:?}");
        }
        let request =
            request(&endpoint(), "//a/b", &credentials(), &ClientInfo::default()).unwrap();
        assert_eq!(request.uri().to_string(), "//a/b");
        assert!(request.uri().authority().is_none());
    }

    fn answer(fields: &[(&'static str, &str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        verdict(StatusCode::OK, &headers)
    }

    fn with_session(fields: &[(&'static str, &str)]) -> Verdict {
        let mut all = vec![("X-Authgear-Session-Valid", "true"), ("X-Authgear-User-Id", "alice")];
        all.extend_from_slice(fields);
        answer(&all)
    }

    const BAD_ANSWER: Verdict = Verdict::Unavailable(Unavailable::BadAnswer);

    #[test]
    fn a_valid_session_has_all_identity_fields_of_the_answer() {
        let verdict = answer(&[
            ("Content-Length", "0"),
            ("X-Robots-Tag", "noindex, nofollow"),
            ("X-Authgear-Session-Valid", "true"),
            ("X-Authgear-User-Id", "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f"),
            ("X-Authgear-User-Anonymous", "false"),
            ("X-Authgear-User-Verified", "true"),
            ("X-Authgear-User-Can-Reauthenticate", "true"),
            ("X-Authgear-User-Roles", "admin,store:view"),
            ("X-Authgear-Session-Amr", ""),
            ("X-Authgear-Session-Authenticated-At", "1700000000"),
            ("X-Authgear-Some-Day", "new"),
            ("X-Authgear-Body-Signature", "00"),
            ("X_Authgear_User_Id", "mallory"),
            ("Set-Cookie", "session=; Path=/"),
        ]);
        let fields: Vec<_> = verdict
            .fields()
            .map(|(name, value)| (name, std::str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(
            fields,
            [
                ("x-authgear-session-valid", "true"),
                ("x-authgear-user-id", "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f"),
                ("x-authgear-user-anonymous", "false"),
                ("x-authgear-user-verified", "true"),
                ("x-authgear-user-can-reauthenticate", "true"),
                ("x-authgear-user-roles", "admin,store:view"),
                ("x-authgear-session-amr", ""),
                ("x-authgear-session-authenticated-at", "1700000000"),
                ("x-authgear-some-day", "new"),
            ]
        );
        assert_eq!(verdict.session_word(), "valid");
    }

    #[test]
    fn an_answer_without_the_session_field_is_no_session() {
        let none = Verdict::None(NoSession::Resolver);
        assert_eq!(answer(&[]), none);
        assert_eq!(answer(&[("X-Authgear-User-Id", "alice")]), none);
        assert_eq!(answer(&[("X_Authgear_Session_Valid", "true")]), none);
    }

    #[test]
    fn only_the_value_true_is_a_session() {
        for value in ["false", "", "True", "TRUE", "1", "true,true", "true ", "yes", "\u{e9}"] {
            let fields = [("X-Authgear-Session-Valid", value), ("X-Authgear-User-Id", "alice")];
            assert_eq!(answer(&fields), Verdict::Invalid, "{value:?}");
        }
        for value in ["true", "false"] {
            assert_eq!(with_session(&[("X-Authgear-Session-Valid", value)]), BAD_ANSWER);
        }
    }

    #[test]
    fn a_session_without_a_user_id_is_a_bad_answer() {
        assert_eq!(answer(&[("X-Authgear-Session-Valid", "true")]), BAD_ANSWER);
        assert_eq!(
            answer(&[("X-Authgear-Session-Valid", "true"), ("X-Authgear-User-Id", "")]),
            BAD_ANSWER
        );
    }

    #[test]
    fn identity_fields_that_cannot_be_forwarded_make_the_answer_bad() {
        for field in [
            ("X-Authgear-User-Id", "alice"),
            ("X-Authgear-User-Roles", "a\tb"),
            ("X-Authgear-User_Id", "mallory"),
            ("X-Authgear-", "a"),
        ] {
            assert_eq!(with_session(&[field]), BAD_ANSWER, "{field:?}");
        }
        let large = "a".repeat(identity::MAX_VALUE + 1);
        assert_eq!(
            with_session(&[("X-Authgear-User-Roles", &large)]),
            Verdict::Unavailable(Unavailable::TooLarge)
        );
    }

    #[test]
    fn only_status_200_is_an_answer() {
        let mut headers = HeaderMap::new();
        headers.insert(SESSION_VALID, HeaderValue::from_static("true"));
        headers.insert("x-authgear-user-id", HeaderValue::from_static("alice"));
        assert_eq!(verdict(StatusCode::OK, &headers).session_word(), "valid");
        for status in (100..1000).filter(|&status| status != 200) {
            let status = StatusCode::from_u16(status).unwrap();
            let why = if status.is_client_error() {
                Unavailable::Refused
            } else {
                Unavailable::BadStatus
            };
            assert_eq!(verdict(status, &headers), Verdict::Unavailable(why), "{status}");
        }
    }

    #[test]
    fn key_sets_are_requested_under_the_public_origin() {
        let endpoint = Endpoint::parse("https://myapp.authgear.cloud").unwrap();
        let request = jwks_request(&endpoint, endpoint.jwks_url().path()).unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/oauth2/jwks"));
        let header = |name| request.headers().get(name).unwrap();
        assert_eq!(header("host"), "myapp.authgear.cloud");
        assert_eq!(header("x-forwarded-host"), "myapp.authgear.cloud");
        assert_eq!(header("x-forwarded-proto"), "https");
        assert_eq!(request.headers().len(), 4);
        assert!(jwks_request(&endpoint, "elsewhere").is_err());
    }

    proptest! {
        #[test]
        fn a_session_needs_exactly_one_true_and_a_user(
            values in vec("(true|false|TRUE|[ -~]{0,5})", 0..3),
            user in "[a-z]{0,2}",
        ) {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(SESSION_VALID, HeaderValue::from_str(value).unwrap());
            }
            headers.insert("x-authgear-user-id", HeaderValue::from_str(&user).unwrap());
            let valid = matches!(verdict(StatusCode::OK, &headers), Verdict::Valid(_));
            prop_assert_eq!(valid, values == ["true"] && !user.is_empty());
        }

        #[test]
        fn a_request_can_be_built_for_any_client(
            address in vec(any::<u8>(), 0..20),
            user_agent in vec(any::<u8>(), 0..20),
        ) {
            let request = ask(&ClientInfo {
                address: Some(&address),
                user_agent: Some(&user_agent),
                trace: (Some(&address), Some(&user_agent)),
                request_id: Some(&user_agent),
            });
            prop_assert!(request.headers().len() >= 5);
        }
    }
}
