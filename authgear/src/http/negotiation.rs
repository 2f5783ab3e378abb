//! Content negotiation for denials: the kind of client, and the answer that it understands.

/// Method and header values of a request that show its kind of client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientHeaders<'a> {
    /// Whether the method is GET.
    pub is_get: bool,
    /// Whether the method is POST.
    pub is_post: bool,
    /// Whether the version is HTTP/2 or later.
    pub is_http2_or_later: bool,
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

impl ClientHeaders<'_> {
    /// Whether this is a gRPC call, by its method and content type. gRPC needs HTTP/2 or 3.
    pub fn is_grpc(&self) -> bool {
        if !self.is_post || !self.is_http2_or_later {
            return false;
        }
        let Some(rest) = self.content_type.and_then(|value| value.strip_prefix(GRPC)) else {
            return false;
        };
        matches!(rest.first(), None | Some(b'+' | b';'))
    }

    /// Whether a browser will show the response as a page of its own. Only then does a redirect to a
    /// login page help.
    ///
    /// Browsers send Fetch Metadata. A navigation has the mode `navigate`, and the destination
    /// `document`, or `empty` if a service worker passes it on. In a frame, `embed` or `object` a
    /// login page would not work: login pages forbid frames, and browsers withhold cookies there.
    /// Without these headers, `text/html` in `Accept` counts.
    pub fn is_navigation(&self) -> bool {
        if !self.is_get || self.upgrade.is_some() {
            return false;
        }
        match (self.fetch_mode, self.fetch_dest) {
            (Some(b"navigate"), Some(dest)) => matches!(dest, b"document" | b"empty"),
            (Some(b"navigate") | None, None) => self.quality(b"text/html") > 0,
            (None, Some(dest)) => dest == b"document",
            (Some(_), _) => false,
        }
    }

    /// Whether `Accept` gives JSON a higher weight than HTML (RFC 9110 section 12.5.1). JSON is
    /// `application/json` and every type that ends with `+json` (RFC 6839).
    pub fn prefers_json(&self) -> bool {
        let json = self.highest_quality(|media_type| {
            media_type.eq_ignore_ascii_case(b"application/json")
                || media_type
                    .last_chunk::<5>()
                    .is_some_and(|end| end.eq_ignore_ascii_case(b"+json"))
        });
        json > self.quality(b"text/html")
    }

    /// Returns the weight of a media type in `Accept`, in thousandths; 0 if not named. Wildcards
    /// do not count.
    pub(crate) fn quality(&self, media_type: &[u8]) -> u16 {
        self.highest_quality(|named| named.eq_ignore_ascii_case(media_type))
    }

    fn highest_quality(&self, wanted: impl Fn(&[u8]) -> bool) -> u16 {
        let accept = self.accept.filter(|accept| accept.len() <= MAX_ACCEPT).unwrap_or_default();
        let weights = accept.split(|&byte| byte == b',').filter_map(|range| {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            wanted(parts.next()?).then(|| parts.find_map(weight).unwrap_or(1000))
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

/// Returns the weight of a parameter `q=...`; 0 for an invalid number.
fn weight(parameter: &[u8]) -> Option<u16> {
    let value = parameter.strip_prefix(b"q=").or(parameter.strip_prefix(b"Q="))?;
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= MAX_WEIGHT);
    let value = value.and_then(|value| value.parse::<f32>().ok());
    // The cast saturates.
    Some((value.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0) * 1000.0) as u16)
}

/// Returns the `grpc-status` for an HTTP status: `UNAUTHENTICATED`, `PERMISSION_DENIED`,
/// `RESOURCE_EXHAUSTED`, `UNAVAILABLE`.
pub const fn grpc_status(status: u16) -> &'static str {
    match status {
        401 => "16",
        403 => "7",
        429 => "8",
        _ => "14",
    }
}

/// Builds a body of type `application/problem+json` (RFC 9457). `reason` must need no JSON escapes.
pub fn problem(status: u16, reason: &str) -> String {
    let title = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        429 => "Too Many Requests",
        _ => "Service Unavailable",
    };
    format!("{{\"title\":\"{title}\",\"status\":{status},\"reason\":\"{reason}\"}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_posts_of_grpc_content_types_are_grpc_calls() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;a=b", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let client = ClientHeaders {
                is_post: true,
                is_http2_or_later: true,
                content_type: Some(value.as_bytes()),
                ..ClientHeaders::default()
            };
            assert_eq!(client.is_grpc(), expected, "{value}");
            assert!(!ClientHeaders { is_post: false, ..client }.is_grpc());
            assert!(!ClientHeaders { is_http2_or_later: false, ..client }.is_grpc());
        }
        assert!(!ClientHeaders::default().is_grpc());
    }

    #[test]
    fn only_pages_loaded_by_browsers_are_navigations() {
        const HTML: Option<&[u8]> = Some(b"text/html,application/xhtml+xml,*/*;q=0.8");
        let browser = ClientHeaders { is_get: true, accept: HTML, ..ClientHeaders::default() };
        let fetch = |mode: &'static [u8], dest: &'static [u8]| ClientHeaders {
            fetch_mode: Some(mode),
            fetch_dest: Some(dest),
            ..browser
        };
        for (client, expected, kind) in [
            (browser, true, "an old browser"),
            (fetch(b"navigate", b"document"), true, "a browser"),
            (fetch(b"navigate", b"empty"), true, "a service worker that passes a navigation on"),
            (fetch(b"navigate", b"iframe"), false, "a frame"),
            (fetch(b"navigate", b"frame"), false, "a frame of a frameset"),
            (fetch(b"navigate", b"embed"), false, "an embed"),
            (fetch(b"navigate", b"object"), false, "an object"),
            (fetch(b"same-origin", b"empty"), false, "fetch() of the same origin"),
            (ClientHeaders { fetch_dest: None, ..fetch(b"navigate", b"") }, true, "no destination"),
            (ClientHeaders { fetch_mode: None, ..fetch(b"", b"iframe") }, false, "no mode"),
            (fetch(b"cors", b"empty"), false, "fetch()"),
            (fetch(b"no-cors", b"image"), false, "an image"),
            (fetch(b"websocket", b"websocket"), false, "a WebSocket"),
            (ClientHeaders { is_get: false, ..browser }, false, "a form"),
            (ClientHeaders { upgrade: Some(b"websocket"), ..browser }, false, "an upgrade"),
            (ClientHeaders { accept: Some(b"*/*"), ..browser }, false, "curl"),
            (ClientHeaders { accept: Some(b"text/html;q=0"), ..browser }, false, "HTML refused"),
            (ClientHeaders { accept: None, ..browser }, false, "no Accept header"),
        ] {
            assert_eq!(client.is_navigation(), expected, "{kind}");
        }
    }

    #[test]
    fn json_is_preferred_only_when_accept_ranks_it_above_html() {
        for (accept, expected) in [
            ("application/json", true),
            ("APPLICATION/JSON", true),
            ("application/problem+json", true),
            ("application/json, text/plain, */*", true),
            ("application/vnd.api+json", true),
            ("application/hal+JSON;profile=x, */*", true),
            ("application/vnd.api+json;q=0.8, text/html;q=0.9", false),
            ("application/ld+json;q=0", false),
            ("application/vnd.json", false),
            ("+json", true),
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
            let client =
                ClientHeaders { accept: Some(accept.as_bytes()), ..ClientHeaders::default() };
            assert_eq!(client.prefers_json(), expected, "{accept}");
        }
    }

    #[test]
    fn an_accept_over_the_cap_names_nothing() {
        let accept = |len: usize| [b"application/json", &*vec![b','; len - 16]].concat();
        for (len, expected) in [(MAX_ACCEPT, true), (MAX_ACCEPT + 1, false)] {
            let client = ClientHeaders { accept: Some(&accept(len)), ..ClientHeaders::default() };
            assert_eq!(client.prefers_json(), expected, "{len}");
        }
    }

    #[test]
    fn problem_bodies_and_grpc_statuses_match_the_http_status() {
        let expected = "{\"title\":\"Forbidden\",\"status\":403,\"reason\":\"role_missing\"}\n";
        assert_eq!(problem(403, "role_missing"), expected);
        assert_eq!([401, 403, 429, 503].map(grpc_status), ["16", "7", "8", "14"]);
    }
}
