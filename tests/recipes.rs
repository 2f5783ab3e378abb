//! docs/recipes.md: each recipe gives the application its user, and nobody else can.

use std::fs;
use std::path::Path;

use serde_json::json;
use support::{get, Backend, FakeAuthgear, Nginx, Recorded, User};

use crate::site::site;

const FORGED: &str = "forged";

/// The configuration in each block of the page, in order.
fn recipes() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes.md");
    let page = fs::read_to_string(page).expect("the page");
    let blocks = page.split("```nginx\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("an end").to_owned()).collect()
}

/// A server written in Go reads the first field of the canonical name.
fn go<'a>(request: &'a Recorded, name: &str) -> Option<&'a str> {
    request.header(name)
}

/// A CGI or WSGI application reads `HTTP_NAME`, into which a server folds every `-` and `_`. Python
/// joins repeated fields, so there must be one only.
fn wsgi<'a>(request: &'a Recorded, name: &str) -> Option<&'a str> {
    let folded = |name: &str| name.to_ascii_uppercase().replace('-', "_");
    let mut found = request.headers.iter().filter(|(own, _)| folded(own) == folded(name));
    let first = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

/// PHP reads a parameter of FastCGI by its exact name.
fn php<'a>(request: &'a Recorded, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

/// Reads the user in the way of an application.
type Reader = for<'a> fn(&'a Recorded, &str) -> Option<&'a str>;

fn start(authgear: &FakeAuthgear, backend: &Backend, recipe: &str, pass: &str) -> Nginx {
    site(authgear, backend)
        .http("underscores_in_headers on; ignore_invalid_headers off;")
        .allow_log("in a server with \"authgear\"")
        .server("authgear %%AUTHGEAR%%; authgear_userinfo on; authgear_require session;")
        .server(format!("location / {{ {recipe} {pass} }}"))
        .start()
}

#[test]
fn each_recipe_gives_the_application_its_user_and_nobody_else_can() {
    const ID: &str = "5bbfee13-733e-4fc5-ad55-94ed7df42bc4";
    const EMAIL: &str = "alice@acme.test";
    let proxy = "proxy_pass http://%%BACKEND%%;";
    let fastcgi = "include /etc/nginx/fastcgi_params; fastcgi_pass %%BACKEND%%;";
    type Row<'a> = (Reader, &'a str, &'a [(&'a str, &'a str)]);
    let rows: [Row<'_>; 7] = [
        (go, proxy, &[("X-WEBAUTH-USER", ID)]),
        (go, proxy, &[("X-WEBAUTH-USER", EMAIL)]),
        (go, proxy, &[("X-WEBAUTH-USER", ID), ("X-WEBAUTH-EMAIL", EMAIL)]),
        (php, fastcgi, &[("REMOTE_USER", ID)]),
        (php, fastcgi, &[("REMOTE_USER", EMAIL)]),
        (go, proxy, &[("X-Auth-User", ID)]),
        (wsgi, proxy, &[("Remote-User", EMAIL)]),
    ];
    let recipes = recipes();
    assert_eq!(recipes.len(), rows.len(), "a recipe without a row, or a row without a recipe");
    for (recipe, (read, pass, expected)) in recipes.iter().zip(rows) {
        let authgear = FakeAuthgear::start();
        let backend = if pass == proxy { Backend::start() } else { Backend::fastcgi() };
        let nginx = start(&authgear, &backend, recipe, pass);
        for (id, verified) in [(ID, true), ("mallory", false)] {
            authgear.set_profile(id, json!({ "email": EMAIL, "email_verified": verified }));
            let token = authgear.opaque_token(&User::named(id));
            let mut request = get(&nginx, "/").bearer(&token);
            for (name, _) in expected {
                for alias in [name.to_string(), name.replace('-', "_"), name.replace('-', ".")] {
                    request = request.header(&alias, FORGED);
                }
            }
            let echo = request.send().echo();
            for &(name, value) in expected {
                let user = match (value, verified) {
                    (EMAIL, false) => None,
                    (EMAIL, true) => Some(EMAIL),
                    _ => Some(id),
                };
                let found = read(&echo, name).filter(|found| !found.is_empty());
                assert_eq!(found, user, "{recipe}{name} of {id}");
            }
        }
        assert!(get(&nginx, "/").header(expected[0].0, FORGED).send().status == 401);
    }
}
