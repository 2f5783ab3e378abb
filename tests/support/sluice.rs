//! A relay in front of a server that holds the server's bytes back in the middle.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{copy, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::net::ANY_PORT;
use crate::server::{listen, Server};
use crate::wait::Gate;

/// Relays connections to a server. On each, the first bytes of the server pass, and the rest once
/// the gate is open.
pub struct Sluice {
    server: Server,
    gate: Gate,
}

/// Bytes of the server that pass a closed gate.
#[derive(Clone, Copy)]
enum Passing {
    All,
    Count(u64),
    /// Bytes before the client's second flight, which ends its handshake of TLS 1.3. Each flight
    /// must arrive in one piece.
    Handshake,
}

impl Sluice {
    /// Lets this many bytes pass.
    pub fn before(target: SocketAddr, bytes: u64) -> Self {
        Self::with(target, move || Passing::Count(bytes))
    }

    /// Lets the handshake of TLS 1.3 pass, and all bytes of the first connection.
    pub fn after_handshake(target: SocketAddr) -> Self {
        let is_later = AtomicBool::new(false);
        Self::with(target, move || match is_later.swap(true, Ordering::Relaxed) {
            true => Passing::Handshake,
            false => Passing::All,
        })
    }

    fn with(target: SocketAddr, passing: impl Fn() -> Passing + Send + Sync + 'static) -> Self {
        let gate = Gate::new();
        let its_gate = gate.clone();
        let listener = listen(ANY_PORT).expect("a free port");
        let server = Server::start(listener, move |client, _| {
            Box::pin(relay(client, target, passing(), its_gate.clone()))
        });
        Self { server, gate }
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl fmt::Debug for Sluice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sluice({})", self.addr())
    }
}

/// Ends when either side has closed.
async fn relay(mut client: TcpStream, target: SocketAddr, passing: Passing, gate: Gate) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let is_complete = AtomicBool::new(false);
    let forth = async {
        let mut bytes = [0; 16 * 1024];
        for is_second in [false, true] {
            let count = from_client.read(&mut bytes).await?;
            is_complete.store(is_second, Ordering::Relaxed);
            to_server.write_all(&bytes[..count]).await?;
        }
        copy(&mut from_client, &mut to_server).await
    };
    let back = async {
        match passing {
            Passing::All => {}
            Passing::Count(count) => {
                copy(&mut (&mut from_server).take(count), &mut to_client).await?;
            }
            Passing::Handshake => {
                let mut bytes = [0; 16 * 1024];
                loop {
                    from_server.readable().await?;
                    if is_complete.load(Ordering::Relaxed) {
                        break;
                    }
                    let count = from_server.read(&mut bytes).await?;
                    if count == 0 {
                        break;
                    }
                    to_client.write_all(&bytes[..count]).await?;
                }
            }
        }
        if !matches!(passing, Passing::All) {
            gate.pass().await;
        }
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        _ = back => {}
        _ = forth => {}
    }
}
