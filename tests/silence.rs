//! Authgear's answers without a word about a good session, which it gives while it lacks connections
//! to its database.

use std::collections::HashMap;

use support::{closed_loop, get, Backend, FakeAuthgear, Fault, Request, User};

use crate::project::project_site;

/// Of each kind, cookies and opaque tokens.
const SESSIONS: usize = 30;
const ROUNDS: usize = 200;

/// The silent ones of five look-ups of a session: one that the next look-up makes up for, and two in
/// a row, which end the session for the request that waits.
const SILENT: [bool; 5] = [false, true, false, true, true];

#[test]
fn no_good_session_is_refused_for_longer_than_two_look_ups_that_authgear_is_silent_about() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = project_site(&authgear, &backend, "max_fails 0;")
        .workers(1)
        .listen_options("http2")
        .http("keepalive_requests 1000000; authgear_cache_zone z:1m;")
        .server(
            "authgear p; authgear_cache z; authgear_cache_valid valid=200ms none=0;
             authgear_require session;
             add_header X-Cache $authgear_cache_status always;
             location / { empty_gif; }",
        )
        .start();
    let user = |n: usize| User::named(&format!("user-{n}"));
    let cookies = (0..SESSIONS).map(|n| {
        let session = authgear.session(&user(n));
        get(&nginx, "/").cookie("session", &session)
    });
    let tokens =
        (SESSIONS..2 * SESSIONS).map(|n| get(&nginx, "/").bearer(&authgear.opaque_token(&user(n))));
    let sessions: Vec<Request> = cookies.chain(tokens).collect();
    // Each has been valid once.
    assert!(closed_loop(&nginx, &sessions, 16).iter().all(|fared| fared.status() == 200));

    authgear.take_requests();
    authgear.inject_by_turns(&SILENT, Fault::SilentBlank);
    let requests: Vec<Request> =
        std::iter::repeat_n(&sessions, ROUNDS).flatten().cloned().collect();
    assert_eq!(requests.len(), 12_000);
    let fared = closed_loop(&nginx, &requests, 16);

    let mut look_ups: HashMap<String, usize> = HashMap::new();
    for asked in authgear.take_requests() {
        let credentials = asked.header("authorization").or(asked.header("cookie"));
        *look_ups.entry(credentials.expect("credentials").to_owned()).or_default() += 1;
    }
    let mut ended = 0;
    for (n, session) in sessions.iter().enumerate() {
        let own: Vec<_> = fared.iter().skip(n).step_by(sessions.len()).collect();
        assert!(own.iter().all(|fared| [200, 401].contains(&fared.status())), "{n}: {own:?}");
        // Whoever waited for the same two look-ups is refused with the request that made them.
        let refused = own.iter().filter(|fared| fared.status() == 401);
        let refused = refused.filter(|fared| fared.header("x-cache").as_deref() != Some("JOINED"));
        let credentials = session.header_value("authorization").or(session.header_value("cookie"));
        let asked = look_ups[credentials.expect("credentials")];
        let silent_twice = asked / SILENT.len();
        assert_eq!(refused.count(), silent_twice, "{n}: {own:?}");
        ended += silent_twice;
    }
    assert!(ended >= SESSIONS, "{ended} of {look_ups:?}");
}
