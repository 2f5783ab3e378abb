//! The redirect of a denied browser to Authgear's login.

use authgear::login::{self, Visit};

use super::address;
use crate::conf::LocationConf;
use nginx::Request;

/// Redirect of a browser to Authgear, with the cookie that marks a step-up.
pub struct Redirect {
    /// The URL.
    pub url: String,
    /// Value of `Set-Cookie`, if any.
    pub cookie: Option<String>,
}

/// The redirect of a denied navigation where `authgear_login` is on. `is_step_up` tells that there
/// is a session, which does not suffice: none is made while an earlier step-up is under way.
pub fn redirect(request: &Request, location: &LocationConf, is_step_up: bool) -> Option<Redirect> {
    let mut cookies = request.headers_in().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie"));
    if is_step_up && cookies.any(|(_, cookie)| login::has_step_up(cookie)) {
        return None;
    }
    let paths = location.login()?;
    let visit = if is_step_up { Visit::StepUp } else { Visit::Login };
    let origin = address::origin(request)?;
    let target = address::path_and_query(request)?;
    let project = location.project.as_ref()?;
    let url = login::authorize_url(
        project.endpoint.origin(),
        project.client_id.as_deref()?,
        &format!("{origin}{}", paths.callback),
        visit,
        target,
    );
    let is_secure = origin.starts_with("https:");
    Some(Redirect { url, cookie: is_step_up.then(|| login::step_up_cookie(is_secure)) })
}
