//! Requests, sent byte for byte as the test specifies.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Request as Message;
use tokio_rustls::rustls::ClientConfig;

use super::h2::{H2Pending, H2};
use super::h3::{H3Pending, H3};
use super::http1::{Connection, Pending};
use super::response::Response;
use crate::net::ToAddr;
use crate::tls::Ca;
use crate::wait::DEADLINE;

/// A GET request; the methods of [`Request`] change it.
pub fn get(to: &impl ToAddr, target: &str) -> Request {
    Request {
        addr: to.to_addr(),
        method: "GET".to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        raw: None,
        from: None,
        tls: None,
        deadline: DEADLINE,
    }
}

/// A request and how to send it. Unless given, `Host` is the address and `Connection` is `close`
/// (but not on a [`Connection`]); `Content-Length` stands where there is a body.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) addr: SocketAddr,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) raw: Option<Vec<u8>>,
    pub(super) from: Option<IpAddr>,
    pub(super) tls: Option<Tls>,
    pub(super) deadline: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: String,
}

impl Request {
    /// Adds a header line, spelled as given (in lower case over HTTP/2 and HTTP/3).
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The value of the first header of this name that was added.
    pub fn header_value(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| std::str::from_utf8(value).expect("a text"))
    }

    /// Adds an Authorization header.
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// Adds a Cookie header of one cookie.
    pub fn cookie(self, name: &str, value: &str) -> Self {
        self.header("Cookie", format!("{name}={value}"))
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends these bytes and nothing else. The method still determines whether the answer has a
    /// body.
    pub fn raw(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.raw = Some(bytes.into());
        self
    }

    /// Connects from this address.
    pub fn from_addr(mut self, ip: &str) -> Self {
        self.from = Some(ip.parse().expect("a source address"));
        self
    }

    /// Connects with TLS to the server of this name, which must have its certificate from `ca`.
    pub fn tls(mut self, ca: &Ca, name: &str) -> Self {
        self.tls = Some(Tls { config: ca.client_config(), name: name.to_owned() });
        self
    }

    /// The deadline for connecting, for sending, and for the answer.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends it over a connection of its own. Panics when there is no answer.
    #[track_caller]
    pub fn send(&self) -> Response {
        self.start().wait()
    }

    /// Sends it over a connection of its own and leaves the answer for later.
    #[track_caller]
    pub fn start(&self) -> Pending {
        let mut connection = Connection::open_for(self);
        connection.write_unless_closed(&self.bytes(true));
        Pending::new(connection, &self.method)
    }

    /// Sends it and disconnects without waiting for an answer.
    #[track_caller]
    pub fn send_and_leave(&self) {
        self.start().leave();
    }

    /// Sends it over an HTTP/2 connection of its own (prior knowledge, no TLS).
    #[track_caller]
    pub fn send_h2(&self) -> Response {
        self.start_h2().wait()
    }

    #[track_caller]
    pub fn start_h2(&self) -> H2Pending {
        H2::open(&self.addr).start(self)
    }

    /// Sends it over an HTTP/3 connection of its own.
    #[track_caller]
    pub fn send_h3(&self) -> Response {
        self.start_h3().wait()
    }

    #[track_caller]
    pub fn start_h3(&self) -> H3Pending {
        H3::open_for(self).start(self)
    }

    /// The request for versions of HTTP that name the host in `:authority`.
    #[track_caller]
    pub(super) fn message<B>(&self, scheme: &str, body: B) -> Message<B> {
        let host = |(name, _): &&(String, Vec<u8>)| name.eq_ignore_ascii_case("host");
        let authority = match self.headers.iter().find(host) {
            Some((_, value)) => String::from_utf8_lossy(value).into_owned(),
            None => self.addr.to_string(),
        };
        let mut message = Message::builder()
            .method(self.method.as_str())
            .uri(format!("{scheme}://{authority}{}", self.target));
        for (name, value) in self.headers.iter().filter(|header| !host(header)) {
            message = message.header(name, value.as_slice());
        }
        message.body(body).expect("a request for HTTP/2 or HTTP/3")
    }

    /// The bytes of HTTP/1.1.
    pub(super) fn bytes(&self, close: bool) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        let unset =
            |name: &str| !self.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        if unset("host") {
            line("Host", self.addr.to_string().as_bytes());
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        if !self.body.is_empty() && unset("content-length") && unset("transfer-encoding") {
            line("Content-Length", self.body.len().to_string().as_bytes());
        }
        if close && unset("connection") {
            line("Connection", b"close");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}
