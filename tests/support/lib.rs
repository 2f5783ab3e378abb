//! Support of the integration tests: a real nginx, and everything it talks to.
//!
//! All of it is synchronous to the test; the fakes run on one background runtime. Ports are free
//! ones, everything ends when dropped, and nothing waits by sleeping: wait with the `wait_*`
//! methods, hold answers back with a [`Gate`], and poll what lies outside this process with
//! [`eventually`]. Every wait ends after [`DEADLINE`].
//!
//! ```ignore
//! use support::{get, Backend, FakeAuthgear, Nginx, User};
//!
//! #[test]
//! fn the_backend_learns_who_the_user_is() {
//!     let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
//!     let nginx = Nginx::builder()
//!         .var("AUTHGEAR", authgear.url())
//!         .var("BACKEND", backend.url())
//!         .server("location / { authgear %%AUTHGEAR%%; proxy_pass %%BACKEND%%; }")
//!         .start();
//!
//!     let token = authgear.opaque_token(&User::named("alice"));
//!     let echo = get(&nginx, "/path").bearer(&token).send().echo();
//!
//!     assert_eq!(echo.header("x-authgear-user-id"), Some("alice"));
//!     assert_eq!(authgear.hits(), 1);
//! } // Here nginx quits; the test fails if its error log tells of an alert, a panic or a crash.
//! ```
//!
//! - [`Nginx::builder`]: the configuration in pieces, with `%%PLACEHOLDERS%%` (see [`Builder`]);
//!   `start()` or `check()` (`nginx -t`). [`Nginx`] reloads, upgrades, kills workers, reads logs.
//! - [`FakeAuthgear`]: the resolver and the JWKS endpoint, exactly as the real ones answer. Users
//!   and credentials are made by the test ([`User`], [`Token`]); trouble is a [`Fault`];
//!   what came is [`Recorded`]. [`decision_table`] has a [`Case`] for everything Authgear decides.
//! - [`Backend`]: HTTP and WebSocket, FastCGI, uwsgi, SCGI, gRPC. Answers with the request, which
//!   [`Response::echo`] reads.
//! - [`get`] makes a [`Request`], sent byte for byte: `send()`, `start()` (the answer is for
//!   later), `send_and_leave()`, `send_h2()`, `send_h3()`. [`Connection`], [`H2`] and [`H3`] take
//!   several, [`WebSocket`] upgrades.
//! - [`Redis`]: a real one, which can be killed, hung and started again.
//! - [`FakeDns`], [`Ca`] and [`ServerIdentity`], [`RefusedAddr`] and [`SilentAddr`], [`Sluice`].
//!
//! Environment: `AUTHGEAR_MODULE` (the module's file, otherwise `target/release`),
//! `AUTHGEAR_NGINX` (the nginx to run, otherwise the one in `PATH`), `AUTHGEAR_TESTS_KEEP` (keep
//! nginx's directory when a test fails).

mod authgear;
mod backend;
mod client;
mod crypto;
mod dns;
mod http1;
mod net;
mod nginx;
mod random;
mod recorded;
mod records;
mod redis;
mod runtime;
mod server;
mod sluice;
mod stream;
mod table;
mod tls;
mod usage;
mod wait;
mod ws;

pub use authgear::{
    unix_now, ClientKind, FakeAuthgear, FakeAuthgearBuilder, Fault, SigningKey, Token, User,
    Version, PERMISSIONS_POLICY,
};
pub use backend::Backend;
pub use client::{
    closed_loop, get, open_loop, Connection, Fared, H2Frames, H2Pending, H3Pending, HeaderBlock,
    Pending, Request, Response, WebSocket, H2, H3,
};
pub use crypto::{private_key, sha256, webhook_signature, KeyType};
pub use dns::FakeDns;
pub use net::{RefusedAddr, SilentAddr, ToAddr};
pub use nginx::{module_path, Builder, ConfigTest, Nginx};
pub use recorded::Recorded;
pub use records::{RecordServer, Records};
pub use redis::{Redis, RedisReply};
pub use sluice::Sluice;
pub use table::{decision_table, Case, Expect};
pub use tls::{Ca, ServerIdentity};
pub use usage::{cpu_time, resident_bytes};
pub use wait::{eventually, Gate, Watched, DEADLINE};
