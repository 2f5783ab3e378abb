//! The accept loop all TCP fakes share: it counts connections and closes them on demand.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;

use crate::net::bound_socket;
use crate::runtime::runtime;
use crate::wait::{Watched, DEADLINE};

pub(crate) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
type Handler = Arc<dyn Fn(TcpStream, Connection) -> Serving + Send + Sync>;

/// A listening fake. Dropped, it closes the listener and every connection.
pub(crate) struct Server {
    handler: Handler,
    place: Mutex<Place>,
    state: Arc<Watched<State>>,
}

struct Place {
    addr: SocketAddr,
    /// While stopped: bound, so that nobody else takes the port and connections are refused.
    _reserved: Option<TcpSocket>,
}

#[derive(Debug, Default)]
struct State {
    accepting: Option<AbortHandle>,
    opened: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    task: AbortHandle,
    phase: Phase,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Busy,
    /// Writing an answer after which it will be idle.
    Answering,
    /// Waiting for a request.
    Idle,
}

/// A handler's view of its connection.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    state: Arc<Watched<State>>,
}

impl Connection {
    /// Changes the state. A connection begins as busy.
    pub(crate) fn enter(&self, phase: Phase) {
        self.state.update(|state| {
            if let Some(open) = state.open.get_mut(&self.id) {
                open.phase = phase;
            }
        });
    }
}

/// Takes a connection out of the books. Dropped after the connection itself.
///
/// Closing is not enough to end it at once: a child that another test is just starting may have a
/// copy of the socket.
struct Registered {
    connection: Connection,
    socket: Socket,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // One to be reset is reset by closing.
        if !matches!(self.socket.linger(), Ok(Some(Duration::ZERO))) {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        self.connection.state.update(|state| state.open.remove(&self.connection.id));
    }
}

/// The listener. It listens no longer once the books say so, whoever has a copy of it.
struct Listening {
    listener: TcpListener,
    state: Arc<Watched<State>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        self.state.update(|state| state.accepting = None);
    }
}

impl Server {
    pub(crate) fn start(
        listener: TcpListener,
        handler: impl Fn(TcpStream, Connection) -> Serving + Send + Sync + 'static,
    ) -> Self {
        let server = Self {
            handler: Arc::new(handler),
            place: Mutex::new(Place { addr: listened(&listener), _reserved: None }),
            state: Arc::default(),
        };
        server.accept(listener);
        server
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).addr
    }

    pub(crate) fn opened(&self) -> u64 {
        self.state.read(|state| state.opened)
    }

    pub(crate) fn open(&self) -> usize {
        self.state.read(|state| state.open.len())
    }

    #[track_caller]
    pub(crate) fn wait_for_no_connections(&self) {
        self.state.wait_until("no open connections", |state| state.open.is_empty());
    }

    /// Closes every connection that waits for a request, and returns once they are closed.
    #[track_caller]
    pub(crate) fn close_idle(&self) {
        // A client that has its answer takes the connection for idle already.
        self.state.wait_until("answers to be written", |state| {
            state.open.values().all(|open| open.phase != Phase::Answering)
        });
        let closing: Vec<u64> = self.state.read(|state| {
            let idle = state.open.iter().filter(|(_, open)| open.phase == Phase::Idle);
            idle.inspect(|(_, open)| open.task.abort()).map(|(id, _)| *id).collect()
        });
        self.state.wait_until("idle connections to close", |state| {
            closing.iter().all(|id| !state.open.contains_key(id))
        });
    }

    /// Closes the listener and all connections; the port refuses connections from then on.
    #[track_caller]
    pub(crate) fn stop(&self) {
        assert!(self.close_all(), "connections of a fake did not close in {DEADLINE:?}");
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place._reserved = bound_socket(place.addr).ok();
    }

    pub(crate) fn restart_on(&self, addr: SocketAddr) -> io::Result<()> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place._reserved = None;
        let listener = listen(addr)?;
        place.addr = listened(&listener);
        drop(place);
        self.accept(listener);
        Ok(())
    }

    fn accept(&self, listener: TcpListener) {
        let listening = Listening { listener, state: self.state.clone() };
        let accepting = accept(listening, self.handler.clone());
        self.state.update(|state| state.accepting = Some(spawn(accepting)));
    }

    fn close_all(&self) -> bool {
        self.state.read(|state| {
            state.accepting.iter().for_each(AbortHandle::abort);
            state.open.values().for_each(|open| open.task.abort());
        });
        self.state.holds_within(DEADLINE, |state| {
            // One accepted in the meantime is closed as well.
            state.open.values().for_each(|open| open.task.abort());
            state.accepting.is_none() && state.open.is_empty()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close_all();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr()).finish_non_exhaustive()
    }
}

async fn accept(listening: Listening, handler: Handler) {
    let state = &listening.state;
    loop {
        let Ok((stream, _)) = listening.listener.accept().await else { continue };
        let Ok(socket) = SockRef::from(&stream).try_clone() else { continue };
        // Answers of several writes must not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        state.update(|books| {
            books.opened += 1;
            let connection = Connection { id: books.opened, state: state.clone() };
            let serving = handler(stream, connection.clone());
            let parts = (serving, Registered { connection, socket });
            let task = spawn(async move {
                let (serving, _registered) = parts;
                serving.await;
            });
            books.open.insert(books.opened, Open { task, phase: Phase::Busy });
        });
    }
}

/// Listens, on the runtime that serves.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let _runtime = runtime().enter();
    bound_socket(addr)?.listen(1024)
}

pub(crate) fn listened(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a listener's address")
}

fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    runtime().spawn(future).abort_handle()
}
