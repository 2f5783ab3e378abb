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
//! - [`single_flight`]: look-ups of one worker in flight, and the requests that wait for them.
//! - [`shared`]: cached verdicts, purges and revocations in shared memory.
//! - [`resolver`]: requests to Authgear's servers, and the meaning of the resolver's answer.
//! - [`credentials`]: bearer tokens and cookies of a request.
//! - [`login`]: login and logout by redirects.
//! - [`policy`]: the conditions of a location.
//! - [`token`]: verification of access tokens.
//! - [`userinfo`]: the profile of a user, kept as a verdict is.
//! - [`verdict`]: the result of a look-up, the reasons, and the time for which it may be served.
//! - [`identity`]: the `x-authgear-*` fields of a session.
//! - [`http`], [`operations`], [`overload`]: content negotiation and redirects; webhooks and purge
//!   forms; limits under load.
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
//! let request = resolver::request(&endpoint, url.path(), &credentials, &ClientInfo::default())?;
//! assert_eq!(request.headers()["cookie"], "session=id");
//!
//! // After the answer has arrived:
//! let mut headers = http::HeaderMap::new();
//! headers.insert("x-authgear-session-valid", "true".parse()?);
//! headers.insert("x-authgear-user-id", "alice".parse()?);
//! let verdict = resolver::verdict(http::StatusCode::OK, &headers);
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

pub mod credentials;
pub mod http;
pub mod identity;
pub mod login;
pub mod metrics;
pub mod operations;
pub mod overload;
pub mod policy;
pub mod resolver;
pub mod shared;
pub mod single_flight;
pub mod token;
pub mod userinfo;
pub mod verdict;
