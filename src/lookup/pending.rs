//! A look-up that a suspended request waits for.

use core::task::Waker;
use core::time::Duration;
use std::rc::Rc;

use authgear::metrics::CacheStatus;
use authgear::verdict::freshness::{UseStale, Valid};
use authgear::verdict::{Unavailable, Verdict};

use super::subrequest::Subrequest;
use crate::cache::{CacheEntry, EntryId, FetchResult};
use crate::conf::project::Project;
use crate::conf::{Authgear, Id, Mode};
use crate::credentials::BearerElsewhere;
use crate::resolution::{LookupOutcome, Resolution};
use crate::shared::handle::SharedHandle;
use crate::single_flight::{Resumption, Waiter};
use crate::worker::Worker;
use nginx::{Failed, Request, State};

/// Identity of a look-up within a request: another location of the request reuses a verdict only
/// under the same identity.
#[derive(Clone, PartialEq, Eq)]
pub struct LookupId {
    /// The project.
    pub project: Id,
    /// The decider.
    pub mode: Mode,
    /// Identity of the location's own audiences, if the request holds a token that is compared with
    /// them.
    pub audience: Option<u64>,
    /// The token in a variable of `authgear_bearer`.
    pub bearer_elsewhere: Option<BearerElsewhere>,
}

/// State of a look-up that [`super::start`] began.
pub enum Started {
    /// The look-up has ended.
    Ready(Resolution),
    /// The request must wait.
    Waiting(Box<Pending>),
}

impl Started {
    /// A look-up that failed before it began.
    pub(super) fn failed(why: Unavailable, status: CacheStatus) -> Self {
        let verdict = LookupOutcome::unavailable(why).verdict;
        Self::Ready(Resolution::of_resolver(verdict, status))
    }

    /// A look-up that is not made because too many requests wait for it.
    pub(super) fn too_many_waiters(
        entry: Option<CacheEntry>,
        valid: &Valid,
        stale: &UseStale,
        status: CacheStatus,
    ) -> Self {
        match entry.filter(|entry| entry.usable_on_error(valid, stale)) {
            Some(entry) => Self::Ready(Resolution::cached(&entry, CacheStatus::Stale)),
            None => Self::failed(Unavailable::Crowded, status),
        }
    }
}

/// State of a request that waits for a look-up.
pub enum Waits<'a> {
    /// The request is suspended.
    Suspended(&'a State<Authgear>),
    /// The response is open, and goes on. This task is woken.
    Open(&'a Waker),
}

impl Waits<'_> {
    /// Begins the wait of `request`, for at most `time` if it is suspended.
    pub(super) fn begin(
        &self,
        request: &mut Request,
        time: Duration,
    ) -> Result<Resumption, Failed> {
        Ok(match *self {
            Self::Suspended(state) => Resumption::Request(request.suspend(state, time)?),
            Self::Open(waker) => Resumption::Task(waker.clone()),
        })
    }
}

/// A look-up that a request waits for.
pub struct Pending {
    project: Rc<Project>,
    id: LookupId,
    since: Duration,
    from: Source,
    /// Value of `$authgear_cache_status` if the look-up is this request's own.
    status: CacheStatus,
    /// Verdict to serve if the look-up fails.
    stale: Option<Stale>,
    /// The look-up is of a token that the resolver decides about next, if it is accepted.
    resolver_is_next: bool,
}

/// A cache entry past its lifetime, and the settings of the location that found it.
pub(super) struct Stale {
    pub(super) entry: CacheEntry,
    pub(super) id: EntryId,
    pub(super) valid: Valid,
    pub(super) stale: UseStale,
}

impl Stale {
    /// The entry, if it may be served now that the look-up failed.
    fn usable(&self, shared: SharedHandle) -> Option<&CacheEntry> {
        let Self { entry, id, valid, stale } = self;
        let usable = entry.usable_on_error(valid, stale)
            && !entry.is_purged(id, shared)
            && !entry.is_disabled(id, shared);
        usable.then_some(entry)
    }
}

/// State of a look-up when its request runs again.
pub enum Poll {
    /// The look-up is still in flight.
    Waiting,
    /// Its user was purged meanwhile, or the resolver is next: start a new look-up.
    Again,
    /// The look-up has ended.
    Ready(Resolution),
}

pub(super) enum Source {
    /// A look-up of the module's client, or of a token.
    Flight { waiter: Rc<Waiter>, joined: bool },
    /// A subrequest to a location of the site.
    Subrequest(Box<Subrequest>),
}

impl Pending {
    pub(super) fn new(
        project: &Rc<Project>,
        id: LookupId,
        from: Source,
        status: CacheStatus,
        stale: Option<Stale>,
    ) -> Self {
        let project = Rc::clone(project);
        let since = nginx::now();
        Self { project, id, since, from, status, stale, resolver_is_next: false }
    }

    /// Makes a pending verification the first step only: the resolver decides about a token that is
    /// accepted.
    pub(super) fn before_resolver(self, resolver_is_next: bool) -> Self {
        Self { resolver_is_next, ..self }
    }

    /// The project of the look-up.
    pub fn project(&self) -> &Rc<Project> {
        &self.project
    }

    /// Identity of the look-up.
    pub fn id(&self) -> &LookupId {
        &self.id
    }

    /// Time that the request has waited.
    pub fn waited(&self) -> Duration {
        nginx::now().saturating_sub(self.since)
    }

    /// Returns true if the look-up has ended, or must have by now.
    pub fn is_over(&self) -> bool {
        match &self.from {
            Source::Flight { waiter, .. } if !waiter.has_outcome() => {
                self.waited() > self.project.timeout
            }
            _ => true,
        }
    }

    /// Result of the look-up, if it has ended or its time is over.
    pub fn poll(&self, worker: &Worker) -> Poll {
        let shared = worker.shared();
        let (outcome, joined) = match &self.from {
            Source::Flight { waiter, joined } => {
                let outcome = match waiter.outcome() {
                    Some(outcome) => outcome
                        .unwrap_or_else(|_lost| LookupOutcome::unavailable(Unavailable::Internal)),
                    // The request's own deadline resumed it.
                    None => {
                        match self.stale.as_ref().map(|stale| stale.usable(shared).is_some()) {
                            // The refresh goes on behind the stale verdict.
                            Some(true) => waiter.detach(),
                            // A purge concerns the user: the request waits for the new verdict.
                            Some(false) => return Poll::Again,
                            None => {}
                        }
                        LookupOutcome::unavailable(Unavailable::Timeout)
                    }
                };
                (outcome, *joined)
            }
            Source::Subrequest(subrequest) => {
                let Some(answer) = subrequest.answer.take() else { return Poll::Waiting };
                let verdict = answer.verdict;
                let now = nginx::unix_time().as_secs();
                worker.metrics(&self.project).asked(&verdict, self.waited(), now);
                let question = &subrequest.question;
                if question.is_purged(&verdict, shared) {
                    return Poll::Again;
                }
                let result = question.result(Rc::new(verdict), shared);
                if let (Some(cache), FetchResult::Keep(entry)) = (&subrequest.cache, &result) {
                    cache.put(&question.id, entry);
                }
                (LookupOutcome::of(result, false).with_cookies(answer.set_cookies), false)
            }
        };
        if outcome.failed {
            if let Some(entry) = self.stale.as_ref().and_then(|stale| stale.usable(shared)) {
                return Poll::Ready(Resolution::cached(entry, CacheStatus::Stale));
            }
        }
        if self.resolver_is_next && matches!(&*outcome.verdict, Verdict::Valid(_)) {
            return Poll::Again;
        }
        let status = match outcome.shared {
            _ if joined || outcome.followed => CacheStatus::Joined,
            true => CacheStatus::Shared,
            false => self.status,
        };
        let expires_at = outcome.expires_at;
        let resolution = if outcome.by_token {
            Resolution::by_token(outcome.verdict, status)
        } else if outcome.shared {
            Resolution::shared(outcome.verdict, status)
        } else {
            let set_cookies = outcome.set_cookies;
            Resolution { set_cookies, ..Resolution::of_resolver(outcome.verdict, status) }
        };
        Poll::Ready(Resolution { expires_at, ..resolution })
    }
}
