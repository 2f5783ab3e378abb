//! Addresses: free ones, refused ones, silent ones.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use tokio::net::{TcpListener, TcpSocket};

use crate::runtime::runtime;

pub(crate) fn bound_socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// A target of requests.
pub trait ToAddr {
    fn to_addr(&self) -> SocketAddr;
}

impl ToAddr for SocketAddr {
    fn to_addr(&self) -> SocketAddr {
        *self
    }
}

pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// An address that refuses connections for as long as this lives.
pub struct RefusedAddr {
    addr: SocketAddr,
    _socket: TcpSocket,
}

impl RefusedAddr {
    pub fn bind() -> Self {
        let socket = bound_socket(ANY_PORT).expect("a free port");
        Self { addr: socket.local_addr().expect("the bound address"), _socket: socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl fmt::Debug for RefusedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefusedAddr({})", self.addr)
    }
}

/// An address where connecting neither succeeds nor fails: the kernel drops the packets, because
/// the queue of a listener that never accepts is full.
#[derive(Debug)]
pub struct SilentAddr {
    addr: SocketAddr,
    _listener: TcpListener,
    _filler: TcpStream,
}

impl SilentAddr {
    pub fn bind() -> Self {
        let _runtime = runtime().enter();
        let socket = bound_socket(ANY_PORT).expect("a free port");
        let listener = socket.listen(0).expect("a listener");
        let addr = listener.local_addr().expect("the bound address");
        let filler = TcpStream::connect(addr).expect("the one connection the queue takes");
        Self { addr, _listener: listener, _filler: filler }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
