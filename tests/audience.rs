//! `authgear_audience`: one server holds several APIs, and each accepts only tokens for itself.

use support::{get, Backend, Builder, FakeAuthgear, Fault, Gate, User, DEADLINE};

use crate::project::{project_site, verdict};

const ORDERS: &str = "https://orders.test";
const STOCK: &str = "https://stock.test";

/// `/orders`, `/stock` and `/both` have audiences; `/own` has that of the project.
fn apis(authgear: &FakeAuthgear, backend: &Backend, mode: &str) -> Builder {
    project_site(authgear, backend, "").http("authgear_cache_zone z:1m;").server(format!(
        "authgear p; authgear_mode {mode}; authgear_cache z; authgear_require session;
             authgear_audience {ORDERS};
             location /orders {{ proxy_pass http://%%BACKEND%%; }}
             location /stock {{ authgear_audience {STOCK}; proxy_pass http://%%BACKEND%%; }}
             location /both {{ authgear_audience {STOCK} {ORDERS}; proxy_pass http://%%BACKEND%%; }}
             location /own {{ authgear_audience project; proxy_pass http://%%BACKEND%%; }}
             location /uncached {{ authgear_cache off; proxy_pass http://%%BACKEND%%; }}
             location = /to-stock {{
               error_page 404 = /stock; root /nowhere;
             }}
             location = /to-orders {{
               authgear_audience {STOCK}; error_page 401 404 = /orders; root /nowhere;
             }}"
    ))
}

fn token_for(authgear: &FakeAuthgear, audiences: &[&str]) -> String {
    authgear.token(&User::named("alice")).claim("aud", audiences).sign()
}

#[test]
fn a_verdict_kept_at_one_location_is_not_used_at_one_with_another_audience() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for mode in ["jwt", "auto"] {
        let nginx = apis(&authgear, &backend, mode).workers(1).start();
        let orders = token_for(&authgear, &[ORDERS]);
        let stock = token_for(&authgear, &[STOCK]);
        let at = |path: &str, token: &str| verdict(&get(&nginx, path).bearer(token).send());
        let kept = "valid ok cache";
        let wrong = "none token_audience jwt";
        // The failure comes first: it is not kept against the location that accepts the token.
        assert_eq!(at("/stock", &orders), wrong, "{mode}");
        assert_eq!(at("/orders", &orders), "valid ok jwt", "{mode}");
        assert_eq!(at("/orders", &orders), kept, "{mode}");
        for _ in 0..2 {
            assert_eq!(at("/stock", &orders), wrong, "{mode}");
            assert_eq!(at("/orders", &orders), kept, "{mode}");
            assert_eq!(at("/both", &orders), kept, "{mode}");
        }
        assert_eq!(at("/stock", &stock), "valid ok jwt", "{mode}");
        assert_eq!(at("/both", &stock), kept, "{mode}");
        assert_eq!(at("/orders", &stock), wrong, "{mode}");
    }
}

#[test]
fn wrong_issuers_and_audiences_are_logged_with_what_is_accepted() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = apis(&authgear, &backend, "jwt").error_level("info").workers(1).start();
    authgear.wait_for_jwks_hits(1);
    let alice = User::named("alice-who-is-known");
    let refuse = |path: &str, token: &str, says: &str| {
        let answer = get(&nginx, path).bearer(token).send();
        assert_eq!(answer.status, 401, "{}", verdict(&answer));
        let log = nginx.error_log();
        assert!(log.contains("[info] ") && log.contains(says), "{says}\n{log}");
        assert!(!log.contains(token) && !log.contains("alice-who-is-known"), "{log}");
    };
    let of = |claim: &str, value: &str| authgear.token(&alice).claim(claim, value).sign();
    refuse(
        "/stock",
        &token_for(&authgear, &[ORDERS, "b\u{7f}"]),
        "authgear rejected a token: token_audience, its aud is \
         [\"https://orders.test\",\"b\\u{7f}\"], accepted: \"https://stock.test\"",
    );
    refuse(
        "/both",
        &of("aud", &"a".repeat(3000)),
        &format!(
            "token_audience, its aud is \"{}..., accepted: \"https://stock.test\", \
             \"https://orders.test\"",
            "a".repeat(199)
        ),
    );
    refuse(
        "/orders",
        &of("iss", "https://other.test"),
        &format!(
            "authgear rejected a token: token_issuer, its iss is \"https://other.test\", accepted: \
             \"{}\"",
            authgear.origin()
        ),
    );
}

#[test]
fn an_internal_redirect_compares_the_token_with_the_audience_of_its_target() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = apis(&authgear, &backend, "jwt").start();
    let orders = token_for(&authgear, &[ORDERS]);
    let refused = get(&nginx, "/to-stock").bearer(&orders).send();
    assert_eq!((refused.status, &*verdict(&refused)), (401, "none token_audience jwt"));
    assert_eq!(backend.hits(), 0);
    // Refused at the first location for its audience, accepted at the second.
    let passed = get(&nginx, "/to-orders").bearer(&orders).send();
    assert_eq!((passed.status, &*verdict(&passed)), (200, "valid ok cache"));
}

#[test]
fn an_internal_redirect_looks_up_a_session_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = apis(&authgear, &backend, "auto")
        .raw_conf(|conf| conf.replace("authgear_cache z;", ""))
        .start();
    let session = authgear.session(&User::named("alice"));
    let answer = get(&nginx, "/to-stock").cookie("session", &session).send();
    assert_eq!((answer.status, &*verdict(&answer)), (200, "valid ok resolver"));
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn the_audience_of_a_location_binds_in_mode_resolver() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = apis(&authgear, &backend, "resolver").start();
    let orders = token_for(&authgear, &[ORDERS, authgear.origin()]);
    let at = |path: &str| verdict(&get(&nginx, path).bearer(&orders).send());
    assert_eq!(at("/own"), "valid ok resolver");
    assert_eq!(at("/stock"), "none token_audience jwt");
    assert_eq!(at("/orders"), "valid ok cache");
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn requests_that_wait_for_the_same_keys_are_decided_by_their_own_audience() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    authgear.inject_at("/oauth2/jwks", Fault::Gate(gate.clone()));
    let nginx = apis(&authgear, &backend, "jwt").workers(1).error_level("debug").start();
    gate.wait_for_waiters(1);
    let orders = token_for(&authgear, &[ORDERS]);
    let pending = ["/orders", "/stock", "/orders", "/own"]
        .map(|path| get(&nginx, path).bearer(&orders).start());
    let waits = || nginx.error_log().matches("for keys").count();
    assert!(support::eventually(DEADLINE, || waits() == 4), "{}", nginx.error_log());
    gate.open();
    authgear.clear();
    let [first, stock, second, own] = pending.map(|pending| verdict(&pending.wait()));
    assert_eq!((&*first, &*second), ("valid ok jwt", "valid ok jwt"));
    assert_eq!((&*stock, &*own), ("none token_audience jwt", "none token_audience jwt"));
}

#[test]
fn unusable_audiences_and_bearers_are_refused() {
    for (line, says) in [
        ("authgear_audience '';", "from 1 to 16 audiences"),
        ("authgear_audience 'a b';", "from 1 to 16 audiences"),
        ("authgear_audience;", "invalid number of arguments"),
        (
            "authgear_audience a;\nauthgear_audience b;",
            "\"authgear_audience\" directive is duplicate",
        ),
        ("authgear_bearer token;", "it must be variables such as $arg_access_token"),
        ("authgear_bearer $a$b;", "it must be variables such as $arg_access_token"),
        ("authgear_bearer $no_such_variable;", "unknown \"no_such_variable\" variable"),
    ] {
        let test = support::Nginx::builder().server(line).check();
        assert!(!test.ok && test.output.contains(says), "{line}: {}", test.output);
    }
}
