//! W3C Trace Context and request ids, which connect a look-up with the client's request in traces
//! and logs.

/// Longest `traceparent` of a later version, in bytes. Version 00 has 55.
const MAX_PARENT: usize = 128;

/// Longest `tracestate`, in bytes: the minimum that must be propagated (Trace Context, section
/// 3.3.1.5).
const MAX_STATE: usize = 512;

/// Longest request id, in bytes. nginx's `$request_id` has 32.
const MAX_REQUEST_ID: usize = 128;

/// Whether a `traceparent` value is valid (W3C Trace Context, section 3.2). An invalid one is not
/// sent, nor is the `tracestate` next to it.
pub fn is_parent(value: &[u8]) -> bool {
    let hex = |part: &[u8], len: usize| {
        part.len() == len && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &[u8], len| hex(part, len) && part.iter().any(|byte| *byte != b'0');
    if value.len() > MAX_PARENT || !value.iter().all(u8::is_ascii_graphic) {
        return false;
    }
    let mut parts = value.splitn(5, |byte| *byte == b'-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, parent, flags) = (next(), next(), next(), next());
    let more = parts.next();
    hex(version, 2)
        && version != b"ff"
        && id(trace, 32)
        && id(parent, 16)
        && hex(flags, 2)
        // Later versions may append fields.
        && (more.is_none() || version != b"00")
}

/// Whether a `tracestate` value can be sent. The format of its members is up to the vendors.
pub fn is_state(value: &[u8]) -> bool {
    (1..=MAX_STATE).contains(&value.len()) && value.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Whether a value can be sent as a request id.
pub fn is_request_id(value: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_valid_traceparents_are_sent() {
        let long = format!("01-{}-{}", &PARENT[3..], "a".repeat(200));
        for (value, expected) in [
            (PARENT, true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more-of-it", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("", false),
            (&long, false),
            (&PARENT.to_uppercase(), false),
            (&PARENT[..54], false),
            (&format!("{PARENT}-more"), false),
            (&format!("{PARENT} "), false),
            (&format!("ff{}", &PARENT[2..]), false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false),
            ("00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01", false),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-a\r\nb", false),
        ] {
            assert_eq!(is_parent(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn states_and_request_ids_are_visible_ascii_within_their_caps() {
        assert!(is_state(b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"));
        assert!(is_state(&[b'a'; 512]) && !is_state(&[b'a'; 513]) && !is_state(b""));
        assert!(!is_state(b"a=\tb") && !is_state("a=\u{e9}".as_bytes()));
        assert!(is_request_id(b"4bf92f3577b34da6a3ce929d0e0e4736") && is_request_id(&[b'a'; 128]));
        assert!(!is_request_id(b"") && !is_request_id(b"a b") && !is_request_id(&[b'a'; 129]));
    }

    proptest! {
        #[test]
        fn accepted_values_are_valid_header_values(value in prop::collection::vec(any::<u8>(), 0..80)) {
            for is_good in [is_parent, is_state, is_request_id] {
                if is_good(&value) {
                    prop_assert!(http::HeaderValue::from_bytes(&value).is_ok());
                }
            }
        }
    }
}
