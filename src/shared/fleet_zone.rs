//! Zone of `authgear_fleet`: what the workers of this host share about their fleet.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use core::time::Duration;

use authgear::fleet::cursor::SavedCursor;
use authgear::fleet::event::Publisher;
use authgear::fleet::positions::PositionLog;
use authgear::fleet::ring::{EventRing, EventSlot, SLOTS};

use nginx::{self, SharedSlice, ZoneHeader, ZoneMemory};

/// Header of the zone.
pub struct FleetZone {
    /// Process id of the keeper, or 0. Changed under the lock.
    keeper: AtomicU64,
    /// End of the keeper's lease, in milliseconds of nginx's clock.
    lease: AtomicU64,
    /// Slot by which the keeper is woken.
    slot: AtomicU64,
    /// When this host knew last that it has all events, in milliseconds of nginx's clock; 0: never.
    confirmed: AtomicU64,
    /// Set while an outage was logged whose end was not.
    is_failing: AtomicBool,
    /// Set while verdicts cannot be shared, which was logged.
    is_sharing_broken: AtomicBool,
    /// Milliseconds by which the clock of Redis is ahead of this host's.
    clock_offset: AtomicI64,
    /// Place in the stream. Changed by the keeper.
    pub cursor: SavedCursor,
    /// Events of this host. Changed under the lock.
    pub ring: EventRing<SharedSlice<EventSlot>>,
    /// Purges by the positions of their events. Used under the lock.
    pub positions: PositionLog,
}

/// Time for which a keeper holds its lease without a renewal.
const LEASE: Duration = Duration::from_millis(1500);

const NO_SLOT: u64 = u64::MAX;

impl FleetZone {
    /// Takes or renews the lease of the keeper for this process. False if another one has it. The
    /// caller holds the lock.
    pub fn take_lease(&self) -> bool {
        let (now, own) = (now(), u64::from(std::process::id()));
        let keeper = self.keeper.load(Ordering::SeqCst);
        let is_held = keeper != 0
            && keeper != own
            && now < self.lease.load(Ordering::SeqCst)
            && u32::try_from(keeper).is_ok_and(nginx::process_exists);
        if is_held {
            return false;
        }
        let slot = nginx::wake_slot().map_or(NO_SLOT, u64::from);
        self.slot.store(slot, Ordering::SeqCst);
        self.lease.store(now + LEASE.as_millis() as u64, Ordering::SeqCst);
        self.keeper.store(own, Ordering::SeqCst);
        true
    }

    /// Returns whether this process has the lease. The caller holds the lock.
    pub fn is_keeper(&self) -> bool {
        self.keeper.load(Ordering::SeqCst) == u64::from(std::process::id())
    }

    /// Gives the lease up, if this process has it. The caller holds the lock.
    pub fn give_up_lease(&self) -> bool {
        let is_own = self.is_keeper();
        if is_own {
            self.keeper.store(0, Ordering::SeqCst);
        }
        is_own
    }

    /// Wakes the keeper: there is an event to tell.
    pub fn wake_keeper(&self) {
        let slot = self.slot.load(Ordering::SeqCst);
        let mut slots = nginx::Slots::default();
        let word = usize::try_from(slot / 64).ok().and_then(|word| slots.get_mut(word));
        if let Some(word) = word {
            *word |= 1 << (slot % 64);
            nginx::wake(slots);
        }
    }

    /// Notes that this host has all events that were told until `since`, by nginx's clock.
    pub fn confirm(&self, since: Duration) {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1);
        self.confirmed.fetch_max(since, Ordering::SeqCst);
    }

    /// Time for which this host has not known what others told; none if it never has.
    pub fn unconfirmed_for(&self) -> Option<Duration> {
        match self.confirmed.load(Ordering::SeqCst) {
            0 => None,
            since => Some(Duration::from_millis(now().saturating_sub(since))),
        }
    }

    /// Notes whether an outage lasts, and returns what was noted before.
    pub fn set_failing(&self, is_failing: bool) -> bool {
        self.is_failing.swap(is_failing, Ordering::SeqCst)
    }

    /// Notes whether verdicts cannot be shared, and returns what was noted before.
    pub fn set_sharing_broken(&self, is_broken: bool) -> bool {
        self.is_sharing_broken.swap(is_broken, Ordering::SeqCst)
    }

    /// Notes by how many milliseconds the clock of Redis is ahead, and returns what was noted before.
    pub fn set_clock_offset(&self, millis: i64) -> i64 {
        self.clock_offset.swap(millis, Ordering::SeqCst)
    }

    /// Milliseconds by which the clock of Redis is ahead of this host's.
    pub fn clock_offset(&self) -> i64 {
        self.clock_offset.load(Ordering::SeqCst)
    }
}

fn now() -> u64 {
    u64::try_from(nginx::now().as_millis()).unwrap_or(u64::MAX)
}

impl ZoneHeader for FleetZone {
    fn init(memory: &mut ZoneMemory) -> Result<Self, String> {
        let mut publisher = [0; 16];
        aws_lc_rs::rand::fill(&mut publisher).map_err(|_| "no random numbers")?;
        let slots = memory.slice(SLOTS, EventSlot::new)?;
        Ok(Self {
            keeper: AtomicU64::new(0),
            lease: AtomicU64::new(0),
            slot: AtomicU64::new(NO_SLOT),
            confirmed: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            is_sharing_broken: AtomicBool::new(false),
            clock_offset: AtomicI64::new(0),
            cursor: SavedCursor::new(),
            ring: EventRing::new(slots, Publisher::from_bytes(publisher)),
            positions: PositionLog::new(),
        })
    }
}
