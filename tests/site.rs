//! The usual set-up of a test: nginx with the module, between Authgear and a backend.

use std::net::Ipv4Addr;
use std::process;

use support::{Backend, Builder, Case, Expect, FakeAuthgear, Nginx, Recorded, User};

/// All is authenticated, and handed to the backend.
pub(crate) const PROTECTED: &str =
    "location / { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }";

/// The most that the header lists of a test ask for.
pub(crate) const LARGE_HEADERS: &str = "large_client_header_buffers 8 64k;";

/// `%%AUTHGEAR%%` is the project's endpoint, `%%BACKEND%%` the backend's address.
pub(crate) fn site(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    Nginx::builder().var("AUTHGEAR", authgear.url()).var("BACKEND", backend.addr())
}

/// A loopback address that no other run of these tests uses, for ports that cannot be chosen
/// freely. `n` is the caller's own.
pub(crate) fn own_ip(n: u8) -> Ipv4Addr {
    let [.., high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high & 63, low, n)
}

/// Names and values.
pub(crate) type Pairs = Vec<(String, String)>;

/// The identity headers a backend gets of this user: nginx sends none that are empty, and neither
/// does the module. Compare with [`Recorded::identity`].
pub(crate) fn identity_of(user: &User) -> Pairs {
    let case = Case { name: "", headers: Vec::new(), expect: Expect::Valid(user.clone()) };
    let mut identity = case.identity();
    identity.retain(|(_, value)| !value.is_empty());
    identity
}

/// What a client calls itself in the tests; no backend may see it, whatever its name was.
pub(crate) const FORGED: &str = "forged";

/// Panics if anything of what was [`FORGED`] came through.
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
