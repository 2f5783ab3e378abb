//! Look-ups of userinfo: kept, joined and purged as those of the resolver.

use core::cell::Cell;
use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::metrics::CacheStatus;
use authgear::shared::cache_key::Key;
use authgear::verdict::freshness::Freshness;
use authgear::verdict::{Unavailable, Verdict};

use super::pending::{LookupId, Pending, Source, Stale, Started};
use super::question::{key_of, through_cache, Question};
use crate::cache::{AskedAt, Cache, CacheLookup, EntryId, FetchResult};
use crate::client::AuthgearClient;
use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use crate::credentials;
use crate::resolution::Resolution;
use crate::shared::handle::SharedHandle;
use crate::single_flight::{unless_abandoned, Leader, Resumption};
use crate::worker::Worker;
use nginx::{self, Failed, Request, State};

/// Shortest wait for userinfo, of a request that waited long for its verdict.
const LEAST: Duration = Duration::from_millis(100);

/// Asks userinfo with the credentials of a valid session. `by_token` says that the verdict is on
/// the bearer token alone.
pub fn start(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
    lookup_id: &LookupId,
    by_token: bool,
) -> Result<Started, Failed> {
    let elsewhere = lookup_id.bearer_elsewhere.as_deref();
    let mut credentials = credentials::read(request, project, elsewhere);
    if by_token {
        credentials = credentials.without_cookies();
    }
    let cache = location.zone.as_ref().map(|zone| worker.cache(zone));
    let (valid, stale) = worker.lifetimes(location);
    let scope = &project.userinfo.scope;
    let Some(key) = key_of(worker, cache.as_deref(), scope, &credentials) else {
        return Ok(Started::failed(Unavailable::Internal, CacheStatus::Bypass));
    };
    // Purges of the project and of the user concern the entry.
    let id = EntryId { key, scope: project.scope };
    let found = cache.as_ref().map_or(CacheLookup::NONE, |cache| cache.get(&id, &valid, &stale));
    if let Some((Freshness::Fresh, entry)) = &found.usable {
        return Ok(Started::Ready(Resolution::cached(entry, CacheStatus::Hit)));
    }
    let prefix = &project.userinfo.prefix;
    let shared = worker.shared();
    let question = match Question::new(request, project, prefix, shared, id, &found, &credentials) {
        Ok(question) => question,
        Err(why) => return Ok(Started::failed(why, CacheStatus::Bypass)),
    };
    drop(credentials);
    let flights = worker.flights();
    let entry = match found.usable {
        Some((Freshness::Updating, entry)) => {
            if let Some(leader) = flights.lead(key) {
                spawn(worker, leader, project, cache, question);
            }
            return Ok(Started::Ready(Resolution::cached(&entry, CacheStatus::Stale)));
        }
        usable => usable.map(|(_, entry)| entry),
    };
    if !flights.has_room(&key) {
        return Ok(Started::too_many_waiters(entry, &valid, &stale, CacheStatus::Miss));
    }
    let time = project.timeout.saturating_sub(state.waited()).max(LEAST.min(project.timeout));
    let resume = request.suspend(state, time)?;
    let (waiter, leader) = flights.join(key, Resumption::Request(resume));
    let joined = leader.is_none();
    if let Some(leader) = leader {
        spawn(worker, leader, project, cache, question);
    }
    let stale = entry.map(|entry| Stale { entry, id, valid, stale });
    let source = Source::Flight { waiter, joined };
    let pending = Pending::new(project, lookup_id.clone(), source, CacheStatus::Miss, stale);
    Ok(Started::Waiting(Box::new(pending)))
}

/// Spawns the task that asks, or follows the worker that does, and completes the flight.
fn spawn(
    worker: &Worker,
    leader: Leader,
    project: &Rc<Project>,
    cache: Option<Rc<Cache>>,
    mut question: Question,
) {
    let client = worker.client(project);
    let shared = worker.shared();
    // A leader that exceeds its own deadline is lost.
    let lease = project.timeout + Duration::from_millis(500);
    let until = nginx::now() + project.timeout;
    let (id, seen) = (question.id, question.seen);
    nginx::spawn(async move {
        let has_turn = Cell::new(false);
        let fetch = pin!(ask(&client, &mut question, shared, until, &has_turn));
        let work = pin!(through_cache(cache, &id, seen, lease, fetch));
        if let Some(outcome) = unless_abandoned(&leader, &has_turn, work).await {
            leader.complete(outcome);
        }
    });
}

/// Asks; once more if a purge outdated the answer.
async fn ask(
    client: &Rc<AuthgearClient>,
    question: &mut Question,
    shared: SharedHandle,
    until: Duration,
    has_turn: &Cell<bool>,
) -> FetchResult {
    loop {
        let verdict = client.userinfo(&question.inquiry, until, has_turn).await;
        if !question.is_purged(&verdict, shared) {
            return question.result(Rc::new(verdict), shared);
        }
        if nginx::now() >= until {
            return question.result(Rc::new(Verdict::Unavailable(Unavailable::Timeout)), shared);
        }
        question.asked_at = AskedAt::now(shared);
    }
}

/// Keys under which answers about the request's credentials may be kept.
pub(super) fn keys(
    request: &Request,
    cache: &Cache,
    project: &Project,
    bearer_elsewhere: Option<&[u8]>,
) -> [Key; 2] {
    let credentials = credentials::read(request, project, bearer_elsewhere);
    let token = credentials.without_cookies();
    [&credentials, &token].map(|credentials| cache.key(&project.userinfo.scope, credentials))
}
