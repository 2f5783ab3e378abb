//! Rules of a worker's front: the copies of verdicts that it keeps before the shared zone.
//!
//! A front that has room takes any verdict. A full one takes only what is
//! [proven](crate::shared::zone::Record::proven): in use, as far as the zone knows. So a flood of verdicts
//! that are used once displaces nothing.
//!
//! The zone does not see the hits of a front. A worker tells it of the first hit of each copy that
//! the zone may not know to be in use, with [`Zone::touch`](crate::shared::zone::Zone::touch). That is one
//! access for each verdict that the worker asked for itself, and none for later hits.

use core::cell::Cell;

use crate::shared::zone::Worth;

/// A draw whether to admit a key to a full front.
///
/// If more verdicts are in use than the front has room for, admitting each of them would evict the
/// copy that is needed next, and the front would never hit. Admitting one in eight keeps most
/// copies in place, and a key that comes often still gets in soon.
#[derive(Debug, Default)]
pub struct Draw {
    state: Cell<u32>,
}

impl Draw {
    /// True one time in eight, at random; no secret depends on it.
    pub fn wins(&self) -> bool {
        // A linear congruential generator (Numerical Recipes), of which the high bits are good.
        let next = self.state.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.state.set(next);
        next >> 29 == 0
    }
}

/// State of a copy in a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// No use of the verdict is known to the zone.
    Unproven,
    /// The zone knows that the verdict is in use.
    Proven,
    /// No use proves such a verdict.
    Unprovable,
}

impl Proof {
    /// State of a verdict that this worker stored now.
    pub const fn of_stored(worth: Worth) -> Self {
        match worth {
            Worth::Lasting => Self::Unproven,
            Worth::Passing => Self::Unprovable,
        }
    }

    /// State of a verdict that was read from the zone now. That was a use: if it did not prove
    /// the verdict, none will.
    pub const fn of_read(proven: bool) -> Self {
        if proven {
            Self::Proven
        } else {
            Self::Unprovable
        }
    }

    /// Whether the verdict may enter a front in which its key is not. `draw` is called for a proven
    /// verdict and a full front; see [`Draw`].
    pub fn may_enter(self, is_full: bool, draw: impl FnOnce() -> bool) -> bool {
        !is_full || (self == Self::Proven && draw())
    }

    /// Notes a hit. True if the zone must be told of it.
    pub fn note_hit(&mut self) -> bool {
        let is_new = *self == Self::Unproven;
        if is_new {
            *self = Self::Proven;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proven_verdicts_enter_a_full_front() {
        use Proof::{Proven, Unprovable, Unproven};
        for (proof, is_full, draw, expected) in [
            (Unproven, false, false, true),
            (Unprovable, false, false, true),
            (Proven, false, false, true),
            (Unproven, true, true, false),
            (Unprovable, true, true, false),
            (Proven, true, true, true),
            (Proven, true, false, false),
        ] {
            assert_eq!(proof.may_enter(is_full, || draw), expected, "{proof:?}, {is_full}");
        }
    }

    #[test]
    fn the_zone_is_told_of_the_first_hit_of_a_stored_verdict() {
        let mut stored = Proof::of_stored(Worth::Lasting);
        assert_eq!([stored.note_hit(), stored.note_hit()], [true, false]);
        assert_eq!(stored, Proof::Proven);
        for mut other in
            [Proof::of_stored(Worth::Passing), Proof::of_read(true), Proof::of_read(false)]
        {
            assert!(!other.note_hit());
        }
    }

    #[test]
    fn a_draw_wins_about_one_time_in_eight() {
        let draw = Draw::default();
        let won = (0..80_000).filter(|_| draw.wins()).count();
        assert!((9_500..=10_500).contains(&won), "{won}");
    }

    #[test]
    fn a_key_that_comes_often_is_admitted_soon() {
        let draw = Draw::default();
        let mut wait = 0;
        for _ in 0..80_000 {
            wait = if draw.wins() { 0 } else { wait + 1 };
            assert!(wait < 200);
        }
    }
}
