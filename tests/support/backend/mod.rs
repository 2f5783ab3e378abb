//! Backends for nginx to pass requests to. Each answers 200 with the request as JSON, which
//! [`Response::echo`](crate::Response::echo) reads.

mod fastcgi;
mod grpc;
mod h2c;
mod http;
mod params;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::net::{ToAddr, ANY_PORT};
use crate::recorded::{Log, Recorded};
use crate::server::{listen, Connection, Server};

/// A running backend. It stops when dropped.
pub struct Backend {
    server: Server,
    log: Log,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.addr())
    }
}

impl ToAddr for Backend {
    fn to_addr(&self) -> SocketAddr {
        self.addr()
    }
}

impl Backend {
    /// HTTP/1.1, for `proxy_pass`. Upgrades to WebSocket on demand, and echoes its messages; the
    /// echo of `long N` is a frame of N bytes. The answer to `/events` stays open.
    pub fn start() -> Self {
        Self::serving(http::serve)
    }

    /// HTTP/1.1, and HTTP/2 for whoever asks for it by `Upgrade: h2c`.
    pub fn h2c() -> Self {
        Self::serving(h2c::serve)
    }

    /// For `fastcgi_pass`. Here, and for uwsgi and SCGI, parameters stand in place of headers.
    pub fn fastcgi() -> Self {
        Self::serving(fastcgi::serve)
    }

    /// For `uwsgi_pass`.
    pub fn uwsgi() -> Self {
        Self::serving(params::serve_uwsgi)
    }

    /// For `scgi_pass`.
    pub fn scgi() -> Self {
        Self::serving(params::serve_scgi)
    }

    /// For `grpc_pass`: a unary call's answer, with `grpc-status: 0`. The body of what is recorded
    /// is the gRPC message with its prefix.
    pub fn grpc() -> Self {
        Self::serving(grpc::serve)
    }

    fn serving<F>(serve: fn(TcpStream, Connection, Log) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let log = Log::default();
        let shared = log.clone();
        let listener = listen(ANY_PORT).expect("a free port");
        let server = Server::start(listener, move |stream, connection| {
            Box::pin(serve(stream, connection, shared.clone()))
        });
        Self { server, log }
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.log.all()
    }

    /// Returns the same and clears them: they no longer count.
    pub fn take_requests(&self) -> Vec<Recorded> {
        self.log.take()
    }

    pub fn hits(&self) -> usize {
        self.log.count(|_| true)
    }

    #[track_caller]
    pub fn wait_for_hits(&self, n: usize) {
        self.log.wait_for(n, |_| true);
    }
}
