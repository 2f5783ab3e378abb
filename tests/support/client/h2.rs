//! HTTP/2 with prior knowledge.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{handshake, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::request::Request;
use super::response::{pairs, Response};
use crate::net::ToAddr;
use crate::runtime::runtime;
use crate::wait::DEADLINE;

/// An HTTP/2 connection. Requests over it run side by side.
pub struct H2 {
    sender: SendRequest<Full<Bytes>>,
    connection: Arc<OpenUntilDropped>,
}

impl fmt::Debug for H2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct OpenUntilDropped(AbortHandle);

impl Drop for OpenUntilDropped {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl H2 {
    #[track_caller]
    pub fn open(to: &impl ToAddr) -> Self {
        Self::try_open(to).unwrap_or_else(|error| panic!("no HTTP/2 connection: {error:?}"))
    }

    pub fn try_open(to: &impl ToAddr) -> io::Result<Self> {
        let addr = to.to_addr();
        let (sender, connection) = runtime().block_on(async {
            timeout(DEADLINE, async {
                let stream = TcpStream::connect(addr).await?;
                // Small frames must not wait for acknowledgements.
                stream.set_nodelay(true)?;
                let io = TokioIo::new(stream);
                handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)
            })
            .await?
        })?;
        let task = runtime().spawn(async {
            // Errors of the connection appear as errors of each request.
            let _ = connection.await;
        });
        Ok(Self { sender, connection: Arc::new(OpenUntilDropped(task.abort_handle())) })
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        self.start(request).wait()
    }

    /// Sends a request and leaves the answer for later.
    #[track_caller]
    pub fn start(&self, request: &Request) -> H2Pending {
        let answering = runtime().spawn(self.answer(request));
        H2Pending { answering, _connection: self.connection.clone() }
    }

    /// The answer to a request. It is sent when this is polled first.
    #[track_caller]
    pub(super) fn answer(
        &self,
        request: &Request,
    ) -> impl Future<Output = io::Result<Response>> + Send + 'static {
        let mut sender = self.sender.clone();
        let body = Full::from(request.body.clone());
        let (message, deadline) = (request.message("http", body), request.deadline);
        async move {
            let answer = async { read(sender.send_request(message).await?).await };
            timeout(deadline, answer).await?.map_err(io::Error::other)
        }
    }
}

/// A request that was sent over HTTP/2. Dropped, its stream is reset.
#[derive(Debug)]
pub struct H2Pending {
    answering: JoinHandle<io::Result<Response>>,
    _connection: Arc<OpenUntilDropped>,
}

impl H2Pending {
    #[track_caller]
    pub fn wait(self) -> Response {
        self.try_wait().unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Waits for the answer or the error.
    pub fn try_wait(mut self) -> io::Result<Response> {
        runtime().block_on(&mut self.answering)?
    }
}

impl Drop for H2Pending {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn read(answer: hyper::Response<hyper::body::Incoming>) -> hyper::Result<Response> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(pairs).unwrap_or_default();
    Ok(Response {
        status: head.status.as_u16(),
        headers: pairs(&head.headers),
        body: body.to_bytes().into(),
        trailers,
    })
}
