//! Login and logout by redirects: URLs of Authgear, the path to return to, and pages for people.
//!
//! The path to return to travels in `state` and is checked, not sealed: any server can finish a
//! login that another one began.

use std::fmt::Write as _;

use memchr::memmem;
use percent_encoding::{percent_decode, percent_encode, AsciiSet, NON_ALPHANUMERIC};

use crate::operations::purge_request::is_cross_site;

/// Most bytes of a URL that begins a login. Authgear repeats the state in each of its redirects, and
/// proxies have header buffers of 4k and 8k.
pub const MAX_URL: usize = 2000;

/// Most bytes of a `state` that is followed.
const MAX_STATE: usize = MAX_URL;

/// Bytes that a value of a query may not contain. The unreserved characters of RFC 3986 stay.
const VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Purpose of a visit to Authgear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// To log in.
    Login,
    /// To sign up.
    Signup,
    /// To authenticate again, in spite of a session.
    StepUp,
}

/// Builds the URL of Authgear at which a login begins. `target` is the path and query to return to.
/// A target that is no path of this site, or too long, is shortened to its path, or to `/`.
pub fn authorize_url(
    origin: &str,
    client_id: &str,
    redirect_uri: &str,
    visit: Visit,
    target: &[u8],
) -> String {
    let encode = |value: &[u8]| percent_encode(value, VALUE).to_string();
    let mut url = format!(
        "{origin}/oauth2/authorize?response_type=none&scope=openid&client_id={}&redirect_uri={}",
        encode(client_id.as_bytes()),
        encode(redirect_uri.as_bytes())
    );
    url.push_str(match visit {
        Visit::Login => "&x_page=login",
        Visit::Signup => "&x_page=signup",
        Visit::StepUp => "&x_page=login&prompt=login",
    });
    url.push_str("&state=");
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let fits = |target: &[u8]| {
        // Before it is encoded: the cost of a long target is bounded.
        let is_short = url.len() + target.len() <= MAX_URL;
        let state = (is_short && is_local(target)).then(|| encode(target))?;
        (url.len() + state.len() <= MAX_URL).then_some(state)
    };
    let state = fits(target).or_else(|| fits(path)).unwrap_or_else(|| "/".to_owned());
    url + &state
}

/// Builds the URL of Authgear that ends a session.
pub fn end_session_url(origin: &str, return_to: &str) -> String {
    let return_to = percent_encode(return_to.as_bytes(), VALUE);
    format!("{origin}/oauth2/end_session?post_logout_redirect_uri={return_to}")
}

/// Returns the path to return to from the query of a request: the value of `state`, if it is a path
/// of this site, otherwise `/`.
pub fn return_path(query: &[u8]) -> Vec<u8> {
    let state = argument(query, b"state").filter(|state| is_local(state));
    state.unwrap_or_else(|| b"/".to_vec())
}

/// Decoded value of the first argument `name` in a query, of at most [`MAX_URL`] bytes.
fn argument(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let value = query.split(|&byte| byte == b'&').find_map(|pair| {
        let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
        (value.len() <= 3 * MAX_STATE).then_some(value)
    })?;
    // Go's url.Values.Encode(), by which Authgear repeats a state, writes `+` for a space.
    let spaced: Vec<u8> = value.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    Some(percent_decode(&spaced).collect()).filter(|value: &Vec<u8>| value.len() <= MAX_STATE)
}

/// Returns whether a browser that follows `target` stays on this site, now and after any decoding that
/// nginx, a backend or a browser does.
///
/// Only printable ASCII is a path: others must be percent-encoded. A second `/` or a `\` at the
/// begin, a control or a line end are refused in each decoded form.
fn is_local(target: &[u8]) -> bool {
    let printable = |byte: &u8| byte.is_ascii_graphic();
    if target.len() > MAX_STATE || !target.iter().all(printable) {
        return false;
    }
    let path = target.split(|&byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let mut decoded = path.to_vec();
    // Each round removes two bytes for a `%XX`; more rounds than these are nobody's path.
    for _ in 0..MAX_DECODINGS {
        if !begins_as_path(&decoded) || decoded.iter().any(|byte| byte.is_ascii_control()) {
            return false;
        }
        let next: Vec<u8> = percent_decode(&decoded).collect();
        if next == decoded {
            return true;
        }
        decoded = next;
    }
    false
}

/// Most times that a path is decoded.
const MAX_DECODINGS: usize = 8;

/// Returns whether the path begins with one `/`, also after its dot segments are removed.
fn begins_as_path(path: &[u8]) -> bool {
    let Some((b'/', mut rest)) = path.split_first() else { return false };
    loop {
        rest = match rest {
            [b'/' | b'\\', ..] => return false,
            [b'.', b'/' | b'\\', after @ ..] | [b'.', b'.', b'/' | b'\\', after @ ..] => after,
            _ => break,
        };
    }
    // `/a/..//host` is `//host` once dot segments are removed.
    let separator = |byte: u8| matches!(byte, b'/' | b'\\');
    let mut segments = rest.split(|&byte| separator(byte)).peekable();
    let mut depth = 0_usize;
    while let Some(segment) = segments.next() {
        match segment {
            b".." => depth = depth.saturating_sub(1),
            b"." => {}
            b"" if depth == 0 && segments.peek().is_some() => return false,
            _ => depth += 1,
        }
    }
    true
}

/// Returns whether a request to log out comes from this site, by a click or a form. No page asks
/// the user then. `navigates` tells that the browser shows the response as a page.
pub fn is_own_logout(
    is_post: bool,
    navigates: bool,
    fetch_site: Option<&[u8]>,
    origin: Option<&[u8]>,
    host: Option<&[u8]>,
) -> bool {
    if is_post {
        return fetch_site != Some(b"none") && !is_cross_site(fetch_site, origin, host);
    }
    navigates && matches!(fetch_site, Some(b"same-origin" | b"same-site"))
}

/// Returns whether a request that writes comes from another site. A client that sends neither
/// `Sec-Fetch-Site` nor `Origin` does not prove that it comes from this one.
pub fn is_foreign_write(
    fetch_site: Option<&[u8]>,
    origin: Option<&[u8]>,
    public_origin: Option<&[u8]>,
) -> bool {
    match (fetch_site, origin) {
        (Some(site), _) => !matches!(site, b"same-origin" | b"same-site"),
        (None, Some(origin)) => !public_origin.is_some_and(|own| own.eq_ignore_ascii_case(origin)),
        (None, None) => true,
    }
}

/// Errors of Authgear's authorization endpoint (RFC 6749, OpenID Connect), with their explanations.
const ERRORS: &[(&[u8], &str)] = &[
    (b"access_denied", "The login was refused or cancelled."),
    (b"login_required", "Authgear asks for a login."),
    (b"interaction_required", "Authgear needs an answer from you that it was not allowed to ask."),
    (b"invalid_request", "Authgear did not accept the request of this site."),
    (b"invalid_scope", "Authgear did not accept the request of this site."),
    (b"unauthorized_client", "This site's client may not log in at Authgear in this way."),
    (b"unsupported_response_type", "This site's client may not log in at Authgear in this way."),
    (b"server_error", "Authgear had an internal error. Try again later."),
    (b"temporarily_unavailable", "Authgear is busy. Try again later."),
];

/// A page for people. None of its text comes from a request but the host, which is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Status of the response.
    pub status: u16,
    /// HTML.
    pub html: String,
}

/// `Content-Security-Policy` of every [`Page`].
pub const PAGE_POLICY: &str =
    "default-src 'none'; form-action *; frame-ancestors 'none'; base-uri 'none'";

/// Returns the page about the `error` of a query, if it has one.
pub fn error_page(query: &[u8]) -> Option<Page> {
    let error = argument(query, b"error")?;
    let known = ERRORS.iter().find(|(code, _)| *code == error);
    let (code, text) = match known {
        Some((code, text)) => (String::from_utf8_lossy(code).into_owned(), *text),
        None => {
            ("unknown".to_owned(), "Authgear reported an error that this server does not know.")
        }
    };
    let body =
        format!("<p>{text}</p>\n<p>Code: <code>{code}</code>. <a href=\"/\">Continue</a></p>");
    Some(page(400, "The login did not succeed", &body))
}

/// Returns the page for a browser that comes from a login without a session.
pub fn no_session_page(host: &[u8], authgear: &str) -> Page {
    let (host, authgear) = (escape(&String::from_utf8_lossy(host)), escape(authgear));
    let body = format!(
        "<p>You come from the login at <b>{authgear}</b>, but this browser sent no valid session \
         to <b>{host}</b>.</p>\n<ul>\n<li>Allow cookies for this site, then try again.</li>\n\
         <li>For the operator: the cookie domain of Authgear must be a common parent domain of \
         both hosts. Set it in Authgear's portal, or as <code>http.cookie_domain</code> in \
         authgear.yaml.</li>\n</ul>\n<p>Code: <code>cookie_not_shared</code></p>"
    );
    page(403, "No session after the login", &body)
}

/// Returns the page for a look-up that failed.
pub fn unavailable_page() -> Page {
    let body = "<p>The session could not be checked. Load this page again in a few seconds.</p>";
    page(503, "Try again later", body)
}

/// Returns the page that asks before it logs out. `path` is that of the logout itself.
pub fn logout_page(path: &str) -> Page {
    let body = format!(
        "<form method=\"post\" action=\"{}\"><button>Log out</button></form>",
        escape(path)
    );
    page(200, "Log out?", &body)
}

fn page(status: u16, title: &str, body: &str) -> Page {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\
         </head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    );
    Page { status, html }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Name of the cookie that marks a step-up under way.
pub const STEP_UP_COOKIE: &str = "authgear_step_up";

/// Builds the `Set-Cookie` that marks a step-up for five minutes.
pub fn step_up_cookie(is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{STEP_UP_COOKIE}=1; Path=/; Max-Age=300; HttpOnly; SameSite=Lax{secure}")
}

/// Finds the mark of a step-up in a `Cookie` field.
pub fn has_step_up(cookies: &[u8]) -> bool {
    // A search costs less than a look at each piece, of which a client may send thousands.
    if memmem::find(cookies, STEP_UP_COOKIE.as_bytes()).is_none() {
        return false;
    }
    let mut pairs = cookies.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    pairs.any(|pair| pair.strip_prefix(STEP_UP_COOKIE.as_bytes()) == Some(b"=1"))
}

#[cfg(test)]
mod tests;
