//! Servers, locations, projects and upstreams of a configuration.

use std::collections::BTreeMap;

use crate::settings::Settings;
use crate::syntax::{Directive, Place};

/// Directives that hand a request to a backend.
const PASSES: &[&str] =
    &["proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass"];

/// An answer that nginx gives in a rewrite phase, before the access phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The directive without what may be secret, such as `return 403`.
    pub text: String,
    /// True if every request gets it.
    pub always: bool,
    /// Its status.
    pub status: u16,
    /// Its line.
    pub place: Place,
}

/// A place that requests end in: a location, or a part of one.
#[derive(Debug)]
pub struct Spot<'a> {
    /// Name of the place: `/path`, `= /path`, `limit_except GET` and so on.
    pub name: String,
    /// Its line.
    pub place: Place,
    /// Directives in force.
    pub settings: Settings<'a>,
    /// Endpoint of the module that answers.
    pub endpoint: Option<&'a Directive>,
    /// Answers before the access phase.
    pub answers: Vec<Answer>,
    /// Lines that hand the request to a backend.
    pub passes: Vec<&'a Directive>,
    /// True if only internal redirects and subrequests reach it.
    pub internal: bool,
    /// Directives of the place itself.
    pub block: &'a [Directive],
}

impl Spot<'_> {
    /// Returns true if the place has a requirement of its own, and does not inherit one.
    pub fn has_requirement(&self) -> bool {
        named(self.block, "authgear_require").any(|line| line.first() != "off")
    }
}

/// A `server` block.
#[derive(Debug)]
pub struct Server<'a> {
    /// Values of `server_name`.
    pub names: Vec<&'a str>,
    /// Addresses of `listen`.
    pub listens: Vec<&'a str>,
    /// Its line.
    pub place: Place,
    /// Places of the server.
    pub spots: Vec<Spot<'a>>,
    /// Modifier and pattern of each location of the server itself.
    pub locations: Vec<(&'a str, &'a str)>,
}

/// A whole configuration.
#[derive(Debug)]
pub struct Site<'a> {
    /// Directives of the main context.
    pub main: &'a [Directive],
    /// Servers in their order.
    pub servers: Vec<Server<'a>>,
    /// Blocks of `authgear_project` by name.
    pub projects: BTreeMap<&'a str, &'a Directive>,
    /// Addresses of each `upstream`.
    pub upstreams: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Site<'a> {
    /// Reads the structure of a configuration.
    pub fn new(main: &'a [Directive]) -> Self {
        let mut site = Self {
            main,
            servers: Vec::new(),
            projects: BTreeMap::new(),
            upstreams: BTreeMap::new(),
        };
        let top = Settings::default();
        for http in main.iter().filter(|directive| directive.name == "http") {
            let settings = top.within(http.children());
            for directive in http.children() {
                match directive.name.as_str() {
                    "authgear_project" => {
                        site.projects.insert(directive.first(), directive);
                    }
                    "upstream" => {
                        let servers = named(directive.children(), "server");
                        let servers = servers.map(Directive::first).collect();
                        site.upstreams.insert(directive.first(), servers);
                    }
                    "server" => site.servers.push(server(directive, &settings)),
                    _ => {}
                }
            }
        }
        site
    }

    /// All places of all servers.
    pub fn spots(&self) -> impl Iterator<Item = (&Server<'a>, &Spot<'a>)> {
        self.servers.iter().flat_map(|server| server.spots.iter().map(move |spot| (server, spot)))
    }

    /// Names of the backends of a place, for people.
    pub fn backends(&self, spot: &Spot<'a>) -> Vec<String> {
        let backend = |pass: &&Directive| format!("{} {}", pass.name, without_user(pass.first()));
        let mut names: Vec<_> = spot.passes.iter().map(backend).collect();
        names.dedup();
        names
    }

    /// Addresses of the backends of a place, by which equal ones are found.
    pub fn addresses(&self, spot: &Spot<'a>) -> Vec<String> {
        let mut found = Vec::new();
        for pass in &spot.passes {
            let target = without_user(pass.first());
            let (default, authority) = match target.split_once("://") {
                Some((scheme, rest)) => (
                    if matches!(scheme, "https" | "grpcs") { ":443" } else { ":80" },
                    rest.split('/').next().unwrap_or_default(),
                ),
                None => ("", target.as_str()),
            };
            // The path of a socket is part of the address.
            let unix = target.find("unix:").and_then(|at| target.get(at..));
            let socket = unix.map(|unix| unix.splitn(3, ':').take(2).collect::<Vec<_>>().join(":"));
            let authority = socket.as_deref().unwrap_or(authority);
            match self.upstreams.get(authority) {
                Some(servers) => {
                    found.extend(servers.iter().map(|server| with_port(server, ":80")));
                }
                None => found.push(with_port(authority, default)),
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

fn with_port(authority: &str, default: &str) -> String {
    let host_end = authority.rfind(']').unwrap_or(0);
    let has_port = authority.get(host_end..).is_some_and(|rest| rest.contains(':'));
    let default = if has_port || authority.contains('$') { "" } else { default };
    format!("{authority}{default}").to_ascii_lowercase()
}

/// A URL without a user name and password.
fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

fn named<'a>(block: &'a [Directive], name: &'a str) -> impl Iterator<Item = &'a Directive> + 'a {
    block.iter().filter(move |directive| directive.name == name)
}

fn server<'a>(block: &'a Directive, http: &Settings<'a>) -> Server<'a> {
    let inner = block.children();
    let words = |name| named(inner, name).flat_map(|line| &line.arguments).map(String::as_str);
    let mut server = Server {
        names: words("server_name").collect(),
        listens: named(inner, "listen").map(Directive::first).collect(),
        place: block.place.clone(),
        spots: Vec::new(),
        locations: Vec::new(),
    };
    let settings = http.within(inner);
    let answers = answers(inner, "server: ");
    for location in named(inner, "location") {
        let pattern = match location.arguments.as_slice() {
            [modifier, pattern, ..] => (modifier.as_str(), pattern.as_str()),
            _ => split_modifier(location.first()),
        };
        server.locations.push(pattern);
        add_location(&mut server.spots, location, &settings, &answers);
    }
    if !server
        .locations
        .iter()
        .any(|(modifier, path)| matches!(*modifier, "" | "^~") && *path == "/")
    {
        server.spots.push(Spot {
            name: "(no location)".into(),
            place: block.place.clone(),
            settings,
            endpoint: None,
            answers,
            passes: Vec::new(),
            internal: false,
            block: inner,
        });
    }
    server
}

/// `location =/path` and `location ~pattern` need no space.
fn split_modifier(argument: &str) -> (&str, &str) {
    let modifiers = ["^~", "~*", "=", "~"];
    let found = modifiers
        .iter()
        .find_map(|modifier| Some((*modifier, argument.strip_prefix(modifier)?.trim_start())));
    found.unwrap_or(("", argument))
}

fn add_location<'a>(
    spots: &mut Vec<Spot<'a>>,
    location: &'a Directive,
    outer: &Settings<'a>,
    server_answers: &[Answer],
) {
    let inner = location.children();
    let settings = outer.within(inner);
    let own: Vec<_> = inner.iter().filter(|line| PASSES.contains(&line.name.as_str())).collect();
    let of_if = named(inner, "if").flat_map(Directive::children);
    let of_if = of_if.filter(|line| PASSES.contains(&line.name.as_str()));
    let passes: Vec<_> = own.iter().copied().chain(of_if).collect();
    let answers = [server_answers, &answers(inner, "")].concat();
    let name = location.arguments.join(" ");
    let internal = named(inner, "internal").next().is_some() || name.starts_with('@');
    for limit in named(inner, "limit_except") {
        let within = limit.children();
        let own_passes: Vec<_> =
            within.iter().filter(|line| PASSES.contains(&line.name.as_str())).collect();
        spots.push(Spot {
            name: format!("{name} except {}", limit.arguments.join(" ")),
            place: limit.place.clone(),
            settings: settings.within(within),
            endpoint: None,
            answers: answers.clone(),
            passes: if own_passes.is_empty() { passes.clone() } else { own_passes },
            internal,
            block: within,
        });
    }
    for nested in named(inner, "location") {
        add_location(spots, nested, &settings, server_answers);
    }
    spots.push(Spot {
        name,
        place: location.place.clone(),
        settings,
        endpoint: inner
            .iter()
            .find(|line| crate::settings::ENDPOINTS.contains(&line.name.as_str())),
        answers,
        passes,
        internal,
        block: inner,
    });
}

/// Answers of a block in its rewrite phase. Values are left out: they may be secret.
fn answers(block: &[Directive], prefix: &str) -> Vec<Answer> {
    let mut found = Vec::new();
    // What follows a rewrite or an `if` may not be reached.
    let mut conditional = false;
    for line in block {
        match line.name.as_str() {
            "return" => found.push(Answer {
                text: format!("{prefix}{}", returned(line)),
                always: !conditional,
                status: line.first().parse().unwrap_or(302),
                place: line.place.clone(),
            }),
            "rewrite" => {
                conditional = true;
                if let Some(text) = redirected(line) {
                    let text = format!("{prefix}{text}");
                    found.push(Answer {
                        text,
                        always: false,
                        status: 302,
                        place: line.place.clone(),
                    });
                }
            }
            "if" => {
                conditional = true;
                for inner in line.children() {
                    let text = match inner.name.as_str() {
                        "return" => Some(returned(inner)),
                        "rewrite" => redirected(inner),
                        _ => None,
                    };
                    let Some(text) = text else { continue };
                    let text = format!("{prefix}if {}: {text}", condition(line));
                    found.push(Answer {
                        text,
                        always: false,
                        status: inner.first().parse().unwrap_or(302),
                        place: inner.place.clone(),
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// `return` with its status and without its text or URL.
fn returned(line: &Directive) -> String {
    match line.first() {
        status if status.parse::<u16>().is_ok() => format!("return {status}"),
        _ => "return 302".into(),
    }
}

fn redirected(line: &Directive) -> Option<String> {
    let replacement = line.arguments.get(1).map_or("", String::as_str);
    let is_url =
        ["http://", "https://", "$scheme"].iter().any(|begin| replacement.starts_with(begin));
    match line.arguments.get(2).map(String::as_str) {
        Some("permanent") => Some("rewrite 301".into()),
        Some("redirect") => Some("rewrite 302".into()),
        _ => is_url.then(|| "rewrite 302".into()),
    }
}

/// The variable of a condition, without the value that it is compared with.
fn condition(line: &Directive) -> String {
    let first = line.first().trim_start_matches('(').trim_end_matches(')');
    let test = line.arguments.iter().map(|word| word.trim_start_matches('('));
    let variable = test.clone().find(|word| word.starts_with('$'));
    variable.map_or(first, |word| word.trim_end_matches(')')).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    fn conf(text: &str) -> Vec<Directive> {
        parse("f", &format!("http {{ {text} }}")).expect("valid")
    }

    #[test]
    fn places_have_their_backends_and_what_answers_first() {
        let read = conf(
            "upstream app { server 10.0.0.1:80; server 10.0.0.2; } authgear https://a.example; \
             server { server_name a.example b.example; if ($arg_key = s3cret) { return 200; } \
               location / { proxy_pass http://app/x; location /in { return 204 text; } } \
               location = /u { proxy_pass http://unix:/run/a.sock:/x; rewrite ^ https://b/ ; } \
               location =/v { limit_except GET { authgear off; } fastcgi_pass 10.0.0.1; } \
               location ~ ^/x { if ($a) { proxy_pass http://user:pw@h; } } }",
        );
        let site = Site::new(&read);
        let rows: Vec<_> = site
            .spots()
            .map(|(_, spot)| {
                let answers: Vec<_> =
                    spot.answers.iter().map(|a| format!("{}/{}", a.text, a.always)).collect();
                let on = if spot.settings.authgear().is_some() { "on" } else { "off" };
                format!("{} {on} {:?} {}", spot.name, site.addresses(spot), answers.join(","))
            })
            .collect();
        let first = "server: if $arg_key: return 200/false";
        let expected = [
            format!("/in on [] {first},return 204/true"),
            format!("/ on [\"10.0.0.1:80\", \"10.0.0.2:80\"] {first}"),
            format!("= /u on [\"unix:/run/a.sock\"] {first},rewrite 302/false"),
            format!("=/v except GET off [\"10.0.0.1\"] {first}"),
            format!("=/v on [\"10.0.0.1\"] {first}"),
            format!("~ ^/x on [\"h:80\"] {first}"),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_server_without_a_location_for_all_has_a_place_of_its_own() {
        let read = conf("server { location /a { } } server { location / { } }");
        let names: Vec<_> = Site::new(&read).spots().map(|(_, spot)| spot.name.clone()).collect();
        assert_eq!(names, ["/a", "(no location)", "/"]);
    }
}
