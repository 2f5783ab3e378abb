//! HTTP/3.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use h3::client::RequestStream;
use h3::error::{Code, StreamError};
use h3_quinn::{BidiStream, OpenStreams};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::rustls;

use super::request::{Request, Tls};
use super::response::{pairs, Response};
use crate::runtime::runtime;

type Sender = h3::client::SendRequest<OpenStreams, Bytes>;
type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

/// An HTTP/3 connection. Requests over it run side by side.
pub struct H3 {
    sender: Sender,
    connection: Arc<OpenUntilDropped>,
}

impl fmt::Debug for H3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H3").field("connection", &self.connection).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct OpenUntilDropped(quinn::Connection);

impl Drop for OpenUntilDropped {
    fn drop(&mut self) {
        let code = Code::H3_NO_ERROR.value().try_into().expect("a code of HTTP/3");
        self.0.close(code, b"");
    }
}

impl H3 {
    /// Opens a connection with the TLS and deadline of this request.
    #[track_caller]
    pub fn open_for(request: &Request) -> Self {
        let Tls { config, name } = request.tls.as_ref().expect("HTTP/3 has TLS");
        let connecting = connect(request.addr, config, name);
        let opening = runtime().block_on(async { timeout(request.deadline, connecting).await });
        let (sender, connection) = opening.expect("an HTTP/3 connection in time");
        Self { sender, connection: Arc::new(OpenUntilDropped(connection)) }
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        self.start(request).wait()
    }

    /// Sends a request and leaves the answer for later.
    #[track_caller]
    pub fn start(&self, request: &Request) -> H3Pending {
        self.begin(request, true)
    }

    /// Sends a request whose body is unfinished.
    #[track_caller]
    pub fn start_unfinished(&self, request: &Request) -> H3Pending {
        self.begin(request, false)
    }

    #[track_caller]
    fn begin(&self, request: &Request, whole: bool) -> H3Pending {
        let head = request.message("https", ());
        let body = Bytes::from(request.body.clone());
        let (mut sender, deadline) = (self.sender.clone(), request.deadline);
        let answering = runtime().spawn(async move {
            let answer = async {
                let mut stream = ResetWhenDropped(sender.send_request(head).await?);
                if !body.is_empty() {
                    stream.0.send_data(body).await?;
                }
                if whole {
                    stream.0.finish().await?;
                }
                read(&mut stream.0).await
            };
            timeout(deadline, answer).await.expect("an answer in time")
        });
        H3Pending { answering, _connection: self.connection.clone() }
    }

    /// Disconnects, even with requests in flight.
    pub fn leave(self) {}
}

async fn connect(
    addr: SocketAddr,
    config: &rustls::ClientConfig,
    name: &str,
) -> (Sender, quinn::Connection) {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let config = QuicClientConfig::try_from(config).expect("TLS 1.3");
    let any: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = Endpoint::client(SocketAddr::new(any, 0)).expect("a socket");
    let config = ClientConfig::new(Arc::new(config));
    let connecting = endpoint.connect_with(config, addr, name).expect("an address to connect to");
    let connection = connecting.await.expect("a QUIC connection");
    // Some versions of nginx take a frame of no known type at a request's end for a broken body.
    let mut builder = h3::client::builder();
    let opening = builder.send_grease(false).build(h3_quinn::Connection::new(connection.clone()));
    let (mut driver, sender) = opening.await.expect("an HTTP/3 connection");
    // Errors of the connection appear as errors of each request.
    runtime().spawn(async move { driver.wait_idle().await });
    (sender, connection)
}

/// Resets the stream, so that an abandoned request does not end as if complete. Quinn itself
/// signals that the answer is unwanted.
struct ResetWhenDropped(Stream);

impl Drop for ResetWhenDropped {
    fn drop(&mut self) {
        self.0.stop_stream(Code::H3_REQUEST_CANCELLED);
    }
}

/// A request that was sent over HTTP/3. Dropped, its stream is reset.
#[derive(Debug)]
pub struct H3Pending {
    answering: JoinHandle<Result<Response, StreamError>>,
    _connection: Arc<OpenUntilDropped>,
}

impl H3Pending {
    #[track_caller]
    pub fn wait(self) -> Response {
        self.try_wait().unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Waits for the answer or the error.
    pub fn try_wait(mut self) -> Result<Response, StreamError> {
        runtime().block_on(&mut self.answering).expect("an answer")
    }
}

impl Drop for H3Pending {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn read(stream: &mut Stream) -> Result<Response, StreamError> {
    let head = stream.recv_response().await?;
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let trailers = stream.recv_trailers().await?;
    Ok(Response {
        status: head.status().as_u16(),
        headers: pairs(head.headers()),
        body,
        trailers: trailers.as_ref().map(pairs).unwrap_or_default(),
    })
}
