//! Subrequests that a response includes, which have no access phase.

use support::{get, Backend, FakeAuthgear};

use crate::site::site;

#[test]
fn an_included_location_needs_no_session_of_its_own_as_documented() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .file("html/page.html", "page <!--# include virtual=\"/secret\" -->")
        .file("html/plain.html", "plain ")
        .file("html/secret", "secret")
        .server(
            "authgear %%AUTHGEAR%%;
             root html;
             location = /page.html { ssi on; }
             location = /plain.html { add_after_body /secret; }
             location = /secret { authgear_require session; }",
        )
        .start();
    assert_eq!(get(&nginx, "/secret").send().status, 401);
    for path in ["/page.html", "/plain.html"] {
        assert!(get(&nginx, path).send().text().contains("secret"), "{path}");
    }
}
