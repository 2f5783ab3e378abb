//! The denial that each kind of client gets, for every verdict and policy.
//!
//! One table has the outcome of a verdict per location, another the form of a denial per kind of
//! client.

use std::net::SocketAddr;

use support::{
    get, unix_now, Backend, FakeAuthgear, Fault, Nginx, Request, Response, User, WebSocket,
};

use crate::project::project;
use crate::site::{site, Pairs};

/// Outcome of a verdict in a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The backend gets the request, with this user or none.
    In(Option<&'static str>),
    /// Denied, with this status, reason, and challenge error for bearers.
    Out(u16, &'static str, Option<&'static str>),
}

use Fate::{In, Out};

/// The credentials of a request, or the failure of its look-up.
const VERDICTS: [&str; 6] = ["none", "dead", "ended", "poor", "good", "down"];

const ANYBODY: [Fate; 3] = [In(None); 3];
const NO_SESSION: [Fate; 3] = [
    Out(401, "no_credentials", None),
    Out(401, "no_session", Some("invalid_token")),
    Out(401, "session_invalid", None),
];
const DOWN: Fate = Out(503, "bad_status", None);

/// Locations, the outcome of each of [`VERDICTS`], and whether they make a look-up.
fn policies() -> Vec<(&'static str, &'static str, [Fate; 6])> {
    let row = |start: [Fate; 3], poor, good, down| {
        let [none, dead, ended] = start;
        [none, dead, ended, poor, good, down]
    };
    let (poor, good) = (In(Some("poor")), In(Some("good")));
    let scope = Some("insufficient_scope");
    let step_up = Some("insufficient_user_authentication");
    let closed = [
        Out(403, "no_credentials", None),
        Out(403, "no_session", None),
        Out(403, "session_invalid", None),
    ];
    vec![
        ("open", "", row(ANYBODY, poor, good, DOWN)),
        ("session", "authgear_require session;", row(NO_SESSION, poor, good, DOWN)),
        (
            "role",
            "authgear_require role=admin;",
            row(NO_SESSION, Out(403, "role_missing", scope), good, DOWN),
        ),
        (
            "fresh",
            "authgear_require max_age=10m;",
            row(NO_SESSION, Out(401, "authentication_too_old", step_up), good, DOWN),
        ),
        (
            "hidden",
            "authgear_require role=admin error=401;",
            row(NO_SESSION, Out(401, "role_missing", None), good, DOWN),
        ),
        ("closed", "authgear_require session error=403;", row(closed, poor, good, DOWN)),
        (
            "anonymous",
            "authgear_require session; authgear_on_error anonymous;",
            row(NO_SESSION, poor, good, Out(401, "bad_status", Some("invalid_token"))),
        ),
        ("lenient", "authgear_on_error anonymous;", row(ANYBODY, poor, good, In(None))),
        (
            "dry",
            "authgear_require role=admin; authgear_dry_run on;",
            row(ANYBODY, poor, good, In(None)),
        ),
        ("off", "authgear off;", [In(None); 6]),
    ]
}

/// The form of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DenialForm {
    /// nginx's page.
    Page,
    /// A problem in JSON.
    Problem,
    /// The head of a problem, without a body.
    ProblemHead,
    /// A redirect to the login page for 401, and nginx's page otherwise.
    Login,
    /// Trailers of gRPC.
    Grpc,
}

type Make = fn(Request) -> Request;

/// Kinds of client: a name, how to make the request, and the expected form of a denial.
const CLIENTS: [(&str, Make, DenialForm); 12] = [
    ("program", |r| r.header("Accept", "*/*"), DenialForm::Page),
    ("program without Accept", |r| r, DenialForm::Page),
    ("api", |r| r.header("Accept", "application/json"), DenialForm::Problem),
    (
        "api, post",
        |r| r.header("Accept", "application/json").method("POST").body("{}"),
        DenialForm::Problem,
    ),
    (
        "api, head",
        |r| r.header("Accept", "application/json").method("HEAD"),
        DenialForm::ProblemHead,
    ),
    (
        "fetch()",
        |r| r.header("Accept", "application/json, */*").header("Sec-Fetch-Mode", "cors"),
        DenialForm::Problem,
    ),
    (
        "browser",
        |r| {
            r.header("Accept", "text/html,*/*;q=0.8")
                .header("Sec-Fetch-Mode", "navigate")
                .header("Sec-Fetch-Dest", "document")
        },
        DenialForm::Login,
    ),
    ("old browser", |r| r.header("Accept", "text/html,*/*;q=0.8"), DenialForm::Login),
    (
        "frame",
        |r| {
            r.header("Accept", "text/html,*/*;q=0.8")
                .header("Sec-Fetch-Mode", "navigate")
                .header("Sec-Fetch-Dest", "iframe")
        },
        DenialForm::Page,
    ),
    (
        "image",
        |r| r.header("Accept", "image/webp,*/*").header("Sec-Fetch-Mode", "no-cors"),
        DenialForm::Page,
    ),
    (
        "form",
        |r| r.header("Accept", "text/html,*/*;q=0.8").method("POST").body("a=b"),
        DenialForm::Page,
    ),
    (
        "grpc",
        |r| {
            r.header("Content-Type", "application/grpc+proto")
                .header("TE", "trailers")
                .method("POST")
                .body(vec![0; 5])
        },
        DenialForm::Grpc,
    ),
];

/// Authgear, a backend, and an nginx with all locations.
struct Table {
    authgear: FakeAuthgear,
    backend: Backend,
    nginx: Nginx,
    credentials: [Option<(&'static str, String)>; 6],
}

impl Table {
    fn new() -> Self {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        let place = |(name, lines, _): &(&str, &str, _)| {
            format!("location /{name} {{ {lines} proxy_pass http://%%BACKEND%%; }}\n")
        };
        let nginx = site(&authgear, &backend)
            .listen_extra(1)
            .http(project("p", &authgear, "max_fails 0;"))
            .http("map $http_upgrade $connection_upgrade { default upgrade; '' ''; }")
            .server(
                "listen %%ADDR2%% http2;
                 authgear p;
                 authgear_login_redirect https://login.test/?to=$authgear_return_to;
                 add_header X-Reason $authgear_reason always;
                 proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection $connection_upgrade;",
            )
            .server(policies().iter().map(place).collect::<String>())
            .start();
        let poor = User { authenticated_at: 1, ..User::named("poor") };
        let now = unix_now();
        let good = User { authenticated_at: now, ..User::named("good").roles(&["admin"]) };
        let ended = authgear.session(&good);
        authgear.expire(&ended);
        let bearer = |token: String| Some(("Authorization", format!("Bearer {token}")));
        let credentials = [
            None,
            bearer("dead".into()),
            Some(("Cookie", format!("session={ended}"))),
            bearer(authgear.opaque_token(&poor)),
            bearer(authgear.opaque_token(&good)),
            bearer("down".into()),
        ];
        Self { authgear, backend, nginx, credentials }
    }

    /// A request to a location, with the credentials of a verdict.
    fn request(&self, to: SocketAddr, place: &str, verdict: usize) -> Request {
        let request = get(&to, &format!("/{place}/x?y"));
        match &self.credentials[verdict] {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }

    /// Runs `check` for each location and verdict, with its failure injected. `check` returns the
    /// number of requests it sent; the look-ups and the requests to the backend have to match.
    fn each(&self, mut check: impl FnMut(&str, usize, Fate) -> usize) {
        for (place, _, fates) in policies() {
            for (verdict, fate) in fates.into_iter().enumerate() {
                if VERDICTS[verdict] == "down" {
                    self.authgear.inject(Fault::Status(500));
                }
                let (asked, got) = (self.authgear.hits(), self.backend.hits());
                let sent = check(place, verdict, fate);
                let asks = place != "off" && VERDICTS[verdict] != "none";
                let what = format!("{place}, {}", VERDICTS[verdict]);
                assert_eq!(self.authgear.hits() - asked, if asks { sent } else { 0 }, "{what}");
                let passed = if matches!(fate, In(_)) { sent } else { 0 };
                assert_eq!(self.backend.hits() - got, passed, "{what}");
                self.authgear.clear();
            }
        }
    }
}

/// Asserts that the answer is the outcome in the form for this kind of client.
#[track_caller]
fn assert_denial(answer: &Response, form: DenialForm, fate: Fate, bearer: bool, what: &str) {
    let header = |name: &str| answer.header(name);
    let (status, reason, error) = match fate {
        In(user) => {
            assert_eq!(answer.status, 200, "{what}");
            let names = ["www-authenticate", "location", "retry-after", "grpc-status"];
            assert!(names.iter().all(|name| header(name).is_none()), "{what}: {answer:?}");
            if form != DenialForm::ProblemHead {
                let identity = answer.echo().identity();
                let id = identity.iter().find(|(name, _)| name == "x-authgear-user-id");
                assert_eq!(id.map(|(_, id)| id.as_str()), user, "{what}");
                if user.is_none() {
                    let invalid: Pairs = vec![("x-authgear-session-valid".into(), "false".into())];
                    assert!(identity.is_empty() || identity == invalid, "{what}: {identity:?}");
                }
            }
            return;
        }
        Out(status, reason, error) => (status, reason, error),
    };
    assert_eq!(header("x-reason").as_deref(), Some(reason), "{what}");
    let title = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        _ => "Service Unavailable",
    };
    let problem =
        format!("{{\"title\":\"{title}\",\"status\":{status},\"reason\":\"{reason}\"}}\n");
    let (sent_status, kind, body) = match form {
        DenialForm::Grpc => (200, Some("application/grpc"), Some(String::new())),
        DenialForm::Login if status == 401 => (302, None, Some(String::new())),
        DenialForm::Page | DenialForm::Login => (status, Some("text/html"), None),
        DenialForm::Problem => (status, Some("application/problem+json"), Some(problem.clone())),
        DenialForm::ProblemHead => (status, Some("application/problem+json"), Some(String::new())),
    };
    assert_eq!(answer.status, sent_status, "{what}");
    assert_eq!(header("content-type").as_deref(), kind, "{what}");
    match body {
        Some(body) => assert_eq!(answer.text(), body, "{what}"),
        None => assert!(answer.text().contains(&format!("{status} ")), "{what}"),
    }
    if form == DenialForm::ProblemHead {
        assert_eq!(header("content-length"), Some(problem.len().to_string()), "{what}");
    }

    let is_status_told = sent_status == status;
    let challenge = match (status, error) {
        (401, Some(error)) => Some(format!("Bearer error=\"{error}\"")),
        (401, None) => Some("Bearer".to_owned()),
        (_, Some(error)) if bearer => Some(format!("Bearer error=\"{error}\"")),
        _ => None,
    };
    let challenge = challenge.filter(|_| is_status_told).map(|mut challenge| {
        if reason == "authentication_too_old" {
            challenge.push_str(", max_age=\"600\"");
        }
        challenge
    });
    assert_eq!(header("www-authenticate"), challenge, "{what}");
    let retry = (status == 503 && is_status_told).then(|| "1".to_owned());
    assert_eq!(header("retry-after"), retry, "{what}");
    let location = header("location").unwrap_or_default();
    let to_login = location.starts_with("https://login.test/?to=http%3A%2F%2F");
    assert_eq!(to_login, sent_status == 302, "{what}: {location}");
    let grpc = match (form, status) {
        (DenialForm::Grpc, 401) => Some("16"),
        (DenialForm::Grpc, 403) => Some("7"),
        (DenialForm::Grpc, _) => Some("14"),
        _ => None,
    };
    assert_eq!(header("grpc-status").as_deref(), grpc, "{what}");
    assert_eq!(header("grpc-message").as_deref(), grpc.map(|_| reason), "{what}");
}

/// The form of a denial over HTTP/1.1, where there is no gRPC: the media type alone makes no call.
fn over_http1(form: DenialForm) -> DenialForm {
    match form {
        DenialForm::Grpc => DenialForm::Page,
        form => form,
    }
}

#[test]
fn every_kind_of_http_client_gets_the_denial_in_the_table() {
    let table = Table::new();
    let (http1, http2) = (table.nginx.addr(), table.nginx.addr2());
    table.each(|place, verdict, fate| {
        for (client, make, form) in CLIENTS {
            let what = format!("{client} at {place}, {}", VERDICTS[verdict]);
            let bearer = table.credentials[verdict].as_ref().is_some_and(|(n, _)| *n != "Cookie");
            let answer = make(table.request(http1, place, verdict)).send();
            assert_denial(&answer, over_http1(form), fate, bearer, &what);
            let answer = make(table.request(http2, place, verdict)).send_h2();
            assert_denial(&answer, form, fate, bearer, &format!("{what}, HTTP/2"));
        }
        2 * CLIENTS.len()
    });
}

#[test]
fn websocket_clients_get_the_denial_in_the_table() {
    let table = Table::new();
    table.each(|place, verdict, fate| {
        let what = format!("{place}, {}", VERDICTS[verdict]);
        match (WebSocket::open(&table.request(table.nginx.addr(), place, verdict)), fate) {
            (Ok(mut socket), In(_)) => {
                socket.send(&what);
                assert_eq!(socket.receive(), what);
                socket.close();
            }
            (Err(answer), Out(..)) => {
                let bearer = VERDICTS[verdict] == "poor";
                assert_denial(&answer, DenialForm::Page, fate, bearer, &what);
            }
            (socket, fate) => panic!("{what}: {fate:?} and yet {socket:?}"),
        }
        1
    });
}

#[test]
fn requests_after_a_denial_on_the_same_connection_are_unaffected() {
    // A denial does not affect the next request on the same connection.
    let table = Table::new();
    let mut connection = support::Connection::open(&table.nginx);
    table.each(|place, verdict, fate| {
        for (client, make, form) in CLIENTS {
            let what = format!("{client} at {place}, {}", VERDICTS[verdict]);
            let bearer = table.credentials[verdict].as_ref().is_some_and(|(n, _)| *n != "Cookie");
            let answer = connection.send(&make(table.request(table.nginx.addr(), place, verdict)));
            assert_denial(&answer, over_http1(form), fate, bearer, &what);
        }
        CLIENTS.len()
    });
}
