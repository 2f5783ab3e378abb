//! The end of a WebSocket as a client of others sees it: the library `websockets` for Python.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

use serde_json::{json, Value};
use support::{get, Backend, Ca, FakeAuthgear, User};

use crate::recheck::{rechecking, ON};
use crate::site::report_skipped;

/// Returns true if PyPI had no library for `make clients`.
fn is_missing() -> bool {
    static REPORTED: Once = Once::new();
    let mark = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/websockets-missing");
    let is_missing = mark.exists();
    if is_missing {
        report_skipped(&REPORTED, "the client websockets, which could not be installed");
    }
    is_missing
}

#[test]
fn a_slow_client_of_others_gets_the_message_that_was_under_way_and_then_1008() {
    const SIZE: usize = 1 << 20;
    if is_missing() {
        return;
    }
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    let identity = ca.leaf(&["site.test"]);
    let nginx = rechecking(&authgear, &backend, ON)
        .listen_options("ssl sndbuf=16k")
        .listen_extra(1)
        .server("listen %%ADDR2%%; ssl_certificate cert.pem; ssl_certificate_key key.pem;")
        .file("cert.pem", identity.cert_pem)
        .file("key.pem", identity.key_pem)
        .start();
    let alice = User::named("alice");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python: PathBuf = root.join("../build/websockets/bin/python");
    let mut command = Command::new(&python);
    command.arg("-B").arg(root.join("websocket/client.py"));
    command.arg(nginx.addr().to_string()).arg(ca.pem_path(nginx.dir()));
    command.arg(authgear.session(&alice)).arg(SIZE.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut client = command.spawn().unwrap_or_else(|error| {
        panic!("{}: {error} (\"make test\" installs it)", python.display())
    });
    let mut output = BufReader::new(client.stdout.take().expect("its output"));
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        line
    };
    assert_eq!(line(), "amid\n");
    authgear.disable(&alice.id);
    let purge = get(&nginx.addr2(), &format!("/purge?user={}", alice.id)).method("POST");
    assert_eq!(purge.send().status, 204);
    nginx.wait_for_error_log("authgear ends the response: session_invalid");
    client.stdin.take().expect("its input").write_all(b"\n").expect("a line");
    let report: Value = serde_json::from_str(&line()).expect("JSON");
    let expected = json!({ "bytes": SIZE, "received": 1008, "sent": 1008, "server_first": true });
    assert_eq!(report, expected);
    assert!(client.wait().expect("its end").success());
}
