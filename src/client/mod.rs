//! HTTP client of Authgear: look-ups over kept connections to the resolver, and key sets from the
//! main server.
//!
//! It runs on nginx's event loop and belongs to the worker, not to a request.

mod breaker;
mod connection;
mod failure;
mod jwks;
mod outage;
mod turns;
mod userinfo;

use core::cell::{Cell, RefCell};
use core::num::NonZeroUsize;
use core::pin::pin;
use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use authgear::exchange::answer::Fields;
use authgear::exchange::request::RequestHead;
use authgear::metrics::ConnectionState;
use authgear::overload::client_network::ClientNetwork;
use authgear::overload::failures::REFRESH_PAUSE;
use authgear::overload::probe_candidates::ProbeCandidates;
use authgear::resolver::ResolverAnswer;
use authgear::shared::cache_key::{Key, KeyHasher};
use authgear::verdict::{Unavailable, Verdict};
use lru::LruCache;

use crate::conf::project::{Project, Upstream};
use crate::conf::UpstreamServer;
use crate::shared::handle::{Counters, SharedHandle};
use breaker::Breaker;
use connection::{connect, Broken, Connection, HttpResponse};
pub use failure::Failure;
pub use jwks::fetch_keys;
use nginx::{self, Elapsed, Log};
use outage::Outage;
use turns::Turns;

/// Longest life of a connection, as in nginx (`keepalive_time`).
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Longest life of a connection to a host name, whose addresses may have changed.
const MAX_AGE_OF_NAME: Duration = Duration::from_secs(60);

/// Longest wait for a turn, as a fraction of the project's `timeout`: what is left is for the
/// exchange.
const PATIENCE: u32 = 4;

/// A look-up for the resolver.
#[derive(Clone)]
pub struct Inquiry {
    /// The request to send.
    pub request: Rc<RequestHead>,
    /// The client that the look-up is for.
    pub client: ClientNetwork,
    /// Identifies the credentials.
    pub key: Key,
    /// Whether the cache remembers a valid session of the credentials.
    pub was_valid: bool,
    /// Asks over a new connection.
    pub over_new_connection: bool,
}

/// Client of one project in one worker.
pub struct AuthgearClient {
    project: Rc<Project>,
    shared: SharedHandle,
    turns: Turns,
    /// Idle connections, the most recently used at the back.
    idle: RefCell<VecDeque<Connection>>,
    /// Whether the task that closes idle connections is running.
    janitor: Cell<bool>,
    breaker: Breaker,
    /// The look-ups that probes repeat while the breaker is open, and whether their task is
    /// running.
    candidates: RefCell<ProbeCandidates<ClientNetwork, Inquiry>>,
    is_probing: Cell<bool>,
    /// Entries whose refresh failed, and when.
    failed_refreshes: RefCell<LruCache<Key, Duration, KeyHasher>>,
    outage: Outage,
    userinfo: userinfo::Health,
}

impl AuthgearClient {
    /// A client without connections yet.
    pub fn new(project: Rc<Project>, shared: SharedHandle) -> Self {
        /// Entries whose failed refresh is remembered.
        const FAILED_REFRESHES: usize = 1024;
        let capacity = NonZeroUsize::new(FAILED_REFRESHES).unwrap_or(NonZeroUsize::MIN);
        let failed_refreshes = LruCache::with_hasher(capacity, KeyHasher::default());
        Self {
            shared,
            turns: Turns::new(project.max_connections),
            idle: RefCell::default(),
            janitor: Cell::new(false),
            breaker: Breaker::new(&project, shared),
            candidates: RefCell::default(),
            is_probing: Cell::new(false),
            failed_refreshes: RefCell::new(failed_refreshes),
            outage: Outage::default(),
            userinfo: userinfo::Health::new(&project),
            project,
        }
    }

    fn metrics(&self) -> Counters {
        self.project.counters(self.shared)
    }

    /// Sends the look-up to the resolver once it has its turn, and waits until `deadline` at most.
    /// `has_turn` is set when the exchange begins.
    pub async fn ask(
        self: &Rc<Self>,
        inquiry: &Inquiry,
        deadline: Duration,
        has_turn: &Cell<bool>,
    ) -> ResolverAnswer {
        if self.breaker.is_open() {
            return self.suspended(inquiry);
        }
        let metrics = self.metrics();
        let in_flight = metrics.asking(nginx::wake_slot().map(usize::from));
        // nginx's clock stands still while it handles events.
        let begun = Instant::now();
        let bytes = inquiry.request.as_bytes().len();
        let patience = (self.project.timeout / PATIENCE).min(left_until(deadline));
        let lane = (inquiry.client, inquiry.was_valid);
        let Some(turn) = self.turns.take(lane, bytes, patience).await else {
            let detail = "no connection would become free in time";
            self.outage.overloaded(&self.project, &Failure::new(Unavailable::Overloaded, detail));
            return self.not_asked(Unavailable::Overloaded);
        };
        // The breaker may have opened while this look-up waited.
        if self.breaker.is_open() {
            return self.suspended(inquiry);
        }
        has_turn.set(true);
        let answer = self.exchange(inquiry, left_until(deadline)).await;
        drop(turn);
        drop(in_flight);
        metrics.asked(&answer.verdict, begun.elapsed(), nginx::unix_time().as_secs());
        answer
    }

    /// Asks userinfo about the user of `inquiry`, as [`Self::ask`] asks the resolver. Returns a
    /// verdict of [`authgear::userinfo::read`].
    pub async fn userinfo(
        &self,
        inquiry: &Inquiry,
        deadline: Duration,
        has_turn: &Cell<bool>,
    ) -> Verdict {
        if self.userinfo.is_suspended(&self.project) {
            return Verdict::Unavailable(Unavailable::Suspended);
        }
        let bytes = inquiry.request.as_bytes().len();
        let patience = (self.project.timeout / PATIENCE).min(left_until(deadline));
        let Some(turn) =
            self.turns.take((inquiry.client, inquiry.was_valid), bytes, patience).await
        else {
            return Verdict::Unavailable(Unavailable::Overloaded);
        };
        has_turn.set(true);
        let time = left_until(deadline);
        let Inquiry { request, key, client, .. } = inquiry;
        let verdict = self.userinfo.ask(&self.project, request, key, *client, time).await;
        drop(turn);
        verdict
    }

    fn suspended(self: &Rc<Self>, inquiry: &Inquiry) -> ResolverAnswer {
        self.hold_probe(inquiry);
        self.outage.suspended();
        self.not_asked(Unavailable::Suspended)
    }

    fn not_asked(&self, why: Unavailable) -> ResolverAnswer {
        let verdict = Verdict::Unavailable(why);
        self.metrics().left_alone(&verdict);
        why.into()
    }

    /// One exchange, and its effect on the breaker.
    async fn exchange(self: &Rc<Self>, inquiry: &Inquiry, time: Duration) -> ResolverAnswer {
        let Upstream::Url(server) = &self.project.resolver else {
            return Unavailable::Internal.into();
        };
        let response = match nginx::timeout(time, pin!(self.send(server, inquiry))).await {
            Ok(response) => response,
            Err(Elapsed) => Err(Failure::new(Unavailable::Timeout, "timed out")),
        };
        let response = match response {
            Ok(response) => response,
            Err(failure) => {
                if self.breaker.unanswered(failure.why, time) {
                    self.hold_probe(inquiry);
                }
                self.outage.report(&self.project, &failure);
                return failure.why.into();
            }
        };
        let HttpResponse { status, head: answer, body } = response;
        let answer = answer.with_body(!body.is_empty());
        let is_open = match &answer.verdict {
            Verdict::Unavailable(why @ Unavailable::NotAResolver) => {
                self.breaker.unanswered(*why, time)
            }
            _ => self.breaker.answered(status, &inquiry.key, inquiry.client),
        };
        if is_open {
            self.hold_probe(inquiry);
        }
        match &answer.verdict {
            Verdict::Unavailable(why) => {
                let failure = Failure::of_answer(*why, &server.url, status, &body);
                self.outage.report(&self.project, &failure);
            }
            _ => self.outage.over(&self.project),
        }
        answer
    }

    /// Offers the look-up to probes, and starts their task.
    fn hold_probe(self: &Rc<Self>, inquiry: &Inquiry) {
        let mut candidates = self.candidates.borrow_mut();
        candidates.offer(inquiry.client, inquiry.was_valid, || inquiry.clone());
        drop(candidates);
        if !self.is_probing.replace(true) {
            nginx::spawn(Rc::clone(self).probe_until_closed());
        }
    }

    /// Probes the resolver until the breaker is closed. Workers take turns: one probes at a time.
    async fn probe_until_closed(self: Rc<Self>) {
        /// Shortest pause between two looks at the shared state.
        const LEAST: Duration = Duration::from_millis(10);
        let lease = self.project.timeout + Duration::from_millis(500);
        while self.breaker.is_open() {
            nginx::sleep(self.breaker.until_probe().max(LEAST)).await;
            if nginx::worker_is_exiting() {
                break;
            }
            if !self.breaker.take_probe(lease) {
                continue;
            }
            let Some(inquiry) = self.candidates.borrow().held().cloned() else { break };
            Log::cycle().debug(format_args!("authgear: probes the resolver"));
            let begun = Instant::now();
            let answer = self.exchange(&inquiry, self.project.timeout).await;
            let now = nginx::unix_time().as_secs();
            self.metrics().asked(&answer.verdict, begun.elapsed(), now);
            if self.breaker.is_open() {
                self.candidates.borrow_mut().failed();
                self.breaker.probe_failed();
            }
        }
        self.is_probing.set(false);
        self.candidates.borrow_mut().clear();
    }

    /// Whether a verdict from before is to be served at once: the resolver fails, or has failed to
    /// refresh the entry just now. While the breaker is open the look-up serves as a probe.
    pub fn serves_stale_at_once(self: &Rc<Self>, inquiry: &Inquiry) -> bool {
        if self.breaker.is_open() {
            self.hold_probe(inquiry);
            return true;
        }
        let failed_at = self.failed_refreshes.borrow().peek(&inquiry.key).copied();
        failed_at.is_some_and(|at| nginx::now().saturating_sub(at) < REFRESH_PAUSE)
    }

    /// Notes the result of a look-up that refreshes a stored verdict. After a failure, stale verdicts
    /// of `key` are served without a look-up for [`REFRESH_PAUSE`].
    pub fn note_refresh(&self, key: Key, has_failed: bool) {
        let mut failed = self.failed_refreshes.borrow_mut();
        if has_failed {
            failed.push(key, nginx::now());
        } else if !failed.is_empty() {
            failed.pop(&key);
        }
    }

    /// Logs that Authgear said nothing about a session cookie in its own format.
    pub fn blank_answer(&self) {
        let detail = "it said nothing about a session cookie: a passing fault, or the project's \
                      cookie_prefix differs";
        self.outage.report(&self.project, &Failure::new(Unavailable::BadAnswer, detail));
    }

    /// Time until the next probe of the resolver, for `Retry-After`. Zero while the breaker is closed
    /// or a probe is due.
    pub fn suspended_for(&self) -> Duration {
        self.breaker.until_probe()
    }

    /// Closes idle connections.
    pub fn close(&self) {
        drop(self.idle.take());
    }

    async fn send(
        self: &Rc<Self>,
        server: &UpstreamServer,
        inquiry: &Inquiry,
    ) -> Result<HttpResponse<ResolverAnswer>, Failure> {
        let read = |status, fields: Fields<'_>| {
            ResolverAnswer::read(status, fields.iter(), &self.project.cookies)
        };
        let idle = (!inquiry.over_new_connection).then(|| self.take_idle(server)).flatten();
        if let Some(mut connection) = idle {
            self.metrics().connection(ConnectionState::Reused);
            match connection.exchange(&inquiry.request, read).await {
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
        // Boxed: it is large, and most look-ups have a connection.
        let mut connection = Box::pin(connect(&self.project, server, size)).await?;
        self.metrics().connection(ConnectionState::Opened);
        let answer = connection.exchange(&inquiry.request, read).await;
        let answer = answer.map_err(|broken| broken.failure)?;
        self.keep(connection);
        Ok(answer)
    }

    fn take_idle(&self, server: &UpstreamServer) -> Option<Connection> {
        let max_age = if server.may_move() { MAX_AGE_OF_NAME } else { MAX_AGE };
        let now = nginx::now();
        loop {
            let connection = self.idle.borrow_mut().pop_back()?;
            if connection.is_fresh(now, max_age) {
                return Some(connection);
            }
        }
    }

    /// Keeps the connection for the next look-up, if it can carry one.
    fn keep(self: &Rc<Self>, mut connection: Connection) {
        let may_rest = self.project.keepalive > 0 && !nginx::worker_is_exiting();
        if !may_rest || !connection.is_reusable() {
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

/// Time until `deadline`, by nginx's clock.
fn left_until(deadline: Duration) -> Duration {
    deadline.saturating_sub(nginx::now())
}
