//! `authgear_purge`: removes cached verdicts, in all workers at once.

use authgear::metrics::PurgeKind;
use authgear::operations::purge_request::{is_cross_site, is_form, PurgeForm, MAX_FORM};
use authgear::verdict::Verdict;

use crate::conf::operations::{BuiltinEndpoint, PurgeDirective};
use crate::conf::Authgear;
use crate::lookup;
use crate::shared::changes::Change;
use crate::worker::Worker;
use nginx::{Level, Reply, Request};

/// Largest request body that is read.
pub const MAX_BODY: usize = MAX_FORM;

/// Checks the method and the origin of the request.
pub fn begin(request: &mut Request) -> Result<(), u16> {
    let header = |name: &[u8]| request.header(name);
    if request.is_post() {
        let is_foreign =
            is_cross_site(header(b"sec-fetch-site"), header(b"origin"), header(b"host"));
        return if is_foreign { Err(403) } else { Ok(()) };
    }
    request.add_header_out("Allow", "POST").map_err(|_| 500_u16)?;
    Err(405)
}

/// Purges, and makes the response.
pub fn answer(worker: &Worker, request: &mut Request, body: &[u8]) -> Reply {
    let location = request.location::<Authgear>();
    let Some(BuiltinEndpoint::Purge(purge)) = &location.endpoint else { return Reply::Status(500) };
    if purge.is_self {
        caller(worker, request, purge)
    } else {
        admin(worker, request, purge, body)
    }
}

fn admin(worker: &Worker, request: &Request, purge: &PurgeDirective, body: &[u8]) -> Reply {
    let content_type = request.header(b"content-type").unwrap_or_default();
    if !body.is_empty() && !is_form(content_type) {
        return Reply::Status(400);
    }
    let Ok(target) = PurgeForm::read(request.query(), body) else { return Reply::Status(400) };
    let (kind, (_, told)) = match &target {
        PurgeForm::All => (PurgeKind::All, worker.change(purge.project(), &Change::Everybody)),
        PurgeForm::User(id) => {
            (PurgeKind::User, worker.change(purge.project(), &Change::Users(&[id])))
        }
    };
    worker.shared().count(|metrics| metrics.purged(kind));
    request.log().write(Level::Info, format_args!("authgear purged, by order: {}", kind.as_str()));
    told.reply()
}

/// Purges the caller's user, and the cache entries of its credentials. For a caller without a valid
/// session, only the entries of its credentials are removed.
fn caller(worker: &Worker, request: &Request, purge: &PurgeDirective) -> Reply {
    if !request.query().is_empty() {
        return Reply::Status(400);
    }
    let location = request.location::<Authgear>();
    let Some(project) = &location.project else { return Reply::Status(500) };
    let state = request.state::<Authgear>();
    let Some(resolution) = state.and_then(|state| state.resolution_for(request, location)) else {
        // `satisfy any` allowed the request before its credentials were looked up.
        request.log().write(
            Level::Error,
            format_args!("authgear_purge self: access was granted without a verdict"),
        );
        return Reply::Status(403);
    };
    let session = match &*resolution.verdict {
        Verdict::Valid(identity) => Some(identity),
        Verdict::Unavailable(_) | Verdict::Limited(_) => return Reply::Status(503),
        Verdict::Invalid | Verdict::BearerNotAccepted | Verdict::None(_) => None,
    };
    let elsewhere = resolution.bearer_elsewhere.as_deref();
    // Anybody can call without a session: such calls must not fill the purge log, nor make all
    // workers read the zone again.
    let Some(identity) = session else {
        lookup::forget(worker, request, project, elsewhere);
        return Reply::Status(204);
    };
    let whose = (purge.project(), identity);
    let told = lookup::purge_session(worker, request, project, elsewhere, whose);
    worker.shared().count(|metrics| metrics.purged(PurgeKind::Caller));
    told.reply()
}
