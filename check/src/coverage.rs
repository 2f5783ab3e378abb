//! The coverage report: who gets in at each place, and what the place is.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::project::mode;
use crate::settings::Settings;
use crate::site::{Server, Site, Spot};

/// One place of a server.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Names of the server, or its addresses.
    pub server: String,
    /// Name of the place.
    pub location: String,
    /// File of the line.
    pub file: String,
    /// Line.
    pub line: usize,
    /// True if anybody is kept out, by the module or by nginx's own modules.
    pub protected: bool,
    /// Clients who get in.
    pub who: String,
    /// Value of `authgear`, or `off`.
    pub project: String,
    /// Mode, if a project decides.
    pub mode: Option<String>,
    /// Zone of verdicts, or `off`.
    pub cache: Option<String>,
    /// Policy in an outage: `deny` or `anonymous`.
    pub on_error: Option<String>,
    /// True if the backend receives tokens and session cookies of clients.
    pub credentials_forwarded: bool,
    /// The directive that answers before the access phase.
    pub before_access: Vec<String>,
    /// Backends, or what answers in their place.
    pub backend: Vec<String>,
    /// Protected places with the same backend, if this one is not protected.
    pub shares_backend_with: Vec<String>,
}

/// Rows of all places, in the order of the configuration.
pub fn rows(site: &Site<'_>) -> Vec<Row> {
    let places: Vec<_> = site.spots().collect();
    let mut rows: Vec<_> = places.iter().map(|(server, spot)| row(site, server, spot)).collect();
    let backends: Vec<BTreeSet<String>> = places
        .iter()
        .map(|(_, spot)| match spot.endpoint {
            Some(_) => BTreeSet::new(),
            None if spot.answers.iter().any(|answer| answer.always) => BTreeSet::new(),
            None => site.addresses(spot).into_iter().collect(),
        })
        .collect();
    for at in 0..rows.len() {
        let shared: Vec<_> = rows
            .iter()
            .zip(&backends)
            .filter(|(other, theirs)| {
                let own = backends.get(at);
                other.protected && own.is_some_and(|own| !own.is_disjoint(theirs))
            })
            .map(|(other, _)| format!("{} {}", other.server, other.location))
            .collect();
        if let Some(row) = rows.get_mut(at).filter(|row| !row.protected && row.who != NOBODY) {
            row.shares_backend_with = shared;
        }
    }
    rows
}

/// Entrance where only nginx itself leads.
const NOBODY: &str = "internal requests only";

fn row(site: &Site<'_>, server: &Server<'_>, spot: &Spot<'_>) -> Row {
    let settings = &spot.settings;
    let endpoint = spot.endpoint.map(|line| line.name.as_str());
    let project = settings
        .authgear()
        .filter(|_| !matches!(endpoint, Some("authgear_webhook" | "authgear_protected_resource")));
    let (protected, who) = who(spot);
    let value = |name, default| project.map(|_| settings.value(name, default).to_owned());
    let backend = match endpoint {
        Some(name) => vec![name.to_owned()],
        None if spot.answers.iter().any(|answer| answer.always) => Vec::new(),
        None if spot.passes.is_empty() => match settings.line("root") {
            Some(root) => vec![format!("files of {}", root.first())],
            None => vec!["files".to_owned()],
        },
        None => site.backends(spot),
    };
    Row {
        server: match server.names.as_slice() {
            [] => format!("listen {}", server.listens.join(" ")),
            names => names.join(" "),
        },
        location: spot.name.clone(),
        file: spot.place.file.to_string(),
        line: spot.place.line,
        protected,
        who,
        project: project.map_or("off", |line| line.first()).to_owned(),
        mode: project.map(|_| mode(settings).to_owned()),
        cache: value("authgear_cache", "off"),
        on_error: value("authgear_on_error", "deny"),
        credentials_forwarded: project.is_none()
            || settings.is_on("authgear_forward_credentials", "on"),
        before_access: spot.answers.iter().map(|answer| answer.text.clone()).collect(),
        backend,
        shares_backend_with: Vec::new(),
    }
}

/// Returns true if anybody is kept out of a place, and who gets in.
fn who(spot: &Spot<'_>) -> (bool, String) {
    let settings = &spot.settings;
    if let Some(answer) = spot.answers.iter().find(|answer| answer.always) {
        return (false, format!("everybody: \"{}\" answers before access", answer.text));
    }
    match spot.endpoint.map(|line| (line.name.as_str(), line.first())) {
        Some(("authgear_webhook", _)) => return (true, "Authgear, by its signature".into()),
        Some(("authgear_protected_resource", _)) => {
            return (false, "everybody: a public document".into())
        }
        Some(("authgear_purge", "self")) => {
            return (true, "each user, for the own verdicts".into())
        }
        _ => {}
    }
    if spot.internal {
        return (false, NOBODY.into());
    }
    let others = of_nginx(settings);
    let is_restricted = !others.is_empty();
    let admitted = match is_restricted {
        true => others.join(" and "),
        false => "everybody".into(),
    };
    let conditions = conditions(settings);
    if settings.authgear().is_none() {
        return (is_restricted, admitted);
    }
    if conditions.is_empty() {
        return (is_restricted, format!("{admitted}, with the identity if there is one"));
    }
    if settings.is_on("authgear_dry_run", "off") {
        return (is_restricted, format!("{admitted}: dry run of {conditions}"));
    }
    let any = settings.value("satisfy", "all") == "any" && is_restricted;
    let word = if any { "or" } else { "and" };
    let rest = match others.is_empty() {
        true => String::new(),
        false => format!(" {word} {}", others.join(&format!(" {word} "))),
    };
    let preflight = match settings.value("authgear_preflight", "check") {
        "pass" => "; CORS preflights of everybody",
        _ => "",
    };
    (true, format!("{conditions}{rest}{preflight}"))
}

/// Conditions of all lines of `authgear_require`, or nothing.
fn conditions(settings: &Settings<'_>) -> String {
    let line = |words: &[String]| {
        let words: Vec<_> =
            words.iter().map(String::as_str).filter(|word| !word.starts_with("error=")).collect();
        match words.split_first() {
            Some((&"any", rest)) => rest.join(" or "),
            _ => words.join(" and "),
        }
    };
    let lines: Vec<_> = settings.require().iter().map(|own| line(&own.arguments)).collect();
    match lines.as_slice() {
        [one] => one.clone(),
        lines => {
            let part = |line: &String| match line.contains(" or ") {
                true => format!("({line})"),
                false => line.clone(),
            };
            lines.iter().map(part).collect::<Vec<_>>().join(" and ")
        }
    }
}

/// Further conditions, of modules of nginx.
fn of_nginx(settings: &Settings<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let rules = settings.all("allow");
    if rules.iter().any(|rule| rule.name == "deny") {
        let rule = |rule: &&crate::syntax::Directive| format!("{} {}", rule.name, rule.first());
        found.push(rules.iter().map(rule).collect::<Vec<_>>().join(" "));
    }
    for name in ["auth_basic", "auth_request"] {
        if settings.line(name).is_some_and(|line| line.first() != "off") {
            found.push(name.to_owned());
        }
    }
    found
}

/// Form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Text,
    /// A table for a review.
    Markdown,
    /// For programs.
    Json,
}

/// Writes the report.
pub fn report(rows: &[Row], format: Format) -> String {
    match format {
        Format::Json => serde_json::to_string_pretty(rows).unwrap_or_default() + "\n",
        Format::Markdown => markdown(rows),
        Format::Text => text(rows),
    }
}

/// Cells of a row after server and location, with the names of their columns.
fn cells(row: &Row) -> [(&'static str, String); 9] {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let list = |values: &[String]| match values {
        [] => "-".to_owned(),
        values => values.join("; "),
    };
    [
        ("who gets in", row.who.clone()),
        ("project", row.project.clone()),
        ("mode", or_none(&row.mode)),
        ("cache", or_none(&row.cache)),
        ("on error", or_none(&row.on_error)),
        ("credentials forwarded", if row.credentials_forwarded { "yes" } else { "no" }.into()),
        ("before access", list(&row.before_access)),
        ("backend", list(&row.backend)),
        (
            "note",
            match row.shares_backend_with.as_slice() {
                [] => String::new(),
                others => format!("UNPROTECTED: same backend as {}", others.join("; ")),
            },
        ),
    ]
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut server = None;
    for row in rows {
        if server != Some(&row.server) {
            text.push_str(&format!("server {}\n", row.server));
            server = Some(&row.server);
        }
        let mark = if row.shares_backend_with.is_empty() { ' ' } else { '!' };
        text.push_str(&format!("{mark} location {}  ({}:{})\n", row.location, row.file, row.line));
        for (name, value) in cells(row) {
            if !value.is_empty() && value != "-" {
                text.push_str(&format!("    {name}: {value}\n"));
            }
        }
    }
    text
}

fn markdown(rows: &[Row]) -> String {
    let escaped = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
        text.replace('\n', " ").replace('`', "\\`")
    };
    let names: Vec<_> =
        rows.first().map(|row| cells(row).map(|(name, _)| name)).into_iter().flatten().collect();
    let mut text = format!("| server | location | {} | line |\n", names.join(" | "));
    text.push_str(&format!("|{}\n", "---|".repeat(names.len() + 3)));
    for row in rows {
        let values: Vec<_> = cells(row).iter().map(|(_, value)| escaped(value)).collect();
        text.push_str(&format!(
            "| {} | {} | {} | {}:{} |\n",
            escaped(&row.server),
            escaped(&row.location),
            values.join(" | "),
            escaped(&row.file),
            row.line
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    fn coverage(text: &str) -> Vec<Row> {
        rows(&Site::new(&parse("f", &format!("http {{ {text} }}")).expect("valid")))
    }

    #[track_caller]
    fn admits(lines: &str, expected: &str) {
        let text = format!("authgear https://a.example; server {{ location / {{ {lines} }} }}");
        assert_eq!(coverage(&text)[0].who, expected, "{lines}");
    }

    #[test]
    fn who_gets_in_is_what_the_lines_say() {
        admits("", "everybody, with the identity if there is one");
        admits("authgear off;", "everybody");
        admits("authgear off; allow 10.0.0.1; deny all;", "allow 10.0.0.1 deny all");
        admits("authgear_require session;", "session");
        admits("authgear_require session role=a,b error=403;", "session and role=a,b");
        admits("authgear_require any role=a verified;", "role=a or verified");
        admits(
            "authgear_require any role=a verified; authgear_require session;",
            "(role=a or verified) and session",
        );
        admits("authgear_require off;", "everybody, with the identity if there is one");
        admits("authgear_require session; auth_basic x;", "session and auth_basic");
        admits("satisfy any; authgear_require session; auth_basic x;", "session or auth_basic");
        admits("authgear_require session; authgear_dry_run on;", "everybody: dry run of session");
        admits(
            "authgear_require session; authgear_preflight pass;",
            "session; CORS preflights of everybody",
        );
        admits(
            "authgear_require session; return 200;",
            "everybody: \"return 200\" answers before access",
        );
        admits("authgear_require session; internal;", "internal requests only");
        admits("authgear_require session; authgear_webhook f;", "Authgear, by its signature");
        admits(
            "authgear_require session; authgear_protected_resource https://a;",
            "everybody: a public document",
        );
        admits("authgear_require role=a; authgear_purge admin;", "role=a");
    }

    #[test]
    fn an_unprotected_place_with_the_backend_of_a_protected_one_is_marked() {
        let rows = coverage(
            "upstream app { server 10.0.0.1:80; } authgear https://a.example; \
             server { server_name a.example; \
               location / { authgear_require session; proxy_pass http://app; } \
               location /open { proxy_pass http://10.0.0.1/open; } \
               location /other { proxy_pass http://10.0.0.2; } \
               location /inner { internal; proxy_pass http://app; } \
               location /text { proxy_pass http://app; return 204; } }",
        );
        let marked: Vec<_> = rows.iter().map(|row| row.shares_backend_with.join(",")).collect();
        assert_eq!(marked, ["", "a.example /", "", "", ""]);
    }

    #[test]
    fn settings_are_those_in_force() {
        let rows = coverage(
            "authgear a; authgear_cache v; authgear_mode auto; \
             server { authgear_on_error anonymous; location / { authgear_forward_credentials off; \
             authgear_cache off; } location /x { authgear off; } }",
        );
        let first = &rows[0];
        assert_eq!(first.mode.as_deref(), Some("auto"));
        assert_eq!(first.cache.as_deref(), Some("off"));
        assert_eq!(first.on_error.as_deref(), Some("anonymous"));
        assert!(!first.credentials_forwarded && rows[1].credentials_forwarded);
        assert_eq!((rows[1].mode.as_deref(), rows[1].project.as_str()), (None, "off"));
    }

    #[test]
    fn each_form_has_all_places_and_no_value_of_a_condition() {
        let rows = coverage(
            "server { location ~ ^/(a|b) { if ($http_x_key = s3cret) { return 403 s3cret; } \
             return 302 https://a.example/?token=s3cret; } }",
        );
        for format in [Format::Text, Format::Markdown, Format::Json] {
            let text = report(&rows, format);
            assert!(text.contains("^/(a"), "{text}");
            assert!(text.contains("$http_x_key"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
        assert!(report(&rows, Format::Markdown).contains("^/(a\\|b)"));
    }
}
