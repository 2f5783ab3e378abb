//! Credentials as Go itself reads them. Skipped, with a note, where `go` is not installed.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use authgear::credentials::{CookieNames, Credentials, MAX_PIECES};
use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use serde::Deserialize;
use serde_json::json;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go_net_http.go");

/// Number of random requests.
const REQUESTS: usize = 3000;

#[derive(Debug)]
struct Request {
    authorization: Vec<u8>,
    cookies: Vec<Vec<u8>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    bearer: Option<String>,
    cookies: Vec<Cookie>,
    session: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Cookie {
    name: String,
    value: String,
}

fn go_is_installed() -> bool {
    let status = Command::new("go").arg("version").stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Returns what Go reads in each request.
fn read_with_go<'r>(requests: impl Iterator<Item = &'r Request>) -> Vec<Answer> {
    let mut child = Command::new("go")
        .args(["run", PROGRAM])
        .env("GOTOOLCHAIN", "local")
        .env("GODEBUG", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("go runs");
    let encode = |bytes: &Vec<u8>| STANDARD.encode(bytes);
    let input: String = requests
        .map(|request| {
            let cookies: Vec<_> = request.cookies.iter().map(encode).collect();
            let authorization = encode(&request.authorization);
            format!("{}\n", json!({"Authorization": authorization, "Cookies": cookies}))
        })
        .collect();
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("go ends");
    writer.join().expect("no panic").expect("go reads all requests");
    assert!(output.status.success(), "{}", output.status);
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    answers.map(|answer| answer.expect("an answer")).collect()
}

/// Any bytes that nginx lets through in the value of a field.
fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("in no field", |byte| !b"\0\r\n".contains(byte)), len)
}

fn request() -> impl Strategy<Value = Request> {
    let secret = "0123456789abcdefABCDEF0123456789";
    let session = format!(r"session=[ \t\x22]?(id[.]{secret})?[ \t\x22]?");
    let piece = prop_oneof![
        string_regex(&session).expect("a pattern").prop_map(String::into_bytes),
        r"[ \t]{0,2}(app_)?(session|access_token)[ \t]{0,2}(=[ \t]?\x22?[a-c =,\x22\\\t\x01\x7f]{0,3}\x22?)?[ \t]{0,2}"
            .prop_map(String::into_bytes),
        bytes(0..6),
    ];
    let cookies = vec(vec(piece, 0..6).prop_map(|pieces| pieces.join(&b';')), 0..4);
    let scheme = r"[ \t]?([bB][eE]arer|Basic|DPoP)[ \t,]?[ \t]?".prop_map(String::into_bytes);
    let authorization = (scheme, r"[a-z. \t\u{e9}\u{212a}]{0,4}")
        .prop_map(|(scheme, token)| [scheme, token.into_bytes()].concat());
    (authorization, cookies).prop_map(|(authorization, cookies)| Request { authorization, cookies })
}

fn is_authgears_form(value: &str) -> bool {
    value.split_once('.').is_some_and(|(id, secret)| {
        let alphanumeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        !id.is_empty()
            && alphanumeric(&id.replace('-', ""))
            && secret.len() == 32
            && alphanumeric(secret)
    })
}

#[test]
fn credentials_are_read_as_go_reads_them() {
    if !go_is_installed() {
        println!("skipped: go is not installed");
        return;
    }
    let names = CookieNames::default();
    let mut runner = TestRunner::deterministic();
    let strategy = request();
    let mut requests: Vec<_> = (0..REQUESTS)
        .map(|_| strategy.new_tree(&mut runner).expect("a request").current())
        .collect();
    for pieces in [MAX_PIECES, MAX_PIECES + 1] {
        let field = [b"session=a".to_vec(), b";".repeat(pieces - 2)].concat();
        requests.push(Request { authorization: Vec::new(), cookies: vec![field, Vec::new()] });
    }

    let read: Vec<_> = requests
        .iter()
        .map(|request| {
            let cookies = request.cookies.iter().map(Vec::as_slice);
            Credentials::read(Some(&request.authorization), cookies, &names)
        })
        .collect();
    // The credentials as they are sent to the resolver.
    let sent: Vec<_> = read
        .iter()
        .map(|credentials| Request {
            authorization: credentials.authorization().unwrap_or_default().to_vec(),
            cookies: credentials.cookie_header().into_iter().collect(),
        })
        .collect();
    let answers = read_with_go(requests.iter().chain(&sent));
    assert_eq!(answers.len(), 2 * requests.len());
    let (from_client, from_here) = answers.split_at(requests.len());

    let (mut with_session, mut with_bearer) = (0, 0);
    for (((request, credentials), client), here) in
        requests.iter().zip(&read).zip(from_client).zip(from_here)
    {
        let is_own = |cookie: &&Cookie| names.contains(cookie.name.as_bytes());
        let own: Vec<_> = client.cookies.iter().filter(is_own).cloned().collect();
        assert_eq!(here.cookies, own, "{request:?}");
        assert_eq!(here.session, client.session, "{request:?}");
        let has_session = client.session.as_deref().is_some_and(is_authgears_form);
        assert_eq!(credentials.has_session(&names), has_session, "{request:?}");

        let bearer = credentials.bearer().map(|token| STANDARD.encode(token));
        assert_eq!(bearer, client.bearer, "{request:?}");
        assert_eq!(bearer, here.bearer, "{request:?}");
        with_session += usize::from(has_session);
        with_bearer += usize::from(bearer.is_some());
    }
    assert!(with_session > 50 && with_bearer > 50, "{with_session} {with_bearer}");
}
