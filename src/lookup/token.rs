//! What the worker finds out itself: whether a bearer token is one that Authgear signed.

use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::token::{self, Cause, TokenError};
use authgear::verdict::{NoSession, Reason, Unavailable, Verdict};

use super::{cached_until, key_of, Finding, Landing, Pending, Source, Step};
use crate::cache::flights::Pilot;
use crate::cache::{Asked, Cache, Kept, Place, Use};
use crate::conf::cache::UseStale;
use crate::conf::project::Project;
use crate::conf::{LocationConf, Mode};
use crate::keys::{Fetched, Keys, Waiting};
use crate::nginx::{self, Elapsed, Failed, Request, State};
use crate::{worker, Authgear};

/// What can be said of a bearer token at once.
pub(super) enum Judged {
    /// All.
    Found(Finding),
    /// Nothing that counts: the resolver is to be asked.
    AskResolver,
    /// Nothing yet: keys are being fetched.
    WaitForKeys(Box<Undecided>),
}

/// A token that waits for keys.
pub(super) struct Undecided {
    bearer: Vec<u8>,
    keys: Rc<Keys>,
    cache: Option<Rc<Cache>>,
    place: Place,
    /// See [`Pending`].
    status: &'static str,
}

/// Judges `credentials` by their bearer token.
pub(super) fn judge(
    location: &LocationConf,
    project: &Rc<Project>,
    credentials: &Credentials<'_>,
) -> Judged {
    let is_final = location.mode() == Mode::Jwt;
    let Some(bearer) = credentials.bearer() else { return Judged::AskResolver };
    if !is_final && !token::looks_like_jwt(bearer) {
        return Judged::AskResolver;
    }
    let cache = location.zone.as_ref().map(worker::cache);
    let status = if cache.is_some() { "MISS" } else { "BYPASS" };
    let found = |verdict| Judged::Found(Finding::by_token(Rc::new(verdict), status));
    let key = key_of(cache.as_deref(), &project.tokens.scope, &credentials.without_cookies());
    let (Some(keys), Some(key)) = (worker::keys(project), key) else {
        let internal = Verdict::Unavailable(Unavailable::Internal);
        return if is_final { found(internal) } else { Judged::AskResolver };
    };
    let place = Place { key, scope: project.scope };
    if let Some(kept) = cache.as_ref().and_then(|cache| get(cache, location, &keys, &place)) {
        return Judged::Found(Finding::kept(&kept, "HIT"));
    }

    let mut verified = verify(project, &keys, bearer);
    let cause = verified.as_ref().err().and_then(|refused| refused.cause());
    let fetching = cause.is_some_and(|cause| keys.fetch(cause));
    if cause.is_some() && !fetching {
        // Another worker may have fetched them right now.
        verified = verify(project, &keys, bearer);
    }
    if verified.is_ok() || !(is_final && fetching) {
        count(project, &verified);
    }
    match verified {
        Ok(kept) => {
            if let Some(cache) = &cache {
                cache.put(&place, &kept);
            }
            Judged::Found(Finding::by_token(kept.verdict, status))
        }
        Err(_) if is_final && fetching => {
            let bearer = bearer.to_vec();
            Judged::WaitForKeys(Box::new(Undecided { bearer, keys, cache, place, status }))
        }
        Err(refused) if is_final => found(refused.into()),
        // The resolver would say the same of it, and has nothing else to look at.
        Err(refused @ Refused::Token(TokenError::Expired)) if !credentials.has_cookies() => {
            found(refused.into())
        }
        // The server's word is final. In this mode nobody waits for keys.
        Err(_) => Judged::AskResolver,
    }
}

/// Suspends the request until the token can be judged.
pub(super) fn wait_for_keys(
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
    undecided: Undecided,
) -> Result<Step, Failed> {
    let (key, status) = (undecided.place.key, undecided.status);
    let flights = worker::flights();
    let waiting = undecided.keys.wait().filter(|_| flights.has_room(&key));
    let Some(waiting) = waiting else {
        let crowded = Rc::new(Verdict::Unavailable(Unavailable::Crowded));
        return Ok(Step::Found(Finding::by_token(crowded, status)));
    };
    let resume = request.suspend(state, project.timeout)?;
    let (seat, pilot) = flights.join(key, resume);
    let joined = pilot.is_none();
    if let Some(pilot) = pilot {
        nginx::spawn(decide(pilot, Rc::clone(project), undecided, waiting));
    }
    let from = Source::Flight { seat, joined };
    let pending = Pending::new(project, location.mode(), from, status, None);
    Ok(Step::Waiting(Box::new(pending)))
}

/// Why a token gives no session here.
#[derive(Clone, Copy)]
enum Refused {
    Token(TokenError),
    NoKeys,
}

impl Refused {
    /// Why keys are to be fetched, if others might make a difference.
    fn cause(self) -> Option<Cause> {
        match self {
            Self::NoKeys => Some(Cause::Due),
            Self::Token(TokenError::UnknownKid) => Some(Cause::UnknownKid),
            Self::Token(_) => None,
        }
    }
}

impl From<Refused> for Verdict {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token(error) => Self::None(NoSession::Token(error)),
            Refused::NoKeys => Self::Unavailable(Unavailable::Keys),
        }
    }
}

/// What is kept of the token, if its key is still published.
fn get(cache: &Cache, location: &LocationConf, keys: &Keys, place: &Place) -> Option<Kept> {
    let set = keys.current()?;
    // Verifying anew costs little, and tells more than what is old.
    match cache.get(place, &location.cache_valid(), &UseStale::default()).usable? {
        Use::Fresh(kept) if kept.key.is_some_and(|key| set.has(key)) => Some(kept),
        _ => None,
    }
}

fn verify(project: &Project, keys: &Keys, bearer: &[u8]) -> Result<Kept, Refused> {
    let set = keys.current().ok_or(Refused::NoKeys)?;
    // Before it is known whether its user was disabled.
    let asked_at = Asked::now();
    let now = nginx::unix_time().as_secs();
    let verified = token::verify(bearer, &set, &project.tokens.profile, now);
    let verified = verified.map_err(Refused::Token)?;
    if let Verdict::Valid(identity) = &verified.verdict {
        // One that does not say when it was made may be older than anything.
        let issued_at = verified.issued_at.unwrap_or(0);
        if identity.user_id().is_some_and(|id| worker::is_revoked(project, id, issued_at)) {
            return Err(Refused::Token(TokenError::Revoked));
        }
    }
    let expires_at = cached_until(verified.expires_at);
    Ok(Kept::of_token(Rc::new(verified.verdict), asked_at, expires_at, verified.key))
}

fn count(project: &Project, verified: &Result<Kept, Refused>) {
    worker::metrics(project).verified(match verified {
        Ok(_) => Reason::Ok,
        Err(Refused::Token(error)) => error.reason(),
        Err(Refused::NoKeys) => Reason::KeysUnavailable,
    });
}

/// Waits for keys, and lands with what they say of the token.
async fn decide(pilot: Pilot, project: Rc<Project>, undecided: Undecided, _waiting: Waiting) {
    let Undecided { bearer, keys, cache, place, .. } = undecided;
    // Before the request's own deadline, so that it is the token that is judged and not the wait.
    let patience = project.timeout.saturating_sub((project.timeout / 10).min(LEAST_LEFT));
    let judge = async {
        loop {
            let verified = verify(&project, &keys, &bearer);
            let cause = verified.as_ref().err().and_then(|refused| refused.cause());
            let Some(cause) = cause else { return verified };
            // What was going on may have been asked for before the token's key was published.
            if keys.fetched(cause).await != Fetched::Before {
                return verify(&project, &keys, &bearer);
            }
        }
    };
    let judged = match nginx::timeout(patience, judge).await {
        Ok(judged) => judged,
        Err(Elapsed) => verify(&project, &keys, &bearer),
    };
    count(&project, &judged);
    let verdict = match judged {
        Ok(kept) => {
            if let Some(cache) = cache {
                cache.put(&place, &kept);
            }
            kept.verdict
        }
        Err(refused) => Rc::new(refused.into()),
    };
    pilot.land(Landing::of_token(verdict));
}

/// What is left of a request's time, at most, when keys did not come.
const LEAST_LEFT: Duration = Duration::from_millis(200);
