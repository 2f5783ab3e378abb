//! Clients that mean harm, and more of them than Authgear can serve: a file for each row of the
//! audit of commit 7c2fe99. Each test failed with the module of that commit.

use support::{Builder, Request};

use crate::site::site;
use support::{Backend, FakeAuthgear};

mod audit;
mod row01_cost_per_byte;
mod row02_abandoned_lookups;
mod row03_overload;
mod row04_fairness;
mod row05_cache_scan;
mod row06_purge_self;
mod row07_remote_user;
mod row08_cookies_as_go;
mod row09_local_exhaustion;
mod row10_upgrade_h2c;
mod row11_clock;
mod row12_system_names;
mod row13_slow_failures;
mod row14_small;

/// Makes each answer tell reason, cache status and source.
pub(crate) const TELLING: &str = "add_header X-Reason $authgear_reason always;
     add_header X-Cache $authgear_cache_status always;
     add_header X-Session $authgear_session always;
     add_header X-Source $authgear_source always;";

/// HTTP/2 on `%%ADDR%%`, HTTP/1.1 on `%%ADDR2%%`, without limits of nginx's own, and one worker. Client addresses are
/// those of [`from`].
pub(crate) fn crowded(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .workers(1)
        .error_level("error")
        .listen_options("http2")
        .listen_extra(1)
        .events("worker_connections 8192;")
        .http(
            "http2_max_concurrent_streams 20000;
             keepalive_requests 100000000;
             set_real_ip_from 127.0.0.1;
             real_ip_header X-Real-IP;",
        )
        .server("listen %%ADDR2%%;")
        .server(TELLING)
}

/// The request as a client of this address sends it.
pub(crate) fn from(ip: &str, request: Request) -> Request {
    request.header("X-Real-IP", ip)
}

/// A session cookie of Authgear's form that Authgear does not know.
pub(crate) fn invented_session(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012x}.{n:032}")
}
