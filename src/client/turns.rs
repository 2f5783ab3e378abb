//! Turns at the resolver: a look-up waits here until it may use a connection.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::rc::Rc;

use authgear::overload::client_network::ClientNetwork;
use authgear::overload::turn_queue::{Arrival, Ticket, TurnQueue};

use nginx::Elapsed;

/// Most bytes of queued look-ups, per worker and project.
const CAPACITY: usize = 8 * 1024 * 1024;

/// A client's look-ups of sessions that the cache remembers as valid queue apart from its others:
/// whoever floods with invented credentials must not delay the refresh of a session.
type Lane = (ClientNetwork, bool);

type Queue = TurnQueue<Lane, Rc<TurnSlot>>;

/// The queue of one project's resolver in this worker.
pub(super) struct Turns(Rc<RefCell<Queue>>);

/// A look-up's place in the queue.
#[derive(Default)]
struct TurnSlot {
    decision: Cell<Option<TurnDecision>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TurnDecision {
    Turn,
    Refused,
}

/// The right to use a connection. Dropping it passes it on.
pub(super) struct Turn(Rc<RefCell<Queue>>);

/// A queued look-up. Dropping it leaves the queue.
struct QueuedTurn<'a> {
    queue: &'a Rc<RefCell<Queue>>,
    lane: Lane,
    ticket: Ticket,
    place: Rc<TurnSlot>,
}

impl Turns {
    /// A queue for `turns` connections.
    pub(super) fn new(turns: usize) -> Self {
        Self(Rc::new(RefCell::new(TurnQueue::new(turns, CAPACITY))))
    }

    /// Waits for a turn, for at most `patience`. `bytes` is the size of the credentials. `None` if
    /// the look-up would not have its turn in time.
    pub(super) async fn take(&self, lane: Lane, bytes: usize, patience: Duration) -> Option<Turn> {
        let now = nginx::now();
        // Most look-ups find a turn free, and need no place in the queue.
        if self.0.borrow_mut().take_free(now) {
            return Some(Turn(Rc::clone(&self.0)));
        }
        let place = Rc::new(TurnSlot::default());
        let arrival = self.0.borrow_mut().arrive(lane, Rc::clone(&place), bytes, now, patience);
        let ticket = match arrival {
            Arrival::Turn => return Some(Turn(Rc::clone(&self.0))),
            Arrival::Queued(ticket, refused) => {
                refused.iter().for_each(|place| place.decide(TurnDecision::Refused));
                ticket
            }
            Arrival::Refused(refused) => {
                refused.iter().for_each(|place| place.decide(TurnDecision::Refused));
                return None;
            }
        };
        let waiting = QueuedTurn { queue: &self.0, lane, ticket, place };
        let decision = nginx::timeout(patience, pin!(waiting.decision())).await;
        match decision {
            Ok(TurnDecision::Turn) => Some(Turn(Rc::clone(&self.0))),
            Ok(TurnDecision::Refused) | Err(Elapsed) => None,
        }
    }
}

impl TurnSlot {
    fn decide(&self, decision: TurnDecision) {
        self.decision.set(Some(decision));
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl QueuedTurn<'_> {
    /// The decision, once it is made. A turn then belongs to the caller.
    async fn decision(&self) -> TurnDecision {
        poll_fn(|cx| {
            if let Some(decision) = self.place.decision.take() {
                return Poll::Ready(decision);
            }
            self.place.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

impl Drop for QueuedTurn<'_> {
    fn drop(&mut self) {
        self.queue.borrow_mut().leave(self.lane, self.ticket);
        if self.place.decision.take() == Some(TurnDecision::Turn) {
            pass_on(self.queue);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        pass_on(&self.0);
    }
}

/// Gives a turn that ended to the next look-up.
fn pass_on(queue: &RefCell<Queue>) {
    let next = queue.borrow_mut().done(nginx::now());
    if let Some(place) = next {
        place.decide(TurnDecision::Turn);
    }
}
