//! `authgear_pages` before the answers that the pages of a real Authgear gave
//! (`tests/recorded/index.md`).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;

use support::{get, Backend, FakeAuthgear, User};

use crate::project::project;
use crate::site::site;

/// A recorded exchange: method and target of the request, and the head of the answer.
struct Exchange {
    name: String,
    method: String,
    target: String,
    answer: Vec<String>,
}

fn exchanges() -> Vec<Exchange> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded");
    let files = fs::read_dir(folder).expect("recorded exchanges").map(|file| file.unwrap().path());
    let mut exchanges: Vec<_> = files
        .filter_map(|file| {
            let name = file.file_stem()?.to_str()?.to_owned();
            let is_page = ["authorize-", "end-session-", "revoke-"];
            if !is_page.iter().any(|begin| name.starts_with(begin)) {
                return None;
            }
            let bytes = fs::read(&file).expect("an exchange");
            let separator = b"\n---\n";
            let at = bytes.windows(separator.len()).position(|part| part == separator)?;
            let line = String::from_utf8_lossy(bytes.split(|&byte| byte == b'\r').next()?);
            let mut words = line.split(' ').map(str::to_owned);
            let (method, target) = (words.next()?, words.next()?);
            let answer = String::from_utf8_lossy(&bytes[at + separator.len()..]).into_owned();
            let head = answer.split("\r\n\r\n").next()?;
            Some(Exchange {
                name,
                method,
                target,
                answer: head.lines().map(str::to_owned).collect(),
            })
        })
        .collect();
    exchanges.sort_by(|one, other| one.name.cmp(&other.name));
    exchanges
}

/// Answers one request with this head, and without a body: the module reads none.
fn replay(answer: &[String], listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    // The test's requests have no body.
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut piece).expect("a request");
        assert!(count > 0, "the request has no end");
        request.extend_from_slice(&piece[..count]);
    }
    let is_kept = |line: &&String| {
        let line = line.to_ascii_lowercase();
        !line.starts_with("content-length:") && !line.starts_with("transfer-encoding:")
    };
    let lines: Vec<_> = answer.iter().filter(is_kept).map(String::as_str).collect();
    let answer = format!("{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"));
    stream.write_all(answer.as_bytes()).expect("the answer is taken");
}

/// Fields that arrive as Authgear sent them: nginx makes the others itself.
fn fields(head: &[(String, String)]) -> Vec<(String, String)> {
    let own = ["date", "server", "connection", "content-length", "transfer-encoding"];
    let mut fields: Vec<_> = head
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .collect();
    fields.sort();
    fields
}

/// The fields of an answer's head.
fn head_of(answer: &[String]) -> Vec<(String, String)> {
    let pair = |line: &String| line.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()));
    answer.iter().skip(1).filter_map(pair).collect()
}

#[test]
fn each_recorded_page_arrives_as_it_is_and_those_that_end_a_session_make_the_server_forget() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let pages = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, "client_id web;"))
        .http("authgear_cache_zone z:1m; authgear_cache z;")
        .listen_extra(1)
        .var("PAGES", pages.local_addr().expect("an address"))
        .http(
            "server {
               listen %%ADDR2%%;
               location / {
                 authgear p;
                 authgear_pages on;
                 proxy_set_header Host $http_host;
                 proxy_redirect off;
                 # A long state comes back in Location.
                 proxy_buffer_size 16k;
                 proxy_busy_buffers_size 16k;
                 proxy_pass http://%%PAGES%%;
               }
             }",
        )
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let session = authgear.session(&User::named("alice"));
    let exchanges = exchanges();
    assert!(exchanges.len() >= 20, "{}", exchanges.len());
    for Exchange { name, method, target, answer } in exchanges {
        // What is known of the session before the page.
        let kept = || {
            assert_eq!(get(&nginx, "/").cookie("session", &session).send().status, 200);
            authgear.hits()
        };
        kept();
        let before = authgear.hits();
        let expected = fields(&head_of(&answer));
        let page = thread::scope(|scope| {
            scope.spawn(|| replay(&answer, &pages));
            let request = get(&nginx.addr2(), &target).method(&method);
            request.cookie("session", &session).send()
        });
        let got: Vec<_> = page
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        assert_eq!(fields(&got), expected, "{name}");
        // The cookie of a session is cleared where there was one, and `revoke` ends that of a token.
        let ends = matches!(&name[..], "end-session-direct" | "end-session-unregistered")
            || name.starts_with("revoke-");
        assert_eq!(kept() - before, usize::from(ends), "{name}");
    }
}
