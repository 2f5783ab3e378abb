//! `authgear_protected_resource`: the metadata document of an API (RFC 9728).

use core::ffi::CStr;
use std::rc::Rc;

use authgear::operations::protected_resource::{is_scope, Metadata, ProtectedResource};

use super::arguments::{flag, invalid, set_once, truncated};
use super::location::LocationConf;
use super::operations::BuiltinEndpoint;
use super::MainConf;
use nginx::{self, Arguments, Conf, ConfError, Context, Directive, SourceLocation};

const NAME: &str = "authgear_protected_resource";

/// A resource whose document a location serves.
pub struct ServedResource {
    /// The identifier, which clients also name as audience.
    pub resource: ProtectedResource,
    /// URL of the document, for challenges.
    pub metadata_url: String,
    /// Whether clients must ask for the scopes of OpenID.
    pub openid: bool,
    scopes: Vec<String>,
    name: Option<String>,
    documentation: Option<String>,
    pub(super) place: SourceLocation,
}

/// The endpoint of a [`ServedResource`].
pub struct ResourceEndpoint {
    /// The resource.
    pub served: Rc<ServedResource>,
    /// The document, once the project is known.
    pub document: String,
}

impl ServedResource {
    fn parse(arguments: &[String], place: SourceLocation) -> Result<Self, ConfError> {
        let [url, options @ ..] = arguments else {
            return Err(ConfError::new(format!("\"{NAME}\" names no resource")));
        };
        let resource = ProtectedResource::parse(url).map_err(|error| {
            ConfError::new(format!(
                "invalid resource \"{}\" in \"{NAME}\": it {error}",
                truncated(url)
            ))
        })?;
        let (mut scopes, mut name, mut documentation, mut openid) = (None, None, None, None);
        for option in options {
            let wrong = |right| invalid(NAME, option, right);
            match option.split_once('=') {
                Some(("scopes", list)) => {
                    let list: Vec<String> = list.split(',').map(str::to_owned).collect();
                    if !list.iter().all(|scope| is_scope(scope)) {
                        return Err(wrong("scopes=A,B with scopes of OAuth"));
                    }
                    set_once(&mut scopes, list)?;
                }
                Some(("name", text)) if !text.is_empty() && !text.contains(char::is_control) => {
                    set_once(&mut name, text.to_owned())?;
                }
                Some(("documentation", url)) => {
                    ProtectedResource::parse(url.split('#').next().unwrap_or_default())
                        .map_err(|_| wrong("documentation=URL with https:// or http://"))?;
                    set_once(&mut documentation, url.to_owned())?;
                }
                Some(("openid", value)) => set_once(&mut openid, flag("openid", value)?)?,
                _ => {
                    return Err(wrong(
                        "scopes=A,B, name=TEXT, documentation=URL, openid=on or openid=off",
                    ));
                }
            }
        }
        Ok(Self {
            metadata_url: resource.metadata_url(),
            resource,
            openid: openid.unwrap_or(true),
            scopes: scopes.unwrap_or_default(),
            name,
            documentation,
            place,
        })
    }

    /// Builds the document. `authorization_server` is the issuer of the project.
    pub(super) fn document(&self, authorization_server: &str) -> String {
        let metadata = Metadata {
            scopes: &self.scopes,
            openid: self.openid,
            name: self.name.as_deref(),
            documentation: self.documentation.as_deref(),
        };
        self.resource.document(authorization_server, &metadata)
    }
}

impl LocationConf {
    /// Finds the resource that the location is, by its audiences.
    pub(super) fn merge_resource(&mut self, main: &MainConf) {
        let Some(project) = &self.project else { return };
        let audiences = &self.profile(project).audiences;
        let is_own = |served: &&Rc<ServedResource>| {
            audiences.iter().any(|audience| audience == served.resource.as_str())
        };
        self.resource = main.resources.iter().find(is_own).cloned();
    }

    /// URL for `resource_metadata` in challenges: that of `authgear_resource_metadata`, or else that
    /// of the resource which the location is.
    pub fn resource_metadata(&self) -> Option<&str> {
        match &self.resource_metadata {
            Some(explicit) => explicit.as_deref(),
            None => self.resource.as_ref().map(|served| &*served.metadata_url),
        }
    }

    /// Whether challenges name the scopes of OpenID before those of the location.
    pub fn challenges_with_openid(&self) -> bool {
        self.resource.as_ref().is_some_and(|served| served.openid)
    }
}

/// `authgear_protected_resource RESOURCE [scopes=A,B] [name=...] [documentation=URL] [openid=off]`
pub struct ProtectedResourceDirective;

impl Directive for ProtectedResourceDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_protected_resource";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let place = cf.place();
        let served = ServedResource::parse(arguments.get(1..).unwrap_or_default(), place)?;
        let served = Rc::new(served);
        cf.main::<crate::conf::Authgear>().resources.push(Rc::clone(&served));
        let endpoint = ResourceEndpoint { served, document: String::new() };
        conf.set_endpoint(cf, BuiltinEndpoint::ProtectedResource(Box::new(endpoint)))
    }
}
