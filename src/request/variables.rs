//! Variables: `$x_authgear_*`, `$authgear_*`, and a value for `$remote_user`.

use authgear::userinfo;
use authgear::verdict::Verdict;
use percent_encoding::{percent_encode, NON_ALPHANUMERIC};

use super::address;
use crate::conf::Authgear;
use crate::credentials;
use crate::resolution::Resolution;
use nginx::{Conf, ConfError, Level, Override, Request, Value};

/// Prefix of variables that hold a header of the verdict.
const IDENTITY: &str = "x_authgear_";

/// Prefix of variables that hold a claim of the token.
const CLAIM: &str = "authgear_claim_";

/// Prefix of variables that hold a claim of userinfo.
const USER: &str = "authgear_user_";

/// Prefix of those that hold a custom attribute.
const CUSTOM: &str = "authgear_user_custom_";

/// The other variables of userinfo.
const USER_CLAIMS: [&str; 10] = [
    "authgear_user_email",
    "authgear_user_email_unverified",
    "authgear_user_phone_number",
    "authgear_user_phone_number_unverified",
    "authgear_user_preferred_username",
    "authgear_user_name",
    "authgear_user_given_name",
    "authgear_user_family_name",
    "authgear_user_picture",
    "authgear_user_locale",
];

/// nginx's variable, which would not find credentials that are hidden from the backend.
const AUTHORIZATION: &str = "http_authorization";

/// A variable `$authgear_NAME` and its value.
type OwnVariable = (&'static str, fn(&Request) -> Value);

const OWN: &[OwnVariable] = &[
    ("authgear_session", |r| of(r, |f| Value::Static(f.verdict.session_word()))),
    ("authgear_reason", reason),
    ("authgear_source", |r| of(r, |f| Value::Static(f.source.as_str()))),
    ("authgear_cache_status", |r| of(r, |f| cache_status(&f))),
    ("authgear_return_to", return_to),
    ("authgear_time", time),
    ("authgear_host", |r| of_project(r, |p| Value::Bytes(p.endpoint.authority().into()))),
    ("authgear_scheme", |r| of_project(r, |p| Value::Static(p.endpoint.scheme().as_str()))),
];

fn cache_status(resolution: &Resolution) -> Value {
    resolution.cache_status.map_or(Value::NotFound, |status| Value::Static(status.variable()))
}

/// Defines the prefixes and overrides nginx's variable, before the configuration is read.
pub fn define_prefixes(cf: &mut Conf<'_>) -> Result<(), ConfError> {
    cf.add_prefix::<Authgear>(IDENTITY)?;
    cf.add_prefix::<Authgear>(CLAIM)?;
    cf.add_prefix::<Authgear>(CUSTOM)?;
    cf.override_variable::<Authgear>(c"remote_user")
}

/// Defines the other variables, after the configuration was read: those that it defines itself stay
/// as it says.
pub fn define(cf: &mut Conf<'_>) -> Result<(), ConfError> {
    cf.add_variable::<Authgear>(AUTHORIZATION)?;
    for name in OWN.iter().map(|(name, _)| *name).chain(USER_CLAIMS) {
        cf.add_variable::<Authgear>(name)?;
    }
    Ok(())
}

/// Whether the configuration uses a variable of userinfo.
pub fn uses_userinfo(cf: &Conf<'_>) -> bool {
    cf.uses_prefix(CUSTOM) || USER_CLAIMS.iter().any(|name| cf.uses_variable(name))
}

/// Whether `name` is a variable that a verdict changes. Variables `$x_authgear_*` that the
/// configuration sets by `auth_request_set`, as in Authgear's guide, are not.
pub fn is_own(name: &[u8], of_prefix: bool) -> bool {
    (of_prefix
        && [IDENTITY, CLAIM, CUSTOM].iter().any(|prefix| name.starts_with(prefix.as_bytes())))
        || name == b"remote_user"
        || OWN.iter().any(|(own, _)| own.as_bytes() == name)
        || USER_CLAIMS.iter().any(|own| own.as_bytes() == name)
}

/// Whether the value of `name`, one of the module's own variables, comes from a verdict.
pub fn depends_on_verdict(name: &[u8]) -> bool {
    const OF_THE_REQUEST: [&[u8]; 5] = [
        AUTHORIZATION.as_bytes(),
        b"authgear_return_to",
        b"authgear_time",
        b"authgear_host",
        b"authgear_scheme",
    ];
    !OF_THE_REQUEST.contains(&name)
}

/// Whether `name`, of any variable, is `$x_authgear_*` or `$authgear_*` with a value from a verdict.
pub fn is_of_verdict(name: &[u8]) -> bool {
    name != b"remote_user" && is_own(name, true) && depends_on_verdict(name)
}

/// Value of `name` for `request`. Subrequests have the values of the client's request.
pub fn get(request: &Request, name: &[u8]) -> Value {
    if depends_on_verdict(name) {
        report_too_early(request, name);
    }
    if let Some(suffix) = name.strip_prefix(IDENTITY.as_bytes()) {
        return of(request, |resolution| {
            let value = resolution.verdict.get_suffix(suffix);
            value.map_or(Value::NotFound, |value| Value::Bytes(value.to_vec()))
        });
    }
    if let Some(claim) = name.strip_prefix(CLAIM.as_bytes()) {
        return of(request, |resolution| match &*resolution.verdict {
            Verdict::Valid(_) if resolution.by_token => {
                credentials::claim(request, resolution.bearer_elsewhere.as_deref(), claim)
                    .map_or(Value::NotFound, Value::Bytes)
            }
            _ => Value::NotFound,
        });
    }
    if let Some(claim) = name.strip_prefix(USER.as_bytes()) {
        let answer = request.state::<Authgear>().and_then(|state| state.userinfo());
        let value = answer.as_deref().and_then(|answer| userinfo::claim(answer, claim));
        return value.map_or(Value::NotFound, |value| Value::Bytes(value.to_vec()));
    }
    if name == AUTHORIZATION.as_bytes() {
        return credentials::authorization(request).map_or(Value::NotFound, Value::Bytes);
    }
    let own = OWN.iter().find(|(own, _)| own.as_bytes() == name);
    own.map_or(Value::NotFound, |(_, get)| get(request))
}

/// Value of `$remote_user`: the user of the session where Authgear decides or has decided, and
/// nobody without a session. nginx's own value is the name in an Authorization of scheme Basic,
/// which nobody may have verified.
pub fn remote_user(request: &Request) -> Override {
    let location = request.location::<Authgear>();
    if !location.remote_user() {
        return Override::Original;
    }
    let current = request.state::<Authgear>().and_then(|state| state.current());
    if current.is_none() && location.project.is_none() {
        return Override::Original;
    }
    let user_id = current.as_ref().and_then(|resolution| match &*resolution.verdict {
        Verdict::Valid(identity) => identity.user_id(),
        _ => None,
    });
    Override::Value(user_id.map_or(Value::NotFound, |id| Value::Bytes(id.to_vec())))
}

fn of(request: &Request, get: impl FnOnce(Resolution) -> Value) -> Value {
    let current = request.state::<Authgear>().and_then(|state| state.current());
    current.map_or(Value::NotFound, get)
}

/// Logs, once a worker, that a variable of the verdict is evaluated before there is one.
fn report_too_early(request: &Request, name: &[u8]) {
    let main = request.main_conf::<Authgear>();
    if main.reported_early.get()
        || !request.is_main()
        || !request.is_before_access()
        || request.location::<Authgear>().project.is_none()
        || request.state::<Authgear>().is_some_and(|state| state.current().is_some())
    {
        return;
    }
    main.reported_early.set(true);
    request.log().write(
        Level::Warn,
        format_args!(
            "\"${}\" is evaluated before there is a verdict, and has no value: \"authgear_early \
             on\" finds the verdict before limit_req and limit_conn; rewrite, if, set and return \
             come before it in any case (logged once a worker)",
            String::from_utf8_lossy(name)
        ),
    );
}

fn of_project(
    request: &Request,
    get: impl FnOnce(&crate::conf::project::Project) -> Value,
) -> Value {
    // A subrequest to the location of `resolver_url` belongs to the project that made it.
    let asking = request.state::<Authgear>().and_then(|state| state.asking());
    match asking.as_ref().or(request.location::<Authgear>().project.as_ref()) {
        Some(project) => get(project),
        None => Value::NotFound,
    }
}

fn reason(request: &Request) -> Value {
    let denied = request.state::<Authgear>().and_then(|state| state.denied());
    of(request, |resolution| Value::Static(denied.unwrap_or(resolution.verdict.reason()).as_str()))
}

/// URL of the request, encoded for the query of another URL.
fn return_to(request: &Request) -> Value {
    let encode = |url: Vec<u8>| percent_encode(&url, NON_ALPHANUMERIC).to_string().into_bytes();
    address::url(request).map_or(Value::NotFound, |url| Value::Bytes(encode(url)))
}

fn time(request: &Request) -> Value {
    let state = request.state::<Authgear>();
    let Some(waited) = state.map(|state| state.waited()) else { return Value::NotFound };
    Value::Bytes(format!("{}.{:03}", waited.as_secs(), waited.subsec_millis()).into_bytes())
}
