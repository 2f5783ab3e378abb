//! The request to the resolver for one set of credentials.

use core::future::Future;
use core::pin::Pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::exchange::request::RequestPrefix;
use authgear::overload::client_network::ClientNetwork;
use authgear::resolver::{self, Presented};
use authgear::shared::cache_key::Key;
use authgear::verdict::{NoSession, Unavailable, Verdict};

use crate::cache::{AskedAt, Cache, CacheEntry, CacheLookup, EntryId, FetchResult, SeenVersion};
use crate::client::Inquiry;
use crate::conf::project::Project;
use crate::conf::Authgear;
use crate::resolution::LookupOutcome;
use crate::shared::handle::SharedHandle;
use crate::worker::Worker;
use nginx::{self, Request};

/// A request to the resolver, and where its verdict is stored.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) id: EntryId,
    /// Version of the entry in the zone.
    pub(super) seen: SeenVersion,
    pub(super) inquiry: Inquiry,
    pub(super) asked_at: AskedAt,
    /// When the first of the tokens expires, by nginx's clock.
    pub(super) expires_at: Option<Duration>,
    /// The credentials have a session cookie in Authgear's format. An answer of no session is not
    /// stored then.
    has_session: bool,
    /// The credentials that the answer is about.
    pub(super) presented: Presented,
}

impl Question {
    pub(super) fn new(
        request: &Request,
        project: &Project,
        prefix: &RequestPrefix,
        shared: SharedHandle,
        id: EntryId,
        found: &CacheLookup,
        credentials: &Credentials<'_>,
    ) -> Result<Self, Unavailable> {
        let request_id = request.main_conf::<Authgear>().request_id();
        let header = |name: &[u8]| request.header(name);
        let client = resolver::ClientInfo {
            address: Some(request.client_address()),
            user_agent: header(b"user-agent"),
            trace: (header(b"traceparent"), header(b"tracestate")),
            request_id: request_id.and_then(|id| request.evaluate(id).ok()),
        };
        let inquiry = Inquiry {
            request: resolver::request(prefix, credentials, &client)
                .map(Rc::new)
                .ok_or(Unavailable::Internal)?,
            client: ClientNetwork::parse(request.client_address()),
            key: id.key,
            was_valid: found.was_valid,
            over_new_connection: false,
        };
        let now = nginx::unix_time();
        let expiry = credentials.expires_at(&project.cookies, now.as_secs());
        Ok(Self {
            id,
            seen: found.seen,
            inquiry,
            asked_at: AskedAt::now(shared),
            expires_at: expiry.map(|time| cached_until(time, now)),
            has_session: credentials.has_session(&project.cookies),
            presented: Presented::of(credentials, &project.cookies),
        })
    }

    /// Whether the zone remembers a valid session of these credentials.
    pub(super) fn was_valid(&self) -> bool {
        self.inquiry.was_valid
    }

    /// Whether an answer of no session is to be confirmed. Authgear gives it on a passing fault of
    /// its database too: about a session cookie of its own format, which it otherwise answers with
    /// `true` or `false`, and about a bearer that was valid.
    pub(super) fn needs_confirmation(&self, verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::None(_)) && (self.has_session || self.was_valid())
    }

    /// Whether the entry was purged between the question and its answer `verdict`. Without a
    /// verdict there is nothing to purge.
    pub(super) fn is_purged(&self, verdict: &Verdict, shared: SharedHandle) -> bool {
        !matches!(verdict, Verdict::Unavailable(_))
            && shared.is_purged(self.asked_at.since, Some(&self.id.key), &self.id.scope, verdict)
    }

    /// Decides whether `verdict` is stored.
    pub(super) fn result(&self, verdict: Rc<Verdict>, shared: SharedHandle) -> FetchResult {
        match &*verdict {
            Verdict::Unavailable(why) => FetchResult::Pass { code: why.code(), verdict },
            // Authgear answers so on a passing fault of its database, too.
            Verdict::None(_) if self.has_session => FetchResult::Pass { code: BLANK, verdict },
            _ if shared.is_logged_out(&self.id.key) => {
                FetchResult::Pass { code: LOGGED_OUT, verdict }
            }
            _ => FetchResult::Keep(CacheEntry::new(verdict, self.asked_at, self.expires_at)),
        }
    }
}

/// Returns the cache key, which also identifies the look-up for joining. `None` if no random
/// secret could be made.
pub(super) fn key_of(
    worker: &Worker,
    cache: Option<&Cache>,
    scope: &[u8; 32],
    credentials: &Credentials<'_>,
) -> Option<Key> {
    match cache {
        Some(cache) => Some(cache.key(scope, credentials)),
        None => Some(Key::of(worker.secret()?, scope, credentials)),
    }
}

/// Converts a time in seconds since 1970 to nginx's clock. `now` is the time since 1970.
pub(super) fn cached_until(expires_at: u64, now: Duration) -> Duration {
    // Longer than any entry is kept; a token may name any time.
    const MOST: Duration = Duration::from_secs(30 * 86400);
    let left = Duration::from_secs(expires_at).saturating_sub(now);
    nginx::now() + left.min(MOST)
}

/// Code of an answer of no session to a session cookie, besides those of [`Unavailable`].
pub(super) const BLANK: u8 = 200;

/// Code of an answer about credentials that were logged out here a moment ago. Other workers that
/// wait for it take it for no session.
pub(super) const LOGGED_OUT: u8 = 201;

/// The verdict for a code of [`FetchResult::Pass`].
pub(super) fn decode(code: u8) -> Rc<Verdict> {
    Rc::new(match code {
        BLANK | LOGGED_OUT => Verdict::None(NoSession::Resolver),
        code => Verdict::Unavailable(Unavailable::from_code(code)),
    })
}

/// Makes a look-up by `fetch`. With a cache the entry is stored, and the look-up of another worker
/// is waited for instead, for at most its `lease`; `fetch` is not polled then.
pub(super) async fn through_cache(
    cache: Option<Rc<Cache>>,
    id: &EntryId,
    seen: SeenVersion,
    lease: Duration,
    fetch: Pin<&mut impl Future<Output = FetchResult>>,
) -> LookupOutcome {
    match cache {
        Some(cache) => {
            let (result, followed) = cache.get_or_fetch(id, seen, lease, fetch, decode).await;
            LookupOutcome::of(result, followed)
        }
        None => LookupOutcome::of(fetch.await, false),
    }
}
