//! Joins identical look-ups of this worker's requests.
//!
//! Authgear serialises the look-ups of one session behind a mutex, and answers 500 when it cannot
//! get it: joining is what makes a page with thirty images work.

use authgear::single_flight::{self, Wake};

use crate::resolution::LookupOutcome;
use nginx::Resume;

/// Wakes a suspended request.
pub struct Resumption(pub Resume);

impl Wake for Resumption {
    fn wake(&self) {
        self.0.resume();
    }
}

/// Look-ups of this worker in flight.
pub type SingleFlight = single_flight::SingleFlight<LookupOutcome, Resumption>;
/// A request's place in a look-up.
pub type Waiter = single_flight::Waiter<LookupOutcome, Resumption>;
/// Obligation to end a look-up.
pub type Leader = single_flight::Leader<LookupOutcome, Resumption>;
