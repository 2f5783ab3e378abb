//! Honest clients during a flood, and what the worker takes meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{cpu_time, resident_bytes, Request};

use crate::flood::Flood;
use crate::site::Site;

const PAUSE: Duration = Duration::from_millis(10);

/// Waits of honest requests, and how many were answered with the right identity.
#[derive(Debug, Default)]
pub struct Waits {
    waits: Vec<Duration>,
    good: usize,
}

impl Waits {
    fn wait(&self, share: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort();
        let nth = (waits.len() as f64 * share).ceil() as usize;
        waits.get(nth.saturating_sub(1)).copied().unwrap_or(Duration::MAX / 4)
    }

    /// The largest share of the waits that this many samples say something of.
    fn tail(&self) -> f64 {
        match self.waits.len() {
            300.. => 0.99,
            100.. => 0.95,
            _ => 0.9,
        }
    }

    /// The wait that all but the longest hundredth stay below, or all but the longest twentieth or
    /// tenth of fewer samples.
    pub fn longest(&self) -> Duration {
        self.wait(self.tail())
    }

    pub fn share(&self) -> f64 {
        self.good as f64 / self.waits.len().max(1) as f64
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| self.wait(share).as_secs_f64() * 1000.0;
        let (share, n) = (self.share() * 100.0, self.waits.len());
        let tail = self.tail();
        let (percentile, half, long) = (tail * 100.0, ms(0.5), ms(tail));
        write!(f, "{share:.1} % of {n}, p50 {half:.1} ms, p{percentile:.0} {long:.1} ms")
    }
}

#[derive(Debug)]
pub struct Report {
    pub new: Waits,
    pub cached: Waits,
    pub cpu: Duration,
    pub before: u64,
    pub peak: u64,
    pub after: u64,
    pub look_ups: usize,
    pub of_capacity: Option<f64>,
    /// Sessions of the crowd in the cache that are still there, and all of them.
    pub kept: Option<(usize, usize)>,
    /// From when Authgear answered again until a new session was let in.
    pub recovered: Option<Duration>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "new: {}; cached: {}; CPU {:.2} s; memory {:.1}, {:.1}, {:.1} MB; look-ups {}",
            self.new,
            self.cached,
            self.cpu.as_secs_f64(),
            mb(self.before),
            mb(self.peak),
            mb(self.after),
            self.look_ups
        )?;
        if let Some(of) = self.of_capacity {
            write!(f, "; {:.0} % of capacity", of * 100.0)?;
        }
        if let Some((kept, all)) = self.kept {
            write!(f, "; {kept} of {all} sessions kept")?;
        }
        self.recovered.map_or(Ok(()), |took| write!(f, "; back after {:.2} s", took.as_secs_f64()))
    }
}

pub fn observe(site: &Site, flood: Flood, time: Duration) -> Report {
    let worker = site.nginx.workers()[0];
    let over = AtomicBool::new(false);
    let (before, used, hits) = (resident_bytes(worker), cpu_time(worker), site.authgear.hits());
    thread::scope(|scope| {
        let new = scope.spawn(|| {
            ask(site, &over, |n| {
                let name = format!("honest-{n}");
                (site.new_session(n, &name), name)
            })
        });
        let cached =
            scope.spawn(|| ask(site, &over, |_| (site.cached.clone(), "cached".to_owned())));
        let peak = scope.spawn(|| {
            let mut peak = before;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(resident_bytes(worker));
                thread::sleep(PAUSE);
            }
            peak
        });
        let of_capacity = flood.run(site, time);
        over.store(true, Ordering::Relaxed);
        let peak = peak.join().expect("memory is measured");
        Report {
            new: new.join().expect("new sessions ask"),
            cached: cached.join().expect("cached sessions ask"),
            cpu: cpu_time(worker) - used,
            before,
            peak,
            after: resident_bytes(worker),
            look_ups: site.authgear.hits() - hits,
            of_capacity,
            kept: site.kept(),
            recovered: matches!(flood, Flood::Killed).then(|| recovery(site)),
        }
    })
}

/// Lets Authgear answer again, and waits until a new session is let in.
fn recovery(site: &Site) -> Duration {
    site.authgear.clear();
    let begin = Instant::now();
    for n in 0.. {
        let request = site.new_session(n, &format!("later-{n}"));
        let let_in = request.start().try_wait().is_ok_and(|answer| answer.status == 200);
        if let_in || begin.elapsed() > Duration::from_secs(30) {
            break;
        }
        thread::sleep(PAUSE);
    }
    begin.elapsed()
}

fn ask(site: &Site, over: &AtomicBool, request: impl Fn(usize) -> (Request, String)) -> Waits {
    let mut waits = Waits::default();
    for n in 0.. {
        let (request, user) = request(n);
        let begin = Instant::now();
        let answer = request.start().try_wait();
        waits.waits.push(begin.elapsed());
        let right = |name: Option<String>| !site.with_module || name == Some(user);
        let good = answer.is_ok_and(|a| a.status == 200 && right(a.header("x-user")));
        waits.good += usize::from(good);
        if over.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
    }
    waits
}
