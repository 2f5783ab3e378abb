//! Recorded exchanges of a real Authgear, replayed: the fake answers as the real one did, and the
//! module's core reads each recorded answer, token and webhook. `recorded/index.md` describes them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use authgear::credentials::{CookieNames, Credentials};
use authgear::operations::webhook::{Event, Period, Secret, SIGNATURE};
use authgear::resolver::{Presented, ResolverAnswer};
use authgear::token::{self, Algorithm, KeySet, Profile, TokenError};
use authgear::verdict::{NoSession, Unavailable, Verdict};
use http::StatusCode;
use serde_json::Value;
use support::{ClientKind, FakeAuthgear, Fault, SigningKey, ToAddr as _, User, Version, DEADLINE};

const ALICE: &str = "5bbfee13-733e-4fc5-ad55-94ed7df42bc4";
const BOB: &str = "3a1d8f39-1967-46ed-a124-7cf9c78d7338";
const ALICE_TWO: &str = "da7f789a-4849-43d5-b227-12a0bea19fa7";
const ANONYMOUS: &str = "0feabff5-0ea6-4f00-a2a6-7ef812df0f3e";

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded")
}

fn read(name: &str) -> Vec<u8> {
    let path = recorded().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A head line by line, and the body.
#[derive(Clone, Debug)]
struct Message {
    start: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn parse(bytes: &[u8]) -> Self {
        let end = find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {bytes:?}"));
        let head: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned())
        };
        let headers = lines.map(header).collect();
        Self { start, headers, body: bytes[end + 4..].to_vec() }
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let named = |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value.as_str()).collect()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    fn status(&self) -> StatusCode {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.headers.iter().map(|(name, value)| (name.as_bytes(), value.trim().as_bytes()))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// One exchange: the request as sent, and the answer.
struct Exchange {
    name: String,
    sent: Vec<u8>,
    request: Message,
    answer: Message,
}

impl Exchange {
    fn read(name: &str) -> Self {
        let bytes = read(&format!("{name}.http"));
        let separator = b"\n---\n";
        let end = find(&bytes, separator).unwrap_or_else(|| panic!("{name}: no answer"));
        let mut sent = bytes[..end].to_vec();
        // A line end of the file stands before the separator.
        while find(&sent, b"\r\n\r\n").is_none() {
            sent.extend_from_slice(b"\r\n");
        }
        let request = Message::parse(&sent);
        let answer = Message::parse(&bytes[end + separator.len()..]);
        Self { name: name.to_owned(), sent, request, answer }
    }

    /// The time of the answer, in seconds since 1970.
    fn time(&self) -> i64 {
        let date = self.answer.header("date").unwrap_or_else(|| panic!("{}: no date", self.name));
        let date = httpdate::parse_http_date(date).unwrap();
        date.duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
    }

    fn origin(&self) -> &'static str {
        match self.name.starts_with("two/") {
            true => "http://auth.two.localhost:4100",
            false => "http://auth.acme.localhost:3100",
        }
    }

    /// The bearer token, as Authgear reads it.
    fn token(&self) -> Option<&str> {
        let (scheme, token) = self.request.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    }
}

/// Names of the exchanges in a folder whose file names begin so.
fn names(folder: &str, begins: &str) -> Vec<String> {
    let files = fs::read_dir(recorded().join(folder)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".http").map(|name| format!("{folder}{name}")))
        .filter(|name| name[folder.len()..].starts_with(begins))
        .collect();
    names.sort();
    names
}

/// All exchanges with the resolver's server, its health included.
fn resolver_exchanges() -> Vec<Exchange> {
    let mut all = [names("", "resolve-"), names("", "fault-"), names("", "healthz")].concat();
    all.extend(names("dcr/", "resolve-"));
    let two = names("two/", "").into_iter();
    all.extend(two.filter(|name| !name.contains("/hook-") && !name.contains("/login-")));
    assert_eq!(all.len(), 85);
    all.iter().map(|name| Exchange::read(name)).collect()
}

fn claims(token: &str) -> Option<Value> {
    use data_encoding::BASE64URL_NOPAD;
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()
}

fn client_kind(client_id: &str) -> ClientKind {
    match client_id {
        "third" => ClientKind::ThirdParty,
        "machine" => ClientKind::Machine,
        id if id.starts_with("dcrc_") => ClientKind::Dynamic,
        _ => ClientKind::FirstParty,
    }
}

fn jwks(name: &str) -> Value {
    let document: Value = serde_json::from_slice(&read(name)).unwrap();
    match name.starts_with("two/") {
        true => document["jwks"].clone(),
        false => document,
    }
}

fn user(id: &str) -> User {
    let mut user = User::named(id);
    user.verified = id == ALICE_TWO;
    user.anonymous = id == ANONYMOUS;
    user.can_reauthenticate = id != ANONYMOUS;
    match id {
        ALICE => user.roles(&["admin", "stock:view"]),
        ALICE_TWO => user.roles(&["stock:view", "editor", "admin"]),
        _ => user,
    }
}

/// A fake with the users and credentials of the recorded projects, as they were at this exchange.
fn fake(exchange: &Exchange) -> FakeAuthgear {
    let name = exchange.name.as_str();
    let (two, dcr) = (name.starts_with("two/"), name.starts_with("dcr/"));
    let version = if dcr { Version::November2026 } else { Version::August2026 };
    let fake = FakeAuthgear::builder()
        .origin(exchange.origin())
        .cookie_domain(if two { "two.localhost" } else { "acme.localhost" })
        .database(false)
        .version(version)
        .start();
    let keys = jwks(if two { "two/tokens.json" } else { "jwks.json" });
    let keys: Vec<_> = keys["keys"].as_array().unwrap().iter().map(SigningKey::published).collect();
    fake.publish_keys(&keys);
    if exchange.answer.header("date").is_some() {
        fake.stop_clock(exchange.time());
    }

    let blocked = User { disabled: true, ..user("d35eb8e6-57a8-4a67-a91f-067030204efd") };
    for (cookie, owner) in [
        ("d64dae35-9435-46cc-94a4-11d30a355d3f.9mSYDbhbNuZEsiNUzNSTbb3B9DRfWhxK", user(ALICE)),
        ("b14d8b06-020a-45ca-9e38-dc5209ae8f37.DUe0HcevfG3c2WDNmqzQ8vqtTWq1Oo4q", user(ALICE)),
        ("5eb3c869-1fbd-4467-afa3-a0caece49dd6.0ywdY4FICSESTxVJDO2xcMtuemqLuW28", user(ALICE)),
        ("d2b456b0-5783-44df-ae51-a809d04eec02.nFJzsaYmPl0MRjwC5jsAoBhOTBwohRmJ", user(BOB)),
        ("59c1591e-2bd2-4aaf-828a-030edc80f262.T2kWwW1FfPio6iGhf2bglQpJWTfuoaSp", user(BOB)),
        ("57bfd3f2-dbf5-438c-b1d7-90d7c32e656b.IjMj90qg3eothRkFnKRsaurJjO6l8D6z", user(ANONYMOUS)),
        ("3375e1c3-04f0-4f92-9bff-2685567875be.wL3wNyp1AvcBlxBDfuWIlnRQUVUa8PFg", user(ALICE_TWO)),
        ("fd54c778-cbf5-405e-a3be-8316dd38e22f.zb8Q1Xvl8s7w5pwHJgT769IYrobGeSTy", user(ALICE_TWO)),
        ("03271beb-e2e5-4529-a3a0-bb4693013893.rE2qYmtnu8bm3ZxOVLu3vtRBSsSzbHPE", blocked.clone()),
    ] {
        if name != "resolve-signed-out" {
            fake.add_session(cookie, &owner);
        }
    }
    fake.add_app_session("nEQ1PFzdEx53OGWexnaD3DuyBFt23EVI", &user(ALICE_TWO));
    if name.starts_with("resolve-revoked-") && name != "resolve-revoked-jwt" {
        return fake;
    }
    for (token, owner, client) in [
        ("m2DcF12c5kzoGQkgyIyDEg4Ig5bZLxV7", user(ALICE), ClientKind::FirstParty),
        ("OOY4hGUgLRnNuhovx31B6Q3qHc1kJdSC", user(ALICE), ClientKind::FirstParty),
        ("oyJdhhwanns8FSgd2piDRXnmH7H2v83z", user(ALICE), ClientKind::FirstParty),
        ("mhHbROiT0bS3ysWmXtImpihQnklDatnX", user(ALICE), ClientKind::Dynamic),
        ("5s38e1Phpsa81OHybbUSqyekx2RwSmLx", user(ALICE), ClientKind::ThirdParty),
        ("QsYTF8TUgDYxHtZ65HIm5dnuinblFcja", blocked, ClientKind::FirstParty),
    ] {
        fake.add_opaque_token(token, &owner, client);
    }
    for part in exchange.sent.split(|byte| b" =;\r\n\t".contains(byte)) {
        let text = String::from_utf8_lossy(part);
        let Some(claims) = Some(&*text).filter(|text| text.starts_with("eyJ")).and_then(claims)
        else {
            continue;
        };
        let (sub, jti) = (claims["sub"].as_str().unwrap(), claims["jti"].as_str().unwrap());
        let client = client_kind(claims["client_id"].as_str().unwrap());
        if client != ClientKind::Machine {
            fake.add_grant(jti, &user(sub), client);
        }
    }
    fake
}

/// Sends the recorded bytes, and reads the fake's answer to its end.
fn replay(exchange: &Exchange, fake: &FakeAuthgear) -> Message {
    let mut stream = TcpStream::connect(fake.to_addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&exchange.sent).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let is_head = exchange.request.start.starts_with("HEAD ");
    loop {
        if find(&bytes, b"\r\n\r\n").is_some() {
            let message = Message::parse(&bytes);
            let length = message.header("content-length").map(|own| own.parse().unwrap());
            let ends_at = match length {
                None if message.header("connection") == Some("close") => usize::MAX,
                length => length.unwrap_or(0),
            };
            if is_head || message.body.len() >= ends_at {
                return message;
            }
        }
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            let message = Message::parse(&bytes);
            assert_eq!(message.header("content-length"), None, "{}: {bytes:?}", exchange.name);
            return message;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

/// The lines of an answer without what differs each time: dates, ids, Permissions-Policy.
fn comparable(message: &Message) -> Vec<String> {
    // HTTP/1.0 is echoed by the real one.
    let status = message.start.split_once(' ').unwrap().1.to_owned();
    let mut lines = vec![status];
    for (name, value) in &message.headers {
        let nonce = |text: &str| {
            let (begin, rest) = text.split_once("nonce").unwrap();
            let end = rest.find([';', '\'']).unwrap();
            format!("{begin}nonce{}", &rest[end..])
        };
        let value = match name.as_str() {
            "Date" | "X-Authgear-Session-Authenticated-At" | "Permissions-Policy" => String::new(),
            "Content-Security-Policy" => nonce(value),
            "Set-Cookie" if value.starts_with("csp_nonce") => nonce(value),
            _ => value.clone(),
        };
        lines.push(format!("{name}: {value}"));
    }
    let body = String::from_utf8_lossy(&message.body).into_owned();
    let body = match body.split_once("\"tracking_id\":\"") {
        Some((begin, rest)) => format!("{begin}{}", &rest[rest.find('"').unwrap()..]),
        None => body,
    };
    // The recorder wrote a line end after the body.
    lines.push(body.trim_end().to_owned());
    lines
}

/// Answers of this version where the recorded one, from before its last change, said otherwise.
fn expected(exchange: &Exchange) -> Vec<String> {
    let lines = comparable(&exchange.answer);
    if !exchange.name.starts_with("dcr/resolve-dcr-resource-jwt") {
        return lines;
    }
    let line = |line: String| match line.strip_prefix("X-Authgear-") {
        None => Some(line),
        Some("Session-Valid: true") => Some("X-Authgear-Session-Valid: false".to_owned()),
        Some(_) => None,
    };
    lines.into_iter().filter_map(line).collect()
}

/// The faults behind an exchange.
fn inject(exchange: &Exchange, fake: &FakeAuthgear) {
    match exchange.name.as_str() {
        "fault-db-down"
        | "fault-db-down-bearer"
        | "fault-db-down-garbage"
        | "fault-db-down-none"
        | "fault-db-healthz"
        | "fault-redis-hung-healthz"
        | "fault-redis-hung" => fake.fail_internally(true),
        "two/fault-db-cut-silent" => fake.inject(Fault::SilentBlank),
        _ => {}
    }
}

#[test]
fn the_fake_answers_the_resolver_as_the_real_one_did() {
    let mut wrong = Vec::new();
    for exchange in resolver_exchanges() {
        let fake = fake(&exchange);
        inject(&exchange, &fake);
        let (answer, expected) = (comparable(&replay(&exchange, &fake)), expected(&exchange));
        if answer != expected {
            wrong.push(format!("{}: {answer:#?} instead of {expected:#?}", exchange.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fake_publishes_keys_and_metadata_as_the_real_one_did() {
    for name in [names("", "jwks"), names("", "discovery"), names("dcr/", "discovery")].concat() {
        let exchange = Exchange::read(&name);
        let answer = replay(&exchange, &fake(&exchange));
        assert_eq!(comparable(&answer), comparable(&exchange.answer), "{name}");
    }
}

#[test]
fn the_fake_answers_userinfo_as_the_real_one_did() {
    // The documents themselves are data of the project: full for first-party clients.
    let body = |name: &str| {
        let body = Exchange::read(name).answer.body;
        String::from_utf8(body).unwrap().trim_end_matches("\r\n").to_owned()
    };
    for name in [names("", "userinfo-"), names("dcr/", "userinfo-")].concat() {
        let exchange = Exchange::read(&name);
        let fake = fake(&exchange);
        let scoped = exchange.answer.status() == StatusCode::OK;
        let others = if scoped { body(&name) } else { String::new() };
        fake.set_userinfo(&user(ALICE), &body("userinfo-jwt"), &others);
        let answer = replay(&exchange, &fake);
        assert_eq!(comparable(&answer), comparable(&exchange.answer), "{name}");
    }
}

/// The page's script follows JSON, a plain form a redirect. Both get the cookies.
#[test]
fn the_login_page_of_the_fake_answers_as_the_real_one_did() {
    for name in ["two/login-xhr", "two/login-no-xhr"] {
        let mut exchange = Exchange::read(name);
        let fake = fake(&exchange);
        // The page's own path, and its user for the password.
        fake.add_user(User::named("alice-of-project-two"));
        let sent = String::from_utf8(exchange.sent).unwrap();
        let sent = sent.replacen("/authflow/v2/enter_password", "/login", 1);
        let posted = sent.replace("x_password=Passw0rd-alice", "user=alice-of-project-two");
        assert_ne!(posted, sent);
        exchange.sent = posted.into_bytes();
        let told = |message: &Message| {
            let cookies = message.all("set-cookie").into_iter();
            let attributes = |cookie: &str| match cookie.split_once(['=', ';']).unwrap() {
                ("session", rest) => rest.split_once(';').unwrap().1.to_owned(),
                _ => cookie.to_owned(),
            };
            let cookies: Vec<_> = cookies.map(attributes).collect();
            let document: Option<Value> = serde_json::from_slice(&message.body).ok();
            let named = |name: &str| Some(document.as_ref()?[name].as_str()?.to_owned());
            let to = named("redirect_uri").or(message.header("location").map(str::to_owned));
            let (page, query) = to.as_deref().and_then(|to| to.split_once('?')).unwrap();
            let query: Vec<_> = form_urlencoded::parse(query.as_bytes())
                .filter(|(name, _)| ["client_id", "redirect_uri", "state"].contains(&&**name))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let content_type = message.header("content-type").map(str::to_owned);
            let status = message.status();
            (status, content_type, cookies, named("action"), page.to_owned(), query)
        };
        assert_eq!(told(&replay(&exchange, &fake)), told(&exchange.answer), "{name}");
    }
}

/// The verdict that the module's core reads from a recorded answer.
fn verdict(exchange: &Exchange) -> (Verdict, usize) {
    let names = CookieNames::default();
    let authorization = exchange.request.header("authorization").map(str::as_bytes);
    let cookies = exchange.request.all("cookie");
    let cookies = cookies.into_iter().map(str::as_bytes);
    let credentials = Credentials::read(authorization, cookies, &names);
    let Exchange { answer, .. } = exchange;
    let answer = ResolverAnswer::read(answer.status().as_u16(), answer.fields(), &names);
    let answer = answer.about(Presented::of(&credentials, &names));
    (answer.verdict, answer.set_cookies.iter().count())
}

#[test]
fn the_core_reads_each_recorded_answer() {
    for exchange in resolver_exchanges() {
        let name = exchange.name.as_str();
        let (verdict, set_cookies) = verdict(&exchange);
        let said = exchange.answer.header("x-authgear-session-valid");
        match (exchange.answer.status().as_u16(), said) {
            (200, Some("true")) => {
                let Verdict::Valid(identity) = &verdict else { panic!("{name}: {verdict:?}") };
                for (own, value) in &exchange.answer.headers {
                    if own.starts_with("X-Authgear-") {
                        let field = identity.get(own.to_ascii_lowercase().as_bytes());
                        assert_eq!(field, Some(value.as_bytes()), "{name}: {own}");
                    }
                }
            }
            (200, Some("false")) => {
                let cookie = exchange.request.header("cookie").unwrap_or_default();
                let expected = match exchange.token().is_some() && !cookie.contains("session=") {
                    true => Verdict::BearerNotAccepted,
                    false => Verdict::Invalid,
                };
                assert_eq!(verdict, expected, "{name}");
            }
            (200, None) => assert_eq!(verdict, Verdict::None(NoSession::Resolver), "{name}"),
            (400..=499, _) => {
                assert_eq!(verdict, Verdict::Unavailable(Unavailable::Refused), "{name}")
            }
            _ => assert_eq!(verdict, Verdict::Unavailable(Unavailable::BadStatus), "{name}"),
        }
        let relayed = exchange.answer.all("set-cookie").len();
        let expected = if exchange.token().is_some() { 0 } else { relayed };
        assert_eq!(set_cookies, expected, "{name}: cookies");
    }
}

/// A recorded answer about a bearer clears the good cookie of somebody else.
#[test]
fn the_cookie_of_another_user_is_not_cleared() {
    let exchange = Exchange::read("two/temporarily-disabled-bearer-cookie");
    assert_eq!(exchange.answer.all("set-cookie").len(), 1);
    assert_eq!(verdict(&exchange), (Verdict::Invalid, 0));
    let alone = Exchange::read("two/temporarily-disabled-cookie");
    assert_eq!(verdict(&alone), (Verdict::Invalid, 1));
}

fn profile(issuer: &str, audiences: &[&str], machine_tokens: bool) -> Profile {
    Profile {
        issuer: issuer.to_owned(),
        audiences: audiences.iter().map(|&own| own.to_owned()).collect(),
        algorithms: vec![Algorithm::RS256],
        leeway: 0,
        machine_tokens,
    }
}

#[test]
fn each_recorded_token_verifies_or_fails_with_its_reason() {
    for (folder, keys) in
        [("", "jwks.json"), ("dcr/", "dcr/jwks.json"), ("two/", "two/tokens.json")]
    {
        let document: Value =
            serde_json::from_slice(&read(&format!("{folder}tokens.json"))).unwrap();
        let keys = jwks(keys).to_string();
        let (keys, skipped) = KeySet::parse(keys.as_bytes(), &[Algorithm::RS256]).unwrap();
        assert_eq!(skipped, 0, "{folder}");
        let issuer = document["issuer"].as_str().unwrap();
        // Some tokens are from the second after.
        let made_at = document["made_at"].as_u64().unwrap() + 2;
        for (name, token) in document["tokens"].as_object().unwrap() {
            let text = token.as_str().unwrap();
            let verify = |audience: &str, machine_tokens, now| {
                let profile = profile(issuer, &[audience], machine_tokens);
                token::verify(text.as_bytes(), &keys, &profile, now)
            };
            let told = format!("{folder}{name}");
            if name.ends_with("opaque") {
                assert_eq!(verify(issuer, true, made_at).err(), Some(TokenError::Malformed));
                continue;
            }
            if name == "id_token" {
                assert_eq!(verify(issuer, true, made_at).err(), Some(TokenError::Type));
                continue;
            }
            let claims = claims(text).unwrap();
            let audience = claims["aud"][0].as_str().unwrap();
            let is_machine = name == "machine_jwt";
            let verified = verify(audience, is_machine, made_at)
                .unwrap_or_else(|error| panic!("{told}: {error}"));
            let Verdict::Valid(identity) = &verified.verdict else { panic!("{told}") };
            let grant = identity.grant().unwrap_or_else(|| panic!("{told}: no grant"));
            assert!(grant.has_audience(audience), "{told}");
            assert_eq!(grant.client_id(), claims["client_id"].as_str().unwrap().as_bytes());
            assert_eq!(grant.scope(), claims["scope"].as_str().unwrap().as_bytes(), "{told}");
            let sub = claims["sub"].as_str().unwrap().as_bytes();
            assert_eq!(identity.user_id(), (!is_machine).then_some(sub), "{told}");

            let exp = claims["exp"].as_u64().unwrap();
            let iat = claims["iat"].as_u64().unwrap();
            let error = |audience, machine, now| verify(audience, machine, now).err();
            assert_eq!(error(audience, true, exp), Some(TokenError::Expired), "{told}");
            assert_eq!(error(audience, true, iat - 1), Some(TokenError::NotYetValid), "{told}");
            let other = "https://other.acme.test";
            assert_eq!(error(other, true, made_at), Some(TokenError::Audience), "{told}");
            if is_machine {
                assert_eq!(error(audience, false, made_at), Some(TokenError::MachineToken));
            }
        }
    }
}

/// A recorded webhook, whose signature is right, as the core reads it.
fn event(name: &str) -> (Event, Value) {
    let exchange = Exchange::read(name);
    let folder = if name.starts_with("two/") { "two/" } else { "" };
    let secret = Secret::read(&read(&format!("{folder}webhook.secret"))).unwrap();
    let length = exchange.request.header("content-length").unwrap().parse().unwrap();
    let body = &exchange.request.body[..length];
    let signature = exchange.request.header(SIGNATURE).unwrap();
    assert!(secret.verify(body, signature.as_bytes()), "{name}");
    assert!(!secret.verify(&body[1..], signature.as_bytes()), "{name}");
    (Event::read(body).unwrap(), serde_json::from_slice(body).unwrap())
}

#[test]
fn each_recorded_webhook_is_accepted_and_has_its_action() {
    let mut seen = 0;
    for name in [names("", "hook-"), names("two/", "hook-")].concat() {
        let (event, body) = event(&name);
        let user = body["payload"]["user"]["id"].as_str().unwrap().to_owned();
        let at = body["context"]["timestamp"].as_u64().unwrap();
        let order = body["seq"].as_u64().unwrap();
        let expected = match name.as_str() {
            "hook-user-authenticated" => Event::Ignored,
            "hook-user-disabled" | "hook-user-deleted" | "hook-user-deletion_scheduled" => {
                Event::Ended { user, at }
            }
            "hook-user-reenabled" => Event::Status { user, order, disabled: None },
            "two/hook-user-disabled-temporary" => {
                // It begins 2 s after the event, and takes 5 s.
                let period = Period { from: 1_795_628_001, until: Some(1_795_628_006) };
                assert_eq!(at, period.from - 2);
                Event::Status { user, order, disabled: Some(period) }
            }
            "two/hook-identity-email-verified" => Event::Changed(vec![user]),
            other => panic!("{other} has no expected action"),
        };
        assert_eq!(event, expected, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}
