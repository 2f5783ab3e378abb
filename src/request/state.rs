//! State of a client request over its passes through nginx's phases.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use authgear::resolver::set_cookie::SetCookies;
use authgear::shared::purges::PurgeEpoch;
use authgear::verdict::{Reason, Verdict};
use smallvec::SmallVec;

use super::denial::Denial;
use super::watched::Watched;
use crate::conf::login::LoginRoute;
use crate::conf::project::Project;
use crate::conf::{Id, LocationConf};
use crate::credentials::BearerElsewhere;
use crate::lookup::{self, LookupId, Pending};
use crate::resolution::Resolution;
use nginx::{ComplexValue, LocationId, Request};

/// State of a client request; nginx keeps it over internal redirects.
#[derive(Default)]
pub struct RequestState {
    /// Verdicts so far: a client request makes one look-up per project and mode.
    resolutions: RefCell<SmallVec<[(LookupId, Resolution); 1]>>,
    /// Tokens of `authgear_bearer`, by the variables that held them.
    bearers: RefCell<Vec<(Rc<[ComplexValue]>, BearerElsewhere)>>,
    /// The verdict that variables show.
    pub(super) current: RefCell<Option<Resolution>>,
    /// The look-up that the request waits for.
    pub(super) pending: RefCell<Option<Box<Pending>>>,
    /// The look-up of userinfo that the request waits for.
    pub(super) pending_userinfo: RefCell<Option<Box<Pending>>>,
    /// The last answer of userinfo, as a verdict of [`authgear::userinfo::read`].
    pub(super) answered_userinfo: RefCell<Option<Box<(LookupId, Resolution)>>>,
    /// The answer that variables show.
    pub(super) userinfo: RefCell<Option<Rc<Verdict>>>,
    /// The location in whose preaccess phase the request waits for that look-up.
    pub(super) waits_early: Cell<Option<LocationId>>,
    /// When the early verdict was found, and the generation of purges then. It is checked again
    /// once access is decided, since limits may delay the request meanwhile.
    pub(super) early_since: Cell<Option<(u64, u64)>>,
    /// Time spent waiting for look-ups.
    pub(super) waited: Cell<Duration>,
    /// The last denial, until it is answered. Boxed, because most requests have none.
    pub(super) denial: RefCell<Option<Box<Denial>>>,
    /// Whether access was granted on this pass. Then subrequests get the headers that their
    /// location allows.
    pub(super) granted: Cell<bool>,
    /// The location whose policy allowed the request on this pass.
    pub(super) allowed_at: Cell<Option<LocationId>>,
    /// Reason of the denial that was answered, or whose login URL is being made.
    pub(super) denied: Cell<Option<Reason>>,
    /// Whether the denial that was answered is that of a gRPC call.
    pub(super) denied_call: Cell<bool>,
    /// Authgear's `Set-Cookie` values for the response (`authgear_relay_cookies`).
    pub(super) set_cookies: RefCell<Vec<Rc<SetCookies>>>,
    /// The path of `authgear_login` that the client asked for.
    pub(super) login: Cell<Option<&'static LoginRoute>>,
    /// The path at which the request waits for its answer by `authgear_login`.
    pub(super) waits_for_login: RefCell<Option<Vec<u8>>>,
    /// Whether the callback of a login has forgotten what was kept.
    pub(super) forgot: Cell<bool>,
    /// Position in the purge log, and the time, before the first verdict.
    pub(super) asked_since: Cell<Option<(PurgeEpoch, u64)>>,
    /// The response, if `authgear_recheck` looks at it.
    pub(super) watched: RefCell<Option<Rc<Watched>>>,
    /// The project for which the request was counted.
    pub(super) counted: Cell<Option<Id>>,
    /// True if the first location that decides was counted (`authgear_status_zone`).
    pub(super) located: Cell<bool>,
}

impl RequestState {
    /// The verdict that the request's variables show. The access phase sets it, and
    /// `authgear_early` before that.
    pub fn current(&self) -> Option<Resolution> {
        self.current.borrow().clone()
    }

    /// The answer of userinfo about the user of that verdict.
    pub fn userinfo(&self) -> Option<Rc<Verdict>> {
        self.userinfo.borrow().clone()
    }

    /// Returns true if the policy of `location` allowed the request on this pass. Another module
    /// may have granted access without it.
    pub fn is_allowed_at(&self, location: LocationId) -> bool {
        self.allowed_at.get() == Some(location)
    }

    /// Reason of the request's denial, if it was denied.
    pub fn denied(&self) -> Option<Reason> {
        self.denied.get().or(self.denial.borrow().as_ref().map(|denial| denial.reason))
    }

    /// The project whose look-up the request waits for.
    pub fn asking(&self) -> Option<Rc<Project>> {
        self.pending.borrow().as_ref().map(|pending| Rc::clone(pending.project()))
    }

    /// Time spent waiting for look-ups.
    pub fn waited(&self) -> Duration {
        self.waited.get()
    }

    pub(super) fn add_waited(&self, time: Duration) {
        self.waited.set(self.waited.get() + time);
    }

    pub(super) fn resolution(&self, id: &LookupId) -> Option<Resolution> {
        let resolutions = self.resolutions.borrow();
        let found = resolutions.iter().find(|(own, _)| own == id);
        found.map(|(_, resolution)| resolution.clone())
    }

    /// Moves Authgear's `Set-Cookie` values to the response, once per look-up.
    pub(super) fn relay(&self, id: &LookupId) {
        let mut resolutions = self.resolutions.borrow_mut();
        let found = resolutions.iter_mut().find(|(own, _)| own == id);
        let set_cookies = found.and_then(|(_, resolution)| resolution.set_cookies.take());
        self.set_cookies.borrow_mut().extend(set_cookies);
    }

    /// The verdict on which access to `location` was decided.
    pub fn resolution_for(&self, request: &Request, location: &LocationConf) -> Option<Resolution> {
        let project = location.project.as_ref()?;
        let elsewhere = location.bearer().and_then(|own| self.bearer_elsewhere(own, None));
        self.resolution(&lookup::identify(request, location, project, elsewhere))
    }

    /// The token of `authgear_bearer` for a location with these variables. The first token that
    /// they give holds for the request: an internal redirect may change its arguments.
    pub(super) fn bearer_elsewhere(
        &self,
        variables: &Rc<[ComplexValue]>,
        now: Option<BearerElsewhere>,
    ) -> Option<BearerElsewhere> {
        let mut bearers = self.bearers.borrow_mut();
        if let Some((_, first)) = bearers.iter().find(|(own, _)| Rc::ptr_eq(own, variables)) {
            return Some(Rc::clone(first));
        }
        let now = now?;
        bearers.push((Rc::clone(variables), Rc::clone(&now)));
        Some(now)
    }

    /// Forgets the verdicts of a project, so that the credentials are looked up again.
    pub(super) fn forget(&self, project: Id) {
        self.resolutions.borrow_mut().retain(|(own, _)| own.project != project);
    }

    pub(super) fn keep(&self, id: LookupId, resolution: Resolution) -> Resolution {
        let bearer_elsewhere = id.bearer_elsewhere.clone();
        let resolution = Resolution { bearer_elsewhere, ..resolution };
        self.resolutions.borrow_mut().push((id, resolution.clone()));
        resolution
    }
}
