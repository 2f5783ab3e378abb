//! Results of look-ups.

use core::time::Duration;
use std::rc::Rc;

use authgear::resolver::set_cookie::SetCookies;
use authgear::verdict::{NoSession, Unavailable, Verdict};

use crate::cache::{CacheEntry, FetchResult};

/// A verdict, and how it was found.
#[derive(Clone)]
pub struct Resolution {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// Value of `$authgear_source`.
    pub source: &'static str,
    /// Value of `$authgear_cache_status`, when there were credentials to look up.
    pub cache_status: Option<&'static str>,
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
        Self { source: "none", cache_status: None, ..Self::new(verdict, "") }
    }

    /// The verdict of a cache entry.
    pub fn cached(entry: &CacheEntry, status: &'static str) -> Self {
        let verdict = Rc::clone(&entry.verdict);
        let (by_token, expires_at) = (entry.key.is_some(), entry.expires_at());
        Self { source: "cache", by_token, expires_at, ..Self::new(verdict, status) }
    }

    /// A verdict that another host of the fleet was told.
    pub fn shared(verdict: Rc<Verdict>, status: &'static str) -> Self {
        Self { source: "cache", ..Self::new(verdict, status) }
    }

    /// A verdict of this worker on a bearer token.
    pub fn by_token(verdict: Rc<Verdict>, status: &'static str) -> Self {
        Self { source: "jwt", by_token: true, ..Self::new(verdict, status) }
    }

    /// A verdict of the resolver, or the reason why there is none.
    pub fn of_resolver(verdict: Rc<Verdict>, status: &'static str) -> Self {
        let source = match &*verdict {
            Verdict::Unavailable(why) if why.nobody_was_asked() => "none",
            Verdict::Limited(_) => "none",
            _ => "resolver",
        };
        Self { source, ..Self::new(verdict, status) }
    }

    fn new(verdict: Rc<Verdict>, status: &'static str) -> Self {
        let (source, cache_status) = ("resolver", Some(status));
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
