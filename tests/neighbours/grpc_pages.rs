//! Error pages that answer as gRPC servers do, as nginx's guide for gRPC has them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

use support::{get, Backend, FakeAuthgear, Nginx};

use crate::real_clients::{call_with_python, run, text};
use crate::site::report_skipped;

/// The error page, with its own status and message.
const PAGES: [(&str, &str); 3] = [
    (
        "guide",
        "default_type application/grpc; add_header grpc-status 9;
               add_header grpc-message page; return 204;",
    ),
    ("no type", "add_header grpc-status 9; add_header grpc-message page; return 204;"),
    (
        "always",
        "default_type application/grpc; add_header grpc-status 9 always;
                add_header grpc-message page always; return 401;",
    ),
];

fn start(authgear: &FakeAuthgear, backend: &Backend, page: &str) -> Nginx {
    Nginx::builder()
        .listen_options("http2")
        .var("BACKEND", backend.addr())
        .var("AUTHGEAR", authgear.url())
        .server(format!(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             error_page 401 = @u;
             location / {{ grpc_pass %%BACKEND%%; }}
             location @u {{ {page} }}"
        ))
        .start()
}

#[test]
fn an_answer_that_an_error_page_made_grpc_has_one_status() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::grpc());
    for (name, page) in PAGES {
        let nginx = start(&authgear, &backend, page);
        let call = get(&nginx, "/a.B/C").method("POST").body(vec![0; 5]);
        let answer = call.header("Content-Type", "application/grpc").send_h2();
        assert_eq!(answer.all("grpc-status"), ["9"], "{name}");
        assert_eq!((answer.all("grpc-message"), answer.body.len()), (vec!["page".into()], 0));
        assert_eq!(
            call_with_python(&nginx, "/a.B/C", "dead"),
            "FAILED_PRECONDITION page",
            "{name}"
        );
    }
}

/// Calls a method with grpc-js, and prints the result.
const CALL: &str = "
const grpc = require('@grpc/grpc-js');
const [target, path] = process.argv.slice(1);
const client = new grpc.Client(target, grpc.credentials.createInsecure());
const same = message => message;
client.makeUnaryRequest(path, same, same, Buffer.from('x'), (error, answer) => {
  console.log(error ? grpc.status[error.code] + ' ' + error.details : 'OK');
  client.close();
});
";

#[test]
fn grpc_js_understands_denials_and_error_pages() {
    static REPORTED: Once = Once::new();
    if Command::new("npm").arg("--version").output().is_err() {
        return report_skipped(&REPORTED, "grpc-js, because there is no npm");
    }
    let modules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../build/npm/node_modules");
    assert!(modules.join("@grpc/grpc-js").exists(), "\"make clients\" installs grpc-js");
    let (authgear, backend) = (FakeAuthgear::start(), Backend::grpc());
    let call = |nginx: &Nginx| {
        let mut node = Command::new("node");
        node.args(["-e", CALL, "--", &nginx.addr().to_string(), "/a.B/C"]);
        node.env("NODE_PATH", &modules);
        node.env_remove("http_proxy").env_remove("https_proxy").env("no_proxy", "127.0.0.1");
        text(&run(&mut node)).trim().to_owned()
    };
    for (name, page) in PAGES {
        let nginx = start(&authgear, &backend, page);
        assert_eq!(call(&nginx), "FAILED_PRECONDITION page", "{name}");
    }
    let plain = start(&authgear, &backend, "return 401;");
    assert_eq!(call(&plain), "UNAUTHENTICATED no_credentials");
}
