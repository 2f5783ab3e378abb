//! `authgear_webhook`: Authgear tells what has become of users.

use authgear::metrics::Event as Outcome;
use authgear::revocations::Revoked;
use authgear::webhook::{Event, NoEvent, MAX_BODY, SIGNATURE};

use crate::conf::operating::{self, Operation};
use crate::nginx::{self, Content, Level, Reply, Request};
use crate::{lookup, purge, worker, Authgear};

/// Answers requests where `authgear_webhook` stands.
pub struct Webhook;

impl Content for Webhook {
    const MAX_BODY: usize = MAX_BODY;

    fn begin(request: &mut Request) -> Result<(), u16> {
        if request.is_post() && request.is_main() {
            return Ok(());
        }
        request.add_header_out("Allow", "POST").map_err(|_| 500_u16)?;
        Err(405)
    }

    fn answer(request: &mut Request, body: &[u8]) -> Reply {
        let location = request.location::<Authgear>();
        let Some(Operation::Webhook(webhook)) = &location.operation else {
            return Reply::Status(500);
        };
        let signature = lookup::header(request, SIGNATURE.as_bytes()).unwrap_or_default();
        if !webhook.secret.verify(body, signature) {
            let what = if signature.is_empty() { "no" } else { "a wrong" };
            request
                .log()
                .write(Level::Warn, format_args!("authgear webhook with {what} signature"));
            worker::count(|metrics| metrics.event(Outcome::Forged));
            return Reply::Status(401);
        }
        let (outcome, status) = match Event::read(body) {
            Ok(Event::Ignored) => (Outcome::Ignored, 204),
            Ok(event) => {
                act(request, webhook, &event);
                (Outcome::Handled, 204)
            }
            Err(NoEvent) => {
                request.log().write(
                    Level::Warn,
                    format_args!("authgear webhook with a body that is no event"),
                );
                (Outcome::Invalid, 400)
            }
        };
        worker::count(|metrics| metrics.event(outcome));
        Reply::Status(status)
    }
}

fn act(request: &Request, webhook: &operating::Webhook, event: &Event) {
    let project = webhook.project().map(|project| &**project);
    match event {
        Event::Ignored => {}
        Event::Status { user, .. } => worker::purge(&[purge::user(project, user.as_bytes())]),
        Event::Changed(users) => {
            let users = users.iter().map(|id| purge::user(project, id.as_bytes()));
            worker::purge(&users.collect::<Vec<_>>());
        }
        Event::Ended { user, at } => {
            let ttl = webhook.revocation_ttl(request.main_conf::<Authgear>());
            // By the event's own time: what is sent again refuses nothing for longer.
            let until = at.saturating_add(ttl.as_secs());
            let now = nginx::unix_time().as_secs();
            let user = purge::user(project, user.as_bytes());
            // Before the purge: who verifies a token after that finds it.
            if worker::revoke(&user, *at, until, now) == Some(Revoked::KeptForAnother) {
                let message = "authgear webhook: too many users whose tokens are refused, the \
                               oldest is forgotten";
                request.log().write(Level::Warn, format_args!("{message}"));
            }
            worker::purge(&[user]);
        }
    }
}
