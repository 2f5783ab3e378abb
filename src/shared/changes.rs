//! Changes to users, and their effect in all workers of this host.

use authgear::shared::disabled_periods::PeriodSet;
use authgear::shared::revocations::Revoked;
use authgear::shared::subject::PurgeTarget;

use super::handle::SharedHandle;

/// Change to users of a project, or of all projects.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Verdicts on everybody are outdated.
    Everybody,
    /// Verdicts on these users are outdated.
    Users(&'a [&'a [u8]]),
    /// The sessions of the user have ended: tokens issued up to `at` are refused until `until`.
    /// Seconds since 1970.
    Ended {
        /// Id of the user.
        user: &'a [u8],
        /// Last time of issue.
        at: u64,
        /// End of the refusal.
        until: u64,
    },
    /// The account of the user is disabled by the clock.
    Period {
        /// Id of the user.
        user: &'a [u8],
        /// Order of the changes: a greater one is later.
        order: u64,
        /// First second, and first second after it; `None` lifts an earlier period.
        period: Option<(u64, u64)>,
    },
}

impl SharedHandle {
    /// Makes a change take effect in all workers. `scope` is that of the project, or none for all.
    /// Returns false if another user's refusal or period was forgotten for it.
    pub fn apply(&self, scope: Option<&[u8]>, change: &Change<'_>) -> bool {
        match *change {
            Change::Everybody => {
                match scope {
                    None => self.purge_all(),
                    Some(scope) => self.purge(&[PurgeTarget::Project(scope)]),
                }
                true
            }
            Change::Users(ids) => {
                let users = ids.iter().map(|id| PurgeTarget::user(scope, id));
                self.purge(&users.collect::<Vec<_>>());
                true
            }
            Change::Ended { user, at, until } => {
                let now = nginx::unix_time().as_secs();
                let user = PurgeTarget::user(scope, user);
                // Before the purge, so that every verification after it finds the revocation.
                let revoked = self.revoke(&user, at, until, now);
                self.purge(&[user]);
                revoked != Some(Revoked::KeptForAnother)
            }
            Change::Period { user, order, period } => {
                let user = PurgeTarget::user(scope, user);
                // Before the purge, so that every look-up after it finds the period.
                let set = self.set_disabled_period(&user, order, period);
                self.purge(&[user]);
                set != Some(PeriodSet::KeptForAnother)
            }
        }
    }
}
