//! Row 9: what the worker itself lacks is not the resolver's failure, and an answer's head decides.

use support::{
    eventually, get, Backend, Builder, Connection, FakeAuthgear, Fault, Gate, H2Frames,
    HeaderBlock, Request, User, DEADLINE,
};

use super::crowded;
use crate::project::{project, verdict, TELLING};
use crate::site::site;

const VALID: &str = "valid ok resolver";
/// The first failure of the resolver would suspend it.
const STRICT: &str = "max_fails 1; fail_timeout 1d;";

fn one_worker(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .workers(1)
        .http(project("p", authgear, STRICT))
        .server(TELLING)
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
}

fn request(to: &impl support::ToAddr, authgear: &FakeAuthgear) -> Request {
    get(to, "/").bearer(&authgear.opaque_token(&User::named("alice")))
}

#[test]
fn a_worker_without_free_connections_does_not_suspend_the_resolver() {
    const FULL: &str = "worker_connections are not enough";
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend)
        .error_level("info")
        .events("worker_connections 24;")
        .http("client_header_timeout 1h;")
        .start();
    nginx.allow_log(FULL);
    // Half a request keeps a connection from being closed for another one.
    let half = || {
        let mut connection = Connection::open(&nginx);
        connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n");
        connection
    };
    let mut halves = vec![half()];
    let full = eventually(DEADLINE, || {
        halves.push(half());
        nginx.error_log().contains(FULL)
    });
    assert!(full, "the worker has connections left");
    let token = authgear.opaque_token(&User::named("alice"));
    let mut first = halves.remove(0);
    first.write(format!("Authorization: Bearer {token}\r\n\r\n").as_bytes());
    let answer = first.read_response("GET");
    assert_eq!((answer.status, verdict(&answer).as_str()), (503, "error internal_error none"));
    assert_eq!(authgear.hits(), 0);

    halves.into_iter().for_each(Connection::leave);
    first.leave();
    let mut last = String::new();
    let valid = eventually(DEADLINE, || {
        // nginx closes what it has no connection for.
        let answer = Connection::open(&nginx).try_send(&request(&nginx, &authgear));
        last = answer.map_or_else(|error| error.to_string(), |answer| verdict(&answer));
        assert!(!last.contains("resolver_suspended"), "{last}");
        last == VALID
    });
    assert!(valid, "{last}");
}

#[test]
fn the_head_of_a_refusal_decides_even_if_its_body_breaks_off() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend).start();
    for head in [
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nbody",
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nbody",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 100\r\n\r\n",
    ] {
        authgear.inject_next(1, Fault::Raw(head.into()));
        let answer = request(&nginx, &authgear).send();
        assert_eq!(verdict(&answer), "error bad_status resolver", "{head:?}");
        assert_eq!(verdict(&request(&nginx, &authgear).send()), VALID, "{head:?}");
    }
}

#[test]
fn clients_that_left_keep_no_place_among_those_who_wait_for_keys() {
    const PLACES: usize = 4096;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let gate = Gate::new();
    authgear.inject_at("/oauth2/jwks", Fault::Gate(gate.clone()));
    let nginx = crowded(&authgear, &backend)
        .http(project("p", &authgear, "timeout 9s;"))
        .server("location / { authgear p; authgear_mode jwt; empty_gif; }")
        .start();
    gate.wait_for_waiters(1);
    // Tokens that differ in their signature: each has a look-up and a place of its own.
    let token = authgear.jwt(&User::named("mallory"));
    let mut connection = H2Frames::open(&nginx);
    for n in 0..PLACES + 100 {
        let token = format!("Bearer {}{n:08}", &token[..token.len() - 8]);
        let block = HeaderBlock::get("/").literal("authorization", token.as_bytes());
        let stream = connection.request(&block);
        connection.reset(stream);
        if n % 100 == 99 {
            connection.flush_and_ping();
        }
    }
    connection.flush_and_ping();
    let honest = get(&nginx, "/").bearer(&authgear.jwt(&User::named("alice"))).start_h2();
    // Its answer, if it were refused, would be there before the one to this.
    assert_eq!(get(&nginx, "/").send_h2().status, 200);
    gate.open();
    let answer = honest.wait();
    assert_eq!((answer.status, answer.header("x-reason").as_deref()), (200, Some("ok")));
}
