//! HTTP/1.1 over the test's own socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use super::request::{get, Request, Tls};
use super::response::Response;
use crate::http1::{body, framing, parse_response, Framing};
use crate::net::ToAddr;
use crate::runtime::runtime;

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// A connection for several requests in sequence.
pub struct Connection {
    stream: Box<dyn ReadWrite>,
    tcp: TcpStream,
    /// The deadline of each operation.
    deadline: Duration,
    end: Instant,
    buffer: Vec<u8>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl Connection {
    #[track_caller]
    pub fn open(to: &impl ToAddr) -> Self {
        Self::open_for(&get(to, "/"))
    }

    /// Opens a connection with the source address, TLS and deadline of this request.
    #[track_caller]
    pub fn open_for(request: &Request) -> Self {
        let connected = Self::try_open_for(request);
        connected.unwrap_or_else(|error| panic!("connect to {}: {error}", request.addr))
    }

    pub(super) fn try_open_for(request: &Request) -> io::Result<Self> {
        let connecting = runtime().block_on(async {
            let v4 = request.addr.is_ipv4();
            let socket = if v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(ip) = request.from {
                socket.bind(SocketAddr::new(ip, 0))?;
            }
            let connecting = socket.connect(request.addr);
            tokio::time::timeout(request.deadline, connecting).await?
        });
        let tcp = connecting?.into_std()?;
        tcp.set_nonblocking(false)?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn ReadWrite> = match &request.tls {
            None => Box::new(tcp.try_clone()?),
            Some(Tls { config, name }) => {
                let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
                let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(tls, tcp.try_clone()?))
            }
        };
        let deadline = request.deadline;
        Ok(Self { stream, tcp, deadline, end: Instant::now() + deadline, buffer: Vec::new() })
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn send(&mut self, request: &Request) -> Response {
        self.write(&request.bytes(false));
        self.read_response(&request.method)
    }

    /// Sends a request and reads the answer or the error.
    pub fn try_send(&mut self, request: &Request) -> io::Result<Response> {
        self.try_write(&request.bytes(false))?;
        self.try_read_response(&request.method)
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let written = self.try_write(bytes);
        written.unwrap_or_else(|error| panic!("write: {error}"));
    }

    /// A server that answers before it has read everything may close: reading shows it.
    pub(super) fn write_unless_closed(&mut self, bytes: &[u8]) {
        let _ = self.try_write(bytes);
    }

    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.restart_deadline();
        self.tcp.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads the answer to a request of that method.
    #[track_caller]
    pub fn read_response(&mut self, method: &str) -> Response {
        self.try_read_response(method).unwrap_or_else(|error| {
            panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&self.buffer))
        })
    }

    /// Reads the answer to a request of that method, if there is one.
    pub fn try_read_response(&mut self, method: &str) -> io::Result<Response> {
        self.restart_deadline();
        let head = loop {
            match parse_response(&self.buffer)? {
                Some(head) if (100..200).contains(&head.status) && head.status != 101 => {
                    self.buffer.drain(..head.used);
                }
                Some(head) => break head,
                None if self.fill()? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
        };
        self.buffer.drain(..head.used);
        let bodiless = method == "HEAD" || matches!(head.status, 101 | 204 | 304);
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let framing = if bodiless { Framing::Length(0) } else { framing(headers, Framing::Close)? };
        let body = self.read_body(framing)?;
        Ok(Response { status: head.status, headers: head.headers, body, trailers: Vec::new() })
    }

    fn read_body(&mut self, framing: Framing) -> io::Result<Vec<u8>> {
        loop {
            if let Some(body) = body(&self.buffer, framing)? {
                self.buffer.drain(..body.used);
                return Ok(body.bytes);
            }
            if self.fill()? == 0 {
                return match framing {
                    Framing::Close => Ok(std::mem::take(&mut self.buffer)),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Returns true if the server closes the connection before it sends anything (more), with or
    /// without the end that TLS has.
    pub fn is_closed(&mut self) -> bool {
        self.restart_deadline();
        match self.fill() {
            Ok(n) => n == 0,
            Err(error) => {
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
                )
            }
        }
    }

    /// Disconnects.
    pub fn leave(self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    /// Reads at least `n` bytes, and takes `n` of them.
    /// Reads up to this text, which is dropped with all that came before it.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) {
        self.restart_deadline();
        let found =
            |buffer: &[u8]| buffer.windows(text.len()).position(|part| part == text.as_bytes());
        loop {
            if let Some(at) = found(&self.buffer) {
                self.buffer.drain(..at + text.len());
                return;
            }
            match self.fill() {
                Ok(n) if n > 0 => {}
                end => panic!("no {text:?}: {end:?}"),
            }
        }
    }

    /// Reads until the connection is closed or reset.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        self.restart_deadline();
        loop {
            match self.fill() {
                Ok(n) if n > 0 => {}
                Ok(_) => return std::mem::take(&mut self.buffer),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return std::mem::take(&mut self.buffer);
                }
                Err(error) => panic!("the connection is open: {error}"),
            }
        }
    }

    pub(super) fn read_exact(&mut self, n: usize) -> io::Result<Vec<u8>> {
        self.restart_deadline();
        while self.buffer.len() < n {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..n).collect())
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.left()?))?;
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    fn restart_deadline(&mut self) {
        self.end = Instant::now() + self.deadline;
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client's deadline"));
        }
        Ok(left)
    }
}

/// A request that was sent, over a connection of its own.
#[derive(Debug)]
pub struct Pending {
    connection: Connection,
    method: String,
}

impl Pending {
    pub(super) fn new(connection: Connection, method: &str) -> Self {
        Self { connection, method: method.to_owned() }
    }

    /// Sends more of the request.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.connection.write(bytes);
    }

    /// Waits for the answer.
    #[track_caller]
    pub fn wait(mut self) -> Response {
        self.connection.read_response(&self.method)
    }

    /// Waits for the answer or the error.
    pub fn try_wait(mut self) -> io::Result<Response> {
        self.connection.try_read_response(&self.method)
    }

    /// Closes the client's half of the connection: nothing more is sent, and the answer is read.
    pub fn close_half(&mut self) {
        let _ = self.connection.tcp.shutdown(Shutdown::Write);
    }

    /// Disconnects without waiting for the answer.
    pub fn leave(self) {
        self.connection.leave();
    }
}
