//! `slice`, whose subrequests carry the identity.

use std::fs;

use support::{eventually, get, Backend, FakeAuthgear, User, DEADLINE};

use crate::site::site;

#[test]
fn every_slice_subrequest_has_the_identity_of_its_user() {
    const SLICE: usize = 1024;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let file: Vec<u8> = (0..5 * SLICE + 100).map(|n| (n ^ n >> 8) as u8).collect();
    let nginx = site(&authgear, &backend)
        // A single worker has stored a slice before it reads the next request.
        .workers(1)
        .listen_extra(1)
        .file("html/file", file.clone())
        .http(
            "proxy_cache_path %%DIR%%/kept keys_zone=kept:1m;
             log_format origin '$http_x_authgear_user_id $http_range <$http_authorization>';
             server {
               listen %%ADDR2%%;
               root html;
               access_log %%DIR%%/logs/origin.log origin;
             }",
        )
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             authgear_forward_credentials off;
             location / {
               slice 1k;
               proxy_cache kept;
               proxy_cache_key $uri$slice_range$x_authgear_user_id;
               proxy_cache_valid 206 1h;
               proxy_set_header Range $slice_range;
               proxy_pass http://%%ADDR2%%;
             }",
        )
        .start();
    let origin = || fs::read_to_string(nginx.dir().join("logs/origin.log")).unwrap_or_default();
    let mut expected = String::new();
    for (n, name) in ["alice", "bob"].into_iter().enumerate() {
        let token = authgear.opaque_token(&User::named(name));
        for slice in 0..6 {
            let (start, end) = (slice * SLICE, (slice + 1) * SLICE - 1);
            expected += &format!("{name} bytes={start}-{end} <->\n");
        }
        for round in 1..=2 {
            let answer = get(&nginx, "/file").bearer(&token).send();
            assert_eq!((answer.status, &answer.body), (200, &file), "{name}");
            // One look-up for each client request, and each slice is fetched once.
            assert_eq!(authgear.hits(), 2 * n + round);
            assert!(eventually(DEADLINE, || origin() == expected), "{}", origin());
        }
    }
    assert_eq!(get(&nginx, "/file").send().status, 401);
    assert_eq!(origin(), expected);
}
