//! Answers.

use http::HeaderMap;
use serde_json::Value;

use crate::recorded::{latin1, Recorded};

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// In order of arrival and as spelled.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Trailers of HTTP/2 and HTTP/3 only.
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Response {
    /// The first header of that name, whatever its case; bytes beyond ASCII as Latin-1.
    pub fn header(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// Every value of a header, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        values(&self.headers, name)
    }

    /// The identity headers of an answer of `authgear_verdict`, sorted, to compare in tests.
    pub fn identity(&self) -> Vec<(String, String)> {
        let found = self.headers.iter().filter(|(name, _)| name.starts_with("x-authgear-"));
        let mut found: Vec<_> = found
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        found.sort();
        found
    }

    pub fn trailer(&self, name: &str) -> Option<String> {
        values(&self.trailers, name).into_iter().next()
    }

    /// The body as text, what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The request as the [`Backend`](crate::Backend) recorded it.
    #[track_caller]
    pub fn echo(&self) -> Recorded {
        // A gRPC message has a prefix of five bytes; JSON begins with none of them.
        let json = if self.body.first() == Some(&0) { &self.body[5..] } else { &self.body };
        serde_json::from_slice(json)
            .ok()
            .and_then(|value| Recorded::from_json(&value))
            .unwrap_or_else(|| panic!("not a backend's echo: {} {}", self.status, self.text()))
    }
}

fn values(headers: &[(String, Vec<u8>)], name: &str) -> Vec<String> {
    let named = |(have, _): &&(String, Vec<u8>)| have.eq_ignore_ascii_case(name);
    headers.iter().filter(named).map(|(_, value)| latin1(value)).collect()
}

/// Headers as a [`Response`] has them.
pub(super) fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}
