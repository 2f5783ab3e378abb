//! `authgear_audience`: audiences of a location, in place of its project's.

use core::ffi::CStr;
use std::rc::Rc;

use authgear::token::Profile;

use super::arguments::set_once;
use super::location::LocationConf;
use super::project::Project;
use super::project_block::audiences;
use super::scope::scope;
use nginx::{self, Arguments, Conf, ConfError, Context, Directive};

/// Audiences of a location, once its project is known.
pub struct LocationAudience {
    /// The project's requirements on tokens, with the audiences of the location.
    pub profile: Profile,
    /// Digest of the project's settings and these audiences. Requests share a verification only
    /// under equal digests.
    pub scope: [u8; 32],
    /// The digest in short, which tells the audiences of a configuration apart.
    pub id: u64,
}

impl LocationAudience {
    fn new(project: &Project, audiences: &[String]) -> Self {
        let project_scope = project.tokens.scope.as_slice();
        let scope =
            scope([project_scope].into_iter().chain(audiences.iter().map(String::as_bytes)));
        let profile = Profile { audiences: audiences.to_vec(), ..project.tokens.profile.clone() };
        let id = scope.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        Self { profile, scope, id }
    }
}

impl LocationConf {
    /// The audiences of `authgear_audience`; `None` where those of the project apply.
    pub fn audience(&self) -> Option<&LocationAudience> {
        self.audience.as_deref()
    }

    /// Requirements on tokens at this location.
    pub fn profile<'a>(&'a self, project: &'a Project) -> &'a Profile {
        self.audience().map_or(&project.tokens.profile, |audience| &audience.profile)
    }

    /// Whether an audience is configured: a JWT then counts only if it is verified here.
    pub fn has_audience(&self, project: &Project) -> bool {
        self.audience.is_some() || project.tokens.has_audience
    }

    /// Inherits the audiences from `parent`, once the project is known.
    pub(super) fn merge_audience(&mut self, parent: &Self) {
        if self.audiences.is_none() {
            self.audiences = parent.audiences.clone();
        }
        let (Some(project), Some(Some(own))) = (&self.project, &self.audiences) else { return };
        project.tokens.has_location_audiences.set(true);
        self.audience = Some(Rc::new(LocationAudience::new(project, own)));
    }
}

/// `authgear_audience URI ... | project`
pub struct AudienceDirective;

impl Directive for AudienceDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_audience";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let own = match arguments.get(1..).unwrap_or_default() {
            [only] if only == "project" => None,
            all => Some(audiences("authgear_audience", all)?.into()),
        };
        set_once(&mut conf.audiences, own)
    }
}
