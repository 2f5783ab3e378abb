//! Facts about Authgear that the module and its tests take for granted, as far as a client can see.
//!
//! Left out is what ends a session or makes one, what needs a registered application, faults, and
//! answers to another `Host`, which the proxy in front decides.

use std::iter;

use serde_json::Value;

use crate::ask::{Answer, Live};

/// Result of a check.
pub(crate) enum Outcome {
    Holds,
    /// Expected and found.
    Differs(String),
    /// A fact that tells versions apart.
    Noted(&'static str),
    /// The argument that is missing to ask.
    NotAsked(&'static str),
}

use Outcome::{Differs, Holds, NotAsked, Noted};

/// Subject, fact, and its check.
type Fact = (&'static str, &'static str, fn(&Live) -> Outcome);

pub(crate) const FACTS: &[Fact] = &[
    ("resolver", "no credentials: no x-authgear-* header", no_credentials),
    ("resolver", "an unknown bearer token: no x-authgear-* header", unknown_bearer),
    ("resolver", "another scheme than bearer is none", other_scheme),
    ("resolver", "an unknown session cookie: false", unknown_cookie),
    ("resolver", "an unknown session cookie is cleared", cleared_cookie),
    ("resolver", "an empty session cookie: false", empty_cookie),
    ("resolver", "an unknown bearer falls through to the cookie", falls_through),
    ("resolver", "unknown app_session and app_access_token: no x-authgear-* header", app_cookies),
    ("resolver", "a TAB before the value makes a cookie absent", tab_cookie),
    ("resolver", "names of cookies are case-sensitive", cookie_case),
    ("resolver", "more than 3000 cookies in a line: none counts", many_cookies),
    ("resolver", "a list in X-Forwarded-Proto: 500", list_of_schemes),
    ("resolver", "POST: 405 with Allow", post),
    ("resolver", "a slash after the path: 301", slash),
    ("resolver", "HEAD is answered as GET", head),
    ("resolver", "headers of every answer; no Cache-Control", common_headers),
    ("resolver", "health is 200 with OK", health),
    ("session", "a session: true, with seven headers of their kinds", session),
    ("session", "AMR is empty at the resolver", amr),
    ("session", "the value of a cookie counts in double quotes", quoted_cookie),
    ("session", "the first of two cookies counts", first_cookie),
    ("session", "a session counts beside an unknown bearer", session_beside_bearer),
    ("session", "userinfo accepts the session cookie", userinfo_by_cookie),
    ("token", "a user's token: true, or false without Set-Cookie", token),
    ("token", "bearer in any case", scheme_case),
    ("token", "two spaces, or a TAB, after the scheme: no token", scheme_space),
    ("token", "of two Authorization the first counts", first_authorization),
    ("token", "the token counts in the cookie app_access_token", token_as_cookie),
    ("token", "the token goes before the session", token_before_session),
    ("token", "userinfo accepts the token", userinfo_by_token),
    ("token", "the token: RS256, at+jwt, and a published key", token_header),
    ("token", "the token has Authgear's claims, and no sid", token_claims),
    ("token", "sub is the user of the resolver", token_subject),
    ("token", "whether the resolver compares the audience", audience),
    ("keys", "RSA, RS256, for signatures, with ids", keys),
    ("keys", "every origin, no Cache-Control, csp_nonce", key_headers),
    ("keys", "no HEAD", key_methods),
    ("keys", "403 for crawlers", crawlers),
    ("oauth", "metadata has the endpoints and the algorithms", metadata),
    ("oauth", "both documents of metadata are one", oauth_metadata),
    ("oauth", "whether clients may register themselves", registration),
    ("oauth", "authorize of an unknown client: 400, no redirect", unknown_client),
    ("oauth", "userinfo without credentials: 401 with a challenge", userinfo),
];

/// A session cookie of the right form, of no session.
const UNKNOWN_SESSION: &str =
    "00000000-0000-4000-8000-000000000000.abcdefghijklmnopqrstuvwxyz012345";
const UNKNOWN_BEARER: &str = "Bearer abcdefghijklmnopqrstuvwxyz012345";

fn compare(expected: &str, got: &str) -> Outcome {
    if expected == got {
        Holds
    } else {
        Differs(format!("expected {expected}, got {got}"))
    }
}

fn hold(all: &[(&str, bool)]) -> Outcome {
    let failed: Vec<_> = all.iter().filter(|(_, holds)| !holds).map(|(what, _)| *what).collect();
    if failed.is_empty() {
        Holds
    } else {
        Differs(format!("not so: {}", failed.join(", ")))
    }
}

/// The resolver's word about these values of `Cookie`.
fn about_cookies(live: &Live, cookies: &str) -> String {
    live.resolve(&[("cookie", cookies)]).word()
}

fn no_credentials(live: &Live) -> Outcome {
    compare("nothing", &live.resolve(&[]).word())
}

fn unknown_bearer(live: &Live) -> Outcome {
    compare("nothing", &live.resolve(&[("authorization", UNKNOWN_BEARER)]).word())
}

fn other_scheme(live: &Live) -> Outcome {
    compare("nothing", &live.resolve(&[("authorization", "Basic YWxpY2U6cHc=")]).word())
}

fn unknown_session(live: &Live) -> String {
    format!("{}={UNKNOWN_SESSION}", live.session_name())
}

fn unknown_cookie(live: &Live) -> Outcome {
    compare("false", &about_cookies(live, &unknown_session(live)))
}

fn cleared_cookie(live: &Live) -> Outcome {
    let answer = live.resolve(&[("cookie", &unknown_session(live))]);
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    let cookie = answer.header("set-cookie").unwrap_or_default();
    let name = format!("{}=;", live.session_name());
    hold(&[
        ("one Set-Cookie", cookies.len() == 1),
        ("of the session cookie, empty", cookie.starts_with(&name)),
        ("Path=/", cookie.contains("; Path=/;")),
        ("of 1970", cookie.contains("Expires=Thu, 01 Jan 1970 00:00:00 GMT")),
        ("HttpOnly", cookie.contains("; HttpOnly")),
        ("SameSite=Lax", cookie.ends_with("SameSite=Lax")),
        ("Secure with https", cookie.contains("; Secure") == live.origin.starts_with("https:")),
    ])
}

fn empty_cookie(live: &Live) -> Outcome {
    compare("false", &about_cookies(live, &format!("{}=", live.session_name())))
}

fn falls_through(live: &Live) -> Outcome {
    let cookie = unknown_session(live);
    let headers = [("authorization", UNKNOWN_BEARER), ("cookie", &cookie)];
    compare("false", &live.resolve(&headers).word())
}

fn app_cookies(live: &Live) -> Outcome {
    let names = ["app_session", "app_access_token"].map(|name| live.cookie_name(name));
    compare("nothing", &about_cookies(live, &format!("{}=x; {}=x", names[0], names[1])))
}

fn tab_cookie(live: &Live) -> Outcome {
    let cookie = format!("{}=\t{UNKNOWN_SESSION}", live.session_name());
    compare("nothing", &about_cookies(live, &cookie))
}

fn cookie_case(live: &Live) -> Outcome {
    let cookie = format!("{}={UNKNOWN_SESSION}", live.session_name().to_ascii_uppercase());
    compare("nothing", &about_cookies(live, &cookie))
}

fn many_cookies(live: &Live) -> Outcome {
    if !live.is_direct {
        return NotAsked("RESOLVER, since proxies limit headers");
    }
    let cookies = format!("{}{}", "a=; ".repeat(3000), unknown_session(live));
    compare("nothing", &about_cookies(live, &cookies))
}

fn list_of_schemes(live: &Live) -> Outcome {
    if !live.is_direct {
        return NotAsked("RESOLVER, since proxies set the header");
    }
    compare("status 500", &live.resolve(&[("x-forwarded-proto", "http, https")]).word())
}

fn post(live: &Live) -> Outcome {
    let answer = live.resolve_by("POST", "");
    let allow = answer.header("allow").unwrap_or("no Allow");
    compare("405 GET, HEAD, OPTIONS", &format!("{} {allow}", answer.status))
}

fn slash(live: &Live) -> Outcome {
    compare("status 301", &live.resolve_by("GET", "/").word())
}

fn head(live: &Live) -> Outcome {
    compare("nothing", &live.resolve_by("HEAD", "").word())
}

fn common_headers(live: &Live) -> Outcome {
    let answer = live.resolve(&[]);
    let is = |name: &str, value: &str| answer.header(name) == Some(value);
    hold(&[
        ("X-Content-Type-Options", is("x-content-type-options", "nosniff")),
        ("X-Robots-Tag", is("x-robots-tag", "noindex, nofollow")),
        ("Permissions-Policy", answer.header("permissions-policy").is_some()),
        ("no Cache-Control", answer.header("cache-control").is_none()),
        ("no challenge", answer.header("www-authenticate").is_none()),
    ])
}

fn health(live: &Live) -> Outcome {
    if !live.is_direct {
        return NotAsked("RESOLVER");
    }
    let answer = live.health();
    hold(&[("200", answer.status == 200), ("OK", answer.body == b"OK")])
}

/// The cookie of the session, as in `Cookie`.
fn own_session(live: &Live) -> Option<String> {
    live.cookie.as_ref().map(|(name, value)| format!("{name}={value}"))
}

fn with_session(live: &Live, check: impl FnOnce(&str, &str) -> Outcome) -> Outcome {
    match &live.cookie {
        Some((name, value)) => check(name, value),
        None => NotAsked("COOKIE"),
    }
}

fn about_own_session(live: &Live) -> Option<Answer> {
    let cookie = own_session(live)?;
    Some(live.resolve(&[("cookie", &cookie)]))
}

fn session(live: &Live) -> Outcome {
    let Some(answer) = about_own_session(live) else { return NotAsked("COOKIE") };
    if answer.word() != "true" {
        return compare("true", &answer.word());
    }
    let value = |name: &str| answer.header(&format!("x-authgear-{name}"));
    let is_flag = |name: &str| matches!(value(name), Some("true" | "false"));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    hold(&[
        ("user-id", value("user-id").is_some_and(|id| !id.is_empty())),
        ("user-anonymous", is_flag("user-anonymous")),
        ("user-verified", is_flag("user-verified")),
        ("user-can-reauthenticate", is_flag("user-can-reauthenticate")),
        ("session-amr", value("session-amr").is_some()),
        ("session-authenticated-at", value("session-authenticated-at").is_some_and(is_number)),
        ("no Set-Cookie", answer.header("set-cookie").is_none()),
    ])
}

fn amr(live: &Live) -> Outcome {
    let Some(answer) = about_own_session(live) else { return NotAsked("COOKIE") };
    hold(&[("empty", answer.header("x-authgear-session-amr") == Some(""))])
}

fn quoted_cookie(live: &Live) -> Outcome {
    with_session(live, |name, value| {
        compare("true", &about_cookies(live, &format!("{name}=\"{value}\"")))
    })
}

fn first_cookie(live: &Live) -> Outcome {
    let Some(own) = own_session(live) else { return NotAsked("COOKIE") };
    let other = unknown_session(live);
    let first = about_cookies(live, &format!("{own}; {other}"));
    let second = about_cookies(live, &format!("{other}; {own}"));
    compare("true, false", &format!("{first}, {second}"))
}

fn session_beside_bearer(live: &Live) -> Outcome {
    let Some(own) = own_session(live) else { return NotAsked("COOKIE") };
    let headers = [("authorization", UNKNOWN_BEARER), ("cookie", own.as_str())];
    compare("true", &live.resolve(&headers).word())
}

fn is_profile(answer: &Answer) -> Outcome {
    hold(&[
        ("200", answer.status == 200),
        ("a document with sub", answer.document()["sub"].is_string()),
    ])
}

fn userinfo_by_cookie(live: &Live) -> Outcome {
    let Some(own) = own_session(live) else { return NotAsked("COOKIE") };
    is_profile(&live.get("/oauth2/userinfo", &[("cookie", &own)]))
}

/// The resolver's word about the token after a scheme.
fn about_token(live: &Live, scheme: &str) -> Option<String> {
    let authorization = format!("{scheme}{}", live.token.as_ref()?);
    Some(live.resolve(&[("authorization", &authorization)]).word())
}

/// Returns true if the token is of a machine, which has no user.
fn is_machine(live: &Live) -> bool {
    let subject = live.jwt().and_then(|(_, claims)| Some(claims["sub"].as_str()?.to_owned()));
    subject.is_some_and(|subject| subject.starts_with("client_id_"))
}

fn token(live: &Live) -> Outcome {
    let Some(authorization) = live.token.as_ref().map(|token| format!("Bearer {token}")) else {
        return NotAsked("TOKEN");
    };
    let answer = live.resolve(&[("authorization", &authorization)]);
    match (is_machine(live), answer.word().as_str(), answer.header("set-cookie")) {
        (false, "true", None) => Noted("true: of an application of the project"),
        (false, "false", None) => Noted("false: of a third party, or the user is disabled"),
        (true, word, _) => compare("nothing", word),
        (false, word, _) => compare("true or false", word),
    }
}

fn scheme_case(live: &Live) -> Outcome {
    let words = ["Bearer ", "bearer ", "BEARER "].map(|scheme| about_token(live, scheme));
    match words {
        [Some(usual), Some(lower), Some(upper)] => {
            compare(&format!("{usual}, {usual}"), &format!("{lower}, {upper}"))
        }
        _ => NotAsked("TOKEN"),
    }
}

fn scheme_space(live: &Live) -> Outcome {
    match ["Bearer  ", "Bearer\t"].map(|scheme| about_token(live, scheme)) {
        [Some(spaces), Some(tab)] => compare("nothing, nothing", &format!("{spaces}, {tab}")),
        _ => NotAsked("TOKEN"),
    }
}

fn first_authorization(live: &Live) -> Outcome {
    let Some(token) = &live.token else { return NotAsked("TOKEN") };
    let own = format!("Bearer {token}");
    let headers = [("authorization", UNKNOWN_BEARER), ("authorization", own.as_str())];
    compare("nothing", &live.resolve(&headers).word())
}

fn token_as_cookie(live: &Live) -> Outcome {
    let (Some(token), Some(word)) = (&live.token, about_token(live, "Bearer ")) else {
        return NotAsked("TOKEN");
    };
    let cookie = format!("{}={token}", live.cookie_name("app_access_token"));
    compare(&word, &about_cookies(live, &cookie))
}

fn token_before_session(live: &Live) -> Outcome {
    let (Some(token), Some(own)) = (&live.token, own_session(live)) else {
        return NotAsked("COOKIE and TOKEN");
    };
    if is_machine(live) {
        return NotAsked("a token of a user");
    }
    let authorization = format!("Bearer {token}");
    let user = |headers: &[(&str, &str)]| {
        let answer = live.resolve(headers);
        (answer.word(), answer.header("x-authgear-user-id").map(str::to_owned))
    };
    let alone = user(&[("authorization", &authorization)]);
    let both = user(&[("authorization", &authorization), ("cookie", &own)]);
    hold(&[("the same word", alone.0 == both.0), ("the same user", alone.1 == both.1)])
}

fn userinfo_by_token(live: &Live) -> Outcome {
    let Some(token) = &live.token else { return NotAsked("TOKEN") };
    if is_machine(live) {
        return NotAsked("a token of a user");
    }
    is_profile(&live.get("/oauth2/userinfo", &[("authorization", &format!("Bearer {token}"))]))
}

const KEYS: &str = "/oauth2/jwks";

fn published(live: &Live) -> Vec<Value> {
    live.get(KEYS, &[]).document()["keys"].as_array().cloned().unwrap_or_default()
}

fn token_header(live: &Live) -> Outcome {
    let Some((header, _)) = live.jwt() else { return NotAsked("TOKEN, a JWT") };
    hold(&[
        ("alg", header["alg"] == "RS256"),
        ("typ", header["typ"] == "at+jwt"),
        ("kid is published", published(live).iter().any(|key| key["kid"] == header["kid"])),
    ])
}

fn token_claims(live: &Live) -> Outcome {
    let Some((_, claims)) = live.jwt() else { return NotAsked("TOKEN, a JWT") };
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let common = [
        ("iss is the origin", claims["iss"] == live.origin),
        ("aud is a list", claims["aud"].is_array()),
        ("times", claims["iat"].is_u64() && claims["exp"].is_u64()),
        ("sub, client_id, scope", {
            ["sub", "client_id", "scope"].iter().all(|name| claims[name].is_string())
        }),
        ("no sid", claims.get("sid").is_none()),
    ];
    let of_user = |name: &str| &claims[format!("https://authgear.com/claims/user/{name}")];
    let user = [
        ("jti is a hash", claims["jti"].as_str().is_some_and(is_hash)),
        ("is_anonymous", of_user("is_anonymous").is_boolean()),
        ("is_verified", of_user("is_verified").is_boolean()),
        ("can_reauthenticate", of_user("can_reauthenticate").is_boolean()),
        ("roles", of_user("roles").is_array()),
    ];
    let user = iter::once(user).filter(|_| !is_machine(live)).flatten();
    hold(&common.into_iter().chain(user).collect::<Vec<_>>())
}

fn token_subject(live: &Live) -> Outcome {
    let (Some(token), Some((_, claims))) = (&live.token, live.jwt()) else {
        return NotAsked("TOKEN, a JWT");
    };
    let answer = live.resolve(&[("authorization", &format!("Bearer {token}"))]);
    match answer.header("x-authgear-user-id") {
        Some(user) => hold(&[("the same", claims["sub"] == user)]),
        None => NotAsked("a token that counts at the resolver"),
    }
}

fn audience(live: &Live) -> Outcome {
    let Some(token) = live.token.as_ref().filter(|_| live.is_direct && live.jwt().is_some()) else {
        return NotAsked("RESOLVER, and TOKEN, a JWT");
    };
    let own = format!("Bearer {token}");
    if live.resolve(&[("authorization", &own)]).word() != "true" {
        return NotAsked("a token that counts at the resolver");
    }
    let other = [("authorization", own.as_str()), ("x-forwarded-proto", "other")];
    match live.resolve(&other).word().as_str() {
        "true" => Noted("it does not, as since autumn 2026"),
        "nothing" => Noted("it does, as before autumn 2026"),
        word => compare("true or nothing", word),
    }
}

fn keys(live: &Live) -> Outcome {
    let keys = published(live);
    let all = |name: &str, value: &str| keys.iter().all(|key| key[name] == value);
    let texts = |name: &str| keys.iter().all(|key| key[name].is_string());
    hold(&[
        ("some", !keys.is_empty()),
        ("RSA", all("kty", "RSA")),
        ("RS256", all("alg", "RS256")),
        ("for signatures", all("use", "sig")),
        ("kid, n, e", ["kid", "n", "e"].into_iter().all(texts)),
    ])
}

fn key_headers(live: &Live) -> Outcome {
    let answer = live.get(KEYS, &[]);
    let cookie = answer.header("set-cookie").unwrap_or_default();
    hold(&[
        ("200", answer.status == 200),
        ("application/json", answer.header("content-type") == Some("application/json")),
        ("every origin", answer.header("access-control-allow-origin") == Some("*")),
        ("no Cache-Control", answer.header("cache-control").is_none()),
        ("csp_nonce", cookie.starts_with("csp_nonce=")),
    ])
}

fn key_methods(live: &Live) -> Outcome {
    let answer = live.ask("HEAD", &format!("{}{KEYS}", live.origin), &[]);
    compare("status 405", &answer.word())
}

fn crawlers(live: &Live) -> Outcome {
    let answers =
        ["Googlebot/2.1", "bingbot/2.0"].map(|agent| live.get(KEYS, &[("user-agent", agent)]));
    hold(&[("403", answers.iter().all(|answer| answer.status == 403))])
}

const METADATA: &str = "/.well-known/openid-configuration";

fn metadata(live: &Live) -> Outcome {
    let document = live.get(METADATA, &[]).document();
    let at = |name: &str, path: &str| document[name] == format!("{}{path}", live.origin);
    let has = |name: &str, value: &str| {
        document[name].as_array().is_some_and(|all| all.iter().any(|own| own == value))
    };
    hold(&[
        ("issuer", at("issuer", "")),
        ("jwks_uri", at("jwks_uri", KEYS)),
        ("authorization_endpoint", at("authorization_endpoint", "/oauth2/authorize")),
        ("end_session_endpoint", at("end_session_endpoint", "/oauth2/end_session")),
        ("userinfo_endpoint", at("userinfo_endpoint", "/oauth2/userinfo")),
        ("response type none", has("response_types_supported", "none")),
        ("RS256", has("id_token_signing_alg_values_supported", "RS256")),
        ("S256", has("code_challenge_methods_supported", "S256")),
    ])
}

fn oauth_metadata(live: &Live) -> Outcome {
    let one = live.get(METADATA, &[]).document();
    let other = live.get("/.well-known/oauth-authorization-server", &[]).document();
    hold(&[("there", one.is_object()), ("the same", one == other)])
}

fn registration(live: &Live) -> Outcome {
    let document = live.get(METADATA, &[]).document();
    match (document.is_object(), document["registration_endpoint"].is_string()) {
        (false, _) => Differs("no metadata".to_owned()),
        (true, true) => Noted("they may"),
        (true, false) => Noted("they may not"),
    }
}

fn unknown_client(live: &Live) -> Outcome {
    let query = "client_id=nginx-authgear-unknown&response_type=none&scope=openid&\
                 redirect_uri=https%3A%2F%2Funknown.test%2F";
    let answer = live.get(&format!("/oauth2/authorize?{query}"), &[]);
    hold(&[("400", answer.status == 400), ("no redirect", answer.header("location").is_none())])
}

fn userinfo(live: &Live) -> Outcome {
    let answers = [
        live.get("/oauth2/userinfo", &[]),
        live.get("/oauth2/userinfo", &[("authorization", UNKNOWN_BEARER)]),
    ];
    let is_challenge = |answer: &Answer| {
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        challenge.starts_with("Bearer ") && challenge.contains("invalid_grant")
    };
    hold(&[
        ("401", answers.iter().all(|answer| answer.status == 401)),
        ("a challenge", answers.iter().all(is_challenge)),
    ])
}
