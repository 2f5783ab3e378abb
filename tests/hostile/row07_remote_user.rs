//! Row 7: `$remote_user` is the user of the session, or nobody.

use support::{get, Backend, FakeAuthgear, Nginx, User};

use crate::project::project;
use crate::site::site;

/// `Basic victim:x`.
const VICTIM: &str = "Basic dmljdGltOng=";

fn nginx(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Nginx {
    site(authgear, backend)
        .http(project("p", authgear, ""))
        .server("add_header X-User \"[$remote_user]\" always;")
        .server(format!(
            "authgear p; {settings}
             location / {{
               proxy_pass http://%%BACKEND%%;
               proxy_set_header X-User $remote_user;
             }}"
        ))
        .start()
}

#[test]
fn a_name_that_nobody_checked_is_not_the_remote_user() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = nginx(&authgear, &backend, "");
    let ended = authgear.session(&User::named("bob"));
    authgear.expire(&ended);
    let requests = [
        get(&nginx, "/").header("Authorization", VICTIM),
        get(&nginx, "/").header("Authorization", VICTIM).cookie("session", &ended),
    ];
    for request in requests {
        let answer = request.send();
        assert_eq!(answer.header("x-user").as_deref(), Some("[]"), "{request:?}");
        assert_eq!(answer.echo().header("x-user"), None, "{request:?}");
    }
    let session = authgear.session(&User::named("alice"));
    let request = get(&nginx, "/").header("Authorization", VICTIM).cookie("session", &session);
    assert_eq!(request.send().echo().header("x-user"), Some("alice"));
}

#[test]
fn off_leaves_the_name_of_nginx() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = nginx(&authgear, &backend, "authgear_remote_user off;");
    let session = authgear.session(&User::named("alice"));
    for request in [get(&nginx, "/"), get(&nginx, "/").cookie("session", &session)] {
        let answer = request.header("Authorization", VICTIM).send();
        assert_eq!(answer.echo().header("x-user"), Some("victim"));
    }
}

#[test]
fn a_password_file_beside_it_is_warned_of() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let check = |settings: &str| {
        site(&authgear, &backend)
            .file("users", "victim:x\n")
            .http(project("p", &authgear, ""))
            .server(format!(
                "location / {{
                   authgear p; {settings}
                   auth_basic a; auth_basic_user_file %%DIR%%/users;
                   proxy_pass http://%%BACKEND%%;
                 }}"
            ))
            .check()
    };
    let test = check("");
    let warned = test.output.lines().any(|line| {
        line.contains("[warn]")
            && line.contains("authgear_remote_user")
            && line.contains("auth_basic")
    });
    assert!(test.ok && warned, "no warning: {}", test.output);
    let test = check("authgear_remote_user off;");
    assert!(test.ok && !test.output.contains("[warn]"), "{}", test.output);
}
