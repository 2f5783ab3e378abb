//! `authgear_protected_resource`: the document of an API, and the challenges that name it.

use serde_json::json;
use support::{get, Backend, Builder, FakeAuthgear, Nginx, Response, User};

use crate::project::project_site;

const MCP: &str = "https://mcp.test/mcp";
const DOCUMENT: &str = "/.well-known/oauth-protected-resource/mcp";
const METADATA: &str =
    "resource_metadata=\"https://mcp.test/.well-known/oauth-protected-resource/mcp\"";

fn serving(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    let pass = "proxy_pass http://%%BACKEND%%;";
    project_site(authgear, backend, "").server(format!(
        "authgear p; authgear_mode jwt; authgear_audience {MCP}; authgear_require session;
         location /mcp {{ authgear_require scope=tools:read; {pass} }}
         location /two {{
           authgear_require scope=tools:read role=admin;
           authgear_require scope=tools:write;
           {pass}
         }}
         location /open {{ {pass} }}
         location /other {{ authgear_audience https://other.test; {pass} }}
         location /plain {{
           authgear_audience https://plain.test; authgear_require scope=a; {pass}
         }}
         location /explicit {{ authgear_resource_metadata https://own.test/x; {pass} }}
         location /silent {{ authgear_resource_metadata off; {pass} }}
         location = {DOCUMENT} {{
           authgear_protected_resource {MCP} scopes=tools:read,tools:write
             'name=Acme tools' documentation=https://mcp.test/docs#start;
         }}
         location = /.well-known/plain {{
           authgear_protected_resource https://plain.test scopes=a openid=off;
         }}"
    ))
}

fn challenge(answer: &Response) -> Vec<String> {
    answer.all("www-authenticate")
}

#[test]
fn clients_of_every_origin_read_the_document_without_a_token() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend).start();
    let request = get(&nginx, DOCUMENT).header("Origin", "https://inspector.test");
    let answer = request.send();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(answer.all("access-control-allow-origin"), ["*"]);
    assert_eq!(
        answer.json(),
        json!({
            "resource": MCP,
            "authorization_servers": [authgear.origin()],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["openid", "offline_access", "tools:read", "tools:write"],
            "resource_name": "Acme tools",
            "resource_documentation": "https://mcp.test/docs#start",
        })
    );
    let plain = get(&nginx, "/.well-known/plain").send().json();
    assert_eq!(plain["scopes_supported"], json!(["a"]));
    assert_eq!(get(&nginx, DOCUMENT).method("HEAD").send().status, 200);
    assert_eq!(get(&nginx, DOCUMENT).method("POST").send().status, 405);

    let preflight = request
        .method("OPTIONS")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "mcp-protocol-version")
        .send();
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.all("access-control-allow-origin"), ["*"]);
    assert_eq!(preflight.all("access-control-allow-headers"), ["*"]);
}

#[test]
fn denials_name_the_document_by_the_resource_and_never_by_host() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend).start();
    let token = |audience: &str, scope: &str| {
        let token = authgear.token(&User::named("alice").roles(&["admin"]));
        token.claim("aud", vec![audience]).claim("scope", scope).sign()
    };
    let read = "scope=\"openid offline_access tools:read\"";
    let both = "scope=\"openid offline_access tools:read tools:write\"";
    let invalid = "Bearer error=\"invalid_token\"";
    let insufficient = "Bearer error=\"insufficient_scope\"";
    let rows = [
        ("/mcp", None, 401, format!("Bearer {read}, {METADATA}")),
        ("/mcp", Some(token("https://x.test", "")), 401, format!("{invalid}, {read}, {METADATA}")),
        ("/mcp", Some(token(MCP, "openid")), 403, format!("{insufficient}, {read}, {METADATA}")),
        // The scopes of all lines, so that one more login suffices.
        (
            "/two",
            Some(token(MCP, "tools:read")),
            403,
            format!("{insufficient}, {both}, {METADATA}"),
        ),
        ("/two", None, 401, format!("Bearer {both}, {METADATA}")),
        ("/open", None, 401, format!("Bearer {METADATA}")),
        ("/other", None, 401, "Bearer".to_owned()),
        (
            "/plain",
            None,
            401,
            "Bearer scope=\"a\", resource_metadata=\"https://plain.test/.well-known/\
             oauth-protected-resource\""
                .to_owned(),
        ),
        ("/explicit", None, 401, "Bearer resource_metadata=\"https://own.test/x\"".to_owned()),
        ("/silent", None, 401, "Bearer".to_owned()),
    ];
    for (path, token, status, expected) in rows {
        let request = get(&nginx, path).header("Host", "evil.test");
        let answer = token.iter().fold(request, |request, token| request.bearer(token)).send();
        assert_eq!((answer.status, challenge(&answer)), (status, vec![expected]), "{path}");
    }
    let good = token(MCP, "openid tools:read");
    assert_eq!(get(&nginx, "/mcp").bearer(&good).send().status, 200);
}

#[test]
fn unusable_resources_are_refused() {
    let config = |line: &str| {
        let server = format!("authgear https://a.test; location = /x {{\n{line} # here\n}}");
        Nginx::builder().server(server).check()
    };
    for (line, says) in [
        ("authgear_protected_resource mcp.test;", "it must be a URL with https://"),
        ("authgear_protected_resource https://a.test/#b;", "it must not have a fragment"),
        ("authgear_protected_resource https://a.test scopes=;", "it must be scopes=A,B"),
        ("authgear_protected_resource https://a.test openid=no;", "\"on\" or \"off\""),
        ("authgear_protected_resource https://a.test documentation=x;", "documentation=URL"),
        ("authgear_protected_resource https://a.test colour=red;", "name=TEXT"),
        ("authgear_protected_resource https://a.test name=a name=b;", "is duplicate"),
        ("authgear off; authgear_protected_resource https://a.test;", "\"authgear\" is not on"),
        ("authgear_status; authgear_protected_resource https://a.test;", "a location has one of"),
    ] {
        let test = config(line);
        assert!(!test.ok && test.output.contains(says), "{line}: {}", test.output);
    }
}
