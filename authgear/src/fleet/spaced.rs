//! An action that others can cause, and that happens once in a while at most.

/// Pause in milliseconds between two actions, by default.
pub const PAUSE: u64 = 10_000;

/// See the module. What is wanted sooner is owed, and not forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Spaced {
    pause: u64,
    last: Option<u64>,
    is_owed: bool,
}

impl Default for Spaced {
    fn default() -> Self {
        Self::new(PAUSE)
    }
}

impl Spaced {
    /// No action yet. `pause` is in milliseconds.
    pub const fn new(pause: u64) -> Self {
        Self { pause, last: None, is_owed: false }
    }

    /// Notes that the action is wanted.
    pub fn want(&mut self) {
        self.is_owed = true;
    }

    /// Returns true if the action was wanted and is to be done at `now`, in milliseconds of a
    /// monotonic clock.
    pub fn take(&mut self, now: u64) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_sub(last) >= self.pause);
        if !self.is_owed || !is_due {
            return false;
        }
        (self.last, self.is_owed) = (Some(now), false);
        true
    }

    /// Wants the action and takes it. An action that is not due now is forgotten, as of a line of
    /// the log.
    pub fn take_or_forget(&mut self, now: u64) -> bool {
        self.want();
        let is_due = self.take(now);
        self.is_owed = false;
        is_due
    }

    /// Returns true if the action was wanted and not done.
    pub const fn is_owed(&self) -> bool {
        self.is_owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_happens_at_once_and_then_after_a_pause() {
        let mut spaced = Spaced::default();
        assert!(!spaced.take(5));
        spaced.want();
        assert!(spaced.is_owed() && spaced.take(5) && !spaced.is_owed());
        spaced.want();
        spaced.want();
        assert!(!spaced.take(4 + PAUSE) && spaced.is_owed());
        assert!(spaced.take(5 + PAUSE) && !spaced.take(5 + 3 * PAUSE));
    }

    #[test]
    fn a_line_is_written_once_in_a_while() {
        let mut spaced = Spaced::default();
        assert!(spaced.take_or_forget(5) && !spaced.take_or_forget(6));
        assert!(!spaced.is_owed() && !spaced.take(5 + PAUSE));
        assert!(spaced.take_or_forget(5 + PAUSE));
    }
}
