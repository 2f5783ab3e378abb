//! All parts of the soak test, and the state they share.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    get, unix_now, webhook_signature, Backend, FakeAuthgear, Nginx, Redis, Request, Response,
    SigningKey, User, Watched,
};

use crate::chance::Chance;
use crate::model::{user, Ask, Credential, Kind, Place, Trouble, FRESH, HELD, PLACES, PROJECTS};
use crate::sockets::Held;

/// The deadline for everything a client request waits for at Authgear.
pub const TIMEOUT: Duration = Duration::from_secs(4);

/// An answer later than this counts as lost.
pub const PATIENCE: Duration = Duration::from_secs(30);

const USERS: usize = 24;
const SECRET: &str = "0123456789abcdefghijABCDEFGHIJ_Z";

pub struct World {
    // Dropped before the servers it uses.
    pub nginx: Nginx,
    /// Another host of the fleet, which is told of some events.
    pub second: Nginx,
    pub redis: Redis,
    pub authgears: [FakeAuthgear; PROJECTS.len()],
    pub backend: Backend,
    /// Credentials of users that do not change.
    pub standing: Vec<Arc<Credential>>,
    /// Credentials of users that are ended, latest last.
    pub passing: Mutex<Vec<Arc<Credential>>>,
    /// WebSockets that were open when the clients ended.
    pub held: Mutex<Vec<Held>>,
    pub trouble: Trouble,
    pub over: Watched<bool>,
    pub asked: AtomicU64,
    violated: Mutex<Option<String>>,
    /// Number of outcomes by kind of request.
    pub tally: Mutex<BTreeMap<&'static str, BTreeMap<String, u64>>>,
}

impl World {
    pub fn new() -> Self {
        let authgears = PROJECTS.map(|_| FakeAuthgear::start());
        let backend = Backend::start();
        let standing = authgears.iter().enumerate().flat_map(|(n, a)| credentials(n, a));
        let standing = standing.map(Arc::new).collect();
        let redis = Redis::start();
        let [nginx, second] = [3, 1].map(|workers| nginx(&authgears, &backend, &redis, workers));
        authgears.iter().for_each(|authgear| authgear.wait_for_jwks_hits(2));
        Self {
            nginx,
            second,
            redis,
            authgears,
            backend,
            standing,
            passing: Mutex::default(),
            held: Mutex::default(),
            trouble: Trouble::default(),
            over: Watched::default(),
            asked: AtomicU64::new(0),
            violated: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    /// Waits for this time. Returns whether the test is over.
    pub fn over_within(&self, time: Duration) -> bool {
        self.over.holds_within(time, |over| *over)
    }

    pub fn end(&self) {
        self.over.update(|over| *over = true);
    }

    /// Records a broken rule; the first one ends the test.
    pub fn violated(&self, rule: String) {
        self.violated.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(rule);
        self.end();
    }

    pub fn violation(&self) -> Option<String> {
        self.violated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `does` and reports its panic: the support panics when a wait times out.
    pub fn guard(&self, what: &str, does: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(does)).is_err() {
            self.violated(format!("{what} went wrong, as said above"));
        }
    }

    pub fn count(&self, what: &'static str, outcome: impl ToString) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.entry(what).or_default().entry(outcome.to_string()).or_default() += 1;
    }

    pub fn ask(&self, place: &'static Place, project: usize, credential: Arc<Credential>) -> Ask {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        Ask { place, project, credential, number, forges: false }
    }

    pub fn ask_anything(&self, chance: &mut Chance) -> Ask {
        let passing = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        // Mostly users that are ended soon.
        let last = &passing[passing.len().saturating_sub(8)..];
        let known = match chance.below(8) {
            0 if !last.is_empty() => last,
            1 if !last.is_empty() => &passing,
            _ => &self.standing,
        };
        let credential = chance.of(known).clone();
        drop(passing);
        let foreign = usize::from(chance.one_in(6));
        let project = (credential.project + foreign) % PROJECTS.len();
        let place = if chance.one_in(PLACES.len() + 1) { &FRESH } else { chance.of(&PLACES) };
        Ask { forges: chance.one_in(3), ..self.ask(place, project, credential) }
    }

    pub fn judge(&self, ask: &Ask, from: Instant, answer: &Response) {
        let allowed = ask.allowed(from, Instant::now(), &self.trouble);
        if !ask.is_answered_by(answer, &allowed) {
            let ago = from.elapsed();
            let reported = ["x-verdict", "x-cache", "x-worker"].map(|name| answer.header(name));
            self.violated(format!(
                "answered with none of {allowed:?}\nasked {ago:?} ago: {ask:?}\n\
                 answered: {} {reported:?} {}",
                answer.status,
                answer.text()
            ));
        }
        self.count(ask.credential.name, answer.status);
    }

    /// Sends the request over its own connection, again if a kill cut it off.
    pub fn insist(&self, request: &Request) -> Option<Response> {
        let request = request.clone().deadline(PATIENCE);
        loop {
            let from = Instant::now();
            match request.start().try_wait() {
                Ok(answer) => return Some(answer),
                Err(_) if self.trouble.kills.overlap(from, Instant::now()) => {}
                Err(error) => {
                    self.violated(format!("no answer, and no kill: {error}\n{request:?}"));
                    return None;
                }
            }
        }
    }

    /// Posts a request that has to succeed; 202 says that Redis is away.
    fn post(&self, host: &Nginx, target: &str, change: impl FnOnce(Request) -> Request) {
        let request = change(get(host, target).method("POST"));
        let answer = self.insist(&request);
        if let Some(answer) = answer.filter(|answer| ![204, 202].contains(&answer.status)) {
            self.violated(format!("{} for {request:?}", answer.status));
        }
    }

    pub fn purge(&self, project: usize, query: &str) {
        let target = format!("/{}/purge?{query}", PROJECTS[project]);
        self.post(&self.nginx, &target, |request| request);
    }

    /// Sends a host Authgear's event that this user was disabled.
    pub fn tell_disabled(&self, host: &Nginx, project: usize, user: &str) {
        let event = json!({
            "id": "00000000000001b3", "seq": 435, "type": "user.disabled",
            "payload": {"user": {"id": user, "is_disabled": true, "roles": [], "groups": []}},
            "context": {"timestamp": unix_now(), "user_id": user, "triggered_by": "admin_api",
                        "language": "en", "app_id": "myapp"},
        })
        .to_string();
        let signature = webhook_signature(SECRET.as_bytes(), event.as_bytes());
        self.post(host, &format!("/{}/hook", PROJECTS[project]), |request| {
            request
                .header("Content-Type", "application/json")
                .header("x-authgear-body-signature", signature)
                .body(event)
        });
    }
}

fn nginx(
    authgears: &[FakeAuthgear; PROJECTS.len()],
    backend: &Backend,
    redis: &Redis,
    workers: usize,
) -> Nginx {
    let mut builder = Nginx::builder()
        .workers(workers)
        .error_level("warn")
        // Open WebSockets would keep workers of a former configuration.
        .main("worker_shutdown_timeout 5s;")
        .listen_extra(1)
        .var("BACKEND", backend.addr())
        .file("webhook.secret", format!("{SECRET}\n"))
        .secret_file("fleet.secret", format!("{SECRET}{SECRET}\n"))
        .http(format!("authgear_fleet {} secret=fleet.secret;", redis.url()))
        .http("underscores_in_headers on; access_log off;")
        .http("keepalive_requests 1000000000; keepalive_time 1d; keepalive_timeout 1d;")
        // Too small for all entries.
        .http("authgear_cache_zone z:64k front=16;")
        .server("listen %%ADDR2%% http2;")
        .server("authgear_cache z; authgear_cache_valid valid=3s invalid=1s none=1s;")
        .server("add_header X-Worker $pid always;")
        .server("add_header X-Verdict \"$authgear_session $authgear_reason\" always;")
        .server("add_header X-Cache \"$authgear_cache_status $authgear_source\" always;")
        // nginx unlocks the zone of a worker that was killed with it locked, and says so.
        .allow_log("was locked by");
    let settings =
        ["max_fails 3; fail_timeout 1s; keepalive 4;", "max_fails 0; keepalive_timeout 1s;"];
    let timeout = TIMEOUT.as_secs();
    for ((project, authgear), settings) in PROJECTS.iter().zip(authgears).zip(settings) {
        builder = builder
            .http(format!(
                "authgear_project {project} {{
                   endpoint {}; timeout {timeout}s; connect_timeout {timeout}s;
                   jwks_refresh 10s; jwks_cooldown 1s; {settings}
                 }}",
                authgear.origin()
            ))
            .server(format!(
                "location = /{project}/purge {{ authgear_purge admin project={project}; }}
                 location = /{project}/hook {{ authgear_webhook webhook.secret project={project}; }}"
            ));
        for place in PLACES.iter().chain([&FRESH, &HELD]) {
            builder = builder.server(place.conf(project));
        }
    }
    builder.start()
}

/// The credentials that clients of that project present.
fn credentials(project: usize, authgear: &FakeAuthgear) -> Vec<Credential> {
    let id = |n| format!("{}-{n}", PROJECTS[project]);
    let users: Vec<User> = (0..USERS).map(|n| authgear.add_user(user(&id(n)))).collect();
    let mut found: Vec<_> =
        users.iter().flat_map(|user| of_user(project, authgear, user)).collect();
    let mut add = |name, kind, headers, user| {
        found.push(Credential { name, kind, headers, project, user, end: None });
    };
    for (n, user) in users.iter().enumerate() {
        let other = &users[(n + 1) % USERS];
        let session = ("Cookie", format!("session={}", authgear.session(other)));
        let both = vec![bearer(&authgear.opaque_token(user)), session.clone()];
        add("token with another's cookie", Kind::Session, both, Some(user.clone()));
        let unknown = vec![bearer(&authgear.refresh_token()), session];
        add("unknown token with a cookie", Kind::Session, unknown, Some(other.clone()));
    }
    let ended = authgear.session(&users[0]);
    authgear.expire(&ended);
    let ended = ("Cookie", format!("session={ended}"));
    let jwt = || authgear.token(&users[1]);
    for _ in 0..4 {
        add("nothing", Kind::Nothing, Vec::new(), None);
        let password = ("Authorization", "Basic YTpi".to_owned());
        for (name, kind, header) in [
            ("password", Kind::Nothing, password),
            ("ended session", Kind::Session, ended.clone()),
            ("unknown token", Kind::Opaque, bearer(&authgear.refresh_token())),
            ("unknown key", Kind::UnknownKey, bearer(&jwt().key(&SigningKey::nth(1)).sign())),
            ("expired JWT", Kind::Jwt, bearer(&jwt().expires_in(-60).sign())),
            ("unsigned JWT", Kind::Opaque, bearer(&jwt().forge_none())),
            ("HMAC JWT", Kind::Opaque, bearer(&jwt().forge_hs256(b"secret"))),
        ] {
            add(name, kind, vec![header], None);
        }
    }
    found
}

/// One credential of each kind.
pub fn of_user(project: usize, authgear: &FakeAuthgear, user: &User) -> Vec<Credential> {
    let cookie = |name, value| ("Cookie", format!("theme=dark; {name}={value}"));
    // Issued a while ago, because a client may be ahead of nginx's cached time, and valid longer
    // than any soak test.
    let jwt = authgear.token(user).claim("iat", unix_now() - 5).expires_in(86_400).sign();
    let found = [
        ("JWT", Kind::Jwt, bearer(&jwt)),
        ("session cookie", Kind::Session, cookie("session", authgear.session(user))),
        ("app's cookie", Kind::Opaque, cookie("app_session", authgear.app_session(user))),
    ]
    .map(|(name, kind, header)| Credential {
        name,
        kind,
        headers: vec![header],
        ..token_of(project, authgear, user)
    });
    found.into_iter().chain([token_of(project, authgear, user)]).collect()
}

/// A token not used before.
pub fn token_of(project: usize, authgear: &FakeAuthgear, user: &User) -> Credential {
    let headers = vec![bearer(&authgear.opaque_token(user))];
    let user = Some(user.clone());
    Credential { name: "token", kind: Kind::Opaque, headers, project, user, end: None }
}

fn bearer(token: &str) -> (&'static str, String) {
    ("Authorization", format!("Bearer {token}"))
}
