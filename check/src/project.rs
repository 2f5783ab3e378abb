//! Projects as the module reads them: the settings of `authgear_project`, and `authgear URL`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use authgear::credentials::CookieNames;
use authgear::resolver::endpoint::{self, Endpoint, Scheme, Url};
use authgear::token::Algorithm;

use crate::finding::{Problem, Report};
use crate::settings::Settings;
use crate::site::{Server, Site, Spot};
use crate::syntax::{Directive, Place};

/// Where the resolver is asked.
#[derive(Clone, Debug)]
pub enum ResolverAddress {
    /// A URL.
    Url(Url),
    /// URI of a location of the same server.
    Location(String),
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum Keys {
    /// A URL.
    Url(Url),
    /// A file.
    File(PathBuf),
}

/// Settings of a project that are checked.
#[derive(Clone, Debug)]
pub struct Project {
    /// Name, or the URL of `authgear URL`.
    pub name: String,
    /// Its line.
    pub place: Place,
    /// Public origin.
    pub endpoint: Endpoint,
    /// Resolver, and whether `resolver_url` names it.
    pub resolver: ResolverAddress,
    /// True if `resolver_url` is set.
    pub has_resolver_url: bool,
    /// Keys of tokens.
    pub keys: Keys,
    /// True if `jwks_url` is set.
    pub has_jwks_url: bool,
    /// Name in the certificate of `resolver_url` and `jwks_url`.
    pub ssl_name: Option<String>,
    /// True if certificates are verified.
    pub ssl_verify: bool,
    /// Trusted certificates, besides those of the system.
    pub trusted: Option<PathBuf>,
    /// Prefix of Authgear's cookies.
    pub cookie_prefix: String,
    /// Longest time for one address.
    pub connect_timeout: Duration,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Accepted difference of clocks.
    pub leeway: Duration,
    /// Accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// True if `audience` is set.
    pub has_audience: bool,
}

/// A project, and the places that use it.
#[derive(Debug)]
pub struct Use<'a> {
    /// The project.
    pub project: Project,
    /// Places where it decides.
    pub places: Vec<(&'a Server<'a>, &'a Spot<'a>)>,
}

impl Use<'_> {
    /// Returns true if the resolver is asked anywhere.
    pub fn asks_resolver(&self) -> bool {
        self.places.iter().any(|(_, spot)| mode(&spot.settings) != "jwt")
    }

    /// Returns true if tokens are verified anywhere.
    pub fn verifies_tokens(&self) -> bool {
        self.project.has_audience
            || self
                .places
                .iter()
                .any(|(_, spot)| mode(&spot.settings) != "resolver" || has_audience(&spot.settings))
    }

    /// Name servers of the `resolver` directive that applies, as `address` or `address:port`.
    pub fn name_servers(&self) -> Vec<&str> {
        let line = self.places.iter().find_map(|(_, spot)| spot.settings.line("resolver"));
        let words = line.map(|line| line.arguments.as_slice()).unwrap_or_default();
        words.iter().map(String::as_str).filter(|word| !word.contains('=')).collect()
    }
}

/// Value of `authgear_mode`.
pub fn mode<'a>(settings: &Settings<'a>) -> &'a str {
    settings.value("authgear_mode", "resolver")
}

/// Returns true if `authgear_audience` names audiences.
pub fn has_audience(settings: &Settings<'_>) -> bool {
    settings.line("authgear_audience").is_some_and(|line| line.first() != "project")
}

/// Projects that are used somewhere. Wrong settings go to the report.
pub fn used<'a>(site: &'a Site<'a>, folder: &Path, report: &mut Report) -> Vec<Use<'a>> {
    let mut found: Vec<Use<'a>> = Vec::new();
    let mut bad: Vec<&str> = Vec::new();
    for (server, spot) in site.spots() {
        let Some(line) = spot.settings.authgear() else { continue };
        let name = line.first();
        // The signature of an event, and nobody, authenticates these.
        let endpoint = spot.endpoint.map(|endpoint| endpoint.name.as_str());
        if matches!(endpoint, Some("authgear_webhook" | "authgear_protected_resource"))
            || bad.contains(&name)
        {
            continue;
        }
        if let Some(known) = found.iter_mut().find(|known| known.project.name == name) {
            known.places.push((server, spot));
            continue;
        }
        let read = if name.contains("://") {
            Endpoint::parse(name)
                .map(|endpoint| Project::of(name, &line.place, endpoint))
                .map_err(|error| (line.place.clone(), format!("the URL of \"authgear\" {error}")))
        } else if let Some(block) = site.projects.get(name) {
            read(name, block, folder)
        } else {
            let what = format!("no authgear_project is named \"{name}\"");
            report.add(Problem::UnknownProject, Some(&line.place), what);
            bad.push(name);
            continue;
        };
        match read {
            Ok(project) => found.push(Use { project, places: vec![(server, spot)] }),
            Err((place, what)) => {
                report.add(Problem::BadSetting, Some(&place), what);
                bad.push(name);
            }
        }
    }
    found
}

impl Project {
    fn of(name: &str, place: &Place, endpoint: Endpoint) -> Self {
        Self {
            name: name.to_owned(),
            place: place.clone(),
            resolver: ResolverAddress::Url(endpoint.resolver_url()),
            has_resolver_url: false,
            keys: Keys::Url(endpoint.jwks_url()),
            has_jwks_url: false,
            endpoint,
            ssl_name: None,
            ssl_verify: true,
            trusted: None,
            cookie_prefix: String::new(),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            leeway: Duration::from_secs(5),
            algorithms: vec![Algorithm::default()],
            has_audience: false,
        }
    }

    /// The name in the certificate at `url`: `ssl_name` is for the URLs that are set.
    pub fn certificate_name<'a>(&'a self, url: &'a Url, is_set: bool) -> &'a str {
        self.ssl_name.as_deref().filter(|_| is_set).unwrap_or(url.host())
    }

    /// Returns true if any URL is https.
    pub fn uses_tls(&self) -> bool {
        let resolver = match &self.resolver {
            ResolverAddress::Url(url) => Some(url),
            ResolverAddress::Location(_) => None,
        };
        let keys = match &self.keys {
            Keys::Url(url) => Some(url),
            Keys::File(_) => None,
        };
        resolver.into_iter().chain(keys).any(|url| url.scheme() == Scheme::Https)
    }
}

fn read(name: &str, block: &Directive, folder: &Path) -> Result<Project, (Place, String)> {
    let lines = block.children();
    let endpoint = lines.iter().find(|line| line.name == "endpoint");
    let no_endpoint =
        || (block.place.clone(), format!("authgear_project \"{name}\" has no \"endpoint\""));
    let endpoint = endpoint.ok_or_else(no_endpoint)?;
    let parsed = Endpoint::parse(endpoint.first());
    let parsed =
        parsed.map_err(|error| (endpoint.place.clone(), format!("\"endpoint\" {error}")))?;
    let mut project = Project::of(name, &block.place, parsed);
    for line in lines {
        setting(&mut project, line, folder)
            .map_err(|what| (line.place.clone(), format!("\"{}\" {what}", line.name)))?;
    }
    Ok(project)
}

fn setting(project: &mut Project, line: &Directive, folder: &Path) -> Result<(), String> {
    let value = line.first();
    let url = || Url::parse(value).map_err(|error| error.to_string());
    match line.name.as_str() {
        "resolver_url" => {
            project.has_resolver_url = true;
            project.resolver = match value.starts_with('/') {
                true => ResolverAddress::Location(value.to_owned()),
                false => ResolverAddress::Url(url()?),
            };
        }
        "jwks_url" => {
            project.has_jwks_url = true;
            project.keys = Keys::Url(url()?);
        }
        "jwks_file" => project.keys = Keys::File(folder.join(value)),
        "ssl_name" => {
            let name = endpoint::server_name(value).map_err(|error| error.to_string())?;
            project.ssl_name = Some(name);
        }
        "ssl_verify" => project.ssl_verify = value != "off",
        "ssl_trusted_certificate" => project.trusted = Some(folder.join(value)),
        "cookie_prefix" => {
            CookieNames::new(value.as_bytes()).map_err(|error| error.to_string())?;
            project.cookie_prefix = value.to_owned();
        }
        "connect_timeout" => project.connect_timeout = time(value)?,
        "timeout" => project.timeout = time(value)?,
        "leeway" => project.leeway = time(value)?,
        "audience" => project.has_audience = true,
        "algorithms" => {
            let parse = |name: &String| {
                Algorithm::parse(name).ok_or_else(|| "has an unknown algorithm".to_owned())
            };
            project.algorithms = line.arguments.iter().map(parse).collect::<Result<_, _>>()?;
        }
        _ => {}
    }
    Ok(())
}

/// A time of nginx: `5s`, `500ms`, `1m 30s` or seconds.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "is no time".to_owned();
    let mut total = 0u64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end).ok_or_else(wrong)?;
        let milliseconds = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        total = number
            .checked_mul(milliseconds)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    #[test]
    fn times_are_those_of_nginx() {
        for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("7", 7000)] {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert!(time("5x").is_err() && time("s").is_err());
        assert!(time("99999999999999999999d").is_err() && time("9999999999999999999d").is_err());
    }

    #[test]
    fn projects_are_found_where_they_are_used() {
        let conf = parse(
            "f",
            "http { resolver 10.0.0.1:53 10.0.0.2 valid=5s; \
             authgear_project a { endpoint https://a.example; jwks_url http://10.0.0.3/jwks; \
               ssl_trusted_certificate ca.pem; leeway 1s; algorithms ES256 RS256; } \
             authgear_project unused { endpoint https://b.example; } \
             authgear_project bad { endpoint https://b.example/path; } \
             server { authgear a; location / { } location /j { authgear_mode jwt; } \
                      location /b { authgear bad; } location /n { authgear none; } \
                      location /u { authgear https://u.example; } location /o { authgear off; } \
                      location = /hook { authgear_webhook f; } } }",
        )
        .expect("valid");
        let mut report = Report::default();
        let site = Site::new(&conf);
        let uses = used(&site, Path::new("/etc/nginx"), &mut report);
        let places = |at: usize| {
            let names = uses[at].places.iter().map(|(_, spot)| spot.name.as_str());
            names.collect::<Vec<_>>()
        };
        assert_eq!(places(0), ["/", "/j"]);
        assert_eq!(places(1), ["/u"]);
        assert_eq!(uses.len(), 2);
        assert_eq!(uses[0].project.trusted.as_deref(), Some(Path::new("/etc/nginx/ca.pem")));
        assert_eq!(uses[0].name_servers(), ["10.0.0.1:53", "10.0.0.2"]);
        assert!(uses[0].verifies_tokens() && uses[0].asks_resolver());
        assert!(!uses[1].verifies_tokens());
        let words: Vec<_> = report.findings.iter().map(|finding| finding.problem.word()).collect();
        assert_eq!(words, ["bad_setting", "unknown_project"]);
    }
}
