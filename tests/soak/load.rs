//! Clients of every kind, each over connections of its own, all the time.

use std::io::{self, ErrorKind};
use std::thread::Scope;
use std::time::Instant;

use support::{Connection, H2Pending, H2};

use crate::chance::Chance;
use crate::model::Ask;
use crate::sockets::holds;
use crate::world::{World, PATIENCE};

type Client = fn(&World, &mut Chance);

const CLIENTS: [(&str, Client, usize); 5] = [
    ("a client that keeps its connection", keeps, 6),
    ("a client that comes anew", comes_anew, 3),
    ("a client over HTTP/2", streams, 3),
    ("a client that leaves", leaves, 2),
    ("a client with open WebSockets", holds, 2),
];

pub fn start<'scope>(scope: &'scope Scope<'scope, '_>, world: &'scope World, seed: u64) {
    let clients = CLIENTS.iter().flat_map(|client| vec![client; client.2]);
    for (n, (what, client, _)) in clients.enumerate() {
        scope.spawn(move || {
            let mut chance = Chance::new(seed, 100 + n as u64);
            world.guard(what, || client(world, &mut chance));
        });
    }
}

/// Waits a little, most times. Returns whether to go on.
fn goes_on(world: &World, chance: &mut Chance) -> bool {
    let pause = if chance.one_in(50) { chance.millis(0, 500) } else { chance.millis(0, 12) };
    !world.over_within(pause)
}

/// Whether a connection that was open at `since` may have failed like that.
fn excused(world: &World, error: &io::Error, since: Instant, reused: bool) -> bool {
    let now = Instant::now();
    error.kind() != ErrorKind::TimedOut
        && (world.trouble.kills.overlap(since, now)
            || reused && world.trouble.reloads.overlap(since, now))
}

fn lost(world: &World, ask: &Ask, error: &io::Error) {
    world.violated(format!("no answer, and no excuse: {error:?}\nasked:\n{ask:?}"));
}

fn keeps(world: &World, chance: &mut Chance) {
    let mut kept = None;
    while goes_on(world, chance) {
        let ask = world.ask_anything(chance);
        kept = answered(world, &ask, kept).filter(|_| !chance.one_in(100));
    }
}

fn comes_anew(world: &World, chance: &mut Chance) {
    while goes_on(world, chance) {
        answered(world, &world.ask_anything(chance), None);
    }
}

/// A connection, and the time of its last use: it was open then.
type OpenConnection = (Connection, Instant);

/// Sends the request until it is answered, again where the connection was closed, as usual in HTTP.
/// Returns the connection if it can be reused.
fn answered(world: &World, ask: &Ask, mut kept: Option<OpenConnection>) -> Option<OpenConnection> {
    let request = ask.request(world.nginx.addr()).deadline(PATIENCE);
    loop {
        let from = Instant::now();
        let reused = kept.is_some();
        let (mut connection, since) =
            kept.take().unwrap_or_else(|| (Connection::open_for(&request), from));
        match connection.try_send(&request) {
            Ok(answer) => {
                world.judge(ask, from, &answer);
                let closes = answer.header("connection").is_some_and(|value| value == "close");
                return (!closes).then_some((connection, from));
            }
            Err(error) if excused(world, &error, since, reused) => {
                world.count(ask.credential.name, "asked again");
            }
            Err(error) => {
                lost(world, ask, &error);
                return None;
            }
        }
    }
}

/// Sends several simultaneous streams; those of a closed connection are repeated.
fn streams(world: &World, chance: &mut Chance) {
    let mut kept: Option<(H2, Instant)> = None;
    let mut asks: Vec<Ask> = Vec::new();
    while !asks.is_empty() || goes_on(world, chance) {
        if asks.is_empty() {
            asks = (0..1 + chance.below(6)).map(|_| world.ask_anything(chance)).collect();
        }
        let from = Instant::now();
        let open = || Ok((H2::try_open(&world.nginx.addr2())?, from));
        let (h2, since) = match kept.take().map_or_else(open, Ok) {
            Ok(kept) => kept,
            Err(error) if excused(world, &error, from, true) => continue,
            Err(error) => return lost(world, &asks[0], &error),
        };
        let begun: Vec<(Ask, H2Pending)> =
            asks.drain(..).map(|ask| (ask.clone(), start_h2(&h2, &ask, world))).collect();
        let mut closed = false;
        for (ask, pending) in begun {
            match pending.try_wait() {
                Ok(answer) => world.judge(&ask, from, &answer),
                Err(error) if excused(world, &error, since, true) => {
                    world.count(ask.credential.name, "asked again");
                    closed = true;
                    asks.push(ask);
                }
                Err(error) => return lost(world, &ask, &error),
            }
        }
        kept = (!closed && !chance.one_in(50)).then_some((h2, from));
    }
}

fn start_h2(h2: &H2, ask: &Ask, world: &World) -> H2Pending {
    h2.start(&ask.request(world.nginx.addr2()).deadline(PATIENCE))
}

/// Disconnects in the middle of its request, after it, or while it is handled.
fn leaves(world: &World, chance: &mut Chance) {
    while goes_on(world, chance) {
        let ask = world.ask_anything(chance);
        let request = ask.request(world.nginx.addr());
        let stays = chance.millis(0, 20);
        match chance.below(4) {
            0 => request.raw("GET /a/open HTTP/1.1\r\nHost: a\r\nAuthor").send_and_leave(),
            1 => request.send_and_leave(),
            2 => {
                let pending = request.start();
                world.over_within(stays);
                pending.leave();
            }
            _ => {
                // The result is irrelevant.
                if let Ok(h2) = H2::try_open(&world.nginx.addr2()) {
                    let _pending = start_h2(&h2, &ask, world);
                    world.over_within(stays);
                }
            }
        }
        world.count(ask.credential.name, "left");
    }
}
