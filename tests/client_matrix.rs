//! Tokens of each kind of client, at each version of Authgear, in each mode: first without an
//! explicit audience, then in a project whose `audience` is the URL of an API.

use support::{get, Backend, ClientKind, FakeAuthgear, Fault, User, Version};

use crate::project::{project, verdict, TELLING};
use crate::site::site;

const API: &str = "https://api.acme.test";

/// Form of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Opaque,
    /// A JWT for Authgear itself.
    Jwt,
    /// A JWT bound to [`API`].
    Bound,
}

/// A row: version, client, form, and the verdicts in the modes `resolver`, `jwt` and `auto`, without
/// and with an audience.
type Row = (Version, ClientKind, Form, [&'static str; 3], [&'static str; 3]);

const RESOLVED: &str = "valid ok resolver";
const VERIFIED: &str = "valid ok jwt";
const SILENT: &str = "none no_session resolver";
const REFUSED: &str = "invalid bearer_not_accepted resolver";
const MALFORMED: &str = "none token_malformed jwt";
const AUDIENCE: &str = "none token_audience jwt";
const MACHINE: &str = "none token_machine jwt";

const ROWS: [Row; 20] = {
    use ClientKind::{Dynamic, FirstParty, Machine, ThirdParty};
    use Form::{Bound, Jwt, Opaque};
    const AUG: Version = Version::August2026;
    const NOV: Version = Version::November2026;
    let opaque = [RESOLVED, MALFORMED, RESOLVED];
    let refused = [REFUSED, MALFORMED, REFUSED];
    let own = [RESOLVED, VERIFIED, VERIFIED];
    let unbound = [AUDIENCE, AUDIENCE, AUDIENCE];
    let bound = [SILENT, VERIFIED, VERIFIED];
    let machine = [MACHINE, MACHINE, MACHINE];
    [
        (AUG, FirstParty, Opaque, opaque, opaque),
        (AUG, FirstParty, Jwt, own, unbound),
        (AUG, FirstParty, Bound, [SILENT, AUDIENCE, SILENT], bound),
        (AUG, ThirdParty, Opaque, opaque, opaque),
        (AUG, ThirdParty, Jwt, own, unbound),
        (AUG, ThirdParty, Bound, [SILENT, AUDIENCE, SILENT], bound),
        (AUG, Dynamic, Opaque, opaque, opaque),
        (AUG, Dynamic, Jwt, own, unbound),
        (AUG, Dynamic, Bound, [SILENT, AUDIENCE, SILENT], bound),
        (AUG, Machine, Bound, [SILENT, AUDIENCE, SILENT], machine),
        (NOV, FirstParty, Opaque, opaque, opaque),
        (NOV, FirstParty, Jwt, own, unbound),
        (NOV, FirstParty, Bound, [RESOLVED, AUDIENCE, RESOLVED], [RESOLVED, VERIFIED, VERIFIED]),
        (NOV, ThirdParty, Opaque, refused, refused),
        (NOV, ThirdParty, Jwt, [REFUSED, VERIFIED, VERIFIED], unbound),
        (NOV, ThirdParty, Bound, [REFUSED, AUDIENCE, REFUSED], [REFUSED, VERIFIED, VERIFIED]),
        (NOV, Dynamic, Opaque, refused, refused),
        (NOV, Dynamic, Jwt, [REFUSED, VERIFIED, VERIFIED], unbound),
        (NOV, Dynamic, Bound, [REFUSED, AUDIENCE, REFUSED], [REFUSED, VERIFIED, VERIFIED]),
        (NOV, Machine, Bound, [SILENT, AUDIENCE, SILENT], machine),
    ]
};

const MODES: [&str; 3] = ["resolver", "jwt", "auto"];

fn token(authgear: &FakeAuthgear, client: ClientKind, form: Form) -> String {
    let alice = User::named("alice");
    match (client, form) {
        (_, Form::Opaque) => authgear.opaque_token_of(&alice, client),
        (ClientKind::Machine, _) => authgear.machine_token(API).sign(),
        (_, Form::Jwt) => authgear.token_of(&alice, client).sign(),
        (_, Form::Bound) => authgear.token_of(&alice, client).claim("aud", vec![API]).sign(),
    }
}

/// Clients of the server of one version, with a location for each mode and audience.
fn check(version: Version) -> Vec<String> {
    let (authgear, backend) = (FakeAuthgear::builder().version(version).start(), Backend::start());
    let location = |project: &str, mode: &str| {
        format!(
            "location /{project}-{mode} {{ authgear {project}; authgear_mode {mode}; \
             authgear_require session; proxy_pass http://%%BACKEND%%; }}"
        )
    };
    let locations = MODES.iter().flat_map(|mode| [location("plain", mode), location("api", mode)]);
    let nginx = site(&authgear, &backend)
        .http(project("plain", &authgear, ""))
        .http(project("api", &authgear, &format!("audience {API};")))
        .server(TELLING)
        .server(locations.collect::<Vec<_>>().concat())
        .workers(1)
        .start();
    // Until keys are there, mode auto asks the resolver.
    for (place, form) in [("/plain-auto", Form::Jwt), ("/api-jwt", Form::Bound)] {
        let good = token(&authgear, ClientKind::FirstParty, form);
        support::eventually(support::DEADLINE, || {
            verdict(&get(&nginx, place).bearer(&good).send()) == VERIFIED
        });
    }
    let mut wrong = Vec::new();
    for (own, client, form, plain, api) in ROWS {
        if own != version {
            continue;
        }
        for (project, expected) in [("plain", plain), ("api", api)] {
            for (mode, expected) in MODES.iter().zip(expected) {
                let bearer = token(&authgear, client, form);
                let hits = authgear.hits();
                let answer = get(&nginx, &format!("/{project}-{mode}")).bearer(&bearer).send();
                let found = verdict(&answer);
                let asked = authgear.hits() - hits;
                let expected_asked = usize::from(expected.ends_with("resolver"));
                let status = if expected.starts_with("valid") { 200 } else { 401 };
                if (&*found, asked, answer.status) != (expected, expected_asked, status) {
                    let cell = format!("{} {client:?} {form:?} {project}-{mode}", own.as_str());
                    wrong.push(format!(
                        "{cell}: {found}, asked {asked} times, {}; not {expected}",
                        answer.status
                    ));
                }
            }
        }
    }
    wrong
}

#[test]
fn tokens_of_each_client_have_the_verdict_of_their_version_and_mode() {
    let wrong: Vec<String> = Version::ALL.into_iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A rejected bearer decides; a rejected cookie, which no client clears, only does not count.
#[test]
fn a_token_for_another_audience_counts_neither_as_bearer_nor_as_cookie() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("api", &authgear, &format!("audience {API};")))
        .server(TELLING)
        .server("authgear api; location / { authgear_mode auto; proxy_pass http://%%BACKEND%%; }")
        .server("location /asked { authgear_mode resolver; proxy_pass http://%%BACKEND%%; }")
        .workers(1)
        .start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let good = token(&authgear, ClientKind::FirstParty, Form::Bound);
    support::eventually(support::DEADLINE, || {
        verdict(&get(&nginx, "/").bearer(&good).send()) == VERIFIED
    });
    for place in ["/", "/asked"] {
        let (own, session) = (authgear.jwt(&alice), authgear.session(&bob));
        let hits = authgear.hits();
        let bearer = get(&nginx, place).bearer(&own).cookie("session", &session).send();
        assert_eq!(verdict(&bearer), AUDIENCE, "{place}");
        let cookie = get(&nginx, place).cookie("app_access_token", &own).send();
        assert_eq!(verdict(&cookie), AUDIENCE, "{place}");
        assert_eq!(authgear.hits(), hits, "{place}");
        let both = get(&nginx, place)
            .header("Cookie", format!("app_access_token={own}; session={session}"));
        let both = both.send();
        assert_eq!(verdict(&both), RESOLVED, "{place}");
        assert_eq!(both.echo().header("x-authgear-user-id"), Some("bob"), "{place}");
    }
}

/// The resolver does not look at the audience, so it is not asked in place of the keys.
#[test]
fn without_keys_a_token_that_needs_an_audience_is_not_asked_about() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    authgear.inject_at("/oauth2/jwks", Fault::Status(503));
    let nginx = site(&authgear, &backend)
        .http(project("api", &authgear, &format!("audience {API}; timeout 1s;")))
        .server(TELLING)
        .server("authgear api; location / { authgear_mode auto; proxy_pass http://%%BACKEND%%; }")
        .server("location /asked { authgear_mode resolver; proxy_pass http://%%BACKEND%%; }")
        .workers(1)
        .start();
    nginx.allow_log("authgear keys not fetched");
    let good = token(&authgear, ClientKind::FirstParty, Form::Bound);
    let session = authgear.session(&User::named("bob"));
    for place in ["/", "/asked"] {
        for request in [
            get(&nginx, place).bearer(&good),
            get(&nginx, place).bearer(&good).cookie("session", &session),
            get(&nginx, place).cookie("app_access_token", &good),
        ] {
            let answer = request.send();
            let found = (answer.status, verdict(&answer));
            assert_eq!(found, (503, "error keys_unavailable jwt".to_owned()), "{place}");
        }
    }
    assert_eq!(authgear.hits(), 0);
}

/// A refused bearer is told from an ended session, by a kept verdict too.
#[test]
fn a_kept_refusal_keeps_its_reason() {
    let version = Version::November2026;
    let (authgear, backend) = (FakeAuthgear::builder().version(version).start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, ""))
        .http("authgear_cache_zone z:1m;")
        .server(TELLING)
        .server("authgear p; authgear_cache z; authgear_cache_valid invalid=1h;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let alice = User::named("alice");
    let third_party = authgear.opaque_token_of(&alice, ClientKind::ThirdParty);
    let bearer = get(&nginx, "/").bearer(&third_party);
    let session = authgear.session(&alice);
    for (request, reason) in [
        (bearer.clone(), "bearer_not_accepted"),
        (bearer.cookie("session", &session), "session_invalid"),
    ] {
        for source in ["resolver", "cache", "cache"] {
            assert_eq!(verdict(&request.send()), format!("invalid {reason} {source}"));
        }
    }
    assert_eq!(authgear.hits(), 2);
}
