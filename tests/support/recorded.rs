//! Requests that the fakes received.

use std::sync::Arc;

use serde_json::{json, Value};

use crate::crypto::sha256;
use crate::wait::Watched;

/// One request as a fake received it. Bytes beyond ASCII stand as the Latin-1 characters of their
/// number, so that nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub method: String,
    pub target: String,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2.0`, or a gateway's `SERVER_PROTOCOL`.
    pub version: String,
    /// In order of arrival and as spelled; for FastCGI, uwsgi and SCGI the parameters.
    pub headers: Vec<(String, String)>,
    pub body_len: usize,
    pub body_sha256: String,
    /// The number of the fake's connection, counted from 1.
    pub connection: u64,
}

impl Recorded {
    pub(crate) fn new(method: &str, target: &str, version: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            headers: Vec::new(),
            body_len: 0,
            body_sha256: sha256(&[]),
            connection: 0,
        }
    }

    pub(crate) fn with_body(mut self, body: &[u8]) -> Self {
        self.body_len = body.len();
        self.body_sha256 = sha256(body);
        self
    }

    /// The first header or parameter of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every value of a header or parameter, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |(have, _): &&(String, String)| have.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value.as_str()).collect()
    }

    /// The identity headers that the backend got, names in lower case, sorted, to compare in tests.
    /// Parameters `HTTP_X_AUTHGEAR_*` count as the headers they came from.
    pub fn identity(&self) -> Vec<(String, String)> {
        let mut found: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| {
                let name = name.strip_prefix("HTTP_").unwrap_or(name);
                (name.to_ascii_lowercase().replace('_', "-"), value.clone())
            })
            .filter(|(name, _)| name.starts_with("x-authgear-"))
            .collect();
        found.sort();
        found
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        json!({
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "headers": self.headers,
            "body_len": self.body_len,
            "body_sha256": self.body_sha256,
            "connection": self.connection,
        })
        .to_string()
        .into_bytes()
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let headers = value["headers"].as_array()?.iter();
        Some(Self {
            method: text(&value["method"])?,
            target: text(&value["target"])?,
            version: text(&value["version"])?,
            headers: headers.map(|h| Some((text(&h[0])?, text(&h[1])?))).collect::<Option<_>>()?,
            body_len: value["body_len"].as_u64()?.try_into().ok()?,
            body_sha256: text(&value["body_sha256"])?,
            connection: value["connection"].as_u64()?,
        })
    }
}

pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The requests of one fake, shared with its connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Watched<Vec<Recorded>>>);

impl Log {
    pub(crate) fn push(&self, request: Recorded) {
        self.0.update(|log| log.push(request));
    }

    pub(crate) fn all(&self) -> Vec<Recorded> {
        self.0.read(Vec::clone)
    }

    pub(crate) fn take(&self) -> Vec<Recorded> {
        self.0.update(std::mem::take)
    }

    pub(crate) fn count(&self, counts: fn(&Recorded) -> bool) -> usize {
        self.0.read(|log| log.iter().filter(|request| counts(request)).count())
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, n: usize, counts: fn(&Recorded) -> bool) {
        let enough = |log: &Vec<Recorded>| log.iter().filter(|r| counts(r)).count() >= n;
        self.0.wait_until(&format!("{n} requests"), enough);
    }
}
