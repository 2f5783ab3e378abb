//! Requests to Authgear's servers, and the meaning of the resolver's answer.
//!
//! The body of an answer is empty or text for people, and never read.

pub mod endpoint;
pub mod set_cookie;
pub mod system_names;
pub mod trace_context;

use std::net::IpAddr;

use memchr::memmem;

use self::endpoint::Endpoint;
use self::set_cookie::SetCookies;
use self::trace_context as trace;
use crate::credentials::{CookieNames, Credentials};
use crate::exchange::request::{InvalidTarget, RequestHead, RequestPrefix};
use crate::identity::{self, Identity, IdentityError};
use crate::verdict::{NoSession, Unavailable, Verdict};

/// Longest `User-Agent` that is sent, in bytes. A longer one is truncated.
pub const MAX_USER_AGENT: usize = 1024;

/// Header field with the session's state (`pkg/api/model/session_info.go`).
const SESSION_VALID: &[u8] = b"x-authgear-session-valid";

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

/// Beginning of all look-ups of a project, for a resolver that listens at `path`.
///
/// `Host` and `X-Forwarded-Host` are the endpoint's authority and `X-Forwarded-Proto` its scheme: by
/// these Authgear selects the project, and it compares a token's `aud` with them.
///
/// # Errors
///
/// When `path` is no path in origin form (RFC 9112 section 3.2.1).
pub fn prefix(endpoint: &Endpoint, path: &str) -> Result<RequestPrefix, InvalidTarget> {
    RequestPrefix::new(path, &origin(endpoint))
}

/// Fields with the project's public origin.
fn origin(endpoint: &Endpoint) -> [(&str, &str); 3] {
    let authority = endpoint.authority();
    [
        ("host", authority),
        ("x-forwarded-host", authority),
        ("x-forwarded-proto", endpoint.scheme().as_str()),
    ]
}

/// Builds a look-up. `prefix` is of [`prefix`].
///
/// The trace context and the request id of [`ClientInfo`] connect traces and logs of both sides.
/// `X-Forwarded-For` is the client. Nothing else of the client's request is passed on: Authgear would
/// believe `Forwarded` and `X-Original-*` (`pkg/util/httputil`). `None` if the credentials cannot be
/// sent; [`Credentials::read`] gives none such.
pub fn request(
    prefix: &RequestPrefix,
    credentials: &Credentials<'_>,
    client: &ClientInfo<'_>,
) -> Option<RequestHead> {
    /// Room for the fields of the client but its credentials and user agent.
    const CLIENT: usize = 256;
    let authorization = credentials.authorization();
    let cookie = credentials.cookie_header();
    let user_agent = client.user_agent.map(|value| value.get(..MAX_USER_AGENT).unwrap_or(value));
    let lengths = [authorization, cookie.as_deref(), user_agent].map(|v| v.map_or(0, <[u8]>::len));
    let mut request = prefix.start(CLIENT + lengths.iter().sum::<usize>());
    if let Some(address) = client.address.filter(|address| is_ip_address(address)) {
        request.push("x-forwarded-for", address);
    }
    if let Some(user_agent) = user_agent {
        request.push("user-agent", user_agent);
    }
    let (parent, state) = client.trace;
    if let Some(parent) = parent.filter(|value| trace::is_parent(value)) {
        request.push("traceparent", parent);
        if let Some(state) = state.filter(|value| trace::is_state(value)) {
            request.push("tracestate", state);
        }
    }
    if let Some(id) = client.request_id.filter(|value| trace::is_request_id(value)) {
        request.push("x-request-id", id);
    }
    let credentials = [("authorization", authorization), ("cookie", cookie.as_deref())];
    let are_sent = credentials
        .into_iter()
        .all(|(name, value)| value.is_none_or(|value| request.push(name, value)));
    are_sent.then(|| request.finish())
}

/// Builds the request for the project's key set, at `path` of Authgear's main server.
///
/// The main server redirects requests whose scheme or host differ from the public origin
/// (`pkg/auth/webapp/public_origin_middleware.go`), so `Host` and `X-Forwarded-*` name the origin.
///
/// # Errors
///
/// When `path` is no path in origin form (RFC 9112 section 3.2.1).
pub fn jwks_request(endpoint: &Endpoint, path: &str) -> Result<RequestHead, InvalidTarget> {
    let mut request = prefix(endpoint, path)?.start(64);
    request.push("accept", b"application/jwk-set+json, application/json");
    Ok(request.finish())
}

fn is_ip_address(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<IpAddr>().is_ok())
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
    /// Reads status and fields of an answer: names, in any case, and values. `cookies` are the
    /// project's cookie names.
    pub fn read<'a>(
        status: u16,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        cookies: &CookieNames,
    ) -> Self {
        let verdict = verdict(status, fields.clone());
        // Only a genuine answer of the resolver may set cookies.
        let set_cookies = match verdict {
            Verdict::Unavailable(_) => SetCookies::default(),
            _ => SetCookies::read(named(fields, b"set-cookie"), cookies),
        };
        Self { verdict, set_cookies }
    }

    /// Takes into account whether the answer has a body. The resolver's answers with status 200
    /// have none (`pkg/resolver/handler/resolve.go`), so "no session" with a body is the page of a
    /// website, where the configuration names a wrong URL:
    /// [`NotAResolver`](Unavailable::NotAResolver).
    pub fn with_body(self, has_body: bool) -> Self {
        match self.verdict {
            Verdict::None(NoSession::Resolver) if has_body => Unavailable::NotAResolver.into(),
            _ => self,
        }
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

/// Derives the verdict from status and fields of the resolver's answer.
///
/// The resolver answers 200 with or without a session, never 401 or 403
/// (`pkg/resolver/handler/resolve.go`), so another status is not its answer. A session needs exactly
/// one `x-authgear-session-valid` with the value `true`, and a user id.
pub fn verdict<'a>(
    status: u16,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
) -> Verdict {
    if status != 200 {
        return Verdict::Unavailable(match status {
            400..=499 => Unavailable::Refused,
            _ => Unavailable::BadStatus,
        });
    }
    let mut values = named(fields.clone(), SESSION_VALID);
    match (values.next(), values.next()) {
        (None, _) => Verdict::None(NoSession::Resolver),
        (Some(b"true"), None) => match identity(fields) {
            Ok(identity) => Verdict::Valid(identity),
            Err(why) => Verdict::Unavailable(why),
        },
        (Some(_), None) => Verdict::Invalid,
        (Some(_), Some(_)) => Verdict::Unavailable(Unavailable::BadAnswer),
    }
}

/// Values of the fields with this lower-case name.
fn named<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    wanted: &'static [u8],
) -> impl Iterator<Item = &'a [u8]> {
    fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
}

/// Whether an answer in clear text says that the port speaks HTTPS: in the words of nginx, of Go's
/// `net/http`, and of Apache httpd.
pub fn speaks_https(status: u16, body: &[u8]) -> bool {
    let says = |words: &str| memmem::find(body, words.as_bytes()).is_some();
    status == 400
        && ["HTTPS port", "HTTPS server.", "SSL-enabled server port"].into_iter().any(says)
}

/// Collects the identity fields of an answer.
fn identity<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Identity, Unavailable> {
    // Room for all fields that Authgear sends and their usual size.
    let mut builder = Identity::builder_for(identity::NAMES.len(), 128);
    for (name, value) in fields {
        // An alias, such as `x_authgear_user_id`, is nothing that Authgear sends.
        let has_prefix = name
            .get(..identity::PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(identity::PREFIX.as_bytes()));
        if has_prefix && identity::is_identity_header(name) {
            builder.push(name, value).map_err(|error| match error {
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

    /// Names and values of fields.
    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn fields(request: &RequestHead) -> Vec<(&str, &[u8])> {
        request.fields().map(|(name, value)| (std::str::from_utf8(name).unwrap(), value)).collect()
    }

    fn pairs<'a>(pairs: Pairs<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    fn ask(client: &ClientInfo<'_>) -> RequestHead {
        let prefix = prefix(&endpoint(), "/_resolver/resolve").unwrap();
        request(&prefix, &credentials(), client).unwrap()
    }

    #[test]
    fn a_request_names_the_origin_the_client_and_the_credentials() {
        let client = ClientInfo {
            address: Some(b"192.0.2.1"),
            user_agent: Some(b"curl/8.0"),
            ..ClientInfo::default()
        };
        let request = ask(&client);
        assert_eq!(request.line(), b"GET /_resolver/resolve HTTP/1.1");
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
        assert!(!format!("{request:?}").contains("token"));
    }

    #[test]
    fn absent_values_send_no_header() {
        let none = Credentials::read(Some(b"Basic x"), [&b"a=b"[..]], &CookieNames::default());
        let endpoint = Endpoint::parse("http://[::1]/").unwrap();
        let prefix = prefix(&endpoint, "/resolve").unwrap();
        let request = request(&prefix, &none, &ClientInfo::default()).unwrap();
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
        let cookies = [("set-cookie", "session=; Path=/"), ("Set-Cookie", "other=a")];
        let read = |status, said: &[&str]| {
            let said = said.iter().map(|said| ("x-authgear-session-valid", *said));
            let fields: Vec<_> = cookies.into_iter().chain(said).collect();
            ResolverAnswer::read(status, pairs(&fields), &CookieNames::default())
                .set_cookies
                .iter()
                .count()
        };
        assert_eq!(read(200, &[]), 1);
        assert_eq!(read(500, &[]), 0);
        assert_eq!(read(200, &["false"]), 1);
        assert_eq!(read(200, &["false", "true"]), 0);
        assert!(ResolverAnswer::from(Unavailable::Dns).set_cookies.is_empty());
    }

    #[test]
    fn no_session_with_a_body_is_not_the_resolvers() {
        let read = |status, said: Option<&str>| {
            let said = said.map(|said| ("x-authgear-session-valid", said));
            let fields: Vec<_> =
                [("set-cookie", "session=a; Path=/")].into_iter().chain(said).collect();
            ResolverAnswer::read(status, pairs(&fields), &CookieNames::default())
        };
        let page = read(200, None).with_body(true);
        assert_eq!(page.verdict, Verdict::Unavailable(Unavailable::NotAResolver));
        assert!(page.set_cookies.is_empty());
        let none = read(200, None).with_body(false);
        assert_eq!(none.verdict, Verdict::None(NoSession::Resolver));
        assert!(!none.set_cookies.is_empty());
        // A proxy between may add a body to what the resolver says.
        assert_eq!(read(200, Some("false")).with_body(true).verdict, Verdict::Invalid);
        let failed = read(502, None).with_body(true);
        assert_eq!(failed.verdict, Verdict::Unavailable(Unavailable::BadStatus));
    }

    #[test]
    fn servers_that_speak_https_are_known_by_their_words() {
        for (status, body, speaks) in [
            (400, "<title>400 The plain HTTP request was sent to HTTPS port</title>", true),
            (400, "Client sent an HTTP request to an HTTPS server.\n", true),
            (400, "You're speaking plain HTTP to an SSL-enabled server port.<br />", true),
            (400, "bad request", false),
            (200, "HTTPS server.", false),
            (400, "", false),
        ] {
            assert_eq!(speaks_https(status, body.as_bytes()), speaks, "{body}");
        }
    }

    #[test]
    fn false_to_a_bearer_alone_means_that_the_bearer_is_not_accepted() {
        let invalid = (200, "false");
        let none = (200, "");
        let failed = (500, "false");
        let no_session = Verdict::None(NoSession::Resolver);
        for ((status, said), bearer, session_cookie, expected) in [
            (invalid, true, false, Verdict::BearerNotAccepted),
            (invalid, true, true, Verdict::Invalid),
            (invalid, false, true, Verdict::Invalid),
            (invalid, false, false, Verdict::Invalid),
            (none, true, false, no_session),
            (failed, true, false, Verdict::Unavailable(Unavailable::BadStatus)),
        ] {
            let fields = [("X-Authgear-Session-Valid", said)];
            let fields = if said.is_empty() { &fields[..0] } else { &fields[..] };
            let answer = ResolverAnswer::read(status, pairs(fields), &CookieNames::default());
            let presented = Presented { bearer, session_cookie };
            assert_eq!(answer.about(presented).verdict, expected, "{presented:?} {said}");
        }
    }

    #[test]
    fn an_answer_about_a_bearer_sets_no_cookie() {
        let fields = [("x-authgear-session-valid", "false"), ("set-cookie", "session=; Path=/")];
        for (bearer, session_cookie, count) in
            [(false, true, 1), (false, false, 1), (true, true, 0), (true, false, 0)]
        {
            let answer = ResolverAnswer::read(200, pairs(&fields), &CookieNames::default());
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
            assert_eq!(request.get("x-forwarded-for"), Some(address.as_bytes()));
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
            assert_eq!(request.get("x-forwarded-for"), None, "{address:?}");
        }
        let request = ask(&ClientInfo { address: Some(b"\xff"), ..ClientInfo::default() });
        assert_eq!(request.get("x-forwarded-for"), None);
    }

    #[test]
    fn a_valid_user_agent_is_sent_up_to_its_cap() {
        let sent = |value: &[u8]| {
            let request = ask(&ClientInfo { user_agent: Some(value), ..ClientInfo::default() });
            request.get("user-agent").map(<[u8]>::to_vec)
        };
        assert_eq!(sent(b"a\tb \xff"), Some(b"a\tb \xff".to_vec()));
        assert_eq!(sent(b""), Some(Vec::new()));
        assert_eq!(sent(b"a\r\nx: y"), None);
        assert_eq!(sent(b"a\0"), None);
        assert_eq!(sent(&[b'a'; MAX_USER_AGENT]), Some(vec![b'a'; MAX_USER_AGENT]));
        assert_eq!(sent(&[b'a'; MAX_USER_AGENT + 1]), Some(vec![b'a'; MAX_USER_AGENT]));
    }

    fn answer(fields: Pairs<'_>) -> Verdict {
        verdict(200, pairs(fields))
    }

    fn with_session(fields: Pairs<'_>) -> Verdict {
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
        let fields = [("x-authgear-session-valid", "true"), ("x-authgear-user-id", "alice")];
        assert_eq!(verdict(200, pairs(&fields)).session_word(), "valid");
        for status in (100..1000).filter(|&status| status != 200) {
            let why = match status / 100 {
                4 => Unavailable::Refused,
                _ => Unavailable::BadStatus,
            };
            assert_eq!(verdict(status, pairs(&fields)), Verdict::Unavailable(why), "{status}");
        }
    }

    #[test]
    fn key_sets_are_requested_under_the_public_origin() {
        let endpoint = Endpoint::parse("https://myapp.authgear.cloud").unwrap();
        let request = jwks_request(&endpoint, endpoint.jwks_url().path()).unwrap();
        assert_eq!(request.line(), b"GET /oauth2/jwks HTTP/1.1");
        assert_eq!(request.get("host"), Some(&b"myapp.authgear.cloud"[..]));
        assert_eq!(request.get("x-forwarded-host"), Some(&b"myapp.authgear.cloud"[..]));
        assert_eq!(request.get("x-forwarded-proto"), Some(&b"https"[..]));
        assert_eq!(request.fields().count(), 4);
        assert!(jwks_request(&endpoint, "elsewhere").is_err());
    }

    proptest! {
        #[test]
        fn a_session_needs_exactly_one_true_and_a_user(
            values in vec("(true|false|TRUE|[ -~]{0,5})", 0..3),
            user in "[a-z]{0,2}",
        ) {
            let said = values.iter().map(|value| ("x-authgear-session-valid", value.as_str()));
            let fields: Vec<_> = said.chain([("x-authgear-user-id", user.as_str())]).collect();
            let valid = matches!(answer(&fields), Verdict::Valid(_));
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
            prop_assert!(request.fields().count() >= 5);
        }
    }
}
