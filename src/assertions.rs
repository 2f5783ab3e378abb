//! Assertions (`authgear_assertion`) of this worker, each of which is made once for many requests.

use core::cell::{Cell, OnceCell, RefCell};
use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::rc::Rc;

use authgear::assertion::Term;
use authgear::identity::{SiteHeader, MAX_FIELDS};
use authgear::verdict::Verdict;
use lru::LruCache;

use crate::conf::assertion::{AssertionUse, Signer};
use crate::conf::Id;
use crate::recent::{Recent, PLACES};
use crate::resolution::Resolution;
use nginx::{HeaderName, ReadyFields};

/// Most bytes of assertions that a worker keeps, beside the verdicts that they are about. That of a
/// user without roles has some 700.
const MOST_BYTES: usize = (16 << 20) - PLACES * (size_of_entry(MOST_RECENT) + MOST_READY);

/// Longest assertion that is found by the address of its verdict, in bytes.
const MOST_RECENT: usize = 4096;

/// Most memory of the fields that are ready with such an assertion, in bytes. An element of nginx's
/// list has 48 or 56, by the version.
const MOST_READY: usize = 56 * (MAX_FIELDS + 1);

/// Content of an assertion. Requests with equal content share one assertion.
struct Subject {
    signer: Rc<Signer>,
    verdict: Rc<Verdict>,
    /// When the token of the session expires, by nginx's clock.
    expires_at: Option<Duration>,
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        self.signer.id == other.signer.id
            && self.expires_at == other.expires_at
            && (Rc::ptr_eq(&self.verdict, &other.verdict) || self.verdict == other.verdict)
    }
}

impl Eq for Subject {}

impl Hash for Subject {
    /// Identities tell most subjects apart, and each request pays for what is hashed.
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Verdict::Valid(identity) = &*self.verdict {
            identity.hash(state);
        }
    }
}

/// A verdict with its assertion.
pub struct Asserted {
    /// Request headers for a backend.
    pub fields: Rc<AssertedFields>,
    /// The fields, from the second request with them on.
    ready: OnceCell<Rc<ReadyFields>>,
    is_used: Cell<bool>,
    signer: Id,
    expires_at: Option<Duration>,
    term: Term,
}

/// Request headers with an assertion.
#[derive(Clone)]
pub struct AssertedFields {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// The assertion.
    pub jwt: Rc<str>,
    /// Header of the location that it was made for.
    pub header: Rc<SiteHeader>,
    /// [`HeaderName::hash`] of its name.
    pub header_hash: usize,
}

impl Asserted {
    fn new(
        fields: AssertedFields,
        signer: Id,
        expires_at: Option<Duration>,
        term: Term,
    ) -> Rc<Self> {
        let (fields, ready, is_used) = (Rc::new(fields), OnceCell::new(), Cell::new(false));
        Rc::new(Self { fields, ready, is_used, signer, expires_at, term })
    }

    /// The fields as `make` makes them ready. `None` for the first request, which may be the only
    /// one, and for a long assertion, of which each copy counts.
    pub fn ready(
        &self,
        make: impl FnOnce(&Rc<AssertedFields>) -> ReadyFields,
    ) -> Option<&Rc<ReadyFields>> {
        if !self.is_used.replace(true) || self.fields.jwt.len() > MOST_RECENT {
            return None;
        }
        Some(self.ready.get_or_init(|| Rc::new(make(&self.fields))))
    }
}

/// The assertions that this worker keeps.
pub struct Assertions {
    kept: RefCell<LruCache<Subject, Rc<Asserted>>>,
    bytes: Cell<usize>,
    /// Assertions that were used last.
    recent: Recent<Asserted>,
}

impl Default for Assertions {
    fn default() -> Self {
        let kept = RefCell::new(LruCache::unbounded());
        Self { kept, bytes: Cell::new(0), recent: Recent::default() }
    }
}

impl Assertions {
    /// The assertion about a verdict. `None` if that is no session of a user, or one whose token has
    /// expired. `session_expires_at` tells the expiry of the token in seconds since 1970; it is
    /// called if an assertion is made.
    pub fn get_or_sign(
        &self,
        used: &AssertionUse,
        resolution: &Resolution,
        session_expires_at: impl FnOnce(u64) -> Option<u64>,
    ) -> Option<Rc<Asserted>> {
        let now = nginx::unix_time().as_secs();
        let is_it = |asserted: &Asserted| {
            Rc::ptr_eq(&asserted.fields.verdict, &resolution.verdict)
                && asserted.signer == used.signer.id
                && asserted.expires_at == resolution.expires_at
                && asserted.term.holds(now)
        };
        self.recent.get(&resolution.verdict, is_it).or_else(|| {
            let found = self.find_or_sign(used, resolution, now, session_expires_at)?;
            if found.fields.jwt.len() > MOST_RECENT {
                return Some(found);
            }
            // It may have been made for an equal verdict.
            let verdict = Rc::clone(&resolution.verdict);
            let fields = AssertedFields { verdict, ..AssertedFields::clone(&found.fields) };
            let asserted = Asserted::new(fields, found.signer, found.expires_at, found.term);
            self.recent.put(&resolution.verdict, Rc::clone(&asserted));
            Some(asserted)
        })
    }

    #[cold]
    fn find_or_sign(
        &self,
        used: &AssertionUse,
        resolution: &Resolution,
        now: u64,
        session_expires_at: impl FnOnce(u64) -> Option<u64>,
    ) -> Option<Rc<Asserted>> {
        let Verdict::Valid(identity) = &*resolution.verdict else { return None };
        let (signer, verdict) = (Rc::clone(&used.signer), Rc::clone(&resolution.verdict));
        let subject = Subject { signer, verdict, expires_at: resolution.expires_at };
        let mut all = self.kept.borrow_mut();
        if let Some(kept) = all.get(&subject).filter(|kept| kept.term.holds(now)) {
            return Some(Rc::clone(kept));
        }
        let issuer = &subject.signer.issuer;
        let term = Term::of(now, issuer.ttl, session_expires_at(now))?;
        let jwt: Rc<str> = issuer.sign(identity, &term)?.into();
        nginx::Log::cycle().debug(format_args!("authgear: signed an assertion"));
        let mut bytes = self.bytes.get() + size_of_entry(jwt.len());
        let header = Rc::clone(&used.header);
        let header_hash = HeaderName::new(header.as_str().as_bytes()).hash();
        let verdict = Rc::clone(&subject.verdict);
        let fields = AssertedFields { verdict, jwt, header, header_hash };
        let asserted = Asserted::new(fields, subject.signer.id, subject.expires_at, term);
        if let Some((_, replaced)) = all.push(subject, Rc::clone(&asserted)) {
            bytes -= size_of_entry(replaced.fields.jwt.len());
        }
        while bytes > MOST_BYTES {
            let Some((_, oldest)) = all.pop_lru() else { break };
            bytes -= size_of_entry(oldest.fields.jwt.len());
        }
        self.bytes.set(bytes);
        Some(asserted)
    }
}

/// Memory of an entry: the identity has less than the assertion, which contains it.
const fn size_of_entry(length: usize) -> usize {
    const ENTRY: usize = 320;
    2 * length + ENTRY
}
