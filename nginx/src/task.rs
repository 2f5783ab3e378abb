//! Futures on nginx's event loop.
//!
//! A wake-up never runs a task on the waker's stack. It queues the task and posts one event, which
//! nginx processes before it polls for I/O again. So code may wake a task or a request from
//! anywhere, even from a `Drop`. The executor of ngx 0.5.1 is not used, because it runs tasks
//! synchronously.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::future::Future;
use core::ptr;
use std::collections::VecDeque;

use async_task::Runnable;
use nginx_sys::{ngx_event_t, ngx_post_event, ngx_posted_events};

use crate::log::Log;
use crate::panic::guard;

struct Scheduler {
    queue: RefCell<VecDeque<Runnable>>,
    /// An empty queue whose room is used again.
    spare: Cell<VecDeque<Runnable>>,
    /// Boxed, because nginx links the event into its queue: its address must not change.
    event: Box<UnsafeCell<ngx_event_t>>,
    posted: Cell<bool>,
}

thread_local! {
    static SCHEDULER: Scheduler = Scheduler {
        queue: RefCell::default(),
        spare: Cell::default(),
        // SAFETY: ngx_event_t is a C struct for which all zeroes is the initial state.
        event: Box::new(UnsafeCell::new(unsafe { core::mem::zeroed() })),
        posted: Cell::new(false),
    };
}

/// Runs `future` on the event loop, detached. A panic is logged and ends that task only.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    let (runnable, task) = async_task::spawn_local(future, schedule);
    runnable.schedule();
    task.detach();
}

fn schedule(runnable: Runnable) {
    // The scheduler is gone only while the process exits. The task is dropped then.
    let _ = SCHEDULER.try_with(|s| {
        s.queue.borrow_mut().push_back(runnable);
        if s.posted.replace(true) {
            return;
        }
        let event = s.event.get();
        // SAFETY: the event is a live, pinned allocation of this thread, which is nginx's only
        // one, and is in no queue while `posted` is false.
        unsafe {
            (*event).handler = Some(run);
            (*event).log = Log::cycle().as_ptr();
            ngx_post_event(event, ptr::addr_of_mut!(ngx_posted_events));
        }
    });
}

extern "C" fn run(_event: *mut ngx_event_t) {
    /// Most tasks for which room is kept.
    const ROOM: usize = 1024;
    let mut batch = SCHEDULER.with(|s| {
        s.posted.set(false);
        s.queue.replace(s.spare.take())
    });
    for runnable in batch.drain(..) {
        guard(Log::cycle(), (), || {
            runnable.run();
        });
    }
    if batch.capacity() <= ROOM {
        SCHEDULER.with(|s| s.spare.set(batch));
    }
}

/// Makes nginx process posted events before its first wait for I/O. In the first turn of the event
/// loop it would wait first.
pub(crate) fn begin() {
    SCHEDULER.with(|s| {
        if s.posted.get() {
            let event = s.event.get();
            // SAFETY: `posted` says that the event is linked into nginx's queue.
            unsafe {
                nginx_sys::ngx_delete_posted_event(event);
                ngx_post_event(event, ptr::addr_of_mut!(nginx_sys::ngx_posted_next_events));
            }
        }
    });
}

/// Drops all queued tasks and unlinks the event from nginx's queue. For the exit of a worker.
pub(crate) fn shut_down() {
    // Dropping a task may wake others, so no task is dropped while the queue is borrowed.
    loop {
        let batch = SCHEDULER.with(|s| core::mem::take(&mut *s.queue.borrow_mut()));
        if batch.is_empty() {
            break;
        }
        drop(batch);
    }
    SCHEDULER.with(|s| {
        if s.posted.replace(false) {
            // SAFETY: `posted` says that the event is linked into nginx's queue.
            unsafe { nginx_sys::ngx_delete_posted_event(s.event.get()) };
        }
    });
}
