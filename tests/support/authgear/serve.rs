//! One connection of the fake, from handshake to close.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_rustls::rustls::HandshakeKind;

use super::fault::{apply, After, Fault, Faults};
use super::pages::{Client, Visit};
use super::resolver::{Answer, Authgear, Deployment, JWKS_PATH};
use super::services::{Service, HEALTH_PATH};
use super::token::{unix_now, SigningKey};
use super::users::Store;
use crate::http1::{keeps_alive, read_request};
use crate::recorded::{Log, Recorded};
use crate::server::{Connection, Phase};
use crate::stream::Stream;
use crate::tls::TlsAcceptor;
use crate::wait::Watched;

/// State shared by the test and the connections.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) deployment: Deployment,
    pub(crate) session_mutex: bool,
    pub(crate) capacity: Option<Capacity>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) log: Log,
    pub(crate) state: Watched<State>,
}

/// How many look-ups are answered at a time, and how long each takes.
#[derive(Debug)]
pub(crate) struct Capacity {
    at_once: Semaphore,
    service_time: Duration,
}

impl Capacity {
    pub(crate) fn new(at_once: usize, service_time: Duration) -> Self {
        Self { at_once: Semaphore::new(at_once), service_time }
    }

    /// Takes a place, and the time of one look-up. It takes its time even if the client leaves.
    async fn work(&self) {
        let _place = self.at_once.acquire().await;
        sleep(self.service_time).await;
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) keys: Vec<Arc<SigningKey>>,
    pub(crate) faults: Faults,
    pub(crate) client: Client,
    pub(crate) close_on_next_reuse: bool,
    /// Its database or Redis is down: everything is an internal error.
    pub(crate) fails_internally: bool,
    /// The fake's time in seconds since 1970, if not the real one.
    pub(crate) clock: Option<i64>,
    pub(crate) sni: Vec<Option<String>>,
    /// True if each TLS connection resumed a session.
    pub(crate) resumed: Vec<bool>,
    /// Sessions being looked up right now.
    pub(crate) locked: HashSet<String>,
}

/// The lock on a session, held until the answer goes out.
struct SessionLock<'a> {
    shared: &'a Shared,
    session: Option<String>,
}

impl Drop for SessionLock<'_> {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.shared.state.update(|state| state.locked.remove(session));
        }
    }
}

impl Shared {
    fn answer(
        &self,
        service: Service,
        request: &Recorded,
        body: &[u8],
    ) -> (Answer, SessionLock<'_>) {
        self.state.update(
            |State { store, keys, locked, clock, fails_internally, client, .. }| {
                let now = clock.unwrap_or_else(unix_now);
                let visit = Visit { deployment: &self.deployment, client, request, body, now };
                let visit = Some(visit).filter(|_| service.has(request.path()));
                let answer = visit.and_then(|visit| visit.answer(store));
                if let Some(answer) = answer.filter(|_| !*fails_internally) {
                    return (answer, SessionLock { shared: self, session: None });
                }
                let authgear = Authgear { deployment: &self.deployment, store, keys, now };
                let mut decision = authgear.decide(service, request, body);
                if *fails_internally {
                    decision.answer = match request.path() {
                        HEALTH_PATH => Answer::text(503, "Service Unavailable"),
                        _ => Answer::internal_error(),
                    };
                }
                let mut session = decision.session.filter(|_| self.session_mutex);
                if session.as_ref().is_some_and(|session| !locked.insert(session.clone())) {
                    decision.answer = Answer::internal_error();
                    session = None;
                }
                (decision.answer, SessionLock { shared: self, session })
            },
        )
    }

    fn closes_reused(&self) -> bool {
        self.state.update(|state| std::mem::take(&mut state.close_on_next_reuse))
    }
}

pub(crate) async fn serve(
    tcp: TcpStream,
    connection: Connection,
    shared: Arc<Shared>,
    service: Service,
) {
    let mut stream = match &shared.tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            let seen = |sni| shared.state.update(|state| state.sni.push(sni));
            let Ok(stream) = tls.accept(tcp, seen).await else { return };
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            shared.state.update(|state| state.resumed.push(resumed));
            Stream::Tls(Box::new(stream))
        }
    };
    let mut buffer = Vec::new();
    let mut reused = false;
    loop {
        connection.enter(Phase::Idle);
        let begun = || connection.enter(Phase::Busy);
        let read = read_request(&mut stream, &mut buffer, begun).await;
        let (mut request, body) = match read {
            Ok(Some(read)) if lacks_host(&read.0) => {
                return refuse(&mut stream, "400 Bad Request: missing required Host header").await;
            }
            Ok(Some(read)) => read,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return refuse(&mut stream, "400 Bad Request").await;
            }
            Ok(None) | Err(_) => return,
        };
        request.connection = connection.id;
        let keep_alive = keeps_alive(&request);
        let (answer, lock) = shared.answer(service, &request, &body);
        let fault = shared.state.update(|state| state.faults.take(&request));
        let method = request.method.clone();
        let capacity = shared.capacity.as_ref().filter(|_| request.path() != JWKS_PATH);
        shared.log.push(request);
        if reused && shared.closes_reused() {
            return;
        }
        reused = true;

        if let Some(capacity) = capacity {
            capacity.work().await;
        }
        if let Some(Fault::Gate(gate)) = &fault {
            tokio::select! {
                () = gate.pass() => {}
                () = stream.left(&mut buffer) => return,
            }
        }
        let pace = match &fault {
            Some(Fault::Slowly { step, pause }) => Some((*step, *pause)),
            _ => None,
        };
        let (bytes, after) = apply(fault, answer, &method);
        let after = if keep_alive || after != After::KeepAlive { after } else { After::Close };
        if after != After::Hang {
            drop(lock);
        }
        if after == After::KeepAlive {
            connection.enter(Phase::Answering);
        }
        if write(&mut stream, &bytes, pace).await.is_err() {
            return;
        }
        match after {
            After::KeepAlive => {}
            After::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            After::Reset => return stream.reset(),
            After::Hang => return stream.left(&mut buffer).await,
        }
    }
}

/// Returns true if Go's server refuses the request for want of a Host.
fn lacks_host(request: &Recorded) -> bool {
    request.version == "HTTP/1.1" && request.header("host").is_none()
}

/// Answers as Go's server does to what it does not take for a request. Authgear sees none of it.
async fn refuse(stream: &mut Stream, status: &str) {
    let head = "Content-Type: text/plain; charset=utf-8\r\nConnection: close";
    let bytes = format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n{status}");
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Writes everything at once, or in pieces of `pace`, each after its pause.
async fn write(
    stream: &mut Stream,
    bytes: &[u8],
    pace: Option<(usize, Duration)>,
) -> io::Result<()> {
    let Some((step, pause)) = pace else {
        stream.write_all(bytes).await?;
        return stream.flush().await;
    };
    for part in bytes.chunks(step) {
        sleep(pause).await;
        stream.write_all(part).await?;
        stream.flush().await?;
    }
    Ok(())
}
