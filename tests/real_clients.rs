//! Third-party clients: curl over HTTP/2, and the gRPC library.

use std::path::Path;
use std::process::{Command, Output};

use support::{Backend, Ca, FakeAuthgear, Fault, Nginx, User};

use crate::project::project;
use crate::site::site;

/// Runs a client and returns its output.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{:?}: {error} (\"make test\" installs it)", command.get_program())
    })
}

#[track_caller]
pub(crate) fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// HTTPS with HTTP/2, and the authority to trust.
struct Site {
    authgear: FakeAuthgear,
    backend: Backend,
    nginx: Nginx,
    roots: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
        let roots = tempfile::tempdir().expect("a directory");
        ca.pem_path(roots.path());
        let identity = ca.leaf(&["127.0.0.1"]);
        let nginx = site(&authgear, &backend)
            .listen_options("ssl http2")
            .file("cert.pem", identity.cert_pem)
            .file("key.pem", identity.key_pem)
            .http(project("p", &authgear, "max_fails 0;"))
            .server(
                "ssl_certificate %%DIR%%/cert.pem;
                 ssl_certificate_key %%DIR%%/key.pem;
                 authgear p;
                 authgear_require session;
                 authgear_login_redirect https://login.test/;
                 authgear_relay_cookies on;
                 authgear_forward_credentials off;
                 location / { proxy_pass http://%%BACKEND%%; }",
            )
            .start();
        Self { authgear, backend, nginx, roots }
    }

    /// Runs curl. Returns HTTP version, status and redirect, and then the body.
    fn curl(&self, arguments: &[&str]) -> (String, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--http2", "--max-time", "60", "--cacert"]);
        curl.arg(self.roots.path().join("ca.pem"));
        curl.args(["--write-out", "\n%{http_version} %{http_code} %{redirect_url}"]);
        curl.args(arguments).arg(format!("https://{}/a?b=c", self.nginx.addr()));
        let output = text(&run(&mut curl));
        let (body, reported) = output.rsplit_once('\n').expect("what was asked to be written");
        (reported.trim().to_owned(), body.to_owned())
    }
}

#[test]
fn curl_works_over_http2() {
    let site = Site::start();
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let good = bearer(&site.authgear.opaque_token(&User::named("alice")));
    let (reported, body) = site.curl(&["--header", &good, "--cookie", "session=x; lang=en"]);
    assert_eq!(reported, "2 200");
    for (expected, text) in
        [(true, "alice"), (true, "lang=en"), (false, "session=x"), (false, "Bearer")]
    {
        assert_eq!(body.contains(text), expected, "{text}: {body}");
    }
    let html = "Accept: text/html";
    assert_eq!(site.curl(&["--header", html]).0, "2 302 https://login.test/");
    assert_eq!(site.curl(&["--header", html, "--data", "a=b"]).0, "2 401");
    let (reported, body) = site.curl(&["--header", &bearer("dead"), "--json", "{}"]);
    assert_eq!(reported, "2 401");
    assert_eq!(body, "{\"title\":\"Unauthorized\",\"status\":401,\"reason\":\"no_session\"}\n");
    let (reported, head) = site.curl(&["--head"]);
    assert!(
        reported == "2 401" && head.contains("www-authenticate: Bearer\r\n"),
        "{reported} {head}"
    );
    site.authgear.inject(Fault::Status(500));
    let (reported, body) = site.curl(&["--header", &good, "--include"]);
    assert!(reported == "2 503" && body.contains("retry-after: 1"), "{reported} {body}");
    assert_eq!(site.backend.hits(), 1);
}

#[test]
fn curl_drops_a_cookie_cleared_by_a_relayed_set_cookie() {
    let site = Site::start();
    let session = site.authgear.session(&User::named("alice"));
    site.authgear.expire(&session);
    let jar = site.roots.path().join("jar");
    let line =
        |expires: u64| format!("127.0.0.1\tFALSE\t/\tFALSE\t{expires}\tsession\t{session}\n");
    std::fs::write(&jar, format!("# Netscape HTTP Cookie File\n{}", line(4_000_000_000)))
        .expect("a jar");
    let jar = jar.to_str().expect("a path");
    for hits in [1, 1] {
        assert_eq!(site.curl(&["--cookie", jar, "--cookie-jar", jar]).0, "2 401");
        // The second request has no credentials to look up.
        assert_eq!(site.authgear.hits(), hits);
    }
    let left = std::fs::read_to_string(Path::new(jar)).expect("a jar");
    assert!(!left.contains(&session), "{left}");
}

/// Calls a method as any gRPC client does, and prints the result.
const CALL: &str = "
import sys, grpc
target, path, token = sys.argv[1:]
with grpc.insecure_channel(target) as channel:
    same = lambda message: message
    call = channel.unary_unary(path, request_serializer=same, response_deserializer=same)
    try:
        answer = call(b'x', metadata=[('authorization', 'Bearer ' + token)], timeout=60)
        print('OK', len(answer) > 0)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
";

/// Returns what [`CALL`] prints.
#[track_caller]
pub(crate) fn call_with_python(nginx: &Nginx, path: &str, token: &str) -> String {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", CALL, &nginx.addr().to_string(), path, token]);
    // The test ignores proxies of the environment.
    python.env_remove("http_proxy").env_remove("https_proxy").env("no_proxy", "127.0.0.1");
    text(&run(&mut python)).trim().to_owned()
}

#[test]
fn the_grpc_library_understands_denials() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::grpc());
    let nginx = Nginx::builder()
        .listen_options("http2")
        .var("BACKEND", backend.addr())
        .http(project("p", &authgear, "max_fails 0;"))
        .server(
            "authgear p;
             authgear_require session;
             authgear_login_redirect https://login.test/;
             authgear_relay_cookies on;
             authgear_forward_credentials off;
             error_page 401 403 503 =200 /page;
             location / { grpc_pass %%BACKEND%%; }
             location /admin. { authgear_require role=admin; grpc_pass %%BACKEND%%; }
             location = /page { authgear_require off; return 200 page; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let call = |path: &str, token: &str| call_with_python(&nginx, path, token);
    assert_eq!(call("/a.B/C", &token), "OK True");
    assert_eq!(call("/a.B/C", "dead"), "UNAUTHENTICATED no_session");
    assert_eq!(call("/admin.B/C", &token), "PERMISSION_DENIED role_missing");
    authgear.inject(Fault::Status(500));
    assert_eq!(call("/a.B/C", &token), "UNAVAILABLE bad_status");
    let got = backend.requests();
    assert_eq!((got.len(), got[0].header("authorization")), (1, None));
    assert_eq!(got[0].header("x-authgear-user-id"), Some("alice"));
}
