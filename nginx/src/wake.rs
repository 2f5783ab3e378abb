//! Waking other workers at once: one eventfd per worker.
//!
//! They are made before workers are forked, so that each has all of them. A worker has two, and
//! configurations use the one and the other in turn: while old workers finish after a reload,
//! both they and the new ones can be woken. Who has no slot must poll.

use core::cell::{Cell, RefCell};
use core::ffi::c_int;

use nginx_sys::{
    eventfd, eventfd_read, eventfd_write, ngx_connection_t, ngx_cycle_t, ngx_event_t,
    ngx_get_connection, ngx_handle_read_event, ngx_int_t, EFD_CLOEXEC, EFD_NONBLOCK, NGX_OK,
};

use crate::log::{Level, Log};
use crate::panic::guard;

/// Workers that can be woken, of each of two configurations.
const WORKERS: usize = 64;

/// A set of slots, one bit each.
pub type Slots = [u64; 2];

thread_local! {
    /// The two eventfds of each worker, for the life of the master and of its workers.
    static EVENTS: RefCell<Vec<[c_int; 2]>> = const { RefCell::new(Vec::new()) };
    /// Whether a configuration has something to wake workers for.
    static WANTED: Cell<bool> = const { Cell::new(false) };
    /// Which of the two the configuration uses that was read last.
    static TURN: Cell<usize> = const { Cell::new(0) };
    /// The slot of this worker.
    static WAKE_SLOT: Cell<Option<u16>> = const { Cell::new(None) };
    /// Called for a wake-up of this worker.
    static WOKEN: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// The configuration being read has something to wake workers for.
pub(crate) fn want() {
    WANTED.set(true);
}

/// Before workers are forked: makes what `workers` need.
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

/// In a worker: listens for its wake-ups, which call `M::woken`.
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
        // As nginx's own channel: not to be closed, nor reported as left open, on exit.
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

/// The slot under which this worker can be woken.
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

fn bits(slots: Slots) -> impl Iterator<Item = bool> {
    slots.into_iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1))
}

extern "C" fn read_wake_up(event: *mut ngx_event_t) {
    // SAFETY: `data` of a connection's event is the connection; reading resets the counter.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let mut count = 0;
        eventfd_read((*c).fd, &mut count);
        // What is left in an edge-triggered descriptor would not be reported again.
        (*event).set_ready(0);
        ngx_handle_read_event(event, 0);
    }
    if let Some(woken) = WOKEN.get() {
        guard(Log::cycle(), (), woken);
    }
}
