//! Row 1: a request costs the module about what it costs nginx to read it.

use std::time::Duration;

use support::{cpu_time, Backend, Builder, FakeAuthgear, H2Frames, HeaderBlock, Nginx};

use super::crowded;
use crate::project::project;

/// Most that a worker may spend on a request, as a multiple of what nginx without the module
/// spends on it.
const MOST: f64 = 10.0;
const LEAST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 20;
/// A name and a value of 4054 bytes fill HPACK's table of 4096 bytes, by RFC 7541, 4.1.
const TABLE: usize = 4096 - 32;

/// A field that stands in HPACK's table, and how often each request names it.
struct Row {
    what: &'static str,
    path: &'static str,
    name: &'static str,
    value: String,
    times: usize,
}

fn row(what: &'static str, path: &'static str, name: &'static str, piece: &str) -> Row {
    let value = piece.repeat((TABLE - name.len()) / piece.len());
    Row { what, path, name, value, times: 7 }
}

fn rows() -> Vec<Row> {
    vec![
        row("empty cookies", "/", "cookie", ";"),
        row("empty cookies, credentials hidden", "/hidden", "cookie", ";"),
        row("empty cookies, redirected", "/redirected", "cookie", ";"),
        row("short cookies", "/", "cookie", "a=;"),
        row("short cookies, credentials hidden", "/hidden", "cookie", "a=;"),
        row("cookies almost named session", "/hidden", "cookie", "sessio=;"),
        row("cookies of a prefix", "/prefixed", "cookie", "x_sessio=;"),
        row("unclosed quotes", "/hidden", "cookie", "session=\";"),
        row("spaces", "/hidden", "cookie", " "),
        Row { times: 400, ..short("identity headers", "/", "x-authgear-user-id") },
        Row { times: 400, ..short("identity headers, aliased", "/", "x_authgear_user_id") },
        Row { times: 400, ..short("a long alias", "/", "x-authgear-------------------------a") },
        row("a long trace", "/jwt", "traceparent", "0-"),
        Row {
            value: format!("Bearer {}", ".".repeat(4000)),
            ..short("a token of dots", "/jwt", "authorization")
        },
        Row {
            value: format!("Bearer {}", "e30".repeat(1300)),
            ..short("a long token", "/jwt", "authorization")
        },
        Row { times: 1, ..row("Accept", "/denied", "accept", "a/b,") },
        Row { times: 1, ..row("Accept, weighted", "/denied", "accept", "*/*;q=0.1,") },
        Row { times: 1, ..row("Accept, parameters", "/denied", "accept", ";") },
    ]
}

fn short(what: &'static str, path: &'static str, name: &'static str) -> Row {
    Row { what, path, name, value: "x".to_owned(), times: 1 }
}

fn places(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    crowded(authgear, backend)
        .http(project("p", authgear, ""))
        .http(project("prefixed", authgear, "cookie_prefix x_;"))
        .http("underscores_in_headers on; large_client_header_buffers 8 32k;")
        .server(
            "authgear p;
             location / { empty_gif; }
             location /hidden { authgear_forward_credentials off; empty_gif; }
             location /redirected { authgear_forward_credentials off; try_files /none @named; }
             location @named { authgear_forward_credentials off; empty_gif; }
             location /prefixed {
               authgear prefixed;
               authgear_forward_credentials off;
               empty_gif;
             }
             location /jwt { authgear_mode jwt; empty_gif; }
             location /denied { authgear_require session; empty_gif; }",
        )
}

fn plain(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    crowded(authgear, backend)
        .without_module()
        .raw_conf(|conf| {
            let of_module =
                |line: &&str| !line.contains("authgear_reason") && !line.contains("$auth");
            conf.lines().filter(of_module).collect::<Vec<_>>().join("\n")
        })
        .http("underscores_in_headers on; large_client_header_buffers 8 32k;")
        .server(
            "location / { empty_gif; }
         location /redirected { try_files /none @named; }
             location @named { empty_gif; }
             location /denied { deny all; empty_gif; }",
        )
}

/// A row's requests on one connection, after the request that fills HPACK's table.
struct Load {
    connection: H2Frames,
    block: HeaderBlock,
    worker: u32,
}

impl Load {
    fn open(nginx: &Nginx, row: &Row) -> Self {
        let mut connection = H2Frames::open(nginx);
        let first = HeaderBlock::get(row.path).indexing(row.name, row.value.as_bytes());
        let block = HeaderBlock::get(row.path).newest(row.times);
        connection.repeat(&first, 1, 1);
        connection.repeat(&block, 10, 10);
        Self { connection, block, worker: nginx.workers()[0] }
    }

    /// Processor time of the worker for one request.
    fn cost(&mut self, requests: u32) -> Duration {
        let before = cpu_time(self.worker);
        self.connection.repeat(&self.block, requests as usize, 20);
        (cpu_time(self.worker) - before) / requests
    }
}

/// Processor time of one request with the module, and without it.
type Costs = (Duration, Duration);

/// The round in the middle of some, by its factor. A host that runs other machines changes its speed
/// for seconds, so that only times of one round compare. A row beyond [`MOST`] gets more rounds.
fn costs(with: &Nginx, without: &Nginx, row: &Row) -> Costs {
    let (mut with, mut without) = (Load::open(with, row), Load::open(without, row));
    let mut rounds: Vec<Costs> = Vec::new();
    loop {
        rounds.push((with.cost(30), without.cost(100)));
        rounds.sort_by(|one, other| factor(*one).total_cmp(&factor(*other)));
        let middle = rounds[rounds.len() / 2];
        let is_enough = rounds.len() >= LEAST_ROUNDS && factor(middle) <= MOST;
        if is_enough || rounds.len() == MOST_ROUNDS {
            return middle;
        }
    }
}

fn factor((own, base): Costs) -> f64 {
    own.as_secs_f64() / base.as_secs_f64()
}

#[test]
fn a_request_costs_at_most_ten_times_what_nginx_alone_spends() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (with, without) = (places(&authgear, &backend).start(), plain(&authgear, &backend).start());
    let mut beyond = Vec::new();
    for row in rows() {
        let costs = costs(&with, &without, &row);
        let ((own, base), factor) = (costs, factor(costs));
        eprintln!("{}: {own:?}, {base:?} without the module: {factor:.1} times", row.what);
        if factor > MOST {
            beyond.push(format!("{}: {factor:.0} times", row.what));
        }
    }
    assert!(beyond.is_empty(), "{beyond:?}");
}
