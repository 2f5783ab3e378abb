//! The floods.

use std::time::{Duration, Instant};

use support::{closed_loop, get, open_loop, H2Frames, HeaderBlock, Request};

use crate::site::{from, Site};

#[derive(Clone, Copy, Debug)]
pub enum Flood {
    EmptyCookies,
    RapidResets,
    Overload(f64),
    InventedCookies,
    BogusTokens,
    PurgeSelf,
    RedisHung,
    Killed,
}

pub const FLOODS: [Flood; 9] = [
    Flood::EmptyCookies,
    Flood::RapidResets,
    Flood::Overload(3.0),
    Flood::Overload(10.0),
    Flood::InventedCookies,
    Flood::BogusTokens,
    Flood::PurgeSelf,
    Flood::RedisHung,
    Flood::Killed,
];

/// Requests of a second of the floods that are sent at a rate.
const RATE: usize = 400;

impl Flood {
    pub fn name(self) -> String {
        match self {
            Self::EmptyCookies => "empty cookies over HTTP/2 (row 1)".to_owned(),
            Self::RapidResets => "rapid resets with bogus tokens (row 2)".to_owned(),
            Self::Overload(times) => format!("{times} times the resolver's capacity (row 3)"),
            Self::InventedCookies => "750 invented cookies of one address (row 4)".to_owned(),
            Self::BogusTokens => "bogus tokens against the cache (row 5)".to_owned(),
            Self::PurgeSelf => "anonymous purge self (row 6)".to_owned(),
            Self::RedisHung => "Authgear's Redis hung, 500 after 3 s (row 13)".to_owned(),
            Self::Killed => "Authgear killed, and back at the end (row 13)".to_owned(),
        }
    }

    /// Whether new sessions of other addresses are to be let in meanwhile.
    pub fn spares_others(self) -> bool {
        !matches!(self, Self::Overload(_) | Self::RedisHung | Self::Killed)
    }

    /// Whether it is aimed at the sessions in the cache.
    pub fn fills_the_cache(self) -> bool {
        matches!(self, Self::BogusTokens | Self::PurgeSelf)
    }

    /// Floods for that long. Returns the share of the capacity that was used well, at overload.
    pub fn run(self, site: &Site, time: Duration) -> Option<f64> {
        let end = Instant::now() + time;
        let bogus = |path: &str, n| get(&site.nginx, path).bearer(&format!("bogus-{n:026}"));
        match self {
            Self::EmptyCookies => {
                let mut connection = H2Frames::open(&site.nginx);
                let value = ";".repeat(4096 - 32 - "cookie".len());
                let first = HeaderBlock::get("/").indexing("cookie", value.as_bytes());
                connection.repeat(&first, 1, 1);
                let block = HeaderBlock::get("/").newest(7);
                in_rounds(end, |_| connection.repeat(&block, RATE / 10, 10));
            }
            Self::RapidResets => {
                let mut connection = H2Frames::open(&site.nginx);
                in_rounds(end, |round| {
                    for n in round * 100..(round + 1) * 100 {
                        let token = format!("Bearer bogus-{n:026}");
                        let block = HeaderBlock::get("/");
                        let block = block.literal("authorization", token.as_bytes());
                        let stream = connection.request(&block);
                        connection.reset(stream);
                    }
                    connection.flush_and_ping();
                });
            }
            Self::Overload(times) => return overload(site, times, time),
            Self::InventedCookies => in_rounds(end, |round| {
                let request = |n: usize| {
                    let n = round * 750 + n;
                    let session = format!("00000000-0000-4000-8000-{n:012x}.{n:032}");
                    one_address(get(&site.nginx, "/").cookie("session", &session))
                };
                let requests: Vec<_> = (0..750).map(request).collect();
                closed_loop(&site.nginx, &requests, 750);
            }),
            Self::RedisHung | Self::Killed => in_rounds(end, |round| {
                let request = |n| one_address(bogus("/", round * 40 + n));
                let requests: Vec<_> = (0..40).map(request).collect();
                closed_loop(&site.nginx, &requests, 40);
            }),
            Self::BogusTokens => at_full_speed(site, end, |n| bogus("/", n)),
            Self::PurgeSelf => {
                at_full_speed(site, end, |n| bogus("/logout", n).method("POST"));
            }
        }
        None
    }
}

fn one_address(request: Request) -> Request {
    from("10.0.0.2", request)
}

/// Sends requests of one address until the end, 64 at a time.
fn at_full_speed(site: &Site, end: Instant, request: impl Fn(usize) -> Request) {
    for round in 0.. {
        let requests: Vec<_> = (0..512).map(|n| one_address(request(round * 512 + n))).collect();
        closed_loop(&site.nginx, &requests, 64);
        if Instant::now() >= end {
            break;
        }
    }
}

/// Runs rounds until the end, at most ten a second.
fn in_rounds(end: Instant, mut round: impl FnMut(usize)) {
    let mut n = 0;
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(100);
        round(n);
        n += 1;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Sends honest requests only, more than the resolver can answer.
fn overload(site: &Site, times: f64, time: Duration) -> Option<f64> {
    // Eight at a time, of 40 ms each.
    let rate = 200.0 * times;
    let before = site.capacity("before");
    let requests: Vec<_> = (0..(rate * time.as_secs_f64()) as usize)
        .map(|n| site.new_session(n, &format!("crowd-{n}")))
        .collect();
    let fared = open_loop(&site.nginx, &requests, rate);
    // Other processes may have left less processor time since.
    let capacity = before.min(site.capacity("after"));
    let settled = time / 3;
    // What is answered after the load has ended took no turn from anybody.
    let in_time = |answered: Duration| answered >= settled && answered <= time;
    let good =
        fared.iter().filter(|one| one.status() == 200 && in_time(one.due + one.took)).count();
    let goodput = good as f64 / (time - settled).as_secs_f64();
    site.with_module.then_some(goodput / capacity)
}
