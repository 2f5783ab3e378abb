//! What parsers of bytes from outside cost: `usual` input beside the worst.
//!
//! `cargo bench -p authgear --bench input`. The throughput is per byte of input. nginx itself
//! spends about 0.6 ns on each byte of a header (1.7 GB/s) over HTTP/2, more over HTTP/1.1.

use authgear::credentials::{has_bearer_scheme, CookieNames, Credentials};
use authgear::http::negotiation::ClientHeaders;
use authgear::identity::is_identity_header;
use authgear::operations::purge_request::{is_form, PurgeForm};
use authgear::operations::webhook::{Event, Secret};
use authgear::resolver::set_cookie::SetCookies;
use authgear::resolver::ResolverAnswer;
use authgear::resolver::{self, trace_context as trace};
use authgear::token::{self, Algorithm, KeySet, Profile};
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use base64::Engine as _;
use divan::counter::BytesCount;
use divan::{black_box, Bencher};

/// Bytes that nginx takes in the header fields of a request: `large_client_header_buffers 4 8k`.
const HEADERS: usize = 28 * 1024;

const SECRET: &str = "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC";

fn main() {
    divan::main();
}

/// As many whole copies of `piece` as fit in `len` bytes.
fn filled(piece: &str, len: usize) -> String {
    piece.repeat(len / piece.len())
}

fn measure<T>(bencher: Bencher<'_, '_>, input: &str, read: impl Fn(&[u8]) -> T) {
    bencher.counter(BytesCount::of_str(input)).bench_local(|| read(black_box(input.as_bytes())));
}

/// `Cookie` fields. Beyond 3,000 pieces nothing is read, so the worst inputs have nearly as many.
mod cookies {
    use super::*;

    fn inputs() -> [(&'static str, String); 9] {
        [
            ("usual", format!("theme=dark; _ga=GA1.2.1.1; session=5e0f2b7c.{SECRET}; lang=en")),
            ("too_many_pieces", filled(";", HEADERS)),
            ("empty_pieces", filled(";", 2900)),
            ("short_pieces", filled("a;", 2 * 2900)),
            ("nearly_names", filled("session_;", 9 * 2900)),
            ("names", filled("session=\t;", 10 * 2800)),
            ("white_space", filled(" ", HEADERS)),
            ("one_long_value", format!("session={}", filled("\u{7f}", HEADERS))),
            ("names_and_space", filled("session        =\"\\\";", 19 * 1400)),
        ]
    }

    #[divan::bench(args = inputs().map(|(name, _)| name))]
    fn read(bencher: Bencher<'_, '_>, name: &str) {
        let names = CookieNames::default();
        measure(bencher, &input(name), |field| {
            Credentials::read(None, [field], &names).has_cookies()
        });
    }

    #[divan::bench(args = inputs().map(|(name, _)| name))]
    fn remove(bencher: Bencher<'_, '_>, name: &str) {
        let names = CookieNames::default();
        measure(bencher, &input(name), |field| names.remove_from(field));
    }

    #[divan::bench(args = ["usual", "names"])]
    fn find_session(bencher: Bencher<'_, '_>, name: &str) {
        let (names, field) = (CookieNames::default(), input(name));
        let credentials = Credentials::read(None, [field.as_bytes()], &names);
        bencher.bench_local(|| black_box(&credentials).has_session(&names));
    }

    fn input(name: &str) -> String {
        inputs().into_iter().find(|(own, _)| *own == name).expect("one of the inputs").1
    }
}

mod authorization {
    use super::*;

    #[divan::bench(args = ["usual", "long", "too_long", "white_space", "one_word"])]
    fn read(bencher: Bencher<'_, '_>, name: &str) {
        let names = CookieNames::default();
        measure(bencher, &input(name), |value| {
            Credentials::read(Some(value), [], &names).bearer().is_some()
        });
    }

    #[divan::bench(args = ["usual", "white_space", "one_word"])]
    fn scheme(bencher: Bencher<'_, '_>, name: &str) {
        measure(bencher, &input(name), has_bearer_scheme);
    }

    fn input(name: &str) -> String {
        match name {
            "usual" => format!("Bearer {SECRET}"),
            "long" => format!("Bearer {}", filled("a", 16 * 1000)),
            "too_long" => format!("Bearer {}", filled("\u{1}", HEADERS)),
            "white_space" => filled("\t", HEADERS),
            _ => filled("~", HEADERS),
        }
    }
}

mod identity_headers {
    use super::*;

    #[divan::bench(args = ["accept-language", "x-authgear-user-id", "x-authgear-body-signature"])]
    fn usual(bencher: Bencher<'_, '_>, name: &str) {
        measure(bencher, name, is_identity_header);
    }

    #[divan::bench]
    fn worst(bencher: Bencher<'_, '_>) {
        measure(bencher, &format!("x-authgear-{}", filled("a", HEADERS)), is_identity_header);
    }
}

mod trace_context {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[divan::bench]
    fn usual(bencher: Bencher<'_, '_>) {
        measure(bencher, PARENT, trace::is_parent);
    }

    #[divan::bench(args = [128, HEADERS])]
    fn worst(bencher: Bencher<'_, '_>, len: usize) {
        let parent = format!("01{}", &PARENT[2..]);
        let input = format!("{parent}{}", filled("-", len - parent.len()));
        measure(bencher, &input, |value| {
            trace::is_parent(value) | trace::is_state(value) | trace::is_request_id(value)
        });
    }
}

mod accept {
    use super::*;

    fn all(accept: &[u8]) -> bool {
        let client =
            ClientHeaders { is_get: true, accept: Some(accept), ..ClientHeaders::default() };
        client.prefers_json() | client.is_navigation()
    }

    #[divan::bench]
    fn usual(bencher: Bencher<'_, '_>) {
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        measure(bencher, accept, all);
    }

    #[divan::bench(args = [",", ";", "text/html,", "text/html;q=0.12345678901234567890,"])]
    fn worst(bencher: Bencher<'_, '_>, piece: &str) {
        measure(bencher, &filled(piece, HEADERS), all);
    }

    /// The longest value that is looked at.
    #[divan::bench(args = [",", "text/html,", "text/html;q=0.12345678901234567890,"])]
    fn worst_that_is_read(bencher: Bencher<'_, '_>, piece: &str) {
        measure(bencher, &filled(piece, 1024), all);
    }

    #[divan::bench]
    fn worst_weight(bencher: Bencher<'_, '_>) {
        measure(bencher, &format!("text/html;q=0.{}", filled("123456789", HEADERS)), all);
    }
}

mod purge_form {
    use super::*;

    #[divan::bench(args = ["user=5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f"])]
    fn usual(bencher: Bencher<'_, '_>, form: &str) {
        measure(bencher, form, |form| PurgeForm::read(b"", form).is_ok());
    }

    #[divan::bench(args = ["&", "%41", "+", "&user="])]
    fn worst(bencher: Bencher<'_, '_>, piece: &str) {
        let form = format!("user=a{}", filled(piece, HEADERS));
        measure(bencher, &form, |form| PurgeForm::read(b"", form).is_ok());
    }

    /// The longest form that is looked at.
    #[divan::bench(args = ["&", "%41"])]
    fn worst_that_is_read(bencher: Bencher<'_, '_>, piece: &str) {
        let form = format!("user=a{}", filled(piece, 4000));
        measure(bencher, &form, |form| PurgeForm::read(b"", form).is_ok());
    }

    #[divan::bench]
    fn worst_content_type(bencher: Bencher<'_, '_>) {
        measure(bencher, &filled(" ", HEADERS), is_form);
    }
}

mod webhook {
    use super::*;

    const MAX_BODY: usize = authgear::operations::webhook::MAX_BODY;

    fn secret() -> Secret {
        Secret::read(SECRET.as_bytes()).expect("a secret")
    }

    #[divan::bench(args = [500, MAX_BODY])]
    fn signature_is_wrong(bencher: Bencher<'_, '_>, len: usize) {
        let secret = secret();
        measure(bencher, &filled("a", len), |body| secret.verify(body, &[b'0'; 64]));
    }

    #[divan::bench]
    fn signature_is_none(bencher: Bencher<'_, '_>) {
        let secret = secret();
        measure(bencher, &filled("a", MAX_BODY), |body| secret.verify(body, b""));
    }

    #[divan::bench]
    fn usual(bencher: Bencher<'_, '_>) {
        let event = r#"{"type":"user.disabled","payload":{"user":{"id":"5e0f2b7c"}},"context":{"timestamp":1700000000}}"#;
        measure(bencher, event, |body| Event::read(body).is_ok());
    }

    /// Read after the signature was verified only.
    #[divan::bench(args = ["0,", "[0],", "{\"a\":0},", "\"\\u0061\","])]
    fn worst_event(bencher: Bencher<'_, '_>, piece: &str) {
        let event = format!("{{\"a\":[{}0]}}", filled(piece, MAX_BODY - 10));
        measure(bencher, &event, |body| Event::read(body).is_ok());
    }
}

/// Tokens that anybody can make: what is done before a signature is verified.
mod tokens {
    use super::*;

    fn keys() -> KeySet {
        let n = [&[0x80][..], &[1; 255]].concat();
        let jwks = format!(
            r#"{{"keys":[{{"kty":"RSA","kid":"a","alg":"RS256","e":"AQAB","n":"{}"}}]}}"#,
            BASE64URL.encode(n)
        );
        KeySet::parse(jwks.as_bytes(), &[Algorithm::RS256]).expect("a key set").0
    }

    fn verify(bencher: Bencher<'_, '_>, header: &str) {
        let profile = profile();
        let keys = keys();
        let header = BASE64URL.encode(header);
        assert!(header.len() <= token::MAX_HEADER);
        let token = format!("{header}.{}.AAAA", filled("A", 14_000));
        measure(bencher, &token, |token| token::verify(token, &keys, &profile, 0).is_ok());
    }

    #[divan::bench]
    fn usual_header(bencher: Bencher<'_, '_>) {
        verify(bencher, r#"{"alg":"RS256","kid":"b","typ":"at+jwt"}"#);
    }

    #[divan::bench]
    fn worst_header_of_members(bencher: Bencher<'_, '_>) {
        let members: Vec<_> = (0..80).map(|n| format!("\"a{n:02}\":0")).collect();
        verify(bencher, &format!("{{{}}}", members.join(",")));
    }

    #[divan::bench(args = ["0,", "[0],", "{\"a\":0},", "\"\\n\","])]
    fn worst_header_of_values(bencher: Bencher<'_, '_>, piece: &str) {
        verify(bencher, &format!("{{\"a\":[{}0]}}", filled(piece, 740)));
    }

    /// Neither the key nor the signature is anybody's.
    #[divan::bench]
    fn signature_is_wrong(bencher: Bencher<'_, '_>) {
        let signature = BASE64URL.encode([1; 256]);
        let header = BASE64URL.encode(r#"{"alg":"RS256","kid":"a","typ":"at+jwt"}"#);
        let token = format!("{header}.{}.{signature}", filled("A", 12_000));
        let profile = profile();
        let keys = keys();
        measure(bencher, &token, |token| token::verify(token, &keys, &profile, 0).is_ok());
    }

    fn profile() -> Profile {
        Profile {
            issuer: "https://a.test".into(),
            audiences: vec!["https://a.test".into()],
            algorithms: vec![Algorithm::RS256],
            leeway: 0,
            machine_tokens: false,
        }
    }

    #[divan::bench(args = ["0,", "[0],", "{\"a\":0},", "\"\\n\",", "[[[[[[[[0]]]]]]]],"])]
    fn worst_expiry(bencher: Bencher<'_, '_>, piece: &str) {
        let payload = format!("{{\"a\":[{}0]}}", filled(piece, 12_000));
        let token = format!("eyJ.{}.", BASE64URL.encode(payload));
        measure(bencher, &token, token::expires_at);
    }

    #[divan::bench]
    fn usual_expiry(bencher: Bencher<'_, '_>) {
        let payload = format!(r#"{{"iss":"https://a.test","exp":1700000000,"sub":"{SECRET}"}}"#);
        measure(bencher, &format!("eyJ.{}.", BASE64URL.encode(payload)), token::expires_at);
    }
}

mod resolver_answer {
    use super::*;

    #[divan::bench(args = ["session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly"])]
    fn usual_set_cookie(bencher: Bencher<'_, '_>, value: &str) {
        let names = CookieNames::default();
        measure(bencher, value, |value| SetCookies::read([value], &names).is_empty());
    }

    #[divan::bench(args = [";", "=", " ", "session"])]
    fn worst_set_cookie(bencher: Bencher<'_, '_>, piece: &str) {
        let names = CookieNames::default();
        let value = format!("session={}", filled(piece, HEADERS));
        measure(bencher, &value, |value| SetCookies::read([value], &names).is_empty());
    }

    /// 64 fields of an identity, each of a name of its own and 256 bytes.
    #[divan::bench]
    fn worst_head(bencher: Bencher<'_, '_>) {
        let value = "a".repeat(256);
        let mut fields = vec![
            ("x-authgear-session-valid".to_owned(), "true"),
            ("x-authgear-user-id".to_owned(), "a"),
        ];
        fields.extend((0..62).map(|n| (format!("x-authgear-{n:060}"), value.as_str())));
        let names = CookieNames::default();
        let bytes = 62 * (71 + 256);
        bencher.counter(BytesCount::new(bytes as usize)).bench_local(|| {
            let fields = black_box(&fields).iter();
            let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            ResolverAnswer::read(200, fields, &names)
        });
    }

    #[divan::bench]
    fn worst_client(bencher: Bencher<'_, '_>) {
        let endpoint = resolver::endpoint::Endpoint::parse("https://a.test").expect("an endpoint");
        let prefix = resolver::prefix(&endpoint, "/resolve").expect("a path");
        let none = Credentials::default();
        measure(bencher, &filled("1", HEADERS), |value| {
            let client = resolver::ClientInfo {
                address: Some(value),
                user_agent: Some(value),
                trace: (Some(value), Some(value)),
                request_id: Some(value),
            };
            resolver::request(&prefix, &none, &client).is_some()
        });
    }
}

/// Whether a login page leads back: of a request that is denied.
mod redirects {
    use super::*;
    use authgear::http::redirect::leads_back;

    #[divan::bench(args = ["/", "a/", "%41", "../"])]
    fn worst(bencher: Bencher<'_, '_>, piece: &str) {
        let uri = format!("/{}", filled(piece, 8000));
        measure(bencher, &uri, |uri| leads_back(b"https://a.test/login", b"a.test", uri, uri));
    }
}
