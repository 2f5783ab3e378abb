//! Request headers: the kind of client, and recognition of identity headers.
#![no_main]

use authgear::http::negotiation::ClientHeaders;
use authgear::identity::is_identity_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let parts: Vec<_> = data.split(|&byte| byte == b'\n').collect();
    let part = |n: usize| parts.get(n).copied();
    let client = ClientHeaders {
        is_get: data.len() % 2 == 0,
        is_post: data.len() % 2 == 1,
        is_http2_or_later: data.len() % 3 == 0,
        accept: part(0),
        content_type: part(1),
        fetch_dest: part(2),
        fetch_mode: part(3),
        upgrade: part(4),
    };
    assert!(!(client.is_grpc() && client.is_navigation()));
    client.prefers_json();
    for part in &parts {
        // Every name that a folding server reads as an identity header must be recognised.
        let folded: Vec<u8> = part
            .iter()
            .map(|b| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' })
            .collect();
        if folded.starts_with(b"x-authgear-") && folded != b"x-authgear-body-signature" {
            assert!(is_identity_header(part));
        }
    }
});
