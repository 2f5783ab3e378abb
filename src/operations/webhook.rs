//! `authgear_webhook`: Authgear's events about users.

use authgear::metrics::EventOutcome;
pub use authgear::operations::webhook::MAX_BODY;
use authgear::operations::webhook::{Event, NoEvent, SIGNATURE};
use authgear::shared::disabled_periods::PeriodSet;
use authgear::shared::revocations::Revoked;
use authgear::shared::subject::PurgeTarget;

use crate::conf::operations::{BuiltinEndpoint, WebhookDirective};
use crate::conf::Authgear;
use crate::worker::Worker;
use nginx::{self, Level, Reply, Request};

/// Checks the method.
pub fn begin(request: &mut Request) -> Result<(), u16> {
    if request.is_post() && request.is_main() {
        return Ok(());
    }
    request.add_header_out("Allow", "POST").map_err(|_| 500_u16)?;
    Err(405)
}

/// Verifies the event, acts on it, and makes the response.
pub fn answer(worker: &Worker, request: &mut Request, body: &[u8]) -> Reply {
    let location = request.location::<Authgear>();
    let Some(BuiltinEndpoint::Webhook(webhook)) = &location.endpoint else {
        return Reply::Status(500);
    };
    let signature = request.header(SIGNATURE.as_bytes()).unwrap_or_default();
    if !webhook.secret.verify(body, signature) {
        let what = if signature.is_empty() { "no" } else { "a wrong" };
        request.log().write(Level::Warn, format_args!("authgear webhook with {what} signature"));
        worker.shared().count(|metrics| metrics.event(EventOutcome::Forged));
        return Reply::Status(401);
    }
    let (outcome, status) = match Event::read(body) {
        Ok(Event::Ignored) => (EventOutcome::Ignored, 204),
        Ok(event) => {
            act(worker, request, webhook, &event);
            (EventOutcome::Handled, 204)
        }
        Err(NoEvent) => {
            request
                .log()
                .write(Level::Warn, format_args!("authgear webhook with a body that is no event"));
            (EventOutcome::Invalid, 400)
        }
    };
    worker.shared().count(|metrics| metrics.event(outcome));
    Reply::Status(status)
}

fn act(worker: &Worker, request: &Request, webhook: &WebhookDirective, event: &Event) {
    let (shared, scope) = (worker.shared(), webhook.scope());
    match event {
        Event::Ignored => {}
        Event::Changed(users) => {
            let users = users.iter().map(|id| PurgeTarget::user(scope, id.as_bytes()));
            shared.purge(&users.collect::<Vec<_>>());
        }
        Event::Status { user, order, disabled } => {
            let user = PurgeTarget::user(scope, user.as_bytes());
            let period = disabled.map(|period| (period.from, period.until.unwrap_or(u64::MAX)));
            // Before the purge, so that every look-up after it finds the period.
            let set = shared.set_disabled_period(&user, *order, period);
            if set == Some(PeriodSet::KeptForAnother) {
                let message = "authgear webhook: too many users who are disabled for a while, the \
                               period that ends first is forgotten";
                request.log().write(Level::Warn, format_args!("{message}"));
            }
            shared.purge(&[user]);
        }
        Event::Ended { user, at } => {
            let ttl = webhook.revocation_ttl(request.main_conf::<Authgear>());
            // Counted from the event's own time: an event that is sent again extends nothing.
            let until = at.saturating_add(ttl.as_secs());
            let now = nginx::unix_time().as_secs();
            let user = PurgeTarget::user(scope, user.as_bytes());
            // Before the purge, so that every verification after it finds the revocation.
            if shared.revoke(&user, *at, until, now) == Some(Revoked::KeptForAnother) {
                let message = "authgear webhook: too many users whose tokens are refused, the \
                               oldest is forgotten";
                request.log().write(Level::Warn, format_args!("{message}"));
            }
            shared.purge(&[user]);
        }
    }
}
