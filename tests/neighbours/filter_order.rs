//! Filters of other modules treat a denial as the response it is, whatever the load order.

use support::{get, Backend, Builder, Connection, FakeAuthgear, Request, Response, User, H2};

use super::{has_debian_modules, in_both_orders, LUA, LUA_PATH};
use crate::site::site;

/// A module that changes responses, and what is left of a denial after it.
pub(super) struct Neighbour {
    pub(super) name: &'static str,
    pub(super) modules: &'static [&'static str],
    pub(super) http: &'static str,
    pub(super) location: &'static str,
    /// Status of denials: compression leaves 401 alone.
    pub(super) status: u16,
    /// Whether the answer to an API client shows the neighbour's work.
    pub(super) shows: fn(&Response) -> bool,
}

impl Neighbour {
    /// Locations with the neighbour: all but `/next` need a session.
    pub(super) fn locations(&self) -> String {
        format!(
            "authgear %%AUTHGEAR%%;
             authgear_login_redirect https://login.test/;
             location / {{
               authgear_require session error={};
               {}
               proxy_pass http://%%BACKEND%%;
             }}
             location = /next {{ authgear off; return 200 next; }}",
            self.status, self.location
        )
    }
}

pub(super) const JS: &str = "
function header(r) { delete r.headersOut['Content-Length']; }
function body(r, data, flags) { r.sendBuffer(data + (flags.last ? '<!-- js -->' : ''), flags); }
export default { header, body };
";

pub(super) const NEIGHBOURS: [Neighbour; 11] = [
    Neighbour {
        name: "Lua",
        modules: &LUA,
        http: LUA_PATH,
        location: "header_filter_by_lua_block { ngx.header.content_length = nil }
                   body_filter_by_lua_block {
                     if ngx.arg[2] then ngx.arg[1] = (ngx.arg[1] or '') .. '<!-- Lua -->' end
                   }",
        status: 401,
        shows: |answer| answer.text().ends_with("<!-- Lua -->"),
    },
    Neighbour {
        name: "njs",
        modules: &["ngx_http_js_module"],
        http: "js_import main from %%DIR%%/main.js;",
        location: "js_header_filter main.header; js_body_filter main.body;",
        status: 401,
        shows: |answer| answer.text().ends_with("<!-- js -->"),
    },
    Neighbour {
        name: "subs_filter",
        modules: &["ngx_http_subs_filter_module"],
        http: "",
        location: "subs_filter_types application/problem+json; subs_filter Unauthorized No;",
        status: 401,
        shows: |answer| answer.text().contains("\"No\""),
    },
    Neighbour {
        name: "headers-more",
        modules: &["ngx_http_headers_more_filter_module"],
        http: "",
        location: "more_set_headers 'X-More: 1'; more_clear_headers Content-Length;",
        status: 401,
        shows: |answer| answer.header("x-more").is_some(),
    },
    Neighbour {
        name: "echo",
        modules: &["ngx_http_echo_module"],
        http: "",
        location: "echo_before_body before; echo_after_body after;",
        status: 401,
        shows: |answer| answer.text().starts_with("before\n") && answer.text().ends_with("after\n"),
    },
    Neighbour {
        name: "brotli",
        modules: &["ngx_http_brotli_filter_module"],
        http: "brotli on; brotli_types *; brotli_min_length 0;",
        location: "",
        status: 403,
        shows: |answer| answer.header("content-encoding").as_deref() == Some("br"),
    },
    Neighbour {
        name: "gzip",
        modules: &[],
        http: "gzip on; gzip_types *; gzip_min_length 0;",
        location: "",
        status: 403,
        shows: |answer| answer.header("content-encoding").as_deref() == Some("gzip"),
    },
    Neighbour {
        name: "sub_filter",
        modules: &[],
        http: "",
        location: "sub_filter_types *; sub_filter Unauthorized No;",
        status: 401,
        shows: |answer| answer.text().contains("\"No\""),
    },
    Neighbour {
        // It changes answers of status 200 only, of which a gRPC denial is one.
        name: "addition",
        modules: &[],
        http: "",
        location: "addition_types *; add_before_body /next; add_after_body /next;",
        status: 401,
        shows: |answer| answer.text().contains("Unauthorized"),
    },
    Neighbour {
        name: "ssi and charset",
        modules: &[],
        http: "",
        location: "ssi on; ssi_types *; charset utf-8; charset_types *;",
        status: 401,
        shows: |answer| answer.text().contains("Unauthorized"),
    },
    Neighbour {
        name: "trailers",
        modules: &[],
        http: "",
        location: "add_trailer X-Trailer 1 always;",
        status: 401,
        shows: |answer| answer.text().contains("Unauthorized"),
    },
];

pub(super) type Make = fn(Request) -> Request;

const API: Make = |r| r.header("Accept", "application/json").header("Accept-Encoding", "gzip, br");
const OTHER: Make = |r| r.header("Accept", "*/*").header("If-Unmodified-Since", "x");
const BROWSER: Make = |r| {
    r.header("Accept", "text/html")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
        .header("Range", "bytes=0-")
};
const GRPC: Make = |r| {
    let r = r.method("POST").header("Content-Type", "application/grpc").header("TE", "trailers");
    r.header("Range", "bytes=0-").header("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")
};

fn beside(neighbour: &Neighbour) -> Builder {
    let builder = site(&FakeAuthgear::start(), &Backend::start());
    builder
        .listen_extra(1)
        .file("main.js", JS)
        .http(neighbour.http)
        .server("listen %%ADDR2%% http2;")
        .server(neighbour.locations())
}

/// Kinds of clients, and the status that denies each of them where others get `status`.
pub(super) fn clients(status: u16) -> [(&'static str, Make, u16); 4] {
    [
        ("API", API, status),
        ("other", OTHER, status),
        ("browser", BROWSER, if status == 401 { 302 } else { 403 }),
        ("gRPC", GRPC, 200),
    ]
}

/// Asserts that the denial is the whole one of its kind of client.
#[track_caller]
pub(super) fn assert_is_whole(neighbour: &Neighbour, client: &str, answer: &Response, what: &str) {
    match client {
        "API" => {
            assert!((neighbour.shows)(answer), "{what}: {answer:?} {}", answer.text());
        }
        "browser" if neighbour.status == 401 => {
            assert_eq!(answer.all("location"), ["https://login.test/"], "{what}");
        }
        "gRPC" => {
            let grpc_status = if neighbour.status == 401 { "16" } else { "7" };
            assert_eq!(answer.all("grpc-status"), [grpc_status], "{what}");
            assert_eq!(answer.body.len(), 0, "{what}");
        }
        _ => {}
    }
}

/// The answer over HTTP/1.1, whose framing must be right.
#[track_caller]
fn whole(connection: &mut Connection, request: &Request, what: &str) -> Response {
    let answer = connection.try_send(request);
    answer.unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[test]
fn neighbours_change_a_denial_as_any_response_and_the_next_answer_is_intact() {
    let is_installed = has_debian_modules();
    for neighbour in NEIGHBOURS.iter().filter(|n| is_installed || n.modules.is_empty()) {
        for (order, builder) in in_both_orders(neighbour.modules, || beside(neighbour)) {
            let nginx = builder.start();
            let status = neighbour.status;
            let what = format!("{} {order}", neighbour.name);
            let next = get(&nginx, "/next");
            let (mut h1, h2) = (Connection::open(&nginx), H2::open(&nginx.addr2()));
            for (client, make, expected) in clients(status) {
                let what = format!("{client}, {what}");
                let request = make(get(&nginx, "/a.B/C"));
                for (version, answer, next) in [
                    ("HTTP/1.1", whole(&mut h1, &request, &what), whole(&mut h1, &next, &what)),
                    ("HTTP/2", h2.send(&request), h2.send(&next)),
                ] {
                    // gRPC is HTTP/2: over HTTP/1.1 the media type alone makes no gRPC call.
                    let is_grpc = client == "gRPC" && version == "HTTP/2";
                    let client = if client == "gRPC" && !is_grpc { "other" } else { client };
                    let expected = if expected == 200 && !is_grpc { status } else { expected };
                    assert_eq!(answer.status, expected, "{what} over {version}");
                    assert_eq!(
                        (next.status, next.text()),
                        (200, "next".into()),
                        "{what} {version}"
                    );
                    assert_is_whole(neighbour, client, &answer, &format!("{what} over {version}"));
                }
                let head = h1.send(&make(get(&nginx, "/head")).method("HEAD"));
                let next = h1.send(&next);
                assert_eq!((head.body.len(), next.text().as_str()), (0, "next"), "HEAD, {what}");
            }
        }
    }
}

/// After a reload that failed late, the master has a chain of filters that it built anew.
#[test]
fn a_worker_that_starts_after_a_failed_reload_denies_before_other_filters() {
    if !has_debian_modules() {
        return;
    }
    for (order, builder) in in_both_orders(&LUA, || beside(&NEIGHBOURS[0])) {
        let nginx = builder.workers(1).allow_log("192.0.2.1").allow_log("exited on signal").start();
        nginx.edit_conf(|conf| {
            conf.replacen("server {", "server { listen 192.0.2.1:1; }\nserver {", 1)
        });
        nginx.signal(libc::SIGHUP);
        nginx.wait_for_error_log("bind() to 192.0.2.1:1 failed");
        nginx.kill_worker(nginx.workers()[0]);
        let mut kept = Connection::open(&nginx);
        let answer = kept.send(&API(get(&nginx, "/")));
        assert!((NEIGHBOURS[0].shows)(&answer), "{order}: {answer:?} {}", answer.text());
        assert_eq!(kept.send(&get(&nginx, "/next")).text(), "next", "{order}");
    }
}

#[test]
fn the_challenge_can_be_left_out() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             authgear_resource_metadata https://app.test/metadata;
             add_header WWW-Authenticate 'Negotiate' always;
             location / { proxy_pass http://%%BACKEND%%; }
             location /off {
               authgear_challenge off;
               location /off/on { authgear_challenge on; proxy_pass http://%%BACKEND%%; }
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let challenges = |path: &str, token: Option<&str>| {
        let request = get(&nginx, path);
        let answer = token.map_or(request.clone(), |token| request.bearer(token)).send();
        assert_eq!(answer.status, 401);
        answer.all("www-authenticate").len()
    };
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(get(&nginx, "/off").bearer(&token).send().status, 200);
    for token in [None, Some("dead")] {
        assert_eq!(["/", "/off", "/off/on"].map(|path| challenges(path, token)), [2, 1, 2]);
    }
}
