//! Rules of a worker's front: the copies of verdicts that it keeps before the shared zone.
//!
//! A front that has room takes any verdict. A full one takes only what is
//! [proven](crate::zone::Record::proven): in use, as far as the zone knows. So a flood of verdicts
//! that are used once displaces nothing.
//!
//! The zone does not see the hits of a front. A worker tells it of the first hit of each copy that
//! the zone may not know to be in use, with [`Zone::touch`](crate::zone::Zone::touch). That is one
//! access for each verdict that the worker asked for itself, and none for later hits.

use crate::zone::Worth;

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

    /// Whether the verdict may enter a front in which its key is not. `draw` is asked about a full
    /// front: if more verdicts are in use than it has room for, taking each of them would only
    /// make each displace the next.
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
}
