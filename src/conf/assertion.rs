//! `authgear_assertion`: the identity as a signed JWT for the backend, and
//! `authgear_assertion_keys`: the public keys.

use core::ffi::CStr;
use core::time::Duration;
use std::rc::Rc;

use authgear::assertion::{Issuer, SigningKey, MAX_KEY_FILE};
use authgear::identity::SiteHeader;

use super::arguments::{invalid, read_secret_file, set_once, truncated};
use super::location::LocationConf;
use super::operations::BuiltinEndpoint;
use super::{Id, MainConf, ServerConf};
use nginx::{self, Arguments, Conf, ConfError, Context, Directive, SourceLocation};

const NAME: &str = "authgear_assertion";
const DEFAULT_HEADER: &str = "x-authgear-assertion";
const DEFAULT_TTL: Duration = Duration::from_secs(60);
const LEAST_TTL: Duration = Duration::from_secs(2);
const MOST_TTL: Duration = Duration::from_secs(3600);

/// The arguments of `authgear_assertion`.
pub(super) struct AssertionSettings {
    keys: Vec<Rc<SigningKey>>,
    audience: String,
    issuer: Option<String>,
    ttl: Duration,
    header: SiteHeader,
    place: SourceLocation,
}

/// Assertions of a location.
#[derive(Clone)]
pub struct AssertionUse {
    /// Their issuer.
    pub signer: Rc<Signer>,
    /// Name of the request header. Shared, so that a comparison begins with the addresses.
    pub header: Rc<SiteHeader>,
}

/// An issuer. Locations with the same assertions have the same one.
pub struct Signer {
    /// Identity in worker processes.
    pub id: Id,
    /// The issuer.
    pub issuer: Issuer,
}

/// `authgear_assertion_keys`
pub struct KeysEndpoint {
    /// The JWK set, once the issuer is known.
    pub document: String,
    place: SourceLocation,
}

impl AssertionSettings {
    fn parse(cf: &mut Conf<'_>) -> Result<Self, ConfError> {
        const MOST_KEYS: usize = 2;
        let right =
            "one or two key files, and then audience=URI, issuer=URL, ttl=TIME, header=NAME";
        let (mut keys, mut audience, mut issuer) = (Vec::<Rc<SigningKey>>::new(), None, None);
        let (mut ttl, mut header) = (None, None);
        for argument in cf.arguments().iter().skip(1) {
            let wrong = |right| invalid(NAME, argument, right);
            match argument.split_once('=') {
                Some(("audience", value)) => {
                    let value = text(value).ok_or_else(|| {
                        wrong("audience=URI, such as audience=https://orders.internal")
                    })?;
                    set_once(&mut audience, value)?;
                }
                Some(("issuer", value)) => {
                    let value = text(value).ok_or_else(|| {
                        wrong("issuer=URL, such as issuer=https://www.example.com")
                    })?;
                    set_once(&mut issuer, value)?;
                }
                Some(("ttl", value)) => {
                    let time = Conf::parse_time(value);
                    let time = time.filter(|time| (LEAST_TTL..=MOST_TTL).contains(time));
                    set_once(&mut ttl, time.ok_or_else(|| wrong("ttl= with 2s to 1h"))?)?;
                }
                Some(("header", name)) => {
                    let name = SiteHeader::of_assertion(name).map_err(|error| {
                        let name = truncated(name);
                        ConfError::new(format!("invalid header \"{name}\" in \"{NAME}\": {error}"))
                    })?;
                    set_once(&mut header, name)?;
                }
                _ if audience.is_none() && keys.len() < MOST_KEYS => {
                    let key = Rc::new(read_key(cf, argument)?);
                    if keys.iter().any(|other| other.kid() == key.kid()) {
                        return Err(ConfError::new(format!("\"{NAME}\" has one key twice")));
                    }
                    keys.push(key);
                }
                _ => return Err(wrong(right)),
            }
        }
        if keys.is_empty() {
            return Err(ConfError::new(format!("\"{NAME}\" names no key file")));
        }
        let Some(audience) = audience else {
            return Err(ConfError::new(format!(
                "\"{NAME}\" has no audience=URI: without it the assertion for one backend would \
                 be good for another"
            )));
        };
        let header = match header {
            Some(header) => header,
            None => SiteHeader::of_assertion(DEFAULT_HEADER)
                .map_err(|error| ConfError::new(error.to_string()))?,
        };
        let (ttl, place) = (ttl.unwrap_or(DEFAULT_TTL), cf.place());
        Ok(Self { keys, audience, issuer, ttl, header, place })
    }
}

/// A text for `iss` or `aud`.
fn text(value: &str) -> Option<String> {
    let is_text = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
    is_text.then(|| value.to_owned())
}

fn read_key(cf: &mut Conf<'_>, path: &str) -> Result<SigningKey, ConfError> {
    let (name, text) = read_secret_file(cf, "key", path, MAX_KEY_FILE)?;
    SigningKey::from_pem(&text)
        .map_err(|error| ConfError::new(format!("invalid key file \"{name}\": it {error}")))
}

impl LocationConf {
    /// Finds the issuer of the assertions in force, once project and public origin are known.
    pub(super) fn merge_assertion(
        &mut self,
        main: &mut MainConf,
        server: &mut ServerConf,
        parent: &Self,
    ) -> Result<(), ConfError> {
        if self.assertion_line.is_none() {
            self.assertion_line = parent.assertion_line.clone();
        }
        let Some(Some(line)) = &self.assertion_line else { return Ok(()) };
        server.own_headers(core::iter::once(&line.header));
        let name = line.header.as_str();
        if self.headers().iter().any(|other| other.header.is_alias(name.as_bytes())) {
            let message = format!("\"{NAME}\" and \"authgear_header\" both name \"{name}\"");
            return Err(ConfError::At(line.place.clone(), message));
        }
        let is_needed = self.project.is_some()
            || matches!(self.endpoint, Some(BuiltinEndpoint::AssertionKeys(_)));
        let name = line.issuer.as_deref().or(self.public_origin());
        let name = match name {
            Some(name) => name.to_owned(),
            // Another level may have an origin. Where there is none, nothing is signed.
            None if !is_needed => return Ok(()),
            None => {
                let message = format!(
                    "\"{NAME}\" has no issuer: add issuer=URL, or \"authgear_public_origin\" to \
                     the server"
                );
                return Err(ConfError::At(line.place.clone(), message));
            }
        };
        let (keys, audience, ttl) = (line.keys.clone(), line.audience.clone(), line.ttl);
        let issuer = Issuer { keys, name, audience, ttl };
        let header = Rc::new(line.header.clone());
        self.assertion = Some(Box::new(AssertionUse { signer: main.signer(issuer), header }));
        Ok(())
    }

    /// Assertions in force.
    pub fn assertion(&self) -> Option<&AssertionUse> {
        self.assertion.as_deref()
    }
}

impl KeysEndpoint {
    /// Makes the document, once the issuer is known.
    pub(super) fn complete(&mut self, used: Option<&AssertionUse>) -> Result<(), ConfError> {
        let Some(used) = used else {
            let message = "\"authgear_assertion_keys\" where no \"authgear_assertion\" is in force";
            return Err(ConfError::At(self.place.clone(), message.into()));
        };
        self.document = used.signer.issuer.key_set();
        Ok(())
    }
}

impl MainConf {
    /// The signer with this issuer.
    fn signer(&mut self, issuer: Issuer) -> Rc<Signer> {
        if let Some(signer) = self.signers.iter().find(|own| own.issuer.is_same(&issuer)) {
            return Rc::clone(signer);
        }
        let signer = Rc::new(Signer { id: Id::new(), issuer });
        self.signers.push(Rc::clone(&signer));
        signer
    }
}

/// `authgear_assertion KEYFILE [KEYFILE] audience=URI [issuer=URL] [ttl=TIME] [header=NAME] | off`
pub struct AssertionDirective;

impl Directive for AssertionDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_assertion";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let line = match arguments.get(1..) {
            Some([off]) if off == "off" => None,
            _ => Some(Rc::new(AssertionSettings::parse(cf)?)),
        };
        set_once(&mut conf.assertion_line, line)
    }
}

/// `authgear_assertion_keys`
pub struct AssertionKeysDirective;

impl Directive for AssertionKeysDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_assertion_keys";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::None;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let endpoint = KeysEndpoint { document: String::new(), place: cf.place() };
        conf.set_endpoint(cf, BuiltinEndpoint::AssertionKeys(Box::new(endpoint)))
    }
}
