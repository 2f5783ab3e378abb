//! Login and logout of the fake: `authorize` with `response_type=none`, a login page with a button
//! for each user, and `end_session`.
//!
//! As the real one's, a script of the login page posts the form with `X-Authgear-XHR`, wants JSON,
//! and goes where that says. Without the header the answer is a redirect, which leads the script to
//! another origin, where it cannot follow.

use std::collections::HashSet;

use serde_json::json;

use super::resolver::{Answer, Deployment};
use super::users::Store;
use crate::recorded::Recorded;

/// The page after the login, which leads back to the application.
const FINISH_PATH: &str = "/authflow/v2/finish";

/// Posts the form of the login page.
const SCRIPT: &str = "<p id=error></p><script>
document.forms[0].addEventListener('submit', async event => {
  event.preventDefault();
  const body = new URLSearchParams(new FormData(event.target, event.submitter));
  const headers = {'X-Authgear-XHR': 'true'};
  try {
    const answer = await fetch(event.target.action, {method: 'POST', headers, body});
    location.href = (await answer.json()).redirect_uri;
  } catch {
    document.getElementById('error').textContent =
      'There was a problem performing this action';
  }
});
</script>";

/// Registered settings of an application.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) id: String,
    /// Redirect URIs, of logins and logouts.
    pub(crate) redirect_uris: HashSet<String>,
}

/// A request to one of the pages.
pub(crate) struct Visit<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) client: &'a Client,
    pub(crate) request: &'a Recorded,
    pub(crate) body: &'a [u8],
    /// Seconds since 1970.
    pub(crate) now: i64,
}

impl Visit<'_> {
    /// The answer, if the request is for one of the pages. A login makes a session in the store.
    pub(crate) fn answer(&self, store: &mut Store) -> Option<Answer> {
        match (self.request.path(), self.request.method.as_str()) {
            // Other clients ask for a code.
            ("/oauth2/authorize", "GET") if self.argument("response_type") != "code" => {
                Some(self.authorize(store))
            }
            ("/login", "GET") => Some(self.login_page(store)),
            ("/login", "POST") => Some(self.log_in(store)),
            (FINISH_PATH, "GET") => Some(self.back(&[("state", &self.argument("state"))])),
            ("/oauth2/end_session", "GET") => Some(self.end_session(store)),
            ("/logout", "POST") => Some(self.end(store)),
            ("/logout", "GET") => Some(html(&format!(
                "<h1>Sign out?</h1><form method=post action=\"{}\"><button>Yes</button></form>",
                self.request.target
            ))),
            ("/settings", "GET") => Some(html("<h1>Settings</h1>")),
            _ => None,
        }
    }

    fn argument(&self, name: &str) -> String {
        let query = self.request.target.split_once('?').map_or("", |(_, query)| query);
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    }

    fn session<'s>(&self, store: &'s Store) -> Option<(&str, &'s String)> {
        let cookie = self.deployment.cookie(self.request, "session")?;
        Some((cookie, store.by_session(cookie)?))
    }

    fn authorize(&self, store: &Store) -> Answer {
        let redirect_uri = self.argument("redirect_uri");
        let wrong = |what: &str| {
            Answer::text(400, &format!("Invalid OAuth authorization request:\n{what}"))
        };
        if self.argument("client_id") != self.client.id {
            return wrong("error: unauthorized_client\nerror_description: invalid client ID");
        }
        if !self.client.redirect_uris.contains(&redirect_uri) {
            return wrong("error: invalid_request\nerror_description: redirect URI is not allowed");
        }
        let error = |code: &str| self.back(&[("error", code), ("state", &self.argument("state"))]);
        if self.argument("scope") != "openid" {
            return error("invalid_scope");
        }
        if self.argument("prompt") == "none" {
            return match self.session(store) {
                Some(_) => self.back(&[("state", &self.argument("state"))]),
                None => error("login_required"),
            };
        }
        redirect(302, &format!("{}/login?{}", self.deployment.origin, self.query()), &[])
    }

    fn query(&self) -> &str {
        self.request.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Redirects to the application.
    fn back(&self, arguments: &[(&str, &str)]) -> Answer {
        redirect(303, &self.application(arguments), &[])
    }

    fn application(&self, arguments: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(arguments);
        format!("{}?{}", self.argument("redirect_uri"), query.finish())
    }

    /// Tells the page where to go: its script by JSON, and a plain form by a redirect.
    fn go_on(&self, to: &str, cookies: &[String]) -> Answer {
        if self.request.header("x-authgear-xhr") != Some("true") {
            return redirect(302, to, cookies);
        }
        let document = json!({ "redirect_uri": to, "action": "redirect" });
        let mut answer = Answer::bytes(200, document.to_string().into_bytes());
        answer.headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        answer.headers.extend(with_cookies(cookies));
        answer
    }

    /// A cookie with the attributes of the session cookie.
    fn cookie(&self, name: &str, value: &str, life: &str, same_site: &str) -> String {
        let prefix = &self.deployment.cookie_prefix;
        let domain = self.deployment.cookie_domain.as_ref();
        let domain = domain.map(|domain| format!(" Domain={domain};")).unwrap_or_default();
        let secure = if self.deployment.origin.starts_with("https:") { " Secure;" } else { "" };
        format!(
            "{prefix}{name}={value}; Path=/;{domain} {life}; HttpOnly;{secure} SameSite={same_site}"
        )
    }

    fn login_page(&self, store: &Store) -> Answer {
        let signs_up = self.argument("x_page") != "login";
        let mut page = format!("<h1>{}</h1>", if signs_up { "Sign up" } else { "Log in" });
        page += &format!("<form method=post action=\"{}\">", escape(&self.request.target));
        if let (Some((_, user)), true) = (self.session(store), self.argument("prompt").is_empty()) {
            page += &format!("<button name=user value={user}>Continue as {user}</button>");
        }
        for user in store.names() {
            page += &format!("<button id={user} name=user value={user}>{user}</button>");
        }
        page += "<button id=cancel name=user value=\"\">Cancel</button></form>";
        html(&(page + SCRIPT))
    }

    fn log_in(&self, store: &mut Store) -> Answer {
        let user = form_urlencoded::parse(self.body).find(|(name, _)| name == "user");
        let user = user.map(|(_, value)| value.into_owned()).unwrap_or_default();
        let state = self.argument("state");
        let old = self.session(store).map(|(cookie, _)| cookie.to_owned());
        let Some(session) = store.log_in(&user, self.now) else {
            let to = self.application(&[("error", "access_denied"), ("state", &state)]);
            return self.go_on(&to, &[]);
        };
        // A new login replaces the session.
        old.iter().for_each(|old| store.end(old));
        const LIFE: &str = "Max-Age=31449600";
        let cookies = [
            self.cookie("session", &session, LIFE, "Lax"),
            self.cookie("same_site_strict", "true", LIFE, "Strict"),
        ];
        self.go_on(&format!("{FINISH_PATH}?{}", self.query()), &cookies)
    }

    fn end_session(&self, store: &mut Store) -> Answer {
        let is_strict = self.deployment.cookie(self.request, "same_site_strict").is_some();
        if self.session(store).is_some() && !is_strict {
            let to = format!("{}/logout?{}", self.deployment.origin, self.query());
            return redirect(302, &to, &[]);
        }
        self.end(store)
    }

    /// Ends the session, if there is one, and redirects.
    fn end(&self, store: &mut Store) -> Answer {
        let target = self.argument("post_logout_redirect_uri");
        let is_known = self.client.redirect_uris.contains(&target);
        let settings = format!("{}/settings", self.deployment.origin);
        let (status, target) = if is_known { (303, target) } else { (302, settings) };
        let Some(session) = self.session(store).map(|(cookie, _)| cookie.to_owned()) else {
            return redirect(status, &target, &[]);
        };
        store.end(&session);
        const ENDED: &str = "Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        let cookies = [("session", "Lax"), ("same_site_strict", "Strict")]
            .map(|(name, same_site)| self.cookie(name, "", ENDED, same_site));
        redirect(status, &target, &cookies)
    }
}

fn with_cookies(cookies: &[String]) -> Vec<(String, String)> {
    cookies.iter().map(|cookie| ("Set-Cookie".to_owned(), cookie.clone())).collect()
}

fn redirect(status: u16, to: &str, cookies: &[String]) -> Answer {
    let mut answer = Answer::bytes(status, Vec::new());
    answer.headers.push(("Location".to_owned(), to.to_owned()));
    answer.headers.extend(with_cookies(cookies));
    answer
}

fn html(body: &str) -> Answer {
    let mut answer = Answer::bytes(200, format!("<!doctype html>{body}").into_bytes());
    answer.headers.push(("Content-Type".to_owned(), "text/html; charset=utf-8".to_owned()));
    answer
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;")
}
