//! How each kind of client is told that it is denied access.

/// What of a request tells what kind of client sends it: values of its headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'a> {
    /// Whether the method is GET.
    pub is_get: bool,
    /// Whether the method is POST.
    pub is_post: bool,
    /// `Accept`.
    pub accept: Option<&'a [u8]>,
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// `Sec-Fetch-Dest` (Fetch Metadata).
    pub fetch_dest: Option<&'a [u8]>,
    /// `Sec-Fetch-Mode` (Fetch Metadata).
    pub fetch_mode: Option<&'a [u8]>,
    /// `Upgrade`.
    pub upgrade: Option<&'a [u8]>,
}

impl Client<'_> {
    /// Whether this is a gRPC call, by its method and content type.
    pub fn is_grpc(&self) -> bool {
        if !self.is_post {
            return false;
        }
        let Some(rest) = self.content_type.and_then(|value| value.strip_prefix(GRPC)) else {
            return false;
        };
        matches!(rest.first(), None | Some(b'+' | b';'))
    }

    /// Whether a browser is about to show the answer in a window of its own: only there does it
    /// help to be sent to a login page.
    ///
    /// Browsers say so in Fetch Metadata; of those that do not, who takes HTML is believed.
    pub fn is_navigation(&self) -> bool {
        if !self.is_get || self.upgrade.is_some() {
            return false;
        }
        match (self.fetch_mode, self.fetch_dest) {
            (Some(mode), dest) => mode == b"navigate" && dest == Some(b"document"),
            (None, _) => self.quality(b"text/html") > 0,
        }
    }

    /// Whether JSON is named as better to take than HTML (RFC 9110 section 12.5.1).
    pub fn prefers_json(&self) -> bool {
        let json = self.quality(b"application/json").max(self.quality(b"application/problem+json"));
        json > self.quality(b"text/html")
    }

    /// The weight, in thousandths, of a media type that `Accept` names.
    pub(crate) fn quality(&self, media_type: &[u8]) -> u16 {
        let accept = self.accept.filter(|accept| accept.len() <= MAX_ACCEPT).unwrap_or_default();
        let ranges = accept.split(|&byte| byte == b',');
        let ranges = ranges.filter(|range| range.len() >= media_type.len());
        let weights = ranges.filter_map(|range| {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let named = parts.next()?.eq_ignore_ascii_case(media_type);
            named.then(|| parts.find_map(weight).unwrap_or(1000))
        });
        weights.max().unwrap_or(0)
    }
}

const GRPC: &[u8] = b"application/grpc";

/// Longest `Accept` that is read, in bytes. A longer one names no media type. Browsers send some
/// 130 bytes.
const MAX_ACCEPT: usize = 1024;

/// Longest weight that is read, in bytes. RFC 9110 section 12.4.2 allows 5; programs print more.
const MAX_WEIGHT: usize = 24;

/// The weight of a parameter `q=...`; of one that makes no sense, 0.
fn weight(parameter: &[u8]) -> Option<u16> {
    let value = parameter.strip_prefix(b"q=").or(parameter.strip_prefix(b"Q="))?;
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= MAX_WEIGHT);
    let value = value.and_then(|value| value.parse::<f32>().ok());
    // The cast saturates.
    Some((value.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0) * 1000.0) as u16)
}

/// The `grpc-status` for a status of HTTP: `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNAVAILABLE`.
pub const fn grpc_status(status: u16) -> &'static str {
    match status {
        401 => "16",
        403 => "7",
        _ => "14",
    }
}

/// A body of type `application/problem+json` (RFC 9457). `reason` is a word.
pub fn problem(status: u16, reason: &str) -> String {
    let title = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        _ => "Service Unavailable",
    };
    format!("{{\"title\":\"{title}\",\"status\":{status},\"reason\":\"{reason}\"}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_calls() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;a=b", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let client =
                Client { is_post: true, content_type: Some(value.as_bytes()), ..Client::default() };
            assert_eq!(client.is_grpc(), expected, "{value}");
            assert!(!Client { is_post: false, ..client }.is_grpc());
        }
        assert!(!Client::default().is_grpc());
    }

    #[test]
    fn navigations() {
        const HTML: Option<&[u8]> = Some(b"text/html,application/xhtml+xml,*/*;q=0.8");
        let browser = Client { is_get: true, accept: HTML, ..Client::default() };
        let fetch = |mode: &'static [u8], dest: &'static [u8]| Client {
            fetch_mode: Some(mode),
            fetch_dest: Some(dest),
            ..browser
        };
        for (client, expected, what) in [
            (browser, true, "an old browser"),
            (fetch(b"navigate", b"document"), true, "a browser"),
            (fetch(b"navigate", b"iframe"), false, "a frame"),
            (fetch(b"cors", b"empty"), false, "fetch()"),
            (fetch(b"no-cors", b"image"), false, "an image"),
            (fetch(b"websocket", b"websocket"), false, "a WebSocket"),
            (Client { is_get: false, ..browser }, false, "a form"),
            (Client { upgrade: Some(b"websocket"), ..browser }, false, "an upgrade"),
            (Client { accept: Some(b"*/*"), ..browser }, false, "curl"),
            (Client { accept: Some(b"text/html;q=0"), ..browser }, false, "no HTML, please"),
            (Client { accept: None, ..browser }, false, "nothing said"),
        ] {
            assert_eq!(client.is_navigation(), expected, "{what}");
        }
    }

    #[test]
    fn json() {
        for (accept, expected) in [
            ("application/json", true),
            ("APPLICATION/JSON", true),
            ("application/problem+json", true),
            ("application/json, text/plain, */*", true),
            ("application/json;q=0.9, text/html;q=0.8", true),
            ("application/json;q=0.8, text/html;q=0.9", false),
            ("application/json;q=0.5, text/html", false),
            ("application/json, text/html", false),
            ("application/json;q=0", false),
            ("application/json;q=x", false),
            ("application/json;q=0.30000000000000004", true),
            ("application/json;q=0.1234567890123456789012", true),
            ("application/json;q=0.12345678901234567890123", false),
            ("text/html", false),
            ("*/*", false),
            ("", false),
        ] {
            let client = Client { accept: Some(accept.as_bytes()), ..Client::default() };
            assert_eq!(client.prefers_json(), expected, "{accept}");
        }
    }

    #[test]
    fn an_accept_over_the_cap_names_nothing() {
        let accept = |len: usize| [b"application/json", &*vec![b','; len - 16]].concat();
        for (len, expected) in [(MAX_ACCEPT, true), (MAX_ACCEPT + 1, false)] {
            let client = Client { accept: Some(&accept(len)), ..Client::default() };
            assert_eq!(client.prefers_json(), expected, "{len}");
        }
    }

    #[test]
    fn problems() {
        let expected = "{\"title\":\"Forbidden\",\"status\":403,\"reason\":\"role_missing\"}\n";
        assert_eq!(problem(403, "role_missing"), expected);
        assert_eq!([401, 403, 503].map(grpc_status), ["16", "7", "14"]);
    }
}
