//! What Authgear's resolver is asked and how its answers are read.
//!
//! This crate is the logic of the nginx module without nginx: it does no I/O, knows no clock and
//! holds no state. It reads the credentials of a request, makes the request to the resolver, and
//! turns the answer into a [`Verdict`](verdict::Verdict). Facts about Authgear are those of
//! [authgear-server] at commit `fa7a7d551d`; file names in the documentation are its.
//!
//! Whatever comes from outside is untrusted: every size has a cap, nothing panics, and what is
//! not understood never makes a session.
//!
//! ```
//! use authgear::{
//!     credentials::{CookieNames, Credentials},
//!     endpoint::Endpoint,
//!     resolver::{self, Client},
//! };
//!
//! let endpoint = Endpoint::parse("https://myapp.authgear.cloud")?;
//! let url = endpoint.resolver_url();
//! let names = CookieNames::new(b"")?;
//!
//! let credentials = Credentials::read(Some(b"Bearer token"), [&b"lang=en; session=id"[..]], &names);
//! let request = resolver::request(&endpoint, url.path(), &credentials, &Client::default())?;
//! assert_eq!(request.headers()["cookie"], "session=id");
//!
//! // ... and when the answer is there:
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
pub mod denial;
pub mod endpoint;
pub mod front;
pub mod identity;
pub mod kept;
pub mod key;
pub mod metrics;
pub mod policy;
pub mod purge_request;
pub mod purges;
pub mod redirect;
pub mod resolver;
pub mod revocations;
pub mod set_cookie;
pub mod subject;
pub mod token;
pub mod trace;
pub mod verdict;
pub mod webhook;
pub mod zone;
