//! Subrequests have the headers that the client's request shows when they are made, without what
//! their own locations withhold, and keep them when the client's request changes.

use support::{get, Backend, FakeAuthgear, Recorded, User};

use crate::project::project;
use crate::site::site;

fn user(request: &Recorded) -> Vec<&str> {
    request.all("x-authgear-user-id")
}

#[test]
fn a_mirror_keeps_the_identity_it_was_made_with() {
    let (one, backend, mirror) = (FakeAuthgear::start(), Backend::start(), Backend::start());
    let other = FakeAuthgear::builder().cookie_prefix("b_").start();
    let nginx = site(&one, &backend)
        .var("MIRROR", mirror.addr())
        .http("authgear_cache_zone z:1m;")
        .http(project("one", &one, ""))
        .http(project("other", &other, "cookie_prefix b_;"))
        .file("html/index.html", "index")
        .server(
            "root html; authgear one; authgear_cache z;
             location / { mirror /mirror; index index.html; }
             location = /mirror { internal; proxy_pass http://%%MIRROR%%; }
             location = /index.html { authgear other; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let cookies = format!("session={}; b_session={}", one.session(&alice), other.session(&bob));
    // nginx keeps 20 headers in a first part of its list, which subrequests do not share.
    let mut mirrored = 0;
    for headers in [0, 10, 17, 18, 19, 20, 25, 45] {
        let request = get(&nginx, "/").header("Cookie", &cookies);
        let request = (0..headers).fold(request, |r, n| r.header(&format!("X-{n}"), "x"));
        for round in ["asked", "kept"] {
            let echo = request.send().echo();
            assert_eq!(user(&echo), ["bob"], "{headers} {round}");
            mirrored += 1;
            mirror.wait_for_hits(mirrored);
            let copy = mirror.requests().pop().expect("a mirrored request");
            assert_eq!(user(&copy), ["alice"], "{headers} {round}");
            let own =
                |name: &str| name.strip_prefix("X-").is_some_and(|n| n.parse::<u32>().is_ok());
            let kept = copy.headers.iter().filter(|(name, _)| own(name)).count();
            assert_eq!(kept, headers, "{headers} {round}");
        }
    }
}

#[test]
fn subrequests_withhold_what_their_own_locations_withhold() {
    let (authgear, backend, other) = (FakeAuthgear::start(), Backend::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .var("OTHER", other.addr())
        .file("html/page.html", "<!--#include virtual=\"/part\" -->")
        .server(
            "authgear %%AUTHGEAR%%; root html;
             location / { mirror /mirror; proxy_pass http://%%BACKEND%%; }
             location = /mirror {
               internal;
               authgear_forward_credentials off;
               authgear_set_headers off;
               proxy_pass http://%%OTHER%%;
             }
             location = /page.html { ssi on; }
             location = /part { authgear_forward_credentials off; proxy_pass http://%%OTHER%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for headers in [0, 30] {
        let with = |path: &str| {
            let request = get(&nginx, path).bearer(&token).header("Cookie", "a=b; session=x");
            (0..headers).fold(request, |r, n| r.header(&format!("X-{n}"), "x"))
        };
        let before = other.requests().len();
        let echo = with("/").send().echo();
        assert_eq!(user(&echo), ["alice"]);
        assert!(echo.header("authorization").is_some());
        assert_eq!(echo.header("cookie"), Some("a=b; session=x"));
        other.wait_for_hits(before + 1);
        let copy = other.requests().pop().expect("a mirrored request");
        assert_eq!((user(&copy).len(), copy.header("authorization")), (0, None));
        assert_eq!(copy.header("cookie"), Some("a=b"));

        let page = with("/page.html").send();
        assert_eq!(page.status, 200);
        let part = other.requests().pop().expect("a part");
        assert_eq!((user(&part), part.header("authorization")), (vec!["alice"], None));
        assert_eq!(part.header("cookie"), Some("a=b"));
    }
}
