//! The nginx under siege, and the Authgear that it asks.

use std::time::Duration;

use support::{get, FakeAuthgear, Fault, Nginx, Request, User};

use crate::flood::Flood;

const CONNECTIONS: usize = 8;

pub struct Site {
    // Dropped before the server it uses.
    pub nginx: Nginx,
    pub authgear: FakeAuthgear,
    pub with_module: bool,
    /// A request of a session that is in the cache.
    pub cached: Request,
}

impl Site {
    pub fn start(flood: Flood, with_module: bool) -> Self {
        // Requests of a hung Redis hold none of the places of others.
        let (at_once, service_time) = match flood {
            Flood::RedisHung => (10_000, Duration::from_secs(3)),
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
        let nginx = if with_module {
            builder
                .http(format!(
                    "authgear_cache_zone z:1m;
                     authgear_project p {{ endpoint {}; resolver_url {};
                       max_connections {CONNECTIONS}; }}",
                    authgear.origin(),
                    authgear.resolver_url()
                ))
                .server(
                    "authgear p; authgear_cache z; authgear_cache_valid valid=1h;
                     add_header X-User $remote_user always;
                     location = /logout { authgear_purge self; }",
                )
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
        if matches!(flood, Flood::RedisHung) {
            authgear.inject(Fault::Status(500));
        }
        Self { nginx, authgear, with_module, cached }
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
