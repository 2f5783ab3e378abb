//! Authentication against Authgear, independent of nginx.
//!
//! This crate is the pure logic of the nginx module: no I/O, no clock, no global state. It reads the
//! credentials of a request, builds the request to Authgear's resolver, and turns the answer into a
//! [`Verdict`](verdict::Verdict). Statements about Authgear refer to [authgear-server] at commit
//! `fa7a7d551d`; file names in the documentation are relative to it.
//!
//! All input is untrusted: every size has a cap, nothing panics, and malformed input never gives a
//! session.
//!
//! # Rooms
//!
//! Each module imports only from modules below it in this list:
//!
//! - [`metrics`]: counters in shared memory, and reports.
//! - [`fleet`]: events between the hosts of a fleet.
//! - [`single_flight`]: look-ups of one worker in flight, and the requests that wait for them.
//! - [`shared`]: cached verdicts, purges and revocations in shared memory.
//! - [`resolver`]: requests to Authgear's servers, and the meaning of the resolver's answer.
//! - [`credentials`]: bearer tokens and cookies of a request.
//! - [`login`]: login and logout by redirects.
//! - [`policy`]: the conditions of a location.
//! - [`recheck`]: times of looks at the verdicts on open responses.
//! - [`token`]: verification of access tokens.
//! - [`userinfo`]: the profile of a user, kept as a verdict is.
//! - [`verdict`]: the result of a look-up, the reasons, and the time for which it may be served.
//! - [`assertion`]: the identity as a signed JWT.
//! - [`identity`]: the `x-authgear-*` fields of a session.
//! - [`http`], [`operations`], [`overload`], [`exchange`]: content negotiation and redirects; webhooks and purge
//!   forms; limits under load; HTTP/1.1 with Authgear's servers.
//!
//! # Example
//!
//! ```
//! use authgear::{
//!     credentials::{CookieNames, Credentials},
//!     resolver::{self, endpoint::Endpoint, ClientInfo},
//! };
//!
//! let endpoint = Endpoint::parse("https://myapp.authgear.cloud")?;
//! let url = endpoint.resolver_url();
//! let names = CookieNames::new(b"")?;
//!
//! let credentials = Credentials::read(Some(b"Bearer token"), [&b"lang=en; session=id"[..]], &names);
//! let prefix = resolver::prefix(&endpoint, url.path())?;
//! let request = resolver::request(&prefix, &credentials, &ClientInfo::default()).unwrap();
//! assert_eq!(request.get("cookie"), Some(&b"session=id"[..]));
//!
//! // After the answer has arrived:
//! let fields =
//!     [(&b"X-Authgear-Session-Valid"[..], &b"true"[..]), (b"X-Authgear-User-Id", b"alice")];
//! let verdict = resolver::verdict(200, fields.into_iter());
//! assert_eq!(verdict.session_word(), "valid");
//! assert_eq!(verdict.get_suffix(b"user_id"), Some(&b"alice"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [authgear-server]: https://github.com/authgear/authgear-server

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod assertion;
pub mod credentials;
pub mod exchange;
pub mod fleet;
pub mod http;
pub mod identity;
pub mod login;
pub mod metrics;
pub mod operations;
pub mod overload;
pub mod policy;
pub mod recheck;
pub mod resolver;
pub mod shared;
pub mod single_flight;
pub mod token;
pub mod userinfo;
pub mod verdict;
