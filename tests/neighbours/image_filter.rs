//! `image_filter`, which holds back the header of a response until its body shows an image.

use support::{get, Backend, Connection, FakeAuthgear, Request, H2};

use super::{has_debian_modules, in_both_orders};
use crate::site::site;

type Make = fn(Request) -> Request;

#[test]
fn denials_are_answered_where_images_are_filtered() {
    if !has_debian_modules() {
        return;
    }
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let clients: [(&str, Make, u16); 4] = [
        ("browser", |r| r.header("Accept", "text/html"), 302),
        ("API", |r| r.header("Accept", "application/json"), 401),
        ("other", |r| r, 401),
        ("gRPC", |r| r.method("POST").header("Content-Type", "application/grpc"), 200),
    ];
    for filter in ["test", "size", "resize 10 10"] {
        for (order, builder) in
            in_both_orders(&["ngx_http_image_filter_module"], || site(&authgear, &backend))
        {
            let nginx = builder
                .listen_extra(1)
                .server(format!(
                    "listen %%ADDR2%% http2;
                     authgear %%AUTHGEAR%%;
                     authgear_login_redirect https://login.test/;
                     location / {{
                       authgear_require session;
                       image_filter {filter};
                       proxy_pass http://%%BACKEND%%;
                     }}
                     location = /next {{ return 200 next; }}"
                ))
                .start();
            let next = get(&nginx, "/next");
            let (mut h1, h2) = (Connection::open(&nginx), H2::open(&nginx.addr2()));
            for (client, make, expected) in clients {
                let request = make(get(&nginx, "/a.B/C"));
                for (is_h2, answer, next) in [
                    (false, h1.send(&request), h1.send(&next)),
                    (true, h2.send(&request), h2.send(&next)),
                ] {
                    // gRPC is HTTP/2: over HTTP/1.1 the media type alone makes no gRPC call.
                    let (client, expected) = match client {
                        "gRPC" if !is_h2 => ("other", 401),
                        client => (client, expected),
                    };
                    let what = format!("{client}, image_filter {filter}, {order}");
                    assert_eq!((answer.status, next.text().as_str()), (expected, "next"), "{what}");
                    match client {
                        "browser" => {
                            assert_eq!(answer.all("location"), ["https://login.test/"], "{what}");
                        }
                        "API" => assert_eq!(answer.json()["reason"], "no_credentials", "{what}"),
                        "gRPC" => assert_eq!(answer.all("grpc-status"), ["16"], "{what}"),
                        _ => assert!(answer.text().contains("401"), "{what}"),
                    }
                }
            }
        }
    }
}
