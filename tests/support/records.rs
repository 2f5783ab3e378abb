//! A server of TLS whose tests say which bytes make a record, and which records come at once.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, ServerConnection};

use crate::tls::ServerIdentity;

/// An answer in the records of each write.
#[derive(Clone, Debug)]
pub struct Records {
    pub writes: Vec<Vec<Vec<u8>>>,
    /// Sends `close_notify` with the last write, and closes the connection.
    pub ends: bool,
}

/// Answers each request with the next of its answers.
pub struct RecordServer {
    addr: SocketAddr,
    opened: Arc<AtomicUsize>,
}

struct Script {
    config: Arc<ServerConfig>,
    answers: Mutex<VecDeque<Records>>,
}

impl RecordServer {
    /// A server of TLS 1.3, or of TLS 1.2 alone.
    pub fn start(identity: &ServerIdentity, is_old: bool, answers: Vec<Records>) -> Self {
        let version = if is_old { &TLS12 } else { &TLS13 };
        let config = identity.config_for(&[version]);
        let script = Arc::new(Script { config, answers: Mutex::new(answers.into()) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let opened = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&opened);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                let script = Arc::clone(&script);
                // The client decides when the connection ends.
                thread::spawn(move || serve(stream, &script));
            }
        });
        Self { addr, opened }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Number of connections so far.
    pub fn connections_opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for RecordServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordServer({})", self.addr)
    }
}

fn serve(mut stream: TcpStream, script: &Script) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut tls = ServerConnection::new(Arc::clone(&script.config)).map_err(io::Error::other)?;
    tls.set_buffer_limit(None);
    loop {
        read_request(&mut tls, &mut stream)?;
        let next = script.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(answer) = next else { return Ok(()) };
        let last = answer.writes.len().saturating_sub(1);
        for (n, records) in answer.writes.iter().enumerate() {
            for record in records {
                tls.writer().write_all(record)?;
            }
            if answer.ends && n == last {
                tls.send_close_notify();
            }
            let mut bytes = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut bytes)?;
            }
            stream.write_all(&bytes)?;
        }
        if answer.ends {
            return Ok(());
        }
    }
}

fn read_request(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        tls.complete_io(stream)?;
        let mut bytes = [0; 4096];
        match tls.reader().read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => request.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
