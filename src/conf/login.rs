//! Directives of login and logout: `authgear_login`, `authgear_pages`, `authgear_public_origin`.

use core::ffi::CStr;
use std::rc::Rc;

use authgear::credentials::LookupMode;
use authgear::policy::Condition;
use authgear::resolver::endpoint::{Endpoint, Url};

use super::arguments::{first, flag, invalid, set_flag, set_once};
use super::location::LocationConf;
use super::project::Project;
use super::ServerConf;
use nginx::{self, Arguments, Conf, ConfError, Context, Directive, SourceLocation};

/// Paths of `authgear_login on`, and the position of the directive.
#[derive(Debug, PartialEq, Eq)]
pub struct LoginPaths {
    /// Path to which Authgear redirects after a login.
    pub callback: String,
    /// Path that logs out.
    pub logout: String,
    /// Path that leads to Authgear's page to sign up.
    pub signup: String,
    /// Where Authgear returns to after a logout: a path of this site, or a URL.
    pub post_logout: Rc<str>,
    place: SourceLocation,
}

/// Purpose of a path of [`LoginPaths`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginEndpoint {
    /// See [`LoginPaths::callback`].
    Callback,
    /// See [`LoginPaths::logout`].
    Logout,
    /// See [`LoginPaths::signup`].
    Signup,
}

/// A path of a server that the module answers before any location.
pub struct LoginRoute {
    /// The path.
    pub path: String,
    /// Its purpose.
    pub endpoint: LoginEndpoint,
    /// See [`LoginPaths::post_logout`].
    pub post_logout: Rc<str>,
    /// The project.
    pub project: Rc<Project>,
    /// Settings for look-ups: those of the first location with `authgear_login on`.
    pub lookup: Rc<LocationConf>,
}

impl LoginPaths {
    fn all(&self) -> [(&str, LoginEndpoint); 3] {
        [
            (&self.callback, LoginEndpoint::Callback),
            (&self.logout, LoginEndpoint::Logout),
            (&self.signup, LoginEndpoint::Signup),
        ]
    }
}

impl LocationConf {
    /// Inherits `authgear_login` and `authgear_login_redirect`: of the two, that of the lower level
    /// applies.
    pub(super) fn merge_login(&mut self, parent: &Self) {
        let (own_login, own_redirect) = (self.login.is_some(), self.login_redirect.is_some());
        if !own_login {
            let is_replaced = matches!(self.login_redirect, Some(Some(_)));
            self.login = if is_replaced { Some(None) } else { parent.login.clone() };
        }
        if !own_redirect {
            let is_replaced = own_login && matches!(self.login, Some(Some(_)));
            self.login_redirect =
                if is_replaced { Some(None) } else { parent.login_redirect.clone() };
        }
    }

    /// Checks `authgear_login` against the other settings of the location, and gives the server its
    /// paths.
    pub(super) fn add_login(&self, server: &mut ServerConf) -> Result<(), ConfError> {
        let (Some(paths), Some(project)) = (self.login(), &self.project) else { return Ok(()) };
        let wrong = |message: String| ConfError::At(paths.place.clone(), message);
        if project.client_id.is_none() {
            return Err(wrong(format!(
                "\"authgear_login\" for \"{}\" without \"client_id\": set it in its \
                 \"authgear_project\"",
                project.name
            )));
        }
        if self.mode() == LookupMode::Jwt {
            return Err(wrong(
                "\"authgear_login\" in \"authgear_mode jwt\", which ignores the cookies of a login: \
                 use \"resolver\" or \"auto\""
                    .to_owned(),
            ));
        }
        let mut conditions = self.require().iter().flat_map(|line| &line.conditions);
        let amr = conditions.any(|condition| matches!(condition, Condition::Amr(_)));
        if amr && self.mode() == LookupMode::Resolver {
            return Err(wrong(
                "\"authgear_login\" with a condition amr= in \"authgear_mode resolver\": Authgear's \
                 resolver tells no methods, so no login would meet it"
                    .to_owned(),
            ));
        }
        let mut lookup = None;
        for (path, endpoint) in paths.all() {
            match server.logins.iter().find(|route| route.path == path) {
                None => {
                    let lookup = lookup.get_or_insert_with(|| Rc::new(self.for_lookups()));
                    server.logins.push(LoginRoute {
                        path: path.to_owned(),
                        endpoint,
                        post_logout: Rc::clone(&paths.post_logout),
                        project: Rc::clone(project),
                        lookup: Rc::clone(lookup),
                    });
                }
                Some(route) if route.project.id != project.id => {
                    return Err(wrong(format!(
                        "\"authgear_login\" of \"{}\" and of \"{}\" have the same path \"{path}\" \
                         in a server: name them apart by callback=, logout= and signup=",
                        route.project.name, project.name
                    )));
                }
                Some(route) if route.endpoint != endpoint => {
                    return Err(wrong(format!(
                        "\"authgear_login\" has the path \"{path}\" for two purposes in a server"
                    )));
                }
                Some(route) if route.post_logout != paths.post_logout => {
                    return Err(wrong(format!(
                        "\"authgear_login\" has post_logout={} and post_logout={} for the same \
                         path \"{path}\" in a server: use one, or name the paths apart",
                        route.post_logout, paths.post_logout
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// `authgear_login on | off [callback=PATH] [logout=PATH] [signup=PATH] [post_logout=PATH | URL]`
pub struct LoginDirective;

impl Directive for LoginDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_login";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        const NAME: &str = "authgear_login";
        let is_on = flag(NAME, &first(cf))?;
        let mut paths = LoginPaths {
            callback: "/_authgear/callback".to_owned(),
            logout: "/_authgear/logout".to_owned(),
            signup: "/_authgear/signup".to_owned(),
            post_logout: "/".into(),
            place: cf.place(),
        };
        for argument in cf.arguments().iter().skip(2) {
            let right = "callback=, logout=, signup= or post_logout= with a path, or post_logout= with a URL";
            let Some((name, path)) = argument.split_once('=').filter(|_| is_on) else {
                return Err(invalid(NAME, argument, right));
            };
            if name == "post_logout" && Url::parse(path).is_ok() {
                paths.post_logout = path.into();
                continue;
            }
            // The path is compared with nginx's, which is decoded, and is a part of a URL.
            let is_byte = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
            if !path.starts_with('/') || path.contains("//") || !path.bytes().all(is_byte) {
                return Err(invalid(NAME, argument, right));
            }
            match name {
                "post_logout" => paths.post_logout = path.into(),
                "callback" => path.clone_into(&mut paths.callback),
                "logout" => path.clone_into(&mut paths.logout),
                "signup" => path.clone_into(&mut paths.signup),
                _ => return Err(invalid(NAME, argument, right)),
            }
        }
        let [callback, logout, signup] = paths.all().map(|(path, _)| path);
        if callback == logout || callback == signup || logout == signup {
            return Err(ConfError::new("\"authgear_login\" has the same path for two purposes"));
        }
        set_once(&mut conf.login, is_on.then(|| Rc::new(paths)))?;
        conf.check_login_redirect()
    }
}

impl LocationConf {
    /// Refuses both ways to log in at one level.
    pub(super) fn check_login_redirect(&self) -> Result<(), ConfError> {
        match (&self.login, &self.login_redirect) {
            (Some(Some(_)), Some(Some(_))) => Err(ConfError::new(
                "\"authgear_login\" and \"authgear_login_redirect\" at the same level: use one",
            )),
            _ => Ok(()),
        }
    }
}

/// `authgear_pages on | off`
pub struct PagesDirective;

impl Directive for PagesDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_pages";
    const CONTEXT: Context = Context::Location;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.pages)
    }
}

/// `authgear_public_origin URL`
pub struct PublicOriginDirective;

impl Directive for PublicOriginDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_public_origin";
    const CONTEXT: Context = Context::HttpServer;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let value = first(cf);
        let right = "a scheme and a host, such as https://www.example.com";
        let origin = Endpoint::parse(&value)
            .map_err(|_| invalid("authgear_public_origin", &value, right))?;
        set_once(&mut conf.public_origin, origin.origin().into())
    }
}
