//! WebDAV, whose handler stores what the client sends.

use std::fs;

use support::{get, Backend, FakeAuthgear, Fault, Gate, User};

use crate::site::site;

#[test]
fn only_authorized_clients_can_store_files() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = site(&authgear, &backend)
        .file("html/store/kept", "kept")
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             client_max_body_size 1m;
             location /store/ { root html; dav_methods PUT DELETE; }",
        )
        .start();
    let body: Vec<u8> = (0..200_000).map(|n: usize| (n ^ n >> 8) as u8).collect();
    let token = authgear.opaque_token(&User::named("alice"));
    let put = |name: &str| get(&nginx, &format!("/store/{name}")).method("PUT").body(body.clone());
    let stored = |name: &str| fs::read(nginx.dir().join("html/store").join(name)).ok();
    assert_eq!(put("new").send().status, 401);
    assert_eq!(get(&nginx, "/store/kept").method("DELETE").bearer("dead").send().status, 401);
    assert_eq!((stored("new"), stored("kept")), (None, Some(b"kept".to_vec())));
    authgear.inject(Fault::Gate(gate.clone()));
    let pending = put("new").bearer(&token).start();
    gate.wait_for_waiters(1);
    assert_eq!(stored("new"), None);
    gate.open();
    assert_eq!(pending.wait().status, 201);
    assert_eq!(stored("new"), Some(body));
}
