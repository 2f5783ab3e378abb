//! Client connections on nginx's event loop, with or without TLS.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::ffi::{c_int, c_void};
use core::fmt;
use core::ptr;
use core::task::{Context, Poll, Waker};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use nginx_sys::{
    ngx_close_connection, ngx_connection_log_error_e_NGX_ERROR_ERR, ngx_connection_t,
    ngx_create_pool, ngx_destroy_pool, ngx_event_connect_peer, ngx_event_get_peer, ngx_event_t,
    ngx_handle_read_event, ngx_handle_write_event, ngx_int_t, ngx_log_t, ngx_peer_connection_t,
    ngx_pool_t, ngx_ssl_handshake, ngx_ssl_shutdown, ngx_uint_t, socklen_t, NGX_AGAIN,
    NGX_DECLINED, NGX_ERROR, NGX_LOG_ALERT, NGX_LOG_DEBUG, NGX_LOG_INFO, NGX_OK,
};
use socket2::SockAddr;

use crate::log::Log;
use crate::ssl::{self, Resumption, SslContext};
use crate::string::{str_of, Printable};

/// Reason why a connection could not be made.
#[derive(Debug)]
pub enum StreamError {
    /// The TCP connection failed.
    Connect(String),
    /// The TLS handshake failed.
    Tls(String),
    /// This host has no free memory, descriptor or connection (`worker_connections`).
    Local(String),
}

/// Address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// Over TCP.
    Tcp(SocketAddr),
    /// A socket of this host, by its path.
    Unix(PathBuf),
}

impl PeerAddress {
    fn sockaddr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(address) => Ok(SockAddr::from(*address)),
            Self::Unix(path) => SockAddr::unix(path),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub struct Stream(Rc<Inner>);

struct Inner {
    /// Null once closed.
    connection: Cell<*mut ngx_connection_t>,
    pool: Cell<*mut ngx_pool_t>,
    /// Log of this connection, whose writer is [`capture`].
    log: UnsafeCell<ngx_log_t>,
    /// Log of the cycle, for lines that are not captured.
    cycle_log: *mut ngx_log_t,
    message: RefCell<String>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    handshake: Cell<bool>,
    /// See [`Stream::set_permanent`].
    permanent: Cell<bool>,
    /// See [`ssl::receive`].
    reads_ahead: Cell<bool>,
    /// Keeps the TLS session.
    resumption: RefCell<Option<Resumption>>,
}

thread_local! {
    /// Open connections.
    static OPEN: RefCell<HashMap<*const Inner, Weak<Inner>>> = RefCell::default();
}

/// Closes all connections. For the exit of a worker, when nginx reports open connections.
pub(crate) fn shut_down() {
    for inner in OPEN.take().values().filter_map(Weak::upgrade) {
        inner.close();
    }
}

impl Stream {
    /// Connects to `address`.
    pub async fn connect(address: impl Into<PeerAddress>) -> Result<Self, StreamError> {
        let stream = Self::start(&address.into())?;
        core::future::poll_fn(|cx| stream.0.poll_connected(cx)).await?;
        Ok(stream)
    }

    fn start(address: &PeerAddress) -> Result<Self, StreamError> {
        let sockaddr = address.sockaddr();
        let sockaddr = sockaddr.map_err(|error| StreamError::Connect(error.to_string()))?;
        let cycle_log = Log::cycle().as_ptr();
        let inner = Rc::new(Inner {
            connection: Cell::new(ptr::null_mut()),
            pool: Cell::new(ptr::null_mut()),
            // SAFETY: a plain C struct, copied from the cycle's and completed below.
            log: UnsafeCell::new(unsafe { ptr::read(cycle_log) }),
            cycle_log,
            message: RefCell::default(),
            reader: RefCell::default(),
            writer: RefCell::default(),
            handshake: Cell::new(false),
            permanent: Cell::new(false),
            reads_ahead: Cell::new(false),
            resumption: RefCell::default(),
        });
        let log = inner.log.get();
        // SAFETY: `inner` does not move (Rc), and outlives the connection: close() in its Drop.
        unsafe {
            (*log).log_level = (*log).log_level.max(NGX_LOG_INFO as ngx_uint_t);
            (*log).handler = None;
            (*log).data = ptr::null_mut();
            (*log).action = ptr::null_mut();
            (*log).next = ptr::null_mut();
            (*log).writer = Some(capture);
            (*log).wdata = Rc::as_ptr(&inner).cast_mut().cast();

            let pool = ngx_create_pool(1024, log);
            if pool.is_null() {
                return Err(StreamError::Local("no memory".into()));
            }
            inner.pool.set(pool);

            let text = address.to_string();
            let mut name = str_of(text.as_bytes());
            let mut pc: ngx_peer_connection_t = core::mem::zeroed();
            pc.get = Some(ngx_event_get_peer);
            pc.log = log;
            pc.set_log_error(ngx_connection_log_error_e_NGX_ERROR_ERR);
            pc.sockaddr = sockaddr.as_ptr().cast_mut().cast();
            pc.socklen = sockaddr.len() as _;
            pc.name = &mut name;
            let rc = ngx_event_connect_peer(&mut pc);
            // NGX_ERROR comes before connect() is called.
            if rc == NGX_ERROR as ngx_int_t {
                return Err(StreamError::Local(inner.why("no connection is free")));
            }
            if rc == NGX_DECLINED as ngx_int_t {
                return Err(StreamError::Connect(inner.why("connect() failed")));
            }
            let c = pc.connection;
            (*c).pool = pool;
            (*c).data = Rc::as_ptr(&inner).cast_mut().cast();
            (*log).connection = (*c).number;
            (*(*c).read).handler = Some(readable);
            (*(*c).write).handler = Some(writable);
            inner.connection.set(c);
        }
        OPEN.with_borrow_mut(|open| open.insert(Rc::as_ptr(&inner), Rc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// Makes a TLS handshake with the server `name`, verified as `ssl` says.
    pub async fn handshake(&self, ssl: &SslContext, name: &str) -> Result<(), StreamError> {
        let c = self.0.connection.get();
        if c.is_null() {
            return Err(StreamError::Tls("connection closed".into()));
        }
        // SAFETY: connected, and nothing was sent yet.
        let resumption = unsafe {
            let resumption = ssl.prepare(c, name).map_err(|e| StreamError::Tls(e.into()))?;
            (*(*c).ssl).save_session = Some(save_session);
            resumption
        };
        *self.0.resumption.borrow_mut() = Some(resumption);
        let made = core::future::poll_fn(|cx| self.0.poll_handshake(cx)).await;
        // SAFETY: the handshake is complete.
        let made = made.and_then(|()| unsafe { ssl.verify_result(c) }.map_err(StreamError::Tls));
        match &made {
            // SAFETY: as above.
            Ok(()) => self.0.reads_ahead.set(unsafe { ssl::reads_ahead(c) }),
            Err(_) => self.0.resumption.borrow().iter().for_each(Resumption::forget),
        }
        made
    }

    /// Reads into `space`, which is not empty, and returns the number of bytes: zero at the end of the
    /// connection.
    pub fn poll_read(&self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.0.receive(space) {
            Some(received) => Poll::Ready(received),
            None => {
                *self.0.reader.borrow_mut() = Some(cx.waker().clone());
                // SAFETY: open, for it has nothing yet.
                pending(unsafe { ngx_handle_read_event((*self.0.connection.get()).read, 0) })
            }
        }
    }

    /// Writes some of `data`, which is not empty, and returns the number of bytes.
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.0.send(data) {
            Some(sent) => Poll::Ready(sent),
            None => {
                *self.0.writer.borrow_mut() = Some(cx.waker().clone());
                // SAFETY: open, for it has no room.
                pending(unsafe { ngx_handle_write_event((*self.0.connection.get()).write, 0) })
            }
        }
    }

    /// Sets whether the connection is idle. An idle connection is closed when the server closes it,
    /// when it sends something, and when the worker shuts down.
    pub fn set_idle(&self, idle: bool) {
        let c = self.0.connection.get();
        if !c.is_null() {
            // SAFETY: open, for close() would have set null.
            unsafe { (*c).set_idle(u32::from(idle)) };
        }
    }

    /// Makes the connection one that is open as long as its server and the worker are: it sends
    /// small commands without delay, expects bytes at any time, and is closed when the worker shuts
    /// down.
    pub fn set_permanent(&self) {
        self.0.permanent.set(true);
        self.set_idle(true);
        let c = self.0.connection.get();
        if !c.is_null() {
            // SAFETY: open; on a socket of this host the function does nothing. A failure costs
            // time only.
            unsafe { nginx_sys::ngx_tcp_nodelay(c) };
        }
    }

    /// Returns true if the connection can carry a request: it is open, and nothing was received
    /// that nobody has read.
    pub fn is_quiet(&self) -> bool {
        self.0.close_unless_quiet();
        !self.0.connection.get().is_null()
    }

    /// Returns nginx's message about the connection's last error, or nothing.
    pub fn message(&self) -> String {
        self.0.why("")
    }
}

/// The result of a poll that waits for an event, which nginx was told with result `rc`.
fn pending(rc: ngx_int_t) -> Poll<io::Result<usize>> {
    match rc == NGX_OK as ngx_int_t {
        true => Poll::Pending,
        false => Poll::Ready(Err(io::ErrorKind::Other.into())),
    }
}

impl Inner {
    fn why(&self, fallback: &str) -> String {
        let message = self.message.borrow();
        if message.is_empty() {
            fallback.to_owned()
        } else {
            message.clone()
        }
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let c = self.connection.get();
        if c.is_null() {
            return Poll::Ready(Err(StreamError::Connect("connection closed".into())));
        }
        // SAFETY: `c` is open.
        unsafe {
            if (*(*c).write).ready() == 0 && (*(*c).read).ready() == 0 {
                *self.writer.borrow_mut() = Some(cx.waker().clone());
                *self.reader.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let mut error: c_int = 0;
            let mut len = size_of::<c_int>() as socklen_t;
            let rc = nginx_sys::getsockopt(
                (*c).fd,
                nginx_sys::SOL_SOCKET as c_int,
                nginx_sys::SO_ERROR as c_int,
                (&raw mut error).cast(),
                &mut len,
            );
            if rc == -1 {
                return Poll::Ready(Err(StreamError::Connect("getsockopt() failed".into())));
            }
            if error != 0 {
                let error = io::Error::from_raw_os_error(error);
                return Poll::Ready(Err(StreamError::Connect(format!(
                    "connect() failed: {error}"
                ))));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let failed = |this: &Self| {
            Poll::Ready(Err(StreamError::Tls(this.why("the peer closed the connection"))))
        };
        let c = self.connection.get();
        if c.is_null() {
            return failed(self);
        }
        // SAFETY: `c` is open and prepared for TLS. ngx_ssl_handshake() replaces the handlers of
        // its events until it calls handshaked(), and `handshaked` says whether it succeeded.
        unsafe {
            if self.handshake.get() {
                if (*(*c).ssl).handshaked() == 0 {
                    return match (*(*c).read).timedout() {
                        0 => failed(self),
                        _ => Poll::Ready(Err(StreamError::Tls("timed out".into()))),
                    };
                }
            } else {
                let rc = ngx_ssl_handshake(c);
                if rc == NGX_AGAIN as ngx_int_t {
                    (*(*c).ssl).handler = Some(handshaked);
                    *self.reader.borrow_mut() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                if rc != NGX_OK as ngx_int_t {
                    return failed(self);
                }
                // ngx_ssl_handshake() leaves its own handlers after it had to wait.
                (*(*c).read).handler = Some(readable);
                (*(*c).write).handler = Some(writable);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Receives into `space`. `None` if there is nothing yet.
    fn receive(&self, space: &mut [u8]) -> Option<io::Result<usize>> {
        let c = self.connection.get();
        if c.is_null() {
            return Some(Ok(0));
        }
        // SAFETY: `c` is open, and `recv` is set on every connection; it writes at most as many
        // bytes as the buffer has, and says how many.
        unsafe {
            if (*c).close() != 0 {
                // The worker shuts down, and this connection was idle.
                return Some(Ok(0));
            }
            let received = match ((*c).ssl.is_null(), (*c).recv) {
                // ngx_ssl_recv() would make a system call. ngx_unix_recv() looks by itself.
                (false, _) if (*(*c).read).ready() == 0 => return None,
                (false, _) if self.reads_ahead.get() => ssl::receive(c, space),
                (_, Some(recv)) => recv(c, space.as_mut_ptr(), space.len()),
                (_, None) => 0,
            };
            match received {
                n if n == NGX_AGAIN as isize => None,
                n if n < 0 => Some(Err(io::Error::other(self.why("recv() failed")))),
                n => Some(Ok(n as usize)),
            }
        }
    }

    /// Sends some of `data`. `None` if the socket has no room.
    fn send(&self, data: &[u8]) -> Option<io::Result<usize>> {
        let c = self.connection.get();
        if c.is_null() {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        }
        // SAFETY: `c` is open, and `send` is set on every connection; it only reads `data`.
        unsafe {
            let Some(send) = (*c).send else { return Some(Ok(0)) };
            match send(c, data.as_ptr().cast_mut(), data.len()) {
                n if n == NGX_AGAIN as isize => None,
                n if n < 0 => Some(Err(io::Error::other(self.why("send() failed")))),
                n => Some(Ok(n as usize)),
            }
        }
    }

    /// Closes the connection if something was received or it has ended. Data of TLS itself, such as
    /// session tickets, does not count.
    fn close_unless_quiet(&self) {
        let c = self.connection.get();
        // SAFETY: `c` is open if it is not null.
        let has_event = !c.is_null() && unsafe { (*c).close() != 0 || (*(*c).read).ready() != 0 };
        if has_event && self.receive(&mut [0]).is_some() {
            self.close();
        }
    }

    fn close(&self) {
        let c = self.connection.replace(ptr::null_mut());
        if !c.is_null() {
            // The set is gone only while the process exits.
            let _ = OPEN.try_with(|open| open.borrow_mut().remove(&ptr::from_ref(self)));
            // SAFETY: `c` is open; closing it takes its events out of nginx's queues.
            unsafe {
                if !(*c).ssl.is_null() {
                    (*(*c).ssl).set_no_wait_shutdown(1);
                    if (*(*c).write).ready() == 0 {
                        // The socket has no room for a close_notify, and close() does not wait.
                        (*(*c).ssl).set_no_send_shutdown(1);
                    }
                    let _ = ngx_ssl_shutdown(c);
                }
                ngx_close_connection(c);
            }
        }
        let pool = self.pool.replace(ptr::null_mut());
        if !pool.is_null() {
            // SAFETY: made in start(), and nothing of the connection is left.
            unsafe { ngx_destroy_pool(pool) };
        }
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = !self.connection.get().is_null();
        f.debug_struct("Inner").field("open", &open).finish_non_exhaustive()
    }
}

/// Returns the owner of `c`.
///
/// # Safety
///
/// `c` is an open connection that [`Stream::start`] made.
unsafe fn inner_of(c: *mut ngx_connection_t) -> Rc<Inner> {
    // SAFETY: `data` came from the Rc that is alive while the connection is open.
    unsafe {
        let inner = (*c).data.cast_const().cast::<Inner>();
        Rc::increment_strong_count(inner);
        Rc::from_raw(inner)
    }
}

extern "C" fn readable(event: *mut ngx_event_t) {
    // SAFETY: `data` of a connection's event is the connection, whose Inner is alive while it is
    // open.
    unsafe {
        let inner = inner_of((*event).data.cast());
        let waker = inner.reader.borrow_mut().take();
        match waker {
            Some(waker) => waker.wake(),
            None => {
                let c = (*event).data.cast::<ngx_connection_t>();
                if inner.permanent.get() {
                    if (*c).close() != 0 {
                        inner.close();
                    }
                } else if (*c).idle() != 0 {
                    inner.close_unless_quiet();
                }
                // No task reads: an event that stays ready must not be reported again.
                if !inner.connection.get().is_null() {
                    let _ = ngx_handle_read_event(event, 0);
                }
            }
        }
    }
}

extern "C" fn writable(event: *mut ngx_event_t) {
    // SAFETY: as in readable().
    unsafe {
        let inner = inner_of((*event).data.cast());
        let waker = inner.writer.borrow_mut().take();
        match waker {
            Some(waker) => waker.wake(),
            None => drop(ngx_handle_write_event(event, 0)),
        }
    }
}

extern "C" fn save_session(c: *mut ngx_connection_t) {
    // SAFETY: called for a connection of start() for which libssl made a session.
    let inner = unsafe { inner_of(c) };
    let resumption = inner.resumption.borrow();
    if let Some(resumption) = &*resumption {
        // SAFETY: as above.
        unsafe { resumption.save(c) };
    }
}

extern "C" fn handshaked(c: *mut ngx_connection_t) {
    // SAFETY: called for a connection of start() whose handshake has ended. Its events must not
    // reach ngx_ssl_handshake() again, which would hide the reason of a failure.
    let inner = unsafe {
        (*(*c).read).handler = Some(readable);
        (*(*c).write).handler = Some(writable);
        inner_of(c)
    };
    inner.handshake.set(true);
    let waker = inner.reader.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Writer of a connection's log. nginx's messages about a failing connection are kept, because the
/// module logs one line for a whole outage. Debug lines and alerts go to the log of the cycle.
extern "C" fn capture(log: *mut ngx_log_t, level: ngx_uint_t, line: *mut u8, len: usize) {
    // SAFETY: `wdata` is the Inner that owns this log; `line` has `len` bytes.
    let (inner, line) = unsafe {
        let inner = &*(*log).wdata.cast::<Inner>();
        (inner, core::slice::from_raw_parts(line, len))
    };
    if level <= NGX_LOG_ALERT as ngx_uint_t || level == NGX_LOG_DEBUG as ngx_uint_t {
        let mut target = inner.cycle_log;
        // SAFETY: the cycle's logs live as long as the cycle; this is the loop of
        // ngx_log_error_core().
        unsafe {
            while let Some(log) = target.as_mut() {
                if log.log_level < level {
                    break;
                }
                match log.writer {
                    Some(write) => write(log, level, line.as_ptr().cast_mut(), len),
                    None if !log.file.is_null() => {
                        let fd = (*log.file).fd;
                        let _ = nginx_sys::write(fd, line.as_ptr().cast::<c_void>(), len);
                    }
                    None => {}
                }
                target = log.next;
            }
        }
        return;
    }
    // Cuts the message out of "2026/01/01 00:00:00 [error] 1#1: *1 message".
    let text = line.splitn(2, |&b| b == b'#').nth(1).unwrap_or(line);
    let text = text.splitn(2, |&b| b == b' ').nth(1).unwrap_or(text);
    let text = match text.strip_prefix(b"*") {
        Some(rest) => rest.splitn(2, |&b| b == b' ').nth(1).unwrap_or(rest),
        None => text,
    };
    const LONGEST: usize = 300;
    let text = text.trim_ascii_end();
    let text = text.get(..LONGEST).unwrap_or(text);
    *inner.message.borrow_mut() = Printable(text).to_string();
}
