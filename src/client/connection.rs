//! A connection to Authgear that speaks HTTP/1.1.

use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::net::SocketAddr;

use authgear::exchange::answer::{AnswerError, AnswerReader, Fields};
use authgear::exchange::request::RequestHead;
use authgear::verdict::Unavailable;

use super::failure::Failure;
use crate::conf::project::Project;
use crate::conf::UpstreamServer;
use nginx::{self, Elapsed, SslContext, Stream, StreamError};

/// An answer.
pub(super) struct HttpResponse<T> {
    pub(super) status: u16,
    /// What the caller made of the fields.
    pub(super) head: T,
    pub(super) body: Vec<u8>,
}

/// A failed exchange. `answer_begun` is set if the server had sent anything by then.
pub(super) struct Broken {
    pub(super) failure: Failure,
    pub(super) answer_begun: bool,
}

/// An open connection. Dropping it closes it, in the middle of an exchange too.
pub(super) struct Connection {
    stream: Stream,
    answer: AnswerReader,
    /// True if the last request was sent as a whole.
    is_sent: bool,
    opened: Duration,
    idle_since: Duration,
    max_response_size: u64,
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
        let now = nginx::now();
        Ok(Self {
            stream,
            answer: AnswerReader::default(),
            is_sent: false,
            opened: now,
            idle_since: now,
            max_response_size: max_response_size as u64,
        })
    }

    /// Sends `request` and reads the answer, of which `read` gets status and fields. A body above
    /// `max_response_size` is an error. That of a 4xx may end early: the head decides.
    pub(super) async fn exchange<T>(
        &mut self,
        request: &RequestHead,
        read: impl FnOnce(u16, Fields<'_>) -> T,
    ) -> Result<HttpResponse<T>, Broken> {
        self.stream.set_idle(false);
        self.answer.start();
        self.try_exchange(request, read)
            .await
            .map_err(|failure| Broken { failure, answer_begun: self.answer.total() > 0 })
    }

    async fn try_exchange<T>(
        &mut self,
        request: &RequestHead,
        read: impl FnOnce(u16, Fields<'_>) -> T,
    ) -> Result<HttpResponse<T>, Failure> {
        self.send(request.as_bytes()).await?;
        let mut read = Some(read);
        let (status, head) = loop {
            let found =
                self.answer.head(|status, fields| (status, read.take().map(|f| f(status, fields))));
            match found {
                Ok(Some((status, Some(head)))) => break (status, head),
                Ok(_) if self.exceeded() => return Err(self.too_large()),
                Ok(_) => {}
                Err(error) => return Err(self.bad_answer(error)),
            }
            if self.receive().await? == 0 {
                return Err(self.closed());
            }
        };
        let mut body = Vec::new();
        // The head of a 4xx says all: the resolver is up and refuses.
        let head_decides = (400..500).contains(&status);
        let result = self.read_body(&mut body).await;
        match result {
            Err(_) if head_decides => {}
            result => result?,
        }
        Ok(HttpResponse { status, head, body })
    }

    async fn read_body(&mut self, body: &mut Vec<u8>) -> Result<(), Failure> {
        loop {
            if self.exceeded() {
                return Err(self.too_large());
            }
            if self.answer.body(body).map_err(|error| self.bad_answer(error))? {
                return Ok(());
            }
            if self.receive().await? == 0 {
                return self.answer.closed().map_err(|_| self.closed());
            }
        }
    }

    /// Sends `bytes`. Ends early if the answer begins before that.
    async fn send(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        self.is_sent = false;
        while !bytes.is_empty() {
            let (stream, answer) = (&self.stream, &mut self.answer);
            // `None` once the answer begins.
            let sent = poll_fn(|cx| match stream.poll_write(cx, bytes) {
                Poll::Ready(sent) => Poll::Ready(sent.map(Some)),
                Poll::Pending => {
                    let Poll::Ready(received) = stream.poll_read(cx, answer.space()) else {
                        return Poll::Pending;
                    };
                    Poll::Ready(received.map(|count| {
                        answer.received(count);
                        None
                    }))
                }
            });
            match sent.await {
                Ok(Some(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                Ok(None) => return Ok(()),
                // The server may have answered and closed the connection.
                Err(_) => return self.receive().await.map(drop),
            }
        }
        self.is_sent = true;
        Ok(())
    }

    /// Receives bytes of the answer: none at the end of the connection.
    async fn receive(&mut self) -> Result<usize, Failure> {
        let (stream, answer) = (&self.stream, &mut self.answer);
        let received = poll_fn(|cx| stream.poll_read(cx, answer.space())).await;
        let count = received.map_err(|error| self.failure(Unavailable::Closed, &error))?;
        self.answer.received(count);
        Ok(count)
    }

    fn exceeded(&self) -> bool {
        self.answer.total() > self.max_response_size
    }

    fn too_large(&self) -> Failure {
        let detail = format!("the answer exceeds {} bytes", self.max_response_size);
        Failure::new(Unavailable::TooLarge, detail)
    }

    fn bad_answer(&self, error: AnswerError) -> Failure {
        match self.exceeded() {
            true => self.too_large(),
            false => Failure::new(Unavailable::BadAnswer, error.to_string()),
        }
    }

    fn closed(&self) -> Failure {
        self.failure(Unavailable::Closed, &AnswerError::Truncated)
    }

    /// A failure with nginx's message, or that of `error`.
    fn failure(&self, why: Unavailable, error: &dyn core::error::Error) -> Failure {
        let detail = match self.stream.message() {
            message if message.is_empty() => error.to_string(),
            message => message,
        };
        Failure::new(why, detail)
    }

    /// Returns true if the last exchange left the connection fit for another.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_sent && self.answer.is_reusable()
    }

    /// Returns true if the connection may be used again: it is open, the server has sent nothing,
    /// and it is not older than `max_age`.
    pub(super) fn is_fresh(&self, now: Duration, max_age: Duration) -> bool {
        now.saturating_sub(self.opened) < max_age && self.stream.is_quiet()
    }

    /// Marks the connection as idle: nginx may close it when the server does, and when the worker
    /// shuts down.
    pub(super) fn rest(&mut self, now: Duration) {
        self.idle_since = now;
        self.answer.shrink();
        self.stream.set_idle(true);
    }

    /// When [`Self::rest`] was called.
    pub(super) fn idle_since(&self) -> Duration {
        self.idle_since
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
        failure = match nginx::timeout(project.connect_timeout, pin!(connection)).await {
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
