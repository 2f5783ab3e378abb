//! Media types of API clients, and login URLs that no header can carry.

use support::{get, Backend, FakeAuthgear, Nginx};

use crate::site::site;

#[test]
fn every_json_type_gets_the_problem_document() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server("authgear %%AUTHGEAR%%; authgear_require session; location / { return 204; }")
        .server("location /a { proxy_pass http://%%BACKEND%%; }")
        .start();
    for (accept, is_problem) in [
        ("application/vnd.api+json", true),
        ("application/hal+JSON; profile=x", true),
        ("application/ld+json, text/html;q=0.5", true),
        ("text/html, application/ld+json;q=0.5", false),
        ("application/vnd.json", false),
    ] {
        let answer = get(&nginx, "/a").header("Accept", accept).send();
        let kind = answer.header("content-type").expect("a type");
        assert_eq!(kind == "application/problem+json", is_problem, "{accept}");
    }
}

#[test]
fn a_login_url_with_bytes_that_no_header_carries_is_refused() {
    for url in
        ["https://login.test/é", "'https://login.test/a b'", "/ログイン?to=$authgear_return_to"]
    {
        let server = format!("authgear https://192.0.2.1; authgear_login_redirect {url};");
        let test = Nginx::builder().server(server).check();
        assert!(!test.ok && test.output.contains("authgear_login_redirect"), "{}", test.output);
        assert!(test.output.contains("printable ASCII"), "{}", test.output);
    }
    let server = "authgear https://192.0.2.1; authgear_login_redirect /%C3%A9?to=$uri;";
    assert!(Nginx::builder().server(server).check().ok);
}
