//! `authgear_webhook`: Authgear's events about users.

use authgear::metrics::EventOutcome;
pub use authgear::operations::webhook::MAX_BODY;
use authgear::operations::webhook::{Event, NoEvent, SIGNATURE};

use crate::conf::operations::{BuiltinEndpoint, WebhookDirective};
use crate::conf::Authgear;
use crate::fleet::Told;
use crate::shared::changes::Change;
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
    let (outcome, reply) = match Event::read(body) {
        Ok(Event::Ignored) => (EventOutcome::Ignored, Reply::Status(204)),
        Ok(event) => {
            let told = act(worker, request, webhook, &event);
            (EventOutcome::Handled, told.reply())
        }
        Err(NoEvent) => {
            request
                .log()
                .write(Level::Warn, format_args!("authgear webhook with a body that is no event"));
            (EventOutcome::Invalid, Reply::Status(400))
        }
    };
    worker.shared().count(|metrics| metrics.event(outcome));
    reply
}

fn act(worker: &Worker, request: &Request, webhook: &WebhookDirective, event: &Event) -> Told {
    let project = webhook.project();
    let (forgotten, (is_kept, told)) = match event {
        Event::Ignored => return Told::default(),
        Event::Changed(users) => {
            let users: Vec<&[u8]> = users.iter().map(String::as_bytes).collect();
            ("", worker.change(project, &Change::Users(&users)))
        }
        Event::Status { user, order, disabled } => {
            let period = disabled.map(|period| (period.from, period.until.unwrap_or(u64::MAX)));
            let change = Change::Period { user: user.as_bytes(), order: *order, period };
            let message = "authgear webhook: too many users who are disabled for a while, the \
                           period that ends first is forgotten";
            (message, worker.change(project, &change))
        }
        Event::Ended { user, at } => {
            let ttl = webhook.revocation_ttl(request.main_conf::<Authgear>());
            // Counted from the event's own time: an event that is sent again extends nothing.
            let until = at.saturating_add(ttl.as_secs());
            let change = Change::Ended { user: user.as_bytes(), at: *at, until };
            let message = "authgear webhook: too many users whose tokens are refused, the oldest \
                           is forgotten";
            (message, worker.change(project, &change))
        }
    };
    if !is_kept {
        request.log().write(Level::Warn, format_args!("{forgotten}"));
    }
    told
}
