//! HTTP client of Authgear: look-ups over kept connections to the resolver, and key sets from the
//! main server.
//!
//! It runs on nginx's event loop and belongs to the worker, not to a request.

mod connection;
mod failure;
mod jwks;
mod outage;

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use async_lock::Semaphore;
use authgear::metrics::ConnectionState;
use authgear::resolver;
use authgear::verdict::{Unavailable, Verdict};
use http::Request;

use crate::conf::project::{Project, Upstream};
use crate::conf::UpstreamServer;
use crate::shared::handle::{Counters, SharedHandle};
use authgear::overload::breaker::Breaker;
use connection::{connect, Broken, Connection, HttpResponse};
pub use failure::Failure;
pub use jwks::fetch_keys;
use nginx::{self, Elapsed};
use outage::Outage;

/// Longest life of a connection, as in nginx (`keepalive_time`).
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Longest life of a connection to a host name, whose addresses may have changed.
const MAX_AGE_OF_NAME: Duration = Duration::from_secs(60);

/// Client of one project in one worker.
pub struct AuthgearClient {
    project: Rc<Project>,
    shared: SharedHandle,
    /// One permit per connection in use.
    connections: Semaphore,
    /// Idle connections, the most recently used at the back.
    idle: RefCell<VecDeque<Connection>>,
    /// Whether the task that closes idle connections is running.
    janitor: Cell<bool>,
    breaker: Breaker,
    outage: Outage,
}

impl AuthgearClient {
    /// A client without connections yet.
    pub fn new(project: Rc<Project>, shared: SharedHandle) -> Self {
        Self {
            shared,
            connections: Semaphore::new(project.max_connections),
            idle: RefCell::default(),
            janitor: Cell::new(false),
            breaker: Breaker::new(project.max_fails, project.fail_timeout),
            outage: Outage::default(),
            project,
        }
    }

    fn metrics(&self) -> Counters {
        self.project.counters(self.shared)
    }

    /// Sends `request` to the resolver, within the project's `timeout`.
    pub async fn ask(self: &Rc<Self>, request: &Request<()>) -> resolver::Answer {
        let metrics = self.metrics();
        let in_flight = metrics.asking(nginx::own_slot().map(usize::from));
        // nginx's clock stands still while it handles events.
        let begun = Instant::now();
        let said = self.ask_uncounted(request).await;
        drop(in_flight);
        match &said.verdict {
            suspended @ Verdict::Unavailable(Unavailable::Suspended) => {
                metrics.left_alone(suspended);
            }
            verdict => metrics.asked(verdict, begun.elapsed(), nginx::unix_time().as_secs()),
        }
        said
    }

    async fn ask_uncounted(self: &Rc<Self>, request: &Request<()>) -> resolver::Answer {
        let Upstream::Url(server) = &self.project.resolver else {
            return Unavailable::Internal.into();
        };
        let Some(attempt) = self.breaker.admit(nginx::now()) else {
            self.outage.suspended();
            return Unavailable::Suspended.into();
        };
        let turn = Cell::new(None);
        let exchange = self.exchange(server, request, &turn);
        let answer = match nginx::timeout(self.project.timeout, exchange).await {
            Ok(answer) => answer,
            // A look-up that spent most of its time waiting for a connection says nothing about
            // the resolver: any client can make others wait.
            Err(Elapsed) if !self.was_long_enough(turn.get()) => {
                let detail = "no connection became free in time";
                self.outage.report(&self.project, &Failure::new(Unavailable::Timeout, detail));
                return Unavailable::Timeout.into();
            }
            Err(Elapsed) => Err(Failure::new(Unavailable::Timeout, "timed out")),
        };
        let cookies = &self.project.cookies;
        let said = answer.map(|answer| {
            (resolver::Answer::read(answer.status, &answer.headers, cookies), answer.status)
        });
        match said {
            Ok((said @ resolver::Answer { verdict: Verdict::Unavailable(why), .. }, status)) => {
                // 500 may concern one session (Authgear's mutex), and 4xx may be the fault of one
                // client: only a gateway's report on the server behind it counts.
                if matches!(status.as_u16(), 502..=504) {
                    attempt.failed(nginx::now());
                } else {
                    attempt.succeeded();
                }
                let detail = format!("it answered with status {}", status.as_u16());
                self.outage.report(&self.project, &Failure::new(why, detail));
                said
            }
            Ok((said, _)) => {
                attempt.succeeded();
                self.outage.over(&self.project);
                said
            }
            Err(failure) => {
                match failure.why {
                    // The identity of a single user may be that large.
                    Unavailable::TooLarge => attempt.succeeded(),
                    _ => attempt.failed(nginx::now()),
                }
                self.outage.report(&self.project, &failure);
                failure.why.into()
            }
        }
    }

    /// Whether a look-up that got its connection at `turn` had it for half of the project's
    /// `timeout`.
    fn was_long_enough(&self, turn: Option<Duration>) -> bool {
        turn.is_some_and(|turn| nginx::now().saturating_sub(turn) >= self.project.timeout / 2)
    }

    /// Logs that Authgear said nothing about a session cookie in its own format.
    pub fn blank_answer(&self) {
        let detail = "it said nothing about a session cookie: a passing fault, or the project's \
                      cookie_prefix differs";
        self.outage.report(&self.project, &Failure::new(Unavailable::BadAnswer, detail));
    }

    /// Time from now for which the breaker is open.
    pub fn suspended_for(&self) -> Duration {
        self.breaker.remaining(nginx::now())
    }

    /// Closes idle connections.
    pub fn close(&self) {
        drop(self.idle.take());
    }

    async fn exchange(
        self: &Rc<Self>,
        server: &UpstreamServer,
        request: &Request<()>,
        turn: &Cell<Option<Duration>>,
    ) -> Result<HttpResponse, Failure> {
        let _permit = self.connections.acquire().await;
        turn.set(Some(nginx::now()));
        if let Some(mut connection) = self.take_idle(server) {
            self.metrics().connection(ConnectionState::Reused);
            match connection.exchange(request).await {
                Ok(answer) => {
                    self.keep(connection);
                    return Ok(answer);
                }
                Err(Broken { failure, answer_begun: true }) => return Err(failure),
                // The server may close an idle connection at any time: that is no failure.
                Err(Broken { answer_begun: false, .. }) => {}
            }
        }
        let size = self.project.max_response_size;
        let mut connection = connect(&self.project, server, size).await?;
        self.metrics().connection(ConnectionState::Opened);
        let answer = connection.exchange(request).await.map_err(|broken| broken.failure)?;
        self.keep(connection);
        Ok(answer)
    }

    fn take_idle(&self, server: &UpstreamServer) -> Option<Connection> {
        let max_age = if server.url.ip().is_some() { MAX_AGE } else { MAX_AGE_OF_NAME };
        let now = nginx::now();
        loop {
            let connection = self.idle.borrow_mut().pop_back()?;
            if connection.is_fresh(now, max_age) {
                return Some(connection);
            }
        }
    }

    fn keep(self: &Rc<Self>, mut connection: Connection) {
        if self.project.keepalive == 0 || nginx::worker_is_exiting() {
            return;
        }
        connection.rest(nginx::now());
        let surplus = {
            let mut idle = self.idle.borrow_mut();
            idle.push_back(connection);
            if idle.len() > self.project.keepalive {
                idle.pop_front()
            } else {
                None
            }
        };
        drop(surplus);
        if !self.janitor.replace(true) {
            nginx::spawn(Rc::clone(self).close_idle());
        }
    }

    /// Closes connections that were idle for `keepalive_timeout`, until none is left.
    async fn close_idle(self: Rc<Self>) {
        loop {
            let oldest = self.idle.borrow().front().map(Connection::idle_since);
            let Some(oldest) = oldest else { break };
            let idle_for = nginx::now().saturating_sub(oldest);
            let rest = self.project.keepalive_timeout.saturating_sub(idle_for);
            if rest.is_zero() {
                let expired = self.idle.borrow_mut().pop_front();
                drop(expired);
            } else {
                nginx::sleep(rest).await;
            }
        }
        self.janitor.set(false);
    }
}
