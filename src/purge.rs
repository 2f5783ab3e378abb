//! `authgear_purge`: what is kept about users is dropped, by all workers at once.

use authgear::metrics::Purge as What;
use authgear::purge_request::{is_cross_site, is_form, Target, MAX_FORM};
use authgear::subject::Subject;
use authgear::verdict::Verdict;

use crate::conf::operating::{self, Operation};
use crate::conf::project::Project;
use crate::nginx::{Content, Level, Reply, Request};
use crate::{lookup, worker, Authgear};

/// Answers requests where `authgear_purge` stands.
pub struct Purge;

impl Content for Purge {
    const MAX_BODY: usize = MAX_FORM;

    fn begin(request: &mut Request) -> Result<(), u16> {
        let header = |name: &[u8]| lookup::header(request, name);
        if request.is_post() {
            let is_foreign =
                is_cross_site(header(b"sec-fetch-site"), header(b"origin"), header(b"host"));
            return if is_foreign { Err(403) } else { Ok(()) };
        }
        request.add_header_out("Allow", "POST").map_err(|_| 500_u16)?;
        Err(405)
    }

    fn answer(request: &mut Request, body: &[u8]) -> Reply {
        let location = request.location::<Authgear>();
        let Some(Operation::Purge(purge)) = &location.operation else { return Reply::Status(500) };
        Reply::Status(if purge.is_self {
            caller(request, purge)
        } else {
            admin(request, purge, body)
        })
    }
}

fn admin(request: &Request, purge: &operating::Purge, body: &[u8]) -> u16 {
    let content_type = lookup::header(request, b"content-type").unwrap_or_default();
    if !body.is_empty() && !is_form(content_type) {
        return 400;
    }
    let Ok(target) = Target::read(request.query(), body) else { return 400 };
    let project = purge.project().map(|project| &**project);
    let what = match (&target, project) {
        (Target::All, None) => {
            worker::purge_all();
            What::All
        }
        (Target::All, Some(project)) => {
            worker::purge(&[Subject::Project(&project.scope)]);
            What::All
        }
        (Target::User(id), project) => {
            worker::purge(&[user(project, id)]);
            What::User
        }
    };
    worker::count(|metrics| metrics.purged(what));
    request.log().write(Level::Info, format_args!("authgear purged, by order: {}", what.as_str()));
    204
}

/// A user, of one project or of any.
pub fn user<'a>(project: Option<&'a Project>, id: &'a [u8]) -> Subject<'a> {
    match project {
        None => Subject::User(id),
        Some(project) => Subject::UserOf(&project.scope, id),
    }
}

/// The caller's user, and what is kept under its exact credentials, whatever that says.
fn caller(request: &Request, purge: &operating::Purge) -> u16 {
    if !request.query().is_empty() {
        return 400;
    }
    let location = request.location::<Authgear>();
    let Some(project) = &location.project else { return 500 };
    let state = request.state::<Authgear>();
    let Some(finding) = state.and_then(|state| state.finding_of(location)) else {
        // `satisfy any` let it in without a look at its credentials.
        request.log().write(
            Level::Error,
            format_args!("authgear_purge self: access was granted without a verdict"),
        );
        return 403;
    };
    let id = match &*finding.verdict {
        Verdict::Valid(identity) => identity.user_id(),
        Verdict::Unavailable(_) => return 503,
        Verdict::Invalid | Verdict::BearerNotAccepted | Verdict::None(_) => None,
    };
    let flying = lookup::forget(request, project);
    let holders = flying.iter().map(Subject::Holder);
    let limit = purge.project().map(|project| &**project);
    let subjects: Vec<Subject<'_>> =
        id.map(|id| user(limit, id)).into_iter().chain(holders).collect();
    // Even of nobody: what other workers have in front of the zone is looked up there again.
    worker::purge(&subjects);
    worker::count(|metrics| metrics.purged(What::Caller));
    204
}
