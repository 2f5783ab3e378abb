//! A connection to Redis.

use core::fmt;
use core::future::poll_fn;
use core::pin::pin;
use core::time::Duration;
use std::net::SocketAddr;

use authgear::fleet::reply::{BadReply, Replies, Reply, ServerInfo};
use authgear::fleet::request;

use crate::conf::fleet::{FleetServer, FleetSettings};
use crate::conf::UpstreamServer;
use nginx::{self, Elapsed, PeerAddress, Stream, StreamError};

/// Longest time of a connection to one address, and of a DNS query.
const CONNECT: Duration = Duration::from_secs(1);

/// Least time in which an answer is due.
const DUE: Duration = Duration::from_millis(500);

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
}

impl Link {
    /// Connects, and logs in. `name` is that of the connection in Redis' `CLIENT LIST`.
    pub(super) async fn open(settings: &FleetSettings, name: &str) -> Result<Self, LinkError> {
        let stream = connect(&settings.server).await?;
        stream.set_permanent();
        let due = settings.timeout.max(DUE);
        let mut link = Self { stream, replies: Replies::default(), due };
        let mut bytes = Vec::new();
        if let Some(login) = &settings.login {
            let user = login.user.as_deref().map(str::as_bytes);
            request::auth(&mut bytes, user, &login.password);
            link.ask(&bytes, Duration::ZERO).await?.ok()?;
            bytes.clear();
        }
        if settings.db > 0 {
            request::select(&mut bytes, settings.db);
            link.ask(&bytes, Duration::ZERO).await?.ok()?;
            bytes.clear();
        }
        request::set_name(&mut bytes, name);
        link.ask(&bytes, Duration::ZERO).await?.ok()?;
        Ok(link)
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
        const CHUNK: usize = 4096;
        loop {
            if let Some(reply) = self.replies.next_reply()? {
                return Ok(reply);
            }
            let mut chunk = [0; CHUNK];
            let received = poll_fn(|cx| self.stream.poll_read(cx, &mut chunk)).await;
            let count = received.map_err(|error| self.failed(&error))?;
            if count == 0 {
                return Err(LinkError::new("Redis closed the connection"));
            }
            self.replies.push(chunk.get(..count).unwrap_or_default())?;
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

async fn connect(server: &FleetServer) -> Result<Stream, LinkError> {
    let server = match server {
        FleetServer::Tcp(server) => server,
        FleetServer::Unix(path) => return open(PeerAddress::Unix(path.clone()), None).await,
    };
    let mut failure = LinkError::new("no address");
    for address in addresses(server).await? {
        match open(address.into(), Some(server)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn open(address: PeerAddress, server: Option<&UpstreamServer>) -> Result<Stream, LinkError> {
    let text = address.to_string();
    let opening = pin!(async {
        let stream = Stream::connect(address).await?;
        if let Some((server, tls)) = server.and_then(|server| Some((server, server.tls.as_ref()?)))
        {
            stream.handshake(tls, server.tls_name()).await?;
        }
        Ok::<_, LinkError>(stream)
    });
    let opened = nginx::timeout(CONNECT, opening).await;
    let opened = opened.unwrap_or_else(|Elapsed| Err(LinkError::new("connect timed out")));
    opened.map_err(|error| LinkError::new(format!("{error}, address: {text}")))
}

/// Addresses of the server, as the resolver's client finds them.
async fn addresses(server: &UpstreamServer) -> Result<Vec<SocketAddr>, LinkError> {
    let Some(name_servers) = server.name_servers() else {
        return Ok(server.addresses().to_vec());
    };
    let (host, port) = (server.url.host(), server.url.port());
    match name_servers.resolve(host, CONNECT).await {
        Ok(ips) => Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
        Err(_) if !server.addresses().is_empty() => Ok(server.addresses().to_vec()),
        Err(error) => {
            Err(LinkError::new(format!("\"{host}\" could not be resolved ({})", error.0)))
        }
    }
}
