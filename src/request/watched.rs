//! State of a response that `authgear_recheck` looks at.

use core::cell::{Cell, RefCell};
use core::time::Duration;

use authgear::shared::purges::PurgeEpoch;

use crate::lookup::Pending;
use crate::open_responses::Entry;
use crate::resolution::Resolution;

/// A response that may be open.
pub struct Watched {
    pub(super) entry: Entry,
    /// Position in the purge log when the verdict was found. A purge after it concerns it.
    pub(super) since: Cell<PurgeEpoch>,
    /// The same, in seconds since 1970.
    pub(super) found_at: Cell<u64>,
    /// When the first of the tokens expires, in seconds since 1970. `None` before the first look.
    pub(super) expires_at: Cell<Option<Option<u64>>>,
    /// When look-ups began to fail.
    pub(super) failing_since: Cell<Option<Duration>>,
    /// The look-up under way, and what `since` and `found_at` are after it.
    pub(super) pending: RefCell<Option<Box<Pending>>>,
    pub(super) asked_since: Cell<(PurgeEpoch, u64)>,
    /// When the end of the response began, and when the last frame was sent.
    pub(super) ending_since: Cell<Duration>,
    pub(super) said_at: Cell<Option<Duration>>,
    /// Verdicts that variables may still point to.
    pub(super) former: RefCell<Vec<Resolution>>,
}

impl Watched {
    /// A response with a verdict that was found at this position in the purge log, and at this time.
    pub(super) fn new(entry: Entry, (since, found_at): (PurgeEpoch, u64)) -> Self {
        Self {
            entry,
            since: Cell::new(since),
            found_at: Cell::new(found_at),
            expires_at: Cell::new(None),
            failing_since: Cell::new(None),
            pending: RefCell::new(None),
            asked_since: Cell::new((since, found_at)),
            ending_since: Cell::new(Duration::ZERO),
            said_at: Cell::new(None),
            former: RefCell::default(),
        }
    }
}
