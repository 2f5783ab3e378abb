//! The usual set-up of a test: nginx with the module, between Authgear and a backend.

use std::io::{stderr, Write as _};
use std::net::Ipv4Addr;
use std::process;
use std::sync::Once;

use support::{Backend, Builder, Case, Expect, FakeAuthgear, Nginx, Recorded, User};

/// One location with authentication that passes everything to the backend.
pub(crate) const PROTECTED: &str =
    "location / { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }";

/// Room for the largest header lists of the tests.
pub(crate) const LARGE_HEADERS: &str = "large_client_header_buffers 8 64k;";

/// `%%AUTHGEAR%%` is the project's endpoint, `%%BACKEND%%` the backend's address.
pub(crate) fn site(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    Nginx::builder().var("AUTHGEAR", authgear.url()).var("BACKEND", backend.addr())
}

/// A loopback address unique to this test run, for ports that cannot be chosen freely. `n`
/// distinguishes the callers.
pub(crate) fn own_ip(n: u8) -> Ipv4Addr {
    let [.., high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high & 63, low, n)
}

/// Prints once that the tests of a feature are skipped.
pub(crate) fn report_skipped(once: &Once, feature: &str) {
    // Unlike eprintln!, this is not captured by the test harness.
    once.call_once(|| {
        let _ = writeln!(stderr(), "skipped: {feature}");
    });
}

/// Names and values.
pub(crate) type Pairs = Vec<(String, String)>;

/// The identity headers a backend gets for this user: neither nginx nor the module sends empty
/// ones. Compare with [`Recorded::identity`].
pub(crate) fn identity_of(user: &User) -> Pairs {
    let case = Case { name: "", headers: Vec::new(), expect: Expect::Valid(user.clone()) };
    let mut identity = case.identity();
    identity.retain(|(_, value)| !value.is_empty());
    identity
}

/// The value of forged headers; no backend may get it, whatever the header's name.
pub(crate) const FORGED: &str = "forged";

/// Asserts that the backend got no [`FORGED`] value.
#[track_caller]
pub(crate) fn assert_nothing_forged(request: &Recorded, what: &str) {
    let forged: Vec<_> = request.headers.iter().filter(|(_, v)| v.contains(FORGED)).collect();
    assert!(forged.is_empty(), "{what}: {forged:?}");
}

/// A kind of backend, and the lines of a location that passes requests to it.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) start: fn() -> Backend,
    pub(crate) pass: &'static str,
}

/// Every kind that nginx hands request headers to.
pub(crate) const KINDS: [Kind; 6] = [
    kind("proxy", Backend::start, "proxy_pass http://%%BACKEND%%;"),
    kind("proxy 1.1", Backend::start, "proxy_pass http://%%BACKEND%%; proxy_http_version 1.1;"),
    kind(
        "fastcgi",
        Backend::fastcgi,
        "fastcgi_pass %%BACKEND%%; include /etc/nginx/fastcgi_params;",
    ),
    kind("uwsgi", Backend::uwsgi, "uwsgi_pass %%BACKEND%%; include /etc/nginx/uwsgi_params;"),
    kind("scgi", Backend::scgi, "scgi_pass %%BACKEND%%; include /etc/nginx/scgi_params;"),
    kind("grpc", Backend::grpc, "grpc_pass %%BACKEND%%;"),
];

const fn kind(name: &'static str, start: fn() -> Backend, pass: &'static str) -> Kind {
    Kind { name, start, pass }
}
