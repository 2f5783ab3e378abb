//! From credentials to a verdict: what is asked, and what is kept of the answer.

mod token;

use core::cell::RefCell;
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::identity::is_identity_header;
use authgear::key::Key;
use authgear::resolver;
use authgear::set_cookie::SetCookies;
use authgear::token::Claims;
use authgear::verdict::{NoSession, Unavailable, Verdict};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::cache::flights::{Pilot, Seat};
use crate::cache::{Answer, Asked, Cache, Found, Kept, Place, Seen, Use};
use crate::conf::cache::{UseStale, Valid};
use crate::conf::project::{Project, Upstream};
use crate::conf::{Id, LocationConf, Mode};
use crate::credentials;
use crate::nginx::{self, Failed, Request, State, SubrequestOutcome};
use crate::{worker, Authgear};
use token::Judged;

/// A verdict, and how it was found.
#[derive(Clone)]
pub struct Finding {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// Value of `$authgear_source`.
    pub source: &'static str,
    /// Value of `$authgear_cache_status`, when there were credentials to look up.
    pub cache_status: Option<&'static str>,
    /// It is of the bearer token alone, which was verified here: its claims can be believed.
    pub by_token: bool,
    /// What Authgear told the client besides, if it was asked for this request.
    pub set_cookies: Option<Rc<SetCookies>>,
}

/// A look-up that a request waits for.
pub struct Pending {
    project: Rc<Project>,
    mode: Mode,
    since: Duration,
    from: Source,
    /// Value of `$authgear_cache_status` if nobody else is asking.
    status: &'static str,
    /// What may count if Authgear fails.
    stale: Option<Stale>,
}

/// What is kept from before.
struct Stale {
    kept: Kept,
    place: Place,
    valid: Valid,
    stale: UseStale,
}

impl Stale {
    /// What of it may count now that Authgear fails.
    fn usable(&self) -> Option<&Kept> {
        let Self { kept, place, valid, stale } = self;
        let usable = kept.usable_on_error(valid, stale) && !kept.is_purged(place);
        usable.then_some(kept)
    }
}

/// Where a look-up stands that a request waited for.
pub enum Progress {
    /// Where it was.
    Waiting,
    /// Its user was purged meanwhile: it must be made anew.
    Again,
    /// At its end.
    Found(Finding),
}

enum Source {
    /// A joined look-up of the module's own client.
    Flight { seat: Rc<Seat>, joined: bool },
    /// A subrequest to a location of the user's.
    Subrequest(Box<Subrequest>),
}

struct Subrequest {
    answer: Rc<RefCell<Option<resolver::Answer>>>,
    question: Question,
    cache: Option<Rc<Cache>>,
}

/// Where a look-up stands.
pub enum Step {
    /// At its end.
    Found(Finding),
    /// The request must wait.
    Waiting(Box<Pending>),
}

/// What is asked about credentials, and what is known of them.
#[derive(Clone)]
struct Question {
    place: Place,
    seen: Seen,
    request: http::Request<()>,
    /// When it was made, and when the first of its tokens expires, by nginx's clock.
    asked_at: Asked,
    expires_at: Option<Duration>,
    /// There is a session cookie of the form that Authgear makes: it will say something about it.
    has_session: bool,
}

/// How a flight ended.
#[derive(Clone)]
pub struct Landing {
    verdict: Rc<Verdict>,
    /// Authgear failed, whatever the verdict.
    failed: bool,
    /// Another worker asked.
    followed: bool,
    /// See [`Finding::by_token`].
    by_token: bool,
    /// For all who have a seat. Another worker's passengers are not told.
    set_cookies: Option<Rc<SetCookies>>,
}

impl Landing {
    /// What becomes of a flight whose pilot is lost.
    pub fn crashed() -> Self {
        unavailable(Unavailable::Internal)
    }
}

/// Looks up the request's credentials with `project`.
pub fn start(
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
) -> Result<Step, Failed> {
    let mode = location.mode();
    let mut credentials = credentials::read(request, project);
    if mode == Mode::Jwt {
        credentials = credentials.without_cookies();
    }
    if credentials.is_empty() {
        // Authgear would say the same.
        return Ok(Step::Found(Finding::no_credentials()));
    }
    if mode != Mode::Resolver {
        match token::judge(location, project, &credentials) {
            Judged::Found(finding) => return Ok(Step::Found(finding)),
            Judged::AskResolver => {}
            Judged::WaitForKeys(undecided) => {
                drop(credentials);
                return token::wait_for_keys(request, state, location, project, *undecided);
            }
        }
    }
    let cache = location.zone.as_ref().map(worker::cache);
    let (valid, stale) = (location.cache_valid(), location.cache_use_stale());
    let Some(key) = key_of(cache.as_deref(), &project.scope, &credentials) else {
        let verdict = unavailable(Unavailable::Internal).verdict;
        return Ok(Step::Found(Finding::asked(verdict, "BYPASS")));
    };
    let place = Place { key, scope: project.scope };
    let found = match &cache {
        Some(cache) => cache.get(&place, &valid, &stale),
        None => Found { usable: None, seen: Seen::NOTHING },
    };
    if let Some(Use::Fresh(kept)) = found.usable {
        return Ok(Step::Found(Finding::kept(&kept, "HIT")));
    }
    let question = match Question::new(request, project, place, found.seen, &credentials) {
        Ok(question) => question,
        Err(why) => return Ok(Step::Found(Finding::asked(unavailable(why).verdict, "BYPASS"))),
    };
    drop(credentials);

    let (kept, status) = match (found.usable, &project.resolver) {
        (Some(Use::Updating(kept)), Upstream::Url(_)) => {
            let status = match worker::flights().begin(key) {
                Some(pilot) => {
                    spawn(pilot, project, cache, question);
                    "STALE"
                }
                None => "UPDATING",
            };
            return Ok(Step::Found(Finding::kept(&kept, status)));
        }
        (Some(Use::Updating(kept) | Use::Expired(kept)), _) => (Some(kept), "EXPIRED"),
        (_, _) if cache.is_some() => (None, "MISS"),
        (_, _) => (None, "BYPASS"),
    };
    let from = match &project.resolver {
        Upstream::Url(_) => {
            let flights = worker::flights();
            if !flights.has_room(&key) {
                let usable = kept.filter(|kept| kept.usable_on_error(&valid, &stale));
                let crowded = unavailable(Unavailable::Crowded).verdict;
                return Ok(Step::Found(match usable {
                    Some(kept) => Finding::kept(&kept, "STALE"),
                    None => Finding::asked(crowded, status),
                }));
            }
            let resume = request.suspend(state, project.timeout)?;
            let (seat, pilot) = flights.join(key, resume);
            let joined = pilot.is_none();
            if let Some(pilot) = pilot {
                spawn(pilot, project, cache, question);
            }
            Source::Flight { seat, joined }
        }
        Upstream::Location(uri) => {
            let answer = ask_location(request, project, uri, &question.request)?;
            Source::Subrequest(Box::new(Subrequest { answer, question, cache }))
        }
    };
    let stale = kept.map(|kept| Stale { kept, place, valid, stale });
    Ok(Step::Waiting(Box::new(Pending::new(project, mode, from, status, stale))))
}

/// Under what a verdict on `credentials` is kept and flights are joined; none without random
/// numbers.
fn key_of(cache: Option<&Cache>, scope: &[u8; 32], credentials: &Credentials<'_>) -> Option<Key> {
    match cache {
        Some(cache) => Some(Key::of(cache.secret(), scope, credentials)),
        None => worker::secret().map(|secret| Key::of(&secret, scope, credentials)),
    }
}

impl Pending {
    fn new(
        project: &Rc<Project>,
        mode: Mode,
        from: Source,
        status: &'static str,
        stale: Option<Stale>,
    ) -> Self {
        Self { project: Rc::clone(project), mode, since: nginx::now(), from, status, stale }
    }

    /// The project that is asked.
    pub fn project(&self) -> &Rc<Project> {
        &self.project
    }

    /// Who is asked: what the finding is of.
    pub fn subject(&self) -> (Id, Mode) {
        (self.project.id, self.mode)
    }

    /// How long the request has waited.
    pub fn waited(&self) -> Duration {
        nginx::now().saturating_sub(self.since)
    }

    /// What was found, when it is there or the time for it is over.
    pub fn outcome(&self) -> Progress {
        let (landing, joined) = match &self.from {
            // Resumed without a verdict: by the request's own deadline.
            Source::Flight { seat, joined } => {
                (seat.landing().unwrap_or_else(|| unavailable(Unavailable::Timeout)), *joined)
            }
            Source::Subrequest(asked) => {
                let Some(said) = asked.answer.take() else { return Progress::Waiting };
                let verdict = said.verdict;
                let now = nginx::unix_time().as_secs();
                worker::metrics(&self.project).asked(&verdict, self.waited(), now);
                if asked.question.is_purged(&verdict) {
                    return Progress::Again;
                }
                let answer = asked.question.sort(Rc::new(verdict));
                if let (Some(cache), Answer::Keep(kept)) = (&asked.cache, &answer) {
                    cache.put(&asked.question.place, kept);
                }
                (Landing::of(answer, false).telling(said.set_cookies), false)
            }
        };
        if landing.failed {
            if let Some(kept) = self.stale.as_ref().and_then(Stale::usable) {
                return Progress::Found(Finding::kept(kept, "STALE"));
            }
        }
        let status = if joined || landing.followed { "JOINED" } else { self.status };
        Progress::Found(if landing.by_token {
            Finding::by_token(landing.verdict, status)
        } else {
            let set_cookies = landing.set_cookies;
            Finding { set_cookies, ..Finding::asked(landing.verdict, status) }
        })
    }
}

impl Finding {
    fn no_credentials() -> Self {
        let verdict = Rc::new(Verdict::None(NoSession::NoCredentials));
        Self { source: "none", cache_status: None, ..Self::of(verdict, "") }
    }

    fn kept(kept: &Kept, status: &'static str) -> Self {
        let verdict = Rc::clone(&kept.verdict);
        Self { source: "cache", by_token: kept.key.is_some(), ..Self::of(verdict, status) }
    }

    fn by_token(verdict: Rc<Verdict>, status: &'static str) -> Self {
        Self { source: "jwt", by_token: true, ..Self::of(verdict, status) }
    }

    fn of(verdict: Rc<Verdict>, status: &'static str) -> Self {
        let (source, cache_status) = ("resolver", Some(status));
        Self { verdict, source, cache_status, by_token: false, set_cookies: None }
    }

    fn asked(verdict: Rc<Verdict>, status: &'static str) -> Self {
        let source = match &*verdict {
            Verdict::Unavailable(why) if why.nobody_was_asked() => "none",
            _ => "resolver",
        };
        Self { source, ..Self::of(verdict, status) }
    }
}

impl Question {
    fn new(
        request: &Request,
        project: &Project,
        place: Place,
        seen: Seen,
        credentials: &Credentials<'_>,
    ) -> Result<Self, Unavailable> {
        let request_id = request.main_conf::<Authgear>().request_id();
        let client = resolver::Client {
            address: Some(request.client_address()),
            user_agent: header(request, b"user-agent"),
            trace: (header(request, b"traceparent"), header(request, b"tracestate")),
            request_id: request_id.and_then(|id| request.evaluate(id).ok()),
        };
        let path = match &project.resolver {
            Upstream::Url(server) => server.url.path(),
            Upstream::Location(uri) => uri,
        };
        let request = resolver::request(&project.endpoint, path, credentials, &client)
            .map_err(|_| Unavailable::Internal)?;
        Ok(Self {
            place,
            seen,
            request,
            asked_at: Asked::now(),
            expires_at: expires_at(credentials, project),
            has_session: credentials.has_session(&project.cookies),
        })
    }

    /// Whether what was asked was purged before the answer came. Where there is none, there is
    /// nothing to purge.
    fn is_purged(&self, verdict: &Verdict) -> bool {
        !matches!(verdict, Verdict::Unavailable(_))
            && worker::is_purged(self.asked_at.since, &self.place, verdict)
    }

    /// Whether `verdict` is kept, and for how long at most.
    fn sort(&self, verdict: Rc<Verdict>) -> Answer {
        match &*verdict {
            Verdict::Unavailable(why) => Answer::Pass { code: why.code(), verdict },
            // Authgear answers so on a passing fault of its database, too.
            Verdict::None(_) if self.has_session => Answer::Pass { code: BLANK, verdict },
            _ => Answer::Keep(Kept::new(verdict, self.asked_at, self.expires_at)),
        }
    }
}

fn expires_at(credentials: &Credentials<'_>, project: &Project) -> Option<Duration> {
    let now = nginx::unix_time().as_secs();
    credentials.expires_at(&project.cookies, now).map(cached_until)
}

/// A time in seconds since 1970, by nginx's clock.
fn cached_until(expires_at: u64) -> Duration {
    // Nothing is kept for as long as this; a token may say anything.
    const MOST: Duration = Duration::from_secs(30 * 86400);
    let left = Duration::from_secs(expires_at).saturating_sub(nginx::unix_time());
    nginx::now() + left.min(MOST)
}

/// Code of a blank answer to a session cookie, besides those of [`Unavailable`].
const BLANK: u8 = 200;

fn decode(code: u8) -> Rc<Verdict> {
    Rc::new(match code {
        BLANK => Verdict::None(NoSession::Resolver),
        code => Verdict::Unavailable(Unavailable::from_code(code)),
    })
}

impl Landing {
    fn of(answer: Answer, followed: bool) -> Self {
        let (verdict, failed) = match answer {
            Answer::Keep(kept) => (kept.verdict, false),
            Answer::Pass { verdict, .. } => (verdict, true),
        };
        Self { verdict, failed, followed, by_token: false, set_cookies: None }
    }

    fn of_token(verdict: Rc<Verdict>) -> Self {
        Self { verdict, failed: false, followed: false, by_token: true, set_cookies: None }
    }

    /// The same, with what Authgear told besides.
    fn telling(mut self, set_cookies: SetCookies) -> Self {
        self.set_cookies = (!set_cookies.is_empty()).then(|| Rc::new(set_cookies));
        self
    }
}

fn unavailable(why: Unavailable) -> Landing {
    let verdict = Rc::new(Verdict::Unavailable(why));
    Landing { verdict, failed: true, followed: false, by_token: false, set_cookies: None }
}

/// Flies: asks Authgear, or follows the worker that does, and lands with the answer.
fn spawn(pilot: Pilot, project: &Rc<Project>, cache: Option<Rc<Cache>>, question: Question) {
    let client = worker::client(project);
    // A leader that does not come back within its own deadline is lost.
    let lease = project.timeout + Duration::from_millis(500);
    let until = nginx::now() + project.timeout;
    let (place, seen) = (question.place, question.seen);
    nginx::spawn(async move {
        let set_cookies = RefCell::default();
        let ask = || async {
            let mut question = question;
            let mut said = client.ask(&question.request).await;
            while question.is_purged(&said.verdict) {
                // The answer may be from before whatever made somebody purge it.
                if nginx::now() >= until {
                    said = Unavailable::Timeout.into();
                    break;
                }
                question.asked_at = Asked::now();
                said = client.ask(&question.request).await;
            }
            set_cookies.replace(said.set_cookies);
            let answer = question.sort(Rc::new(said.verdict));
            if matches!(answer, Answer::Pass { code: BLANK, .. }) {
                client.blank_answer();
            }
            answer
        };
        let landing = match cache {
            Some(cache) => {
                let (answer, followed) = cache.fly(&place, seen, lease, ask, decode).await;
                Landing::of(answer, followed)
            }
            None => Landing::of(ask().await, false),
        };
        pilot.land(landing.telling(set_cookies.take()));
    });
}

/// Asks a location of the user's, by a subrequest that carries `question` and nothing else.
fn ask_location(
    request: &mut Request,
    project: &Rc<Project>,
    uri: &str,
    question: &http::Request<()>,
) -> Result<Rc<RefCell<Option<resolver::Answer>>>, Failed> {
    let headers: Vec<(&[u8], &[u8])> = (question.headers().iter())
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
        .collect();
    let answer = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&answer);
    let project = Rc::clone(project);
    let done = move |outcome| *slot.borrow_mut() = Some(read_location(outcome, &project));
    request.subrequest(uri, &headers, Box::new(done))?;
    Ok(answer)
}

fn read_location(outcome: SubrequestOutcome, project: &Project) -> resolver::Answer {
    let SubrequestOutcome::Answer { status, headers } = outcome else {
        return Unavailable::BadStatus.into();
    };
    let counts = |name: &[u8]| is_identity_header(name) || name.eq_ignore_ascii_case(b"set-cookie");
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| counts(name)) {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            return Unavailable::BadAnswer.into();
        };
        map.append(name, value);
    }
    match StatusCode::from_u16(status) {
        Ok(status) => resolver::Answer::read(status, &map, &project.cookies),
        Err(_) => Unavailable::BadStatus.into(),
    }
}

/// Drops what is kept under the request's credentials by `project`, whatever that says. What is
/// returned is being found out just now.
pub fn forget(request: &Request, project: &Project) -> Vec<Key> {
    let credentials = credentials::read(request, project);
    if credentials.is_empty() {
        return Vec::new();
    }
    let token = credentials.without_cookies();
    let mut flying = Vec::new();
    for cache in request.main_conf::<Authgear>().zones().iter().map(worker::cache) {
        // Whoever decides: Authgear, or a worker about the token alone.
        for (scope, credentials) in
            [(&project.scope, &credentials), (&project.tokens.scope, &token)]
        {
            let key = Key::of(cache.secret(), scope, credentials);
            if cache.forget(&key) {
                flying.push(key);
            }
        }
    }
    flying
}

/// Value of the first header `name`.
pub fn header<'a>(request: &'a Request, name: &[u8]) -> Option<&'a [u8]> {
    let mut headers = request.headers_in();
    headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The claim `name` of the request's bearer token, which was verified.
pub fn claim(request: &Request, name: &[u8]) -> Option<Vec<u8>> {
    let bearer = credentials::bearer(request)?;
    Some(Claims::of_verified(bearer)?.find(name)?.into_owned())
}
