//! Results of look-ups.

use core::time::Duration;
use std::rc::Rc;

use authgear::metrics::CacheStatus;
use authgear::resolver::set_cookie::SetCookies;
use authgear::verdict::{NoSession, Unavailable, Verdict};

use crate::cache::{CacheEntry, FetchResult};

/// Source of a verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A cache of this host or of the fleet.
    Cache,
    /// The token, which was verified here.
    Token,
    /// Authgear's resolver.
    Resolver,
    /// No one: credentials were absent, or Authgear was not asked.
    Nobody,
}

impl Source {
    /// Value of `$authgear_source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Token => "jwt",
            Self::Resolver => "resolver",
            Self::Nobody => "none",
        }
    }
}

/// A verdict, and how it was found.
#[derive(Clone)]
pub struct Resolution {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// Source of the verdict.
    pub source: Source,
    /// Result of the cache, when there were credentials to look up.
    pub cache_status: Option<CacheStatus>,
    /// The verdict is on the bearer token alone, which was verified here: its claims can be
    /// believed.
    pub by_token: bool,
    /// The token that it is about, if a variable of `authgear_bearer` held it.
    pub bearer_elsewhere: Option<Rc<[u8]>>,
    /// Authgear's `Set-Cookie` values, if it was asked for this request.
    pub set_cookies: Option<Rc<SetCookies>>,
    /// When the first of the tokens that it is about expires, by nginx's clock.
    pub expires_at: Option<Duration>,
}

impl Resolution {
    /// No session, of a request without credentials.
    pub fn no_credentials() -> Self {
        let verdict = Rc::new(Verdict::None(NoSession::NoCredentials));
        Self::new(verdict, Source::Nobody, None)
    }

    /// The verdict of a cache entry.
    pub fn cached(entry: &CacheEntry, status: CacheStatus) -> Self {
        let verdict = Rc::clone(&entry.verdict);
        let (by_token, expires_at) = (entry.key.is_some(), entry.expires_at());
        Self { by_token, expires_at, ..Self::new(verdict, Source::Cache, Some(status)) }
    }

    /// A verdict that another host of the fleet was told.
    pub fn shared(verdict: Rc<Verdict>, status: CacheStatus) -> Self {
        Self::new(verdict, Source::Cache, Some(status))
    }

    /// A verdict of this worker on a bearer token.
    pub fn by_token(verdict: Rc<Verdict>, status: CacheStatus) -> Self {
        Self { by_token: true, ..Self::new(verdict, Source::Token, Some(status)) }
    }

    /// A verdict of the resolver, or the reason why there is none.
    pub fn of_resolver(verdict: Rc<Verdict>, status: CacheStatus) -> Self {
        let source = match &*verdict {
            Verdict::Unavailable(why) if why.nobody_was_asked() => Source::Nobody,
            Verdict::Limited(_) => Source::Nobody,
            _ => Source::Resolver,
        };
        Self::new(verdict, source, Some(status))
    }

    fn new(verdict: Rc<Verdict>, source: Source, cache_status: Option<CacheStatus>) -> Self {
        Self {
            verdict,
            source,
            cache_status,
            by_token: false,
            bearer_elsewhere: None,
            set_cookies: None,
            expires_at: None,
        }
    }
}

/// End of a look-up, as its waiters get it.
#[derive(Clone)]
pub struct LookupOutcome {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// The look-up failed: a stale verdict may be served instead.
    pub failed: bool,
    /// Another worker made the look-up.
    pub followed: bool,
    /// Another host of the fleet made the look-up.
    pub shared: bool,
    /// See [`Resolution::by_token`].
    pub by_token: bool,
    /// Authgear's `Set-Cookie` values, for all waiters. Waiters in other workers get none.
    pub set_cookies: Option<Rc<SetCookies>>,
    /// See [`Resolution::expires_at`].
    pub expires_at: Option<Duration>,
}

impl LookupOutcome {
    /// The end of a look-up with the resolver.
    pub fn of(result: FetchResult, followed: bool) -> Self {
        let (verdict, expires_at) = match result {
            FetchResult::Keep(entry) => (Rc::clone(&entry.verdict), entry.expires_at()),
            FetchResult::Pass { verdict, .. } => (verdict, None),
        };
        let failed = matches!(&*verdict, Verdict::Unavailable(why) if why.is_outage());
        let (by_token, shared, set_cookies) = (false, false, None);
        Self { verdict, failed, followed, shared, by_token, set_cookies, expires_at }
    }

    /// The end of a token's verification.
    pub fn of_token(verdict: Rc<Verdict>, expires_at: Option<Duration>) -> Self {
        let (failed, followed, by_token, set_cookies) = (false, false, true, None);
        Self { verdict, failed, followed, shared: false, by_token, set_cookies, expires_at }
    }

    /// A failed look-up.
    pub fn unavailable(why: Unavailable) -> Self {
        let verdict = Rc::new(Verdict::Unavailable(why));
        let (failed, followed, by_token, set_cookies) = (true, false, false, None);
        let (shared, expires_at) = (false, None);
        Self { verdict, failed, followed, shared, by_token, set_cookies, expires_at }
    }

    /// Adds Authgear's `Set-Cookie` values.
    pub fn with_cookies(mut self, set_cookies: SetCookies) -> Self {
        self.set_cookies = (!set_cookies.is_empty()).then(|| Rc::new(set_cookies));
        self
    }
}
