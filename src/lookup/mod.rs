//! From credentials to a verdict: the cache first, then a look-up.

mod limit;
mod pending;
mod question;
mod sharing;
mod subrequest;
mod token;
pub mod userinfo;

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::identity::Identity;
use authgear::metrics::CacheStatus;
use authgear::overload::turn_queue;
use authgear::resolver::ResolverAnswer;
use authgear::shared::cache_key::Key;
use authgear::shared::subject::PurgeTarget;
use authgear::verdict::freshness::Freshness;
use authgear::verdict::Unavailable;

use crate::cache::{AskedAt, Cache, CacheLookup, EntryId, FetchResult};
use crate::client::AuthgearClient;
use crate::conf::project::{Project, Upstream};
use crate::conf::{Authgear, LocationConf, Mode};
use crate::credentials::{self, BearerElsewhere};
use crate::fleet::Told;
use crate::resolution::{LookupOutcome, Resolution};
use crate::shared::changes::Change;
use crate::shared::handle::SharedHandle;
use crate::single_flight::{unless_abandoned, Leader};
use crate::worker::Worker;
use limit::LimitOnce;
use nginx::{self, Failed, Level, Log, Request};
pub use pending::{LookupId, Pending, Poll, Started, Waits};
use pending::{Source, Stale};
use question::{key_of, through_cache, Question, BLANK};
use sharing::{AskedFrom, Look, Sharing};
use subrequest::Subrequest;
use token::TokenDecision;

/// Returns the identity of the request's look-up at `location`.
pub fn identify(
    request: &Request,
    location: &LocationConf,
    project: &Project,
    bearer_elsewhere: Option<BearerElsewhere>,
) -> LookupId {
    let audience = location.audience().filter(|_| {
        let credentials = credentials::read(request, project, bearer_elsewhere.as_deref());
        credentials.bearer().is_some() || credentials.has_token_cookie(&project.cookies)
    });
    let audience = audience.map(|audience| audience.id);
    LookupId { project: project.id, mode: location.mode(), audience, bearer_elsewhere }
}

/// Looks up the request's credentials with `project`. `lookup_id` is of [`identify`].
pub fn start(
    worker: &Worker,
    request: &mut Request,
    waits: &Waits<'_>,
    location: &LocationConf,
    project: &Rc<Project>,
    lookup_id: &LookupId,
) -> Result<Started, Failed> {
    let mode = location.mode();
    let elsewhere = lookup_id.bearer_elsewhere.as_deref();
    let mut credentials = credentials::read(request, project, elsewhere);
    if mode == Mode::Jwt {
        credentials = credentials.without_cookies();
    }
    if credentials.is_empty() {
        if mode != Mode::Jwt && request.log().takes(Level::Info) {
            report_other_prefix(request, project);
        }
        // Authgear would say the same.
        return Ok(Started::Ready(Resolution::no_credentials()));
    }
    let is_cut_off = worker.is_cut_off(location);
    if is_cut_off && mode == Mode::Jwt {
        return Ok(Started::failed(Unavailable::FleetCutOff, CacheStatus::Bypass));
    }
    let limit = LimitOnce::default();
    // A token alone does not tell that its user was disabled meanwhile.
    let mode = if is_cut_off { Mode::Resolver } else { mode };
    let place = (location, mode);
    let undecided = match token::decide(worker, request, place, project, &credentials, &limit) {
        TokenDecision::Decided(resolution) => return Ok(Started::Ready(resolution)),
        TokenDecision::AskResolver => None,
        TokenDecision::AskAbout(rest) => {
            credentials = rest;
            None
        }
        TokenDecision::WaitForKeys(undecided) => Some(undecided),
    };
    if let Some(undecided) = undecided {
        drop(credentials);
        return token::wait_for_keys(worker, request, waits, lookup_id, project, *undecided);
    }
    let cache = location.zone.as_ref().map(|zone| worker.cache(zone));
    let (valid, stale) = worker.lifetimes(location);
    let Some(key) = key_of(worker, cache.as_deref(), &project.scope, &credentials) else {
        return Ok(Started::failed(Unavailable::Internal, CacheStatus::Bypass));
    };
    let id = EntryId { key, scope: project.scope };
    let found = cache.as_ref().map_or(CacheLookup::NONE, |cache| cache.get(&id, &valid, &stale));
    if let Some((Freshness::Fresh, entry)) = &found.usable {
        request.log().debug(format_args!("authgear: cache hit"));
        return Ok(Started::Ready(Resolution::cached(entry, CacheStatus::Hit)));
    }
    let prefix = &project.lookup_prefix;
    let shared = worker.shared();
    let question = match Question::new(request, project, prefix, shared, id, &found, &credentials) {
        Ok(question) => question,
        Err(why) => return Ok(Started::failed(why, CacheStatus::Bypass)),
    };
    let sharing = Sharing::of(worker, location, project, &key, &credentials);
    drop(credentials);
    if let (Some((_, entry)), Upstream::Url(_)) = (&found.usable, &project.resolver) {
        let client = worker.client(project);
        let at_once =
            client.serves_stale_at_once(&question.inquiry) || worker.flights().is_slow(&key);
        if entry.usable_on_error(&valid, &stale) && at_once {
            request.log().debug(format_args!("authgear: cache hit while the resolver fails"));
            return Ok(Started::Ready(Resolution::cached(entry, CacheStatus::Stale)));
        }
    }

    let (entry, status) = match (found.usable, &project.resolver) {
        (Some((Freshness::Updating, entry)), Upstream::Url(_)) => {
            let status = match worker.flights().lead(key) {
                Some(leader) => {
                    spawn(worker, leader, project, cache, question, sharing);
                    CacheStatus::Stale
                }
                None => CacheStatus::Updating,
            };
            request.log().debug(format_args!("authgear: cache hit while updating"));
            return Ok(Started::Ready(Resolution::cached(&entry, status)));
        }
        (Some((_, entry)), _) => (Some(entry), CacheStatus::Expired),
        (None, _) if cache.is_some() => (None, CacheStatus::Miss),
        (None, _) => (None, CacheStatus::Bypass),
    };
    request.log().debug(format_args!("authgear: cache status {}", status.variable()));
    // A request that joins a look-up makes none.
    if !worker.flights().has_flight(&key) {
        if let Some(beyond) = limit.check(worker, request, location, project, status) {
            return Ok(Started::Ready(beyond));
        }
    }
    let from = match &project.resolver {
        Upstream::Url(_) => {
            let flights = worker.flights();
            if !flights.has_room(&key) {
                return Ok(Started::too_many_waiters(entry, &valid, &stale, status));
            }
            // A refresh that takes longer goes on behind the stale verdict.
            let is_bridged =
                entry.as_ref().is_some_and(|entry| entry.usable_on_error(&valid, &stale));
            let time = if is_bridged { project.timeout / SLOW_REFRESH } else { project.timeout };
            let (waiter, leader) = flights.join(key, waits.begin(request, time)?);
            let joined = leader.is_none();
            let role = if joined { "joins a look-up" } else { "leads a look-up" };
            request.log().debug(format_args!("authgear: {role}"));
            if let Some(leader) = leader {
                spawn(worker, leader, project, cache, question, sharing);
            }
            Source::Flight { waiter, joined }
        }
        // `nginx -t` refuses the configuration: an open response makes no subrequests.
        Upstream::Location(_) if matches!(waits, Waits::Open(_)) => {
            return Ok(Started::failed(Unavailable::Internal, status));
        }
        Upstream::Location(uri) => {
            let subrequest = Subrequest::start(request, project, uri, question, cache)?;
            Source::Subrequest(Box::new(subrequest))
        }
    };
    let stale = entry.map(|entry| Stale { entry, id, valid, stale });
    Ok(Started::Waiting(Box::new(Pending::new(project, lookup_id.clone(), from, status, stale))))
}

/// Logs that a request without credentials has a session cookie under another name.
fn report_other_prefix(request: &Request, project: &Project) {
    let Some(prefix) = credentials::prefix_of_another(request, project) else { return };
    request.log().write(
        Level::Info,
        format_args!(
            "authgear found no credentials, but the cookie \"{prefix}session\" has the form of an \
             Authgear session: cookie_prefix of the project \"{}\" may have to be \"{prefix}\"",
            project.name
        ),
    );
}

/// Spawns the task of a look-up: asks Authgear, or follows the worker or the host that does, and
/// completes the flight.
fn spawn(
    worker: &Worker,
    leader: Leader,
    project: &Rc<Project>,
    cache: Option<Rc<Cache>>,
    mut question: Question,
    sharing: Option<Sharing>,
) {
    let client = worker.client(project);
    let shared = worker.shared();
    // A leader that exceeds its own deadline is lost.
    let lease = project.timeout + Duration::from_millis(500);
    let until = nginx::now() + project.timeout;
    let (id, seen, was_valid) = (question.id, question.seen, question.was_valid());
    spawn_task(async move {
        let set_cookies = RefCell::default();
        let (has_turn, is_shared) = (Cell::new(false), Cell::new(false));
        let fetch = pin!(async {
            let lease = match &sharing {
                None => None,
                Some(sharing) => match sharing.look(&id, question.expires_at, shared).await {
                    Look::Found(entry) => {
                        is_shared.set(true);
                        return FetchResult::Keep(entry);
                    }
                    Look::Ask(lease) => {
                        question.asked_at = AskedAt::now(shared);
                        lease
                    }
                },
            };
            let (answer, from) =
                ask(&client, &mut question, shared, until, &has_turn, sharing.as_ref()).await;
            set_cookies.replace(answer.set_cookies);
            let result = question.result(Rc::new(answer.verdict), shared);
            if let Some(sharing) = &sharing {
                sharing.tell(lease, from, &result);
            }
            if matches!(result, FetchResult::Pass { code: BLANK, .. }) {
                client.blank_answer();
            }
            result
        });
        let work = pin!(through_cache(cache, &id, seen, lease, fetch));
        match unless_abandoned(&leader, &has_turn, work).await {
            Some(outcome) => {
                if was_valid {
                    client.note_refresh(id.key, outcome.failed);
                }
                let outcome = outcome.with_cookies(set_cookies.take());
                leader.complete(LookupOutcome { shared: is_shared.get(), ..outcome });
            }
            None => Log::cycle().debug(format_args!("authgear: nobody waits for the look-up")),
        }
    });
}

/// Spawns the task of a look-up. The compiler refuses one that is larger than a queued look-up
/// counts.
fn spawn_task<F: Future<Output = ()> + 'static>(task: F) {
    const { assert!(size_of::<F>() < turn_queue::OVERHEAD) };
    nginx::spawn(task);
}

/// Asks the resolver; once more if a purge outdated the answer, or if the answer is to be
/// confirmed. Returns the state before the question too, if the answer is to be shared.
async fn ask(
    client: &Rc<AuthgearClient>,
    question: &mut Question,
    shared: SharedHandle,
    until: Duration,
    has_turn: &Cell<bool>,
    sharing: Option<&Sharing>,
) -> (ResolverAnswer, Option<AskedFrom>) {
    loop {
        let from = sharing.and_then(Sharing::asks);
        question.inquiry.over_new_connection = false;
        let mut answer = client.ask(&question.inquiry, until, has_turn).await;
        if question.needs_confirmation(&answer.verdict) {
            question.inquiry.over_new_connection = true;
            answer = client.ask(&question.inquiry, until, has_turn).await;
        }
        if !question.is_purged(&answer.verdict, shared) {
            return (answer.about(question.presented), from);
        }
        // The answer may be older than the change that caused the purge.
        if nginx::now() >= until {
            return (Unavailable::Timeout.into(), None);
        }
        question.asked_at = AskedAt::now(shared);
    }
}

/// Part of the project's `timeout` after which a stale verdict is served while its refresh goes
/// on: a tenth.
const SLOW_REFRESH: u32 = 10;

/// Keeps no verdict of the resolver on the request's credentials for the longest life of a verdict:
/// until Authgear has ended the session, it would say that it is valid.
pub fn keep_nothing(worker: &Worker, request: &Request, project: &Project) {
    let credentials = credentials::read(request, project, None);
    let main = request.main_conf::<Authgear>();
    for zone in main.zones() {
        let cache = worker.cache(zone);
        let key = cache.key(&project.scope, &credentials);
        worker.shared().keep_nothing(&key, main.longest_life());
    }
}

/// Forgets the session of the request's credentials, and purges the user of its `identity`: of
/// that project, or of every project that has it. Other hosts are told of a user.
pub fn purge_session(
    worker: &Worker,
    request: &Request,
    project: &Project,
    bearer_elsewhere: Option<&[u8]>,
    (of, identity): (Option<&Project>, &Identity),
) -> Told {
    let in_flight = forget(worker, request, project, bearer_elsewhere);
    // The mark of the user covers look-ups in flight. Without it each key needs one.
    let Some(id) = identity.user_id() else {
        let holders: Vec<PurgeTarget<'_>> = in_flight.iter().map(PurgeTarget::Holder).collect();
        // A purge of nothing counts too: other workers read the zone again, not their LRU.
        worker.shared().purge(&holders);
        return Told::default();
    };
    worker.change(of, &Change::Users(&[id])).1
}

/// Removes the cache entries of the request's credentials with `project`, whatever their verdict,
/// and the record that hosts of a fleet share.
/// Returns the keys of look-ups that are in flight.
pub fn forget(
    worker: &Worker,
    request: &Request,
    project: &Project,
    bearer_elsewhere: Option<&[u8]>,
) -> Vec<Key> {
    let credentials = credentials::read(request, project, bearer_elsewhere);
    if credentials.is_empty() {
        return Vec::new();
    }
    // Or the next look-up here would be answered with the record of the last one.
    Sharing::forget(worker, project, &credentials);
    let token = credentials.without_cookies();
    let mut in_flight = Vec::new();
    for zone in request.main_conf::<Authgear>().zones() {
        let cache = worker.cache(zone);
        // Verdicts of the resolver, and of workers on the token alone.
        for (scope, credentials) in
            [(&project.scope, &credentials), (&project.tokens.scope, &token)]
        {
            let key = cache.key(scope, credentials);
            if cache.forget(&key) {
                in_flight.push(key);
            }
        }
        let profiles = userinfo::keys(request, &cache, project, bearer_elsewhere);
        in_flight.extend(profiles.into_iter().filter(|key| cache.forget(key)));
    }
    in_flight
}
