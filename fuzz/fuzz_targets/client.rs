//! Headers that tell what kind of client is denied access.
#![no_main]

use authgear::denial::Client;
use authgear::identity::is_identity_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let parts: Vec<_> = data.split(|&byte| byte == b'\n').collect();
    let part = |n: usize| parts.get(n).copied();
    let client = Client {
        is_get: data.len() % 2 == 0,
        is_post: data.len() % 2 == 1,
        accept: part(0),
        content_type: part(1),
        fetch_dest: part(2),
        fetch_mode: part(3),
        upgrade: part(4),
    };
    assert!(!(client.is_grpc() && client.is_navigation()));
    client.prefers_json();
    for part in &parts {
        // However a server folds names, what it takes for one of ours is.
        let folded: Vec<u8> = part
            .iter()
            .map(|b| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' })
            .collect();
        if folded.starts_with(b"x-authgear-") && folded != b"x-authgear-body-signature" {
            assert!(is_identity_header(part));
        }
    }
});
