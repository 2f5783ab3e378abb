//! Verification of bearer tokens by this worker.

use core::cell::Cell;
use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::{token_check, Credentials, TokenCheck};
use authgear::metrics::CacheStatus;
use authgear::shared::cache_key::Key;
use authgear::token::{self, Cause, Profile, TokenError};
use authgear::verdict::freshness::{Freshness, UseStale};
use authgear::verdict::{NoSession, Reason, Unavailable, Verdict};

use super::limit::LimitOnce;
use super::pending::{LookupId, Pending, Source, Started, Waits};
use super::question::{cached_until, key_of};
use crate::cache::{AskedAt, Cache, CacheEntry, EntryId};
use crate::conf::audience::LocationAudience;
use crate::conf::project::Project;
use crate::conf::{LocationConf, Mode};
use crate::jwks::{Fetched, Jwks, KeyWaiter};
use crate::resolution::{LookupOutcome, Resolution};
use crate::shared::handle::SharedHandle;
use crate::single_flight::{unless_abandoned, Leader};
use crate::worker::Worker;
use nginx::{self, Elapsed, Failed, Level, Log, Request};

/// Result of [`decide`].
pub(super) enum TokenDecision<'a> {
    /// The token decides.
    Decided(Resolution),
    /// The token decides nothing: ask the resolver.
    AskResolver,
    /// Ask the resolver about these credentials only.
    AskAbout(Credentials<'a>),
    /// The token needs keys that are being fetched.
    WaitForKeys(Box<Undecided>),
}

/// A token that waits for keys.
pub(super) struct Undecided {
    bearer: Vec<u8>,
    keys: Rc<Jwks>,
    cache: Option<Rc<Cache>>,
    id: EntryId,
    /// Key under which requests share the wait and its verdict.
    flight: Key,
    /// Audiences of the location, if it has its own.
    audience: Option<Rc<LocationAudience>>,
    /// Value of `$authgear_cache_status`.
    status: CacheStatus,
    /// The resolver decides about the token if it is accepted.
    resolver_is_next: bool,
}

/// Decides about `credentials` by those of their tokens that are verified here: see [`token_check`].
/// The mode may be another than the location's.
pub(super) fn decide<'a>(
    worker: &Worker,
    request: &Request,
    (location, mode): (&LocationConf, Mode),
    project: &Rc<Project>,
    credentials: &Credentials<'a>,
    limit: &LimitOnce,
) -> TokenDecision<'a> {
    let names = &project.cookies;
    let check = token_check(mode, location.has_audience(project), credentials, names);
    let bearer = match check {
        TokenCheck::Nothing => None,
        TokenCheck::Cookie => {
            return decide_by_cookie(worker, request, location, project, credentials, limit);
        }
        _ => credentials.bearer(),
    };
    let Some(bearer) = bearer else { return TokenDecision::AskResolver };
    let is_final = check != TokenCheck::BearerOrResolver;
    let alone = credentials.without_cookies();
    let token = Token { bearer, alone, waits: is_final };
    match check_token(worker, request, location, project, &token, limit) {
        Checked::Limited(beyond) => TokenDecision::Decided(beyond),
        Checked::Accepted(_) if check == TokenCheck::BearerAndResolver => {
            TokenDecision::AskAbout(credentials.without_token_cookies(names))
        }
        Checked::Accepted(resolution) => TokenDecision::Decided(resolution),
        Checked::NoKeysYet(mut undecided) => {
            undecided.resolver_is_next = check == TokenCheck::BearerAndResolver;
            TokenDecision::WaitForKeys(undecided)
        }
        Checked::Rejected(rejection) if is_final => rejected(rejection, location),
        // The resolver would say the same, and there are no other credentials.
        Checked::Rejected(rejection @ TokenRejection::Token(TokenError::Expired))
            if !credentials.has_cookies() =>
        {
            rejected(rejection, location)
        }
        // The resolver decides. In this mode no request waits for keys.
        Checked::Rejected(_) => TokenDecision::AskResolver,
    }
}

/// Decides about credentials with a JWT in the cookie `app_access_token`. Requests do not wait for
/// keys here: without them the cookie does not count.
fn decide_by_cookie<'a>(
    worker: &Worker,
    request: &Request,
    location: &LocationConf,
    project: &Rc<Project>,
    credentials: &Credentials<'a>,
    limit: &LimitOnce,
) -> TokenDecision<'a> {
    let mut rejection = TokenRejection::Token(TokenError::Malformed);
    if let Some(bearer) = credentials.token_cookie(&project.cookies) {
        // The key of the entry is that of the same token as bearer.
        let authorization = [b"Bearer ", bearer].concat();
        let alone = Credentials::read(Some(&authorization), [], &project.cookies);
        let token = Token { bearer, alone, waits: false };
        match check_token(worker, request, location, project, &token, limit) {
            Checked::Limited(beyond) => return TokenDecision::Decided(beyond),
            Checked::Accepted(_) => return TokenDecision::AskResolver,
            Checked::NoKeysYet(_) => rejection = TokenRejection::NoKeys,
            Checked::Rejected(why) => rejection = why,
        }
    }
    let rest = credentials.without_token_cookies(&project.cookies);
    if rest.is_empty() {
        return rejected(rejection, location);
    }
    TokenDecision::AskAbout(rest)
}

/// The token's rejection decides.
fn rejected<'a>(rejection: TokenRejection, location: &LocationConf) -> TokenDecision<'a> {
    let verdict = Rc::new(rejection.into());
    TokenDecision::Decided(Resolution::by_token(verdict, missed(location)))
}

/// Value of `$authgear_cache_status` for a verdict that is not from the cache.
fn missed(location: &LocationConf) -> CacheStatus {
    if location.zone.is_some() {
        CacheStatus::Miss
    } else {
        CacheStatus::Bypass
    }
}

/// A token to verify.
struct Token<'a> {
    bearer: &'a [u8],
    /// The token as the only credential, for the key of its cache entry.
    alone: Credentials<'a>,
    /// The request can wait for keys.
    waits: bool,
}

/// Result of [`check_token`].
enum Checked {
    Accepted(Resolution),
    Rejected(TokenRejection),
    /// The client is beyond its limit of look-ups.
    Limited(Resolution),
    /// Keys are being fetched.
    NoKeysYet(Box<Undecided>),
}

/// Finds the verdict on a token in the cache, or verifies the token.
fn check_token(
    worker: &Worker,
    request: &Request,
    location: &LocationConf,
    project: &Rc<Project>,
    token: &Token<'_>,
    limit: &LimitOnce,
) -> Checked {
    let (log, shared) = (request.log(), worker.shared());
    let cache = location.zone.as_ref().map(|zone| worker.cache(zone));
    let status = missed(location);
    let key = key_of(worker, cache.as_deref(), &project.tokens.scope, &token.alone);
    let (Some(keys), Some(key)) = (worker.keys(project), key) else {
        return Checked::Rejected(TokenRejection::Internal);
    };
    let id = EntryId { key, scope: project.scope };
    if let Some(entry) = cache.as_ref().and_then(|cache| get(cache, location, project, &keys, &id))
    {
        log.debug(format_args!("authgear: cache hit of a token"));
        return Checked::Accepted(Resolution::cached(&entry, CacheStatus::Hit));
    }
    log.debug(format_args!("authgear: cache status {} of a token", status.variable()));
    if let Some(beyond) = limit.check(worker, request, location, project, status) {
        return Checked::Limited(beyond);
    }

    let profile = location.profile(project);
    let mut verified = verify(project, profile, shared, &keys, token.bearer);
    let cause = verified.as_ref().err().and_then(|rejection| rejection.cause());
    let fetching = cause.is_some_and(|cause| keys.fetch(cause));
    if cause.is_some() && !fetching {
        // Another worker may have fetched keys right now.
        verified = verify(project, profile, shared, &keys, token.bearer);
    }
    if verified.is_ok() || !(token.waits && fetching) {
        count(project, shared, &verified);
    }
    match verified {
        Ok(entry) => {
            if let Some(cache) = &cache {
                cache.put(&id, &entry);
            }
            let expires_at = entry.expires_at();
            let resolution = Resolution::by_token(entry.verdict, status);
            Checked::Accepted(Resolution { expires_at, ..resolution })
        }
        Err(_) if token.waits && fetching => {
            let audience = location.audience.clone();
            let flight = audience.as_ref().map_or(Some(key), |audience| {
                key_of(worker, cache.as_deref(), &audience.scope, &token.alone)
            });
            let Some(flight) = flight else {
                return Checked::Rejected(TokenRejection::Internal);
            };
            let (bearer, resolver_is_next) = (token.bearer.to_vec(), false);
            let undecided =
                Undecided { bearer, keys, cache, id, flight, audience, status, resolver_is_next };
            Checked::NoKeysYet(Box::new(undecided))
        }
        Err(rejection) => {
            report(log, profile, token.bearer, rejection);
            Checked::Rejected(rejection)
        }
    }
}

/// Logs which issuer or audience a token has, and which is accepted.
fn report(log: Log, profile: &Profile, bearer: &[u8], rejection: TokenRejection) {
    let TokenRejection::Token(error) = rejection else { return };
    if !log.takes(Level::Info) {
        return;
    }
    let Some((name, value)) = token::disputed_claim(bearer, error) else { return };
    let accepted = match error {
        TokenError::Issuer => &profile.issuer,
        _ => &profile.audiences.join("\", \""),
    };
    log.write(
        Level::Info,
        format_args!(
            "authgear rejected a token: {}, its {name} is {value}, accepted: \"{}\"",
            error.reason().as_str(),
            accepted.get(..MAX_ACCEPTED).unwrap_or(accepted)
        ),
    );
}

/// Most bytes of the accepted values that are logged: nginx cuts off long lines.
const MAX_ACCEPTED: usize = 400;

/// Suspends the request until the token can be verified.
pub(super) fn wait_for_keys(
    worker: &Worker,
    request: &mut Request,
    waits: &Waits<'_>,
    lookup_id: &LookupId,
    project: &Rc<Project>,
    undecided: Undecided,
) -> Result<Started, Failed> {
    let (key, status) = (undecided.flight, undecided.status);
    let resolver_is_next = undecided.resolver_is_next;
    let flights = worker.flights();
    let waiting = undecided.keys.wait().filter(|_| flights.has_room(&key));
    let Some(waiting) = waiting else {
        let crowded = Rc::new(Verdict::Unavailable(Unavailable::Crowded));
        return Ok(Started::Ready(Resolution::by_token(crowded, status)));
    };
    let (waiter, leader) = flights.join(key, waits.begin(request, project.timeout)?);
    let joined = leader.is_none();
    let role = if joined { "joins a wait for keys" } else { "waits for keys" };
    request.log().debug(format_args!("authgear: {role}"));
    if let Some(leader) = leader {
        nginx::spawn(verify_later(leader, Rc::clone(project), worker.shared(), undecided, waiting));
    }
    let from = Source::Flight { waiter, joined };
    let pending = Pending::new(project, lookup_id.clone(), from, status, None);
    let pending = pending.before_resolver(resolver_is_next);
    Ok(Started::Waiting(Box::new(pending)))
}

/// Reason why a token gives no session here.
#[derive(Clone, Copy)]
enum TokenRejection {
    Token(TokenError),
    NoKeys,
    Internal,
}

impl TokenRejection {
    /// Cause to fetch keys, if other keys could change the result.
    fn cause(self) -> Option<Cause> {
        match self {
            Self::NoKeys => Some(Cause::Due),
            Self::Token(TokenError::UnknownKid) => Some(Cause::UnknownKid),
            Self::Token(_) | Self::Internal => None,
        }
    }
}

impl From<TokenRejection> for Verdict {
    fn from(rejection: TokenRejection) -> Self {
        match rejection {
            TokenRejection::Token(error) => Self::None(NoSession::Token(error)),
            TokenRejection::NoKeys => Self::Unavailable(Unavailable::Keys),
            TokenRejection::Internal => Self::Unavailable(Unavailable::Internal),
        }
    }
}

/// The token's cache entry, if it is fresh, its key is still published, and the token is for the
/// location.
fn get(
    cache: &Cache,
    location: &LocationConf,
    project: &Project,
    keys: &Jwks,
    id: &EntryId,
) -> Option<CacheEntry> {
    let set = keys.current()?;
    // Verifying again costs little, and is better than a stale verdict.
    match cache.get(id, &location.cache_valid(), &UseStale::default()).usable? {
        (Freshness::Fresh, entry) if entry.key.is_some_and(|key| set.has(key)) => {
            // Locations with different audiences share entries.
            let audiences = &location.profile(project).audiences;
            let is_for_this = || entry.verdict.check_audience(audiences).is_ok();
            (!project.tokens.has_location_audiences() || is_for_this()).then_some(entry)
        }
        _ => None,
    }
}

fn verify(
    project: &Project,
    profile: &Profile,
    shared: SharedHandle,
    keys: &Jwks,
    bearer: &[u8],
) -> Result<CacheEntry, TokenRejection> {
    let set = keys.current().ok_or(TokenRejection::NoKeys)?;
    // Taken before the check for revocation, so that a purge in between cancels the entry.
    let asked_at = AskedAt::now(shared);
    let now = nginx::system_time();
    let verified = token::verify(bearer, &set, profile, now.as_secs());
    let verified = verified.map_err(TokenRejection::Token)?;
    if let Verdict::Valid(identity) = &verified.verdict {
        // A token that does not say when it was issued may be of any age.
        let issued_at = verified.issued_at.unwrap_or(0);
        let is_refused = |id| {
            shared.is_revoked(&project.scope, id, issued_at)
                || shared.is_disabled(&project.scope, id, issued_at)
        };
        if identity.user_id().is_some_and(is_refused) {
            return Err(TokenRejection::Token(TokenError::Revoked));
        }
    }
    let expires_at = cached_until(verified.expires_at, now);
    Ok(CacheEntry::of_token(Rc::new(verified.verdict), asked_at, expires_at, verified.key))
}

fn count(project: &Project, shared: SharedHandle, verified: &Result<CacheEntry, TokenRejection>) {
    project.counters(shared).verified(match verified {
        Ok(_) => Reason::Ok,
        Err(TokenRejection::Token(error)) => error.reason(),
        Err(TokenRejection::NoKeys) => Reason::KeysUnavailable,
        Err(TokenRejection::Internal) => Reason::InternalError,
    });
}

/// Waits for keys, and completes the flight with the verdict on the token.
async fn verify_later(
    leader: Leader,
    project: Rc<Project>,
    shared: SharedHandle,
    undecided: Undecided,
    _waiting: KeyWaiter,
) {
    let Undecided { bearer, keys, cache, id, audience, .. } = undecided;
    let profile = audience.as_ref().map_or(&project.tokens.profile, |own| &own.profile);
    // Ends before the request's own deadline, so that the verdict is on the token and not a timeout.
    let patience = project.timeout.saturating_sub((project.timeout / 10).min(LEAST_LEFT));
    let verification = pin!(async {
        loop {
            let verified = verify(&project, profile, shared, &keys, &bearer);
            let cause = verified.as_ref().err().and_then(|rejection| rejection.cause());
            let Some(cause) = cause else { return verified };
            // A fetch that was already running may predate the publication of the token's key.
            if keys.fetched(cause).await != Fetched::Before {
                return verify(&project, profile, shared, &keys, &bearer);
            }
        }
    });
    let must_go_on = Cell::new(false);
    let waited = pin!(nginx::timeout(patience, verification));
    let Some(waited) = unless_abandoned(&leader, &must_go_on, waited).await else { return };
    let verified = match waited {
        Ok(verified) => verified,
        Err(Elapsed) => verify(&project, profile, shared, &keys, &bearer),
    };
    count(&project, shared, &verified);
    leader.complete(match verified {
        Ok(entry) => {
            if let Some(cache) = cache {
                cache.put(&id, &entry);
            }
            let expires_at = entry.expires_at();
            LookupOutcome::of_token(entry.verdict, expires_at)
        }
        Err(rejection) => {
            report(Log::cycle(), profile, &bearer, rejection);
            LookupOutcome::of_token(Rc::new(rejection.into()), None)
        }
    });
}

/// Most of a request's time that is left when no keys arrived.
const LEAST_LEFT: Duration = Duration::from_millis(200);
