//! The model: which answers are allowed, for which credentials, location and time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use support::{get, Case, Expect, Recorded, Request, Response, User};

pub const PROJECTS: [&str; 2] = ["a", "b"];

/// The value of forged headers.
const FORGED: &str = "forged";

/// Names for the backend the user that the credentials may stand for, if any.
const ENTITLED: &str = "X-Soak-User";
const NOBODY: &str = "-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    Resolver,
    Jwt,
    Auto,
}

/// A location; each project has its own.
#[derive(Debug)]
pub struct Place {
    path: &'static str,
    mode: Mode,
    required: bool,
    /// Continues without a session when Authgear cannot be reached.
    lenient: bool,
    settings: &'static str,
}

const UNCACHED: &str = "authgear_cache off;";
/// Verdicts become stale at once, and are served nevertheless.
const STALE: &str =
    "authgear_cache_valid valid=100ms; authgear_cache_use_stale updating=5s error=1m;";

/// Makes a look-up for each request, whatever is cached.
pub static FRESH: Place = with(UNCACHED, place("/fresh/required", Mode::Resolver, true));

/// Open responses are looked at again.
pub static HELD: Place = with(
    "authgear_recheck 10s; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
     proxy_set_header Connection upgrade;",
    place("/held", Mode::Auto, true),
);

/// One of [`PLACES`], where only nginx decides.
pub static VERIFIED: Place = place("/jwt/required", Mode::Jwt, true);

pub static PLACES: [Place; 12] = [
    with(UNCACHED, place("/fresh/auto", Mode::Auto, false)),
    place("/off", Mode::Off, false),
    place("/open", Mode::Resolver, false),
    place("/required", Mode::Resolver, true),
    place("/jwt/open", Mode::Jwt, false),
    place("/jwt/required", Mode::Jwt, true),
    place("/auto/open", Mode::Auto, false),
    place("/auto/required", Mode::Auto, true),
    with(STALE, place("/stale/open", Mode::Resolver, false)),
    with(STALE, place("/stale/required", Mode::Auto, true)),
    Place { lenient: true, ..place("/lenient/open", Mode::Resolver, false) },
    Place { lenient: true, ..place("/lenient/required", Mode::Resolver, true) },
];

const fn place(path: &'static str, mode: Mode, required: bool) -> Place {
    Place { path, mode, required, lenient: false, settings: "" }
}

const fn with(settings: &'static str, place: Place) -> Place {
    Place { settings, ..place }
}

impl Place {
    pub fn conf(&self, project: &str) -> String {
        let Self { path, settings, .. } = self;
        let mode = match self.mode {
            Mode::Off => "authgear off;".to_owned(),
            Mode::Resolver => format!("authgear {project};"),
            Mode::Jwt => format!("authgear {project}; authgear_mode jwt;"),
            Mode::Auto => format!("authgear {project}; authgear_mode auto;"),
        };
        let require = if self.required { "authgear_require session;" } else { "" };
        let on_error = if self.lenient { "authgear_on_error anonymous;" } else { "" };
        format!(
            "location = /{project}{path} {{
               {mode} {require} {on_error} {settings} proxy_pass http://%%BACKEND%%;
             }}"
        )
    }
}

/// The user of that id. The roles contain the id, so that mixed-up parts are noticed.
pub fn user(id: &str) -> User {
    let n: usize = id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    User {
        anonymous: n.is_multiple_of(5),
        verified: n.is_multiple_of(3),
        roles: (0..n % 9 * 2).map(|role| format!("{id}-role-{role}")).collect(),
        authenticated_at: 1_700_000_000 + n as i64,
        ..User::named(id)
    }
}

/// Names and values of headers.
type Pairs = Vec<(String, String)>;

fn identity_of(expect: Expect) -> Pairs {
    let mut identity = Case { name: "", headers: Vec::new(), expect }.identity();
    // nginx sends none that is empty.
    identity.retain(|(_, value)| !value.is_empty());
    identity
}

#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    Valid(&'a User),
    Invalid,
    None,
    Unavailable,
}

impl Verdict<'_> {
    fn identity(self) -> Pairs {
        identity_of(match self {
            Verdict::Valid(user) => Expect::Valid(user.clone()),
            Verdict::Invalid => Expect::Invalid { cleared: false },
            Verdict::None | Verdict::Unavailable => Expect::Nothing,
        })
    }

    fn is_answered_with(self, answer: &Response, place: &Place) -> bool {
        let denied = |status, header| answer.status == status && answer.header(header).is_some();
        match self {
            Verdict::Unavailable if !place.lenient => denied(503, "retry-after"),
            Verdict::Invalid | Verdict::None | Verdict::Unavailable if place.required => {
                denied(401, "www-authenticate")
            }
            _ => answer.status == 200 && answer.echo().identity() == self.identity(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nothing,
    /// A bearer token or a cookie that only the resolver can tell from a worthless one.
    Opaque,
    /// Has a session cookie, which is known or has ended.
    Session,
    Jwt,
    /// A JWT that may be signed by a key not yet known.
    UnknownKey,
}

/// A credential that a client presents.
#[derive(Debug)]
pub struct Credential {
    pub name: &'static str,
    pub kind: Kind,
    pub headers: Vec<(&'static str, String)>,
    /// The project that knows it, as an index of [`PROJECTS`].
    pub project: usize,
    pub user: Option<User>,
    pub end: Option<Arc<End>>,
}

/// The end of a user's sessions.
#[derive(Debug)]
pub struct End {
    /// Verified tokens end as well.
    pub of_tokens: bool,
    pub begun: OnceLock<Instant>,
    pub over: OnceLock<Instant>,
}

impl Credential {
    /// Its true verdict, and whether Authgear is needed for that.
    fn truth(&self, place: &Place, project: usize) -> (Verdict<'_>, bool) {
        let home = self.project == project;
        let user = self.user.as_ref().filter(|_| home);
        let known = user.map_or(Verdict::None, Verdict::Valid);
        match (self.kind, place.mode) {
            (Kind::Nothing, _) | (_, Mode::Off) => (Verdict::None, false),
            (Kind::Opaque | Kind::Session, Mode::Jwt) => (Verdict::None, false),
            (Kind::Jwt, Mode::Jwt) => (known, false),
            (Kind::Jwt, Mode::Auto) => (known, !home),
            (Kind::Session, _) => (user.map_or(Verdict::Invalid, Verdict::Valid), true),
            (Kind::Opaque | Kind::Jwt | Kind::UnknownKey, _) => (known, true),
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub place: &'static Place,
    pub project: usize,
    pub credential: Arc<Credential>,
    /// A unique number of the request.
    pub number: u64,
    pub forges: bool,
}

impl Ask {
    fn target(&self) -> String {
        format!("/{}{}?{}", PROJECTS[self.project], self.place.path, self.number)
    }

    pub fn request(&self, to: SocketAddr) -> Request {
        let entitled = match self.credential.truth(self.place, self.project) {
            (Verdict::Valid(user), _) => &user.id,
            _ => NOBODY,
        };
        let mut request = get(&to, &self.target()).header(ENTITLED, entitled);
        for (name, value) in &self.credential.headers {
            request = request.header(name, value);
        }
        if self.forges {
            request = request
                .header("X-Authgear-User-Id", FORGED)
                .header("x_authgear_user_roles", FORGED)
                .header("X-AUTHGEAR-Session-Valid", "true");
        }
        request
    }

    /// Every verdict that was possible while the request was handled.
    pub fn allowed(&self, from: Instant, to: Instant, trouble: &Trouble) -> Vec<Verdict<'_>> {
        let Self { place, project, credential, .. } = self;
        let (truth, mut asks) = credential.truth(place, *project);
        let mut allowed = vec![truth];
        let end = credential.end.as_ref().filter(|end| {
            let verified = credential.kind == Kind::Jwt && place.mode != Mode::Resolver;
            matches!(truth, Verdict::Valid(_)) && (end.of_tokens || !verified)
        });
        if let Some(end) = end.filter(|end| end.begun.get().is_some_and(|begun| *begun <= to)) {
            if end.over.get().is_some_and(|over| *over <= from) {
                allowed.clear();
            }
            allowed.extend([Verdict::Invalid, Verdict::None]);
            asks |= place.mode == Mode::Auto;
        }
        if asks && trouble.outages[*project].overlap(from, to) {
            allowed.push(Verdict::Unavailable);
        }
        if asks && trouble.blanks[*project].overlap(from, to) {
            allowed.push(Verdict::None);
        }
        allowed
    }

    /// Whether the answer is to this request, and to one of these verdicts.
    pub fn is_answered_by(&self, answer: &Response, allowed: &[Verdict<'_>]) -> bool {
        (answer.status != 200 || answer.echo().target == self.target())
            && allowed.iter().any(|verdict| verdict.is_answered_with(answer, self.place))
    }
}

/// Whether the backend may get this request, whatever the client got.
pub fn may_reach_the_backend(request: &Recorded) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    let of = |project: &str| path.strip_prefix(&format!("/{project}")).map(str::to_owned);
    let path = PROJECTS.iter().find_map(|project| of(project)).unwrap_or_default();
    let place = PLACES.iter().chain([&FRESH, &HELD]).find(|place| place.path == path);
    let (Some(place), Some(entitled)) = (place, request.header(ENTITLED)) else { return false };
    let is = |verdict: Verdict<'_>| request.identity() == verdict.identity();
    !request.headers.iter().any(|(_, value)| value.contains(FORGED))
        && (entitled != NOBODY && is(Verdict::Valid(&user(entitled)))
            || !place.required && (is(Verdict::None) || is(Verdict::Invalid)))
}

/// Periods of trouble that excuse an answer.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Per project: Authgear cannot be reached.
    pub outages: [Periods; PROJECTS.len()],
    /// Authgear's answers have no session headers.
    pub blanks: [Periods; PROJECTS.len()],
    pub kills: Periods,
    pub reloads: Periods,
}

#[derive(Debug, Default)]
pub struct Periods(Mutex<Vec<(Instant, Option<Instant>)>>);

impl Periods {
    /// Begins a period that lasts until [`end`](Self::end).
    pub fn begin(&self) {
        self.change(|periods| periods.push((Instant::now(), None)));
    }

    pub fn end(&self) {
        self.change(|periods| {
            if let Some((_, end)) = periods.last_mut() {
                end.get_or_insert_with(Instant::now);
            }
        });
    }

    pub fn count(&self) -> usize {
        self.change(|periods| periods.len())
    }

    pub fn overlap(&self, from: Instant, to: Instant) -> bool {
        self.change(|periods| {
            let overlaps = |(begin, end): &(Instant, Option<Instant>)| {
                *begin <= to && end.is_none_or(|end| from <= end)
            };
            periods.iter().any(overlaps)
        })
    }

    fn change<R>(&self, change: impl FnOnce(&mut Vec<(Instant, Option<Instant>)>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
