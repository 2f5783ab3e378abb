//! Knowledge of the keeper about the fleet, over all its connections.

use core::cell::{Cell, RefCell};

use authgear::fleet::cursor::Cursor;
use authgear::fleet::spaced::Spaced;

use super::listener::Listener;
use super::member::Fleet;

/// See the module.
pub(super) struct Knowledge {
    /// Place in the stream.
    pub(super) cursor: RefCell<Cursor>,
    /// Events that were heard.
    pub(super) listener: RefCell<Listener>,
    /// Purging everything here.
    pub(super) purge: RefCell<Spaced>,
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
        let retention = u64::try_from(fleet.retention.as_millis()).unwrap_or(u64::MAX);
        Self {
            cursor: RefCell::new(Cursor::new(saved, retention)),
            listener: RefCell::new(Listener::new(fleet)),
            purge: RefCell::default(),
            loss_lines: RefCell::default(),
            was_in_sync: Cell::new(false),
            can_write: Cell::new(true),
        }
    }
}
