//! A connection to Authgear that speaks HTTP/1.1, by hyper.

use core::future::poll_fn;
use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;

use authgear::verdict::Unavailable;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::client::conn::http1;

use super::failure::Failure;
use crate::conf::project::Project;
use crate::conf::UpstreamServer;
use nginx::{self, Elapsed, SslContext, Stream, StreamControl, StreamError};

/// A response.
pub(super) struct HttpResponse {
    /// Whether the whole body was received.
    pub(super) is_complete: bool,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// A failed exchange. `answer_begun` is set if the server had sent anything by then.
pub(super) struct Broken {
    pub(super) failure: Failure,
    pub(super) answer_begun: bool,
}

/// An open connection. Dropping it closes it, in the middle of an exchange too.
pub(super) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    control: StreamControl,
    opened: Duration,
    idle_since: Duration,
    max_response_size: usize,
}

impl Connection {
    /// Sets up HTTP/1.1 over `stream`, after the TLS handshake if `tls` is set.
    pub(super) async fn open(
        stream: Stream,
        tls: Option<(&SslContext, &str)>,
        max_response_size: usize,
    ) -> Result<Self, Failure> {
        if let Some((context, name)) = tls {
            stream.handshake(context, name).await?;
        }
        let control = stream.control();
        let (sender, driver) = http1::Builder::new()
            // Above the module's cap, so that the error for a large response is the module's.
            .max_buf_size(max_response_size + 1024)
            .handshake(stream)
            .await
            .map_err(|error| Failure::new(Unavailable::Internal, error.to_string()))?;
        nginx::spawn(async move {
            // The exchange that waits for a response gets the error too.
            let _ = driver.await;
        });
        let now = nginx::now();
        Ok(Self { sender, control, opened: now, idle_since: now, max_response_size })
    }

    /// Sends `request` and reads the response. A body above `max_response_size` is an error. That
    /// of a 4xx may end early: the head decides, and `is_complete` is false.
    pub(super) async fn exchange(&mut self, request: &Request<()>) -> Result<HttpResponse, Broken> {
        self.control.set_idle(false);
        let before = self.control.received();
        self.try_exchange(request)
            .await
            .map_err(|failure| Broken { failure, answer_begun: self.control.received() != before })
    }

    async fn try_exchange(&mut self, request: &Request<()>) -> Result<HttpResponse, Failure> {
        let before = self.control.received();
        self.sender.ready().await.map_err(|error| self.failure(&error, before))?;
        let (head, ()) = request.clone().into_parts();
        let request = Request::from_parts(head, Empty::new());
        let response = self.sender.send_request(request).await;
        let (head, mut frames) =
            response.map_err(|error| self.failure(&error, before))?.into_parts();
        let mut body = Vec::new();
        let mut is_complete = true;
        // The head of a 4xx says all: the resolver is up and refuses.
        let head_decides = head.status.is_client_error();
        loop {
            if head_decides && self.exceeded(before) {
                is_complete = false;
                break;
            }
            if self.exceeded(before) {
                let detail = format!("the answer exceeds {} bytes", self.max_response_size);
                return Err(Failure::new(Unavailable::TooLarge, detail));
            }
            match poll_fn(|cx| Pin::new(&mut frames).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    body.extend_from_slice(frame.data_ref().map_or(&[], |data| data))
                }
                Some(Err(_)) if head_decides => {
                    is_complete = false;
                    break;
                }
                Some(Err(error)) => return Err(self.failure(&error, before)),
                None => break,
            }
        }
        Ok(HttpResponse { is_complete, status: head.status, headers: head.headers, body })
    }

    fn exceeded(&self, before: u64) -> bool {
        self.control.received() - before > self.max_response_size as u64
    }

    fn failure(&self, error: &hyper::Error, before: u64) -> Failure {
        let why = if self.exceeded(before) {
            Unavailable::TooLarge
        } else if error.is_parse() || is_bad_body(error) {
            Unavailable::BadAnswer
        } else {
            Unavailable::Closed
        };
        let detail = match self.control.message() {
            message if message.is_empty() => error.to_string(),
            message => message,
        };
        Failure::new(why, detail)
    }

    /// Whether the connection may be used again: it is open, and not older than `max_age`.
    pub(super) fn is_fresh(&self, now: Duration, max_age: Duration) -> bool {
        !self.sender.is_closed() && now.saturating_sub(self.opened) < max_age
    }

    /// Marks the connection as idle; nginx may close it when the worker shuts down.
    pub(super) fn rest(&mut self, now: Duration) {
        self.idle_since = now;
        self.control.set_idle(true);
    }

    /// When [`Self::rest`] was called.
    pub(super) fn idle_since(&self) -> Duration {
        self.idle_since
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.control.close();
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Connect(detail) => Self::new(Unavailable::Connect, detail),
            StreamError::Tls(detail) => Self::new(Unavailable::Tls, detail),
            StreamError::Local(detail) => Self::new(Unavailable::Internal, detail),
        }
    }
}

/// Whether the framing of the body is invalid, which hyper reports as an I/O error.
fn is_bad_body(error: &hyper::Error) -> bool {
    let source = core::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(|error| {
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
    })
}

/// Connects to `server`; responses may have `size` bytes.
pub(super) async fn connect(
    project: &Project,
    server: &UpstreamServer,
    size: usize,
) -> Result<Connection, Failure> {
    let tls = server.tls.as_deref().map(|context| (context, server.tls_name()));
    let mut failure = Failure::new(Unavailable::Dns, "no address");
    for address in addresses(project, server).await? {
        let connection = async {
            let stream = Stream::connect(address).await?;
            Connection::open(stream, tls, size).await
        };
        failure = match nginx::timeout(project.connect_timeout, connection).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(failure)) => failure,
            Err(Elapsed) => Failure::new(Unavailable::Connect, "connect timed out"),
        };
        failure.detail = format!("{}, address: {address}", failure.detail);
    }
    Err(failure)
}

/// Addresses of the server's host. With nginx's `resolver` the name is resolved for each connection,
/// and nginx caches the answer for its TTL. Without it, or if it fails, the addresses found while the
/// configuration was read are used.
async fn addresses(project: &Project, server: &UpstreamServer) -> Result<Vec<SocketAddr>, Failure> {
    let Some(name_servers) = server.name_servers() else {
        return Ok(server.addresses().to_vec());
    };
    let host = server.url.host();
    match name_servers.resolve(host, project.connect_timeout).await {
        Ok(ips) => {
            let port = server.url.port();
            Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        }
        // Name servers do not know /etc/hosts, which the system has read.
        Err(_) if !server.addresses().is_empty() => Ok(server.addresses().to_vec()),
        Err(error) => {
            let detail = format!("\"{host}\" could not be resolved ({})", error.0);
            Err(Failure::new(Unavailable::Dns, detail))
        }
    }
}
