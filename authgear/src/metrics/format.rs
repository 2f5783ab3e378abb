//! Choice of the report's format.

use crate::http::negotiation::ClientHeaders;

/// Format of a [`Report`](super::Report).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For programs.
    Json,
    /// For Prometheus.
    Prometheus,
    /// For people.
    Html,
}

/// Media types that Prometheus names in `Accept`.
const OF_PROMETHEUS: [&[u8]; 2] = [b"application/openmetrics-text", b"text/plain"];

impl Format {
    /// Returns the format named in the query (`format=`), otherwise the one that `Accept` prefers, or
    /// JSON without a preference, as from `curl`. `None` if the query names an unknown format.
    pub fn choose(query: &[u8], accept: Option<&[u8]>) -> Option<Self> {
        let mut pairs = query.split(|&byte| byte == b'&');
        match pairs.find_map(|pair| pair.strip_prefix(b"format=")) {
            Some(b"json") => return Some(Self::Json),
            Some(b"prometheus") => return Some(Self::Prometheus),
            Some(b"html") => return Some(Self::Html),
            Some(_) => return None,
            None => {}
        }
        let client = ClientHeaders { accept, ..ClientHeaders::default() };
        let json = client.quality(b"application/json");
        let html = client.quality(b"text/html");
        let prometheus = OF_PROMETHEUS.iter().map(|name| client.quality(name)).max().unwrap_or(0);
        let best = json.max(html).max(prometheus);
        Some(match best {
            0 => Self::Json,
            best if best == html => Self::Html,
            best if best == json => Self::Json,
            _ => Self::Prometheus,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_decides_before_accept_and_json_is_the_default() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                          version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (query, accept, expected) in [
            ("", None, Some(Format::Json)),
            ("", Some("*/*"), Some(Format::Json)),
            ("", Some(browser), Some(Format::Html)),
            ("", Some(prometheus), Some(Format::Prometheus)),
            ("", Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Some(Format::Prometheus)),
            ("", Some("application/json"), Some(Format::Json)),
            ("", Some("application/json;q=0.5, text/plain"), Some(Format::Prometheus)),
            ("", Some("text/plain, application/json"), Some(Format::Json)),
            ("format=json", Some(browser), Some(Format::Json)),
            ("format=prometheus", None, Some(Format::Prometheus)),
            ("a=1&format=html", Some("*/*"), Some(Format::Html)),
            ("format=xml", Some(browser), None),
            ("format=", None, None),
            ("reformat=json", Some(browser), Some(Format::Html)),
        ] {
            let format = Format::choose(query.as_bytes(), accept.map(str::as_bytes));
            assert_eq!(format, expected, "{query} {accept:?}");
        }
    }
}
