//! A connection to Redis.

use authgear::fleet::reply::{BadReply, Replies, Reply, ServerInfo};
use authgear::fleet::request;
use core::fmt;
use core::future::poll_fn;
use core::pin::pin;
use core::time::Duration;

use crate::conf::fleet::FleetSettings;
use nginx::{self, Elapsed, Stream, StreamError};

/// Reason for which a connection failed.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The text is for the log.
    Failed(String),
    /// A reply is larger than may be.
    TooLarge,
}

impl LinkError {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        Self::Failed(detail.into())
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(detail) => f.write_str(detail),
            Self::TooLarge => BadReply::TooLarge.fmt(f),
        }
    }
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> Self {
        let (StreamError::Connect(detail) | StreamError::Tls(detail) | StreamError::Local(detail)) =
            error;
        Self::Failed(detail)
    }
}

impl From<BadReply> for LinkError {
    fn from(error: BadReply) -> Self {
        match error {
            BadReply::TooLarge => Self::TooLarge,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// A connection that is set up. Dropping it closes it.
pub(super) struct Link {
    stream: Stream,
    replies: Replies,
    due: Duration,
    /// Bytes that were received last. Clearing them for each answer would cost more than reading it.
    chunk: Box<[u8; CHUNK]>,
}

const CHUNK: usize = 4096;

impl Link {
    /// A link over an open connection, on which answers are due in `due`.
    pub(super) fn new(stream: Stream, due: Duration) -> Self {
        Self { stream, replies: Replies::default(), due, chunk: Box::new([0; CHUNK]) }
    }

    /// Logs in, chooses the database, and names the connection as Redis' `CLIENT LIST` has it.
    pub(super) async fn log_in(
        &mut self,
        settings: &FleetSettings,
        name: &str,
    ) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        if let Some(login) = &settings.login {
            let user = login.user.as_deref().map(str::as_bytes);
            request::auth(&mut bytes, user, &login.password);
            self.ask(&bytes, Duration::ZERO).await?.ok()?;
            bytes.clear();
        }
        if settings.db > 0 {
            request::select(&mut bytes, settings.db);
            self.ask(&bytes, Duration::ZERO).await?.ok()?;
            bytes.clear();
        }
        request::set_name(&mut bytes, name);
        self.ask(&bytes, Duration::ZERO).await?.ok()?;
        Ok(())
    }

    /// Sends a request and waits for one answer, which Redis may delay by `block`.
    pub(super) async fn ask(&mut self, bytes: &[u8], block: Duration) -> Result<Reply, LinkError> {
        let due = self.due + block;
        let exchange = pin!(async {
            self.send(bytes).await?;
            self.receive().await
        });
        nginx::timeout(due, exchange).await.unwrap_or_else(|Elapsed| Err(late()))
    }

    /// Sends a request.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.stream.poll_write(cx, bytes)).await;
            let sent = sent.map_err(|error| self.failed(&error))?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits for the next answer.
    pub(super) async fn receive(&mut self) -> Result<Reply, LinkError> {
        loop {
            if let Some(reply) = self.replies.next_reply()? {
                return Ok(reply);
            }
            let chunk = self.chunk.as_mut_slice();
            let received = poll_fn(|cx| self.stream.poll_read(cx, chunk)).await;
            let count = received.map_err(|error| self.failed(&error))?;
            if count == 0 {
                return Err(LinkError::new("Redis closed the connection"));
            }
            self.replies.push(self.chunk.get(..count).unwrap_or_default())?;
        }
    }

    /// Asks for the server, which must be usable.
    pub(super) async fn server(&mut self) -> Result<ServerInfo, LinkError> {
        let mut bytes = Vec::new();
        request::info(&mut bytes);
        let server = self.ask(&bytes, Duration::ZERO).await?.server()?;
        let usable = server.usable();
        usable.map_err(|error| LinkError::new(format!("the server {error}")))?;
        Ok(server)
    }

    /// Time in which an answer is due.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    fn failed(&self, error: &dyn core::error::Error) -> LinkError {
        LinkError::Failed(match self.stream.message() {
            message if message.is_empty() => error.to_string(),
            message => message,
        })
    }
}

/// The error for an answer that does not come.
pub(super) fn late() -> LinkError {
    LinkError::new("Redis does not answer in time")
}
