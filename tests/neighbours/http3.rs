//! Denials over HTTP/3 beside every module that changes responses.

use std::env;
use std::sync::Once;

use support::{get, Backend, Ca, FakeAuthgear, Nginx, H3};

use super::filter_order::{assert_is_whole, clients, Neighbour, JS, NEIGHBOURS};
use super::in_both_orders;
use crate::site::{report_skipped, site};

const IMAGE_FILTER: Neighbour = Neighbour {
    name: "image_filter",
    modules: &["ngx_http_image_filter_module"],
    http: "",
    location: "image_filter test;",
    status: 401,
    shows: |answer| answer.json()["reason"] == "no_credentials",
};

#[test]
fn denials_over_http3_are_whole_beside_every_neighbour_and_so_is_the_next_answer() {
    static REPORTED: Once = Once::new();
    // The nginx of a later Debian, unpacked with its modules, runs all of this.
    let is_required = env::var_os("AUTHGEAR_NGINX_ROOT").is_some();
    if !Nginx::has("http_v3_module") || super::usr().is_none() {
        assert!(!is_required, "nginx was built without HTTP/3");
        report_skipped(&REPORTED, "neighbours over HTTP/3: make test NGINX=1.26 runs them");
        return;
    }
    let ca = Ca::new();
    let identity = ca.leaf(&["site.test"]);
    for neighbour in NEIGHBOURS.iter().chain([&IMAGE_FILTER]) {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        let beside = || {
            site(&authgear, &backend)
                .workers(1)
                .listen_quic()
                .file("main.js", JS)
                .file("cert.pem", identity.cert_pem.as_str())
                .file("key.pem", identity.key_pem.as_str())
                .http(neighbour.http)
                .server(
                    "listen %%QUIC%% quic; ssl_certificate cert.pem; ssl_certificate_key key.pem;",
                )
                .server(neighbour.locations())
        };
        for (order, builder) in in_both_orders(neighbour.modules, beside) {
            let nginx = builder.start();
            let at = |target: &str| {
                let request = get(&nginx.quic_addr(), target).tls(&ca, "site.test");
                request.header("Host", "site.test")
            };
            let h3 = H3::open_for(&at("/"));
            for (client, make, expected) in clients(neighbour.status) {
                let what = format!("{client}, {} {order} over HTTP/3", neighbour.name);
                let answer = h3.send(&make(at("/a.B/C")));
                assert_eq!(answer.status, expected, "{what}");
                assert_is_whole(neighbour, client, &answer, &what);
                let next = h3.send(&at("/next"));
                assert_eq!((next.status, next.text().as_str()), (200, "next"), "{what}");
            }
        }
    }
}
