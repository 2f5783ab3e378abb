//! WebSockets that stay open, with `authgear_recheck`: they end with their session, and no outage
//! ends one.

use std::sync::PoisonError;
use std::time::Instant;

use support::{eventually, WebSocket};

use crate::chance::Chance;
use crate::model::{Ask, Verdict, HELD};
use crate::world::{World, PATIENCE};

/// Sockets of a client.
const EACH: usize = 8;

/// An open WebSocket.
#[derive(Debug)]
pub struct Held {
    ask: Ask,
    socket: WebSocket,
    since: Instant,
}

impl Held {
    fn goes_on(&mut self) -> bool {
        self.socket.try_echo("still there").is_ok()
    }

    /// Returns true if its end has a reason.
    fn may_have_ended(&self, world: &World) -> bool {
        let now = Instant::now();
        let trouble = &world.trouble;
        let allowed = self.ask.allowed(self.since, now, trouble);
        trouble.kills.overlap(self.since, now)
            || trouble.reloads.overlap(self.since, now)
            || allowed.iter().any(|verdict| matches!(verdict, Verdict::Invalid | Verdict::None))
    }

    /// Returns true if its credential counts no more. A token outlives the purge of its user.
    fn has_ended_session(&self, world: &World) -> bool {
        let now = Instant::now();
        let allowed = self.ask.allowed(now, now, &world.trouble);
        !allowed.iter().any(|verdict| matches!(verdict, Verdict::Valid(_)))
    }
}

/// Opens sockets and sends messages over them. Those that are open at the end are kept for
/// [`end`].
pub fn holds(world: &World, chance: &mut Chance) {
    let mut held: Vec<Held> = Vec::new();
    while !world.over_within(chance.millis(0, 200)) {
        if held.len() < EACH {
            held.extend(open(world, chance));
        }
        if held.is_empty() {
            continue;
        }
        let n = chance.below(held.len());
        if chance.one_in(60) {
            held.swap_remove(n);
            world.count("open WebSocket", "left");
        } else if !held[n].goes_on() {
            let over = held.swap_remove(n);
            world.count("open WebSocket", "ended");
            if !over.may_have_ended(world) {
                world.violated(format!("a WebSocket has ended: {over:?}"));
            }
        }
    }
    world.held.lock().unwrap_or_else(PoisonError::into_inner).extend(held);
}

fn open(world: &World, chance: &mut Chance) -> Option<Held> {
    let ask = Ask { place: &HELD, ..world.ask_anything(chance) };
    let since = Instant::now();
    match WebSocket::try_open(&ask.request(world.nginx.addr()).deadline(PATIENCE)) {
        Ok(Ok(socket)) => {
            world.count("open WebSocket", "opened");
            let allowed = ask.allowed(since, Instant::now(), &world.trouble);
            if !allowed.iter().any(|verdict| matches!(verdict, Verdict::Valid(_))) {
                world.violated(format!("a WebSocket was opened: {ask:?}"));
            }
            Some(Held { ask, socket, since })
        }
        Ok(Err(answer)) => {
            world.judge(&ask, since, &answer);
            None
        }
        Err(error) => {
            if !world.trouble.kills.overlap(since, Instant::now()) {
                world.violated(format!("no WebSocket, and no kill: {error:?}\n{ask:?}"));
            }
            None
        }
    }
}

/// Checks, when all trouble is over, that exactly those go on whose session does.
pub fn end(world: &World) {
    let held = std::mem::take(&mut *world.held.lock().unwrap_or_else(PoisonError::into_inner));
    for mut held in held {
        if held.has_ended_session(world) {
            world.count("open WebSocket", "open at the end, without a session");
            if !eventually(PATIENCE, || !held.goes_on()) {
                world.violated(format!("a WebSocket goes on without its session: {held:?}"));
            }
        } else if held.goes_on() {
            world.count("open WebSocket", "open at the end");
        } else if !held.may_have_ended(world) {
            world.violated(format!("a WebSocket has ended: {held:?}"));
        }
    }
}
