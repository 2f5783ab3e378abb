//! A load generator that sends a given number of requests.
//!
//! It sends a request on every connection, and then reads all answers: the load is the same for
//! every peer, and costs the generator little. The elapsed time says nothing; the peer's CPU time
//! does.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Requests, sent in turn.
pub struct Requests(Vec<Vec<u8>>);

impl Requests {
    /// Makes one request for each bearer token.
    pub fn of_tokens<'a>(tokens: impl IntoIterator<Item = &'a String>) -> Self {
        Self(tokens.into_iter().map(|token| request(token)).collect())
    }

    /// The first request.
    pub fn first(&self) -> &[u8] {
        &self.0[0]
    }
}

/// A request as an API client sends it.
pub fn request(token: &str) -> Vec<u8> {
    format!(
        "GET /api/items?page=2 HTTP/1.1\r\nHost: app.example.com\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
    .into_bytes()
}

/// A number of persistent connections.
pub struct Load {
    addr: SocketAddr,
    connections: Vec<TcpStream>,
    next: usize,
    /// Line that answers have.
    line: Option<String>,
}

impl Load {
    /// Opens this number of connections to `addr`.
    pub fn connect(addr: SocketAddr, connections: usize) -> io::Result<Self> {
        let connections = (0..connections).map(|_| connect(addr)).collect::<io::Result<_>>()?;
        Ok(Self { addr, connections, next: 0, line: None })
    }

    /// Makes [`run`](Self::run) fail unless 99 of 100 answers tell this cache status.
    pub fn expect(mut self, cache_status: Option<&str>) -> Self {
        self.line = cache_status.map(|status| format!("X-Cache: {status}\r\n"));
        self
    }

    /// Sends `count` requests; each must be answered by the backend.
    pub fn run(&mut self, requests: &Requests, count: usize) -> io::Result<()> {
        let (mut left, mut others) = (count, 0);
        while left > 0 {
            let wave = left.min(self.connections.len());
            for connection in self.connections.iter_mut().take(wave) {
                connection.write_all(&requests.0[self.next % requests.0.len()])?;
                self.next += 1;
            }
            for connection in self.connections.iter_mut().take(wave) {
                let answer = read_answer(connection)?;
                if !answer.starts_with(b"HTTP/1.1 204") {
                    let answer = String::from_utf8_lossy(&answer);
                    return Err(io::Error::other(format!("unexpected answer: {answer}")));
                }
                if self.line.as_ref().is_some_and(|line| !contains(&answer, line.as_bytes())) {
                    others += 1;
                }
                if contains(&answer, b"onnection: close") {
                    *connection = connect(self.addr)?;
                }
            }
            left -= wave;
        }
        if others * 100 > count {
            let line = self.line.as_deref().unwrap_or_default().trim_end();
            return Err(io::Error::other(format!("{others} of {count} answers without {line:?}")));
        }
        Ok(())
    }
}

pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect(addr)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(connection)
}

/// Reads the header of an answer without a body.
pub fn read_answer(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::with_capacity(2048);
    let mut buffer = [0; 2048];
    while !answer.ends_with(b"\r\n\r\n") {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend(buffer.iter().take(length));
        if !answer.ends_with(b"\r\n\r\n") && contains(&answer, b"\r\n\r\n") {
            let answer = String::from_utf8_lossy(&answer);
            return Err(io::Error::other(format!("an answer with a body: {answer}")));
        }
    }
    Ok(answer)
}

pub fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
