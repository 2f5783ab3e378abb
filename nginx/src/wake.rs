//! Immediate wake-ups of other workers, by an eventfd per worker.
//!
//! The master makes the eventfds before it forks workers, so that each worker inherits all of
//! them. A worker has two. Successive configurations use the one and the other in turn, so that
//! after a reload both the old workers, which finish their requests, and the new ones can be woken.
//! A worker without a slot must poll.

use core::cell::{Cell, RefCell};
use core::ffi::c_int;

use nginx_sys::{
    eventfd, eventfd_read, eventfd_write, ngx_connection_t, ngx_cycle_t, ngx_event_t,
    ngx_get_connection, ngx_handle_read_event, ngx_int_t, EFD_CLOEXEC, EFD_NONBLOCK, NGX_OK,
};

use crate::log::{Level, Log};
use crate::panic::guard;

/// Most workers of one configuration that have a slot.
const WORKERS: usize = 64;

/// A set of slots, one bit each.
pub type Slots = [u64; 2];

thread_local! {
    /// The two eventfds of each worker, for the life of the master and of its workers.
    static EVENTS: RefCell<Vec<[c_int; 2]>> = const { RefCell::new(Vec::new()) };
    /// Whether a configuration needs wake-ups.
    static WANTED: Cell<bool> = const { Cell::new(false) };
    /// True if a configuration needs wake-ups of all workers.
    static ALL_WANTED: Cell<bool> = const { Cell::new(false) };
    /// Index of the eventfd of each pair that the last configuration uses.
    static TURN: Cell<usize> = const { Cell::new(0) };
    /// The slot of this worker.
    static WAKE_SLOT: Cell<Option<u16>> = const { Cell::new(None) };
    /// Called for a wake-up of this worker.
    static WOKEN: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Notes that the configuration being read needs wake-ups.
pub(crate) fn want() {
    WANTED.set(true);
}

/// Notes that the configuration being read needs [`wake_all`]. It has an effect from then on, in
/// workers of later configurations too: workers of this one may still finish requests.
pub fn want_wake_all() {
    ALL_WANTED.set(true);
}

/// Makes the eventfds of `workers` workers, if they are needed. Called before workers are forked.
pub(crate) fn prepare(workers: usize, log: Log) {
    TURN.set(1 - TURN.get());
    if !WANTED.get() {
        return;
    }
    EVENTS.with_borrow_mut(|events| {
        while events.len() < workers.clamp(1, WORKERS) {
            let flags = (EFD_NONBLOCK | EFD_CLOEXEC) as c_int;
            // SAFETY: makes descriptors, and touches nothing else.
            let pair = unsafe { [eventfd(0, flags), eventfd(0, flags)] };
            if pair.contains(&-1) {
                log.write(Level::Warn, format_args!("eventfd() failed, workers will poll"));
                return;
            }
            events.push(pair);
        }
    });
}

/// Calls `woken` for each wake-up of this worker from now on.
///
/// # Safety
///
/// `cycle` is the running cycle.
pub(crate) unsafe fn listen(cycle: &ngx_cycle_t, woken: fn()) {
    // SAFETY: a plain variable of a single-threaded process.
    let worker = unsafe { nginx_sys::ngx_worker };
    let turn = TURN.get();
    let pair = EVENTS.with_borrow(|events| events.get(worker).copied());
    let Some(&fd) = pair.as_ref().and_then(|pair| pair.get(turn)) else { return };
    // SAFETY: `fd` is open; nginx's connection takes it over for the life of the process.
    unsafe {
        let c: *mut ngx_connection_t = ngx_get_connection(fd, cycle.log);
        if c.is_null() {
            return;
        }
        // Marks the connection as nginx marks its own channel: on exit it is neither closed nor
        // reported as left open.
        (*(*c).read).set_channel(1);
        (*(*c).read).handler = Some(read_wake_up);
        (*(*c).read).log = cycle.log;
        if ngx_handle_read_event((*c).read, 0) != NGX_OK as ngx_int_t {
            return;
        }
    }
    WOKEN.set(Some(woken));
    WAKE_SLOT.set(Some((worker * 2 + turn) as u16));
}

/// Returns the slot of this worker, if it can be woken.
pub fn wake_slot() -> Option<u16> {
    WAKE_SLOT.get()
}

/// Wakes the workers in `slots`.
pub fn wake(slots: Slots) {
    EVENTS.with_borrow(|events| {
        let fds = events.iter().flatten().zip(bits(slots));
        for (&fd, _) in fds.filter(|(_, wanted)| *wanted) {
            // SAFETY: writes to a descriptor. It fails only if the worker was woken 2^64 times
            // and never listened.
            unsafe { eventfd_write(fd, 1) };
        }
    });
}

/// Wakes all workers, also this one, and those of an earlier configuration that finish their
/// requests; none if no configuration has called [`want_wake_all`].
pub fn wake_all() {
    if ALL_WANTED.get() {
        wake([u64::MAX; 2]);
    }
}

fn bits(slots: Slots) -> impl Iterator<Item = bool> {
    slots.into_iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1))
}

extern "C" fn read_wake_up(event: *mut ngx_event_t) {
    // SAFETY: `data` of a connection's event is the connection; reading resets the counter.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let mut count = 0;
        eventfd_read((*c).fd, &mut count);
        // The descriptor is edge-triggered: it must be read and armed before the next wake-up.
        (*event).set_ready(0);
        ngx_handle_read_event(event, 0);
    }
    if let Some(woken) = WOKEN.get() {
        guard(Log::cycle(), (), woken);
    }
}
