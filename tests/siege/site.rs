//! The nginx under siege, and the Authgear that it asks.

use std::time::{Duration, Instant};

use support::{closed_loop, get, FakeAuthgear, Fault, Nginx, Request, User};

use crate::flood::Flood;

const CONNECTIONS: usize = 8;
/// Sessions in the cache, for which its zone of 1 MB has room.
const CROWD: usize = 3000;

pub struct Site {
    // Dropped before the server it uses.
    pub nginx: Nginx,
    pub authgear: FakeAuthgear,
    pub with_module: bool,
    /// A request of a session that is in the cache.
    pub cached: Request,
    /// Requests of sessions that are in the cache, where the flood is aimed at it.
    crowd: Vec<Request>,
}

impl Site {
    pub fn start(flood: Flood, with_module: bool) -> Self {
        // Requests of a hung Redis hold none of the places of others.
        let (at_once, service_time) = match flood {
            Flood::RedisHung => (10_000, Duration::from_secs(3)),
            // The faster Authgear answers, the more is kept.
            _ if flood.fills_the_cache() => (CONNECTIONS, Duration::from_millis(1)),
            _ => (CONNECTIONS, Duration::from_millis(40)),
        };
        let authgear = FakeAuthgear::builder().capacity(at_once, service_time).start();
        let builder = Nginx::builder()
            .workers(1)
            .error_level("crit")
            .listen_options("http2")
            .listen_extra(1)
            .events("worker_connections 8192;")
            .http(
                "http2_max_concurrent_streams 20000; keepalive_requests 100000000;
                 set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP; access_log off;",
            )
            .server("listen %%ADDR2%%; location / { empty_gif; }");
        // Shorter than the flood, so that look-ups that wait too long are seen to fail.
        let timeout = if matches!(flood, Flood::Overload(_)) { "500ms" } else { "5s" };
        let life = match flood {
            Flood::RedisHung | Flood::Killed => "valid=1s",
            _ => "valid=1h",
        };
        let nginx = if with_module {
            builder
                .http(format!(
                    "authgear_cache_zone z:1m front=64;
                     authgear_project p {{ endpoint {}; resolver_url {};
                       max_connections {CONNECTIONS}; timeout {timeout}; }}",
                    authgear.origin(),
                    authgear.resolver_url()
                ))
                .server(format!(
                    "authgear p; authgear_cache z; authgear_cache_valid {life};
                     authgear_cache_use_stale error=1h;
                     add_header X-User $remote_user always;
                     add_header X-Cache $authgear_cache_status always;
                     location = /logout {{ authgear_purge self; }}"
                ))
                .start()
        } else {
            builder.without_module().start()
        };
        let token = authgear.opaque_token(&User::named("cached"));
        let cached = from("10.9.0.1", get(&nginx.addr2(), "/").bearer(&token));
        // The second answer is from the cache, which has seen the session twice then.
        for _ in 0..2 {
            assert_eq!(cached.send().status, 200, "the session is let in before the flood");
        }
        let mut crowd = Vec::new();
        if with_module && flood.fills_the_cache() {
            crowd.extend((0..CROWD).map(|n| {
                let token = authgear.opaque_token(&User::named(&format!("crowd-{n}")));
                from("10.9.0.2", get(&nginx, "/").bearer(&token))
            }));
            for _ in 0..2 {
                closed_loop(&nginx, &crowd, CONNECTIONS);
            }
        }
        match flood {
            Flood::RedisHung => authgear.inject(Fault::Status(500)),
            Flood::Killed => authgear.inject(Fault::CloseAtOnce),
            _ => {}
        }
        Self { nginx, authgear, with_module, cached, crowd }
    }

    /// Look-ups per second of a client for each connection. `series` names its sessions.
    pub fn capacity(&self, series: &str) -> f64 {
        const LOOK_UPS: usize = 80;
        let requests: Vec<_> =
            (0..LOOK_UPS).map(|n| self.new_session(n, &format!("{series}-{n}"))).collect();
        let begin = Instant::now();
        closed_loop(&self.nginx, &requests, CONNECTIONS);
        LOOK_UPS as f64 / begin.elapsed().as_secs_f64()
    }

    /// Counts the crowd's sessions that are still in the cache. `None` without a crowd.
    pub fn kept(&self) -> Option<(usize, usize)> {
        let is_kept = |header: Option<String>| header.as_deref() == Some("HIT");
        let kept = || {
            let fared = closed_loop(&self.nginx, &self.crowd, CONNECTIONS);
            fared.iter().filter(|one| is_kept(one.header("x-cache"))).count()
        };
        (!self.crowd.is_empty()).then(|| (kept(), self.crowd.len()))
    }

    /// A request of a user and an address of their own.
    pub fn new_session(&self, n: usize, name: &str) -> Request {
        let token = self.authgear.opaque_token(&User::named(name));
        from(&format!("10.1.{}.{}", n / 250 % 250, n % 250), get(&self.nginx.addr2(), "/"))
            .bearer(&token)
    }
}

/// The request as a client of this address sends it.
pub fn from(ip: &str, request: Request) -> Request {
    request.header("X-Real-IP", ip)
}
