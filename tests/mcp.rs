//! nginx-conf/mcp.conf with a real MCP client and a real MCP server: the official Python SDK.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use serde_json::{json, Value};
use support::{get, Nginx, RefusedAddr, Response, User};

use crate::examples::{run, Public, HOST, MCP};
use crate::real_clients::{run as run_client, text};
use crate::site::report_skipped;

const ORIGIN: &str = "https://mcp.example.com";
const OTHER: &str = "https://other.example.com/mcp";

fn python(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv: PathBuf = root.join("../build/mcp/bin/python");
    let mut python = Command::new(venv);
    python.arg("-B").arg(root.join("mcp").join(script));
    // The test ignores proxies of the environment.
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        python.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    python
}

/// Whether PyPI had no SDK for `make clients`.
fn is_missing() -> bool {
    static REPORTED: Once = Once::new();
    let mark = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/mcp-missing");
    let is_missing = mark.exists();
    if is_missing {
        report_skipped(&REPORTED, "the MCP SDK, which could not be installed");
    }
    is_missing
}

/// The MCP server. It ends when dropped.
struct Server {
    process: Child,
    addr: String,
}

impl Server {
    #[track_caller]
    fn start() -> Self {
        let mut command = python("server.py");
        let process = command.stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap_or_else(|error| {
            panic!("{:?}: {error} (\"make test\" installs it)", command.get_program())
        });
        let mut port = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut port).expect("its port");
        Self { process, addr: format!("127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The example with this Authgear and backend. Each pair is a change, which has to match.
fn site(public: &Public, backend: &str, changes: &'static [(&'static str, &'static str)]) -> Nginx {
    run(|| {
        public.example_at("mcp.conf", backend).raw_conf(move |mut conf| {
            for (from, to) in changes {
                assert!(conf.contains(from), "no {from} in the example");
                conf = conf.replace(from, to);
            }
            conf
        })
    })
}

/// Lets the SDK's client call a tool, and returns its report.
#[track_caller]
fn call(public: &Public, nginx: &Nginx) -> Value {
    let mut client = python("client.py");
    client.arg(MCP).arg(public.ca_file());
    client.arg(format!("{ORIGIN}=http://{}", nginx.addr()));
    client.arg(format!("https://{HOST}=https://{}", public.authgear.addr()));
    serde_json::from_str(&text(&run_client(&mut client))).expect("JSON")
}

#[test]
fn an_mcp_client_finds_authgear_logs_in_and_calls_a_tool() {
    if is_missing() {
        return;
    }
    let (public, server) = (Public::start(40), Server::start());
    let nginx = site(&public, &server.addr, &[]);
    let report = call(&public, &nginx);
    assert_eq!(report["result"], "5", "{report:#}");
    let asked = &report["asked"];
    assert_eq!(asked["scope"], "openid offline_access tools:read");
    assert_eq!(asked["resource"], MCP);
    let steps = report["steps"].as_array().expect("steps");
    let authgear = |path: &str| format!("https://{HOST}{path}");
    let expected = [
        json!(["POST", MCP, 401]),
        json!(["GET", format!("{ORIGIN}/.well-known/oauth-protected-resource/mcp"), 200]),
        json!(["GET", authgear("/.well-known/oauth-authorization-server"), 200]),
        json!(["POST", authgear("/oauth2/register"), 201]),
        json!(["GET", authgear("/oauth2/authorize"), 303]),
        json!(["POST", authgear("/oauth2/token"), 200]),
        json!(["POST", MCP, 200]),
    ];
    assert_eq!(steps.get(..expected.len()), Some(&expected[..]), "{report:#}");
}

#[test]
fn an_mcp_client_cannot_log_in_if_the_document_and_the_challenge_lack_openid() {
    if is_missing() {
        return;
    }
    let (public, server) = (Public::start(41), Server::start());
    let without = &[("scopes=tools:read;", "scopes=tools:read openid=off;")];
    let report = call(&public, &site(&public, &server.addr, without));
    // The client adds offline_access where the metadata of Authgear names it.
    assert_eq!(report["asked"]["scope"], "tools:read offline_access", "{report:#}");
    let error = report["error"].as_str().expect("an error");
    assert!(error.contains("invalid_scope: must request 'openid' scope"), "{report:#}");
    let last = report["steps"].as_array().expect("steps").last().expect("a step");
    assert_eq!(last, &json!(["GET", format!("https://{HOST}/oauth2/authorize"), 303]));
}

/// Posts an MCP request with a token.
fn initialize(nginx: &Nginx, token: &str) -> Response {
    let body = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        },
    });
    get(nginx, "/mcp")
        .method("POST")
        .bearer(token)
        .header("Content-Type", "application/json")
        .header("Accept", "application/json, text/event-stream")
        .body(body.to_string())
        .send()
}

#[test]
fn an_mcp_server_gets_no_request_with_a_token_that_is_not_for_it() {
    if is_missing() {
        return;
    }
    let (public, server) = (Public::start(42), Server::start());
    let nginx = site(&public, &server.addr, &[]);
    let alice = User::named("alice");
    let token = |audience: &str, scope: &str| {
        let token = public.authgear.token(&alice).claim("aud", vec![audience]);
        token.claim("scope", scope).claim("client_id", "dcrc_test")
    };
    let good = token(MCP, "openid tools:read").sign();
    let elsewhere = token(OTHER, "openid tools:read").sign();
    assert_eq!(initialize(&nginx, &good).status, 200);
    for (what, token, status, error) in [
        ("for another resource", elsewhere.clone(), 401, "invalid_token"),
        ("without the scope", token(MCP, "openid").sign(), 403, "insufficient_scope"),
        ("expired", token(MCP, "openid tools:read").expires_in(-3600).sign(), 401, "invalid_token"),
        ("opaque", public.authgear.opaque_token(&alice), 401, "invalid_token"),
    ] {
        let answer = initialize(&nginx, &token);
        let challenge = answer.all("www-authenticate").concat();
        assert_eq!(answer.status, status, "{what}: {challenge}");
        assert!(challenge.starts_with(&format!("Bearer error=\"{error}\"")), "{what}: {challenge}");
        assert!(challenge.contains("resource_metadata=\"https://mcp.example.com/"), "{what}");
    }

    // It is the audience that keeps the first one out.
    let any = &[(
        "authgear_audience https://mcp.example.com/mcp;",
        "authgear_audience https://mcp.example.com/mcp https://other.example.com/mcp;",
    )];
    let nginx = site(&public, &server.addr, any);
    assert_eq!(initialize(&nginx, &elsewhere).status, 200);
}

#[test]
fn the_fake_issues_tokens_for_registered_resources_only() {
    let public = Public::start(43);
    let backend = RefusedAddr::bind();
    let other = &[
        ("https://mcp.example.com/mcp", "https://mcp.example.com/"),
        ("/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"),
    ];
    let nginx = site(&public, &backend.addr().to_string(), other);
    let document = get(&nginx, "/.well-known/oauth-protected-resource").send().json();
    assert_eq!(document["resource"], "https://mcp.example.com/");
    let report = call(&public, &nginx);
    let error = report["error"].as_str().expect("an error");
    assert!(error.contains("invalid_target: resource is not registered"), "{report:#}");
}
