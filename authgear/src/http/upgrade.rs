//! Protocols of the `Upgrade` header (RFC 9110 section 7.8).

use thiserror::Error;

/// Longest name of a protocol, in bytes.
const LONGEST: usize = 64;

/// Error of [`check_protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The text is not a token, optionally with `/` and a version, of up to 64 bytes.
    #[error("must be a protocol, such as tcp or SPDY/3.1")]
    Syntax,
    /// The protocol is a version of HTTP.
    #[error(
        "is HTTP: through the tunnel a client could send any request and any x-authgear-* header"
    )]
    Http,
}

/// Checks the name of a protocol that a site lets clients change to.
///
/// # Errors
///
/// See [`ProtocolError`].
pub fn check_protocol(name: &str) -> Result<(), ProtocolError> {
    let parts: Vec<&str> = name.split('/').collect();
    let is_protocol =
        name.len() <= LONGEST && parts.len() <= 2 && parts.iter().all(|part| is_token(part));
    if !is_protocol {
        return Err(ProtocolError::Syntax);
    }
    let name = name.to_ascii_lowercase();
    // h2c and its drafts (h2c-14), and HTTP/2.0.
    if ["h2", "h3", "http"].iter().any(|http| name.starts_with(http)) {
        return Err(ProtocolError::Http);
    }
    Ok(())
}

/// Whether the value of a field is exactly this protocol. Letters may have any case, as in browsers
/// that send `WebSocket` and in servers that compare so.
pub fn is_same_protocol(value: &[u8], protocol: &str) -> bool {
    value.eq_ignore_ascii_case(protocol.as_bytes())
}

/// Whether `text` is a token (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_are_not_http_are_protocols() {
        for (name, expected) in [
            ("tcp", Ok(())),
            ("SPDY/3.1", Ok(())),
            ("websocket", Ok(())),
            ("", Err(ProtocolError::Syntax)),
            ("tcp,h2c", Err(ProtocolError::Syntax)),
            ("tcp udp", Err(ProtocolError::Syntax)),
            ("a/", Err(ProtocolError::Syntax)),
            ("a/1/2", Err(ProtocolError::Syntax)),
            ("h2c", Err(ProtocolError::Http)),
            ("H2C", Err(ProtocolError::Http)),
            ("h2c-14", Err(ProtocolError::Http)),
            ("HTTP/2.0", Err(ProtocolError::Http)),
        ] {
            assert_eq!(check_protocol(name), expected, "{name}");
        }
        assert_eq!(check_protocol(&"a".repeat(LONGEST)), Ok(()));
        assert_eq!(check_protocol(&"a".repeat(LONGEST + 1)), Err(ProtocolError::Syntax));
    }

    #[test]
    fn a_value_is_one_protocol_and_no_list() {
        for (value, expected) in [
            ("websocket", true),
            ("WebSocket", true),
            ("websocket, h2c", false),
            ("h2c, websocket", false),
            ("websocket,", false),
            ("websocket/13", false),
            ("", false),
        ] {
            assert_eq!(is_same_protocol(value.as_bytes(), "websocket"), expected, "{value}");
        }
    }
}
