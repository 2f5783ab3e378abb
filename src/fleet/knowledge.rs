//! Knowledge of the keeper about the fleet, over all its connections.

use core::cell::{Cell, RefCell};
use core::time::Duration;

use authgear::fleet::cursor::Cursor;
use authgear::fleet::spaced::Spaced;

use super::listener::Listener;
use super::member::Fleet;
use super::wait::{now_ms, unix_ms};

/// See the module.
pub(super) struct Knowledge {
    /// Place in the stream.
    pub(super) cursor: RefCell<Cursor>,
    /// Events that were heard.
    pub(super) listener: RefCell<Listener>,
    /// Purging everything here, and saying all own events again, after entries were trimmed: not
    /// each second, though somebody trims the stream each second. This host would ask Authgear about
    /// everybody, and all hosts would fill the stream with repeats.
    pub(super) recovery: RefCell<Spaced>,
    /// Time of the last look that added up while a purge was owed.
    pub(super) knew_all_at: Cell<Option<Duration>>,
    /// The other hosts are to be asked for their ends and periods.
    pub(super) wants_ends: Cell<bool>,
    /// Lines of the log about losses.
    pub(super) loss_lines: RefCell<Spaced>,
    /// Set once reading added up since the last attempt to connect.
    pub(super) was_in_sync: Cell<bool>,
    /// Unset from a failure of writing until Redis has taken all events, or one more.
    pub(super) can_write: Cell<bool>,
}

impl Knowledge {
    /// Knowledge of a worker that has become the keeper.
    pub(super) fn new(fleet: &Fleet) -> Self {
        let saved = fleet.settings.zone.lock(|_, zone| zone.cursor.load());
        Self {
            cursor: RefCell::new(Cursor::new(saved, fleet.retention_ms())),
            listener: RefCell::new(Listener::new(fleet)),
            recovery: RefCell::default(),
            knew_all_at: Cell::new(None),
            wants_ends: Cell::new(false),
            loss_lines: RefCell::default(),
            was_in_sync: Cell::new(false),
            can_write: Cell::new(true),
        }
    }

    /// Notes that entries were trimmed, and does what is due.
    pub(super) fn recover(&self, fleet: &Fleet) {
        self.recovery.borrow_mut().want();
        self.wants_ends.set(true);
        self.do_what_is_due(fleet);
    }

    /// Does what is owed and due: see [`Knowledge::recover`].
    pub(super) fn do_what_is_due(&self, fleet: &Fleet) {
        let now = now_ms();
        if self.recovery.borrow_mut().take(now) {
            self.purge(fleet);
            if let Some(since) = self.knew_all_at.take() {
                fleet.in_sync(since, self.can_write.get());
            }
        }
        if self.wants_ends.get() && !self.recovery.borrow().is_owed() {
            // A ring that is full of refusals has no room for it. It stays owed.
            let is_put = fleet.ring(|ring| ring.put_wish(unix_ms(), now));
            self.wants_ends.set(!is_put);
            if is_put {
                fleet.woken();
            }
        }
        if self.listener.borrow_mut().says_ends(now) && fleet.ring(|ring| ring.say_ends_again()) > 0
        {
            fleet.woken();
        }
    }

    /// Does what is owed, due or not: this worker is the keeper no more.
    pub(super) fn end(&self, fleet: &Fleet) {
        if self.recovery.borrow().is_owed() {
            self.purge(fleet);
        }
        if self.listener.borrow().owes_ends() {
            fleet.ring(|ring| ring.say_ends_again());
        }
    }

    fn purge(&self, fleet: &Fleet) {
        fleet.shared.purge_all();
        fleet.ring(|ring| ring.say_again());
        fleet.woken();
    }

    /// Returns true while a purge of everything is owed: the host is not in sync.
    pub(super) fn owes_a_purge(&self) -> bool {
        self.recovery.borrow().is_owed()
    }

    /// Returns true while the next keeper is to find again what this one owes, if it is killed.
    pub(super) fn owes(&self) -> bool {
        self.owes_a_purge() || self.wants_ends.get() || self.listener.borrow().owes_ends()
    }
}
