//! A relay in front of a server that holds the server's bytes back in the middle.

use std::fmt;
use std::net::SocketAddr;

use tokio::io::{copy, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::net::ANY_PORT;
use crate::server::{listen, Server};
use crate::wait::Gate;

/// Relays connections to a server. On each, this many bytes of the server pass, and the rest once
/// the gate is open.
pub struct Sluice {
    server: Server,
    gate: Gate,
}

impl Sluice {
    pub fn before(target: SocketAddr, bytes: u64) -> Self {
        let gate = Gate::new();
        let its_gate = gate.clone();
        let listener = listen(ANY_PORT).expect("a free port");
        let server = Server::start(listener, move |client, _| {
            Box::pin(relay(client, target, bytes, its_gate.clone()))
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
async fn relay(mut client: TcpStream, target: SocketAddr, bytes: u64, gate: Gate) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let back = async {
        copy(&mut (&mut from_server).take(bytes), &mut to_client).await?;
        gate.pass().await;
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        _ = back => {}
        _ = copy(&mut from_client, &mut to_server) => {}
    }
}
