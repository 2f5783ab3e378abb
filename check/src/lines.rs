//! Lines that nginx accepts and that do not do what they seem to.

use crate::finding::{shown, Problem, Report};
use crate::site::{Site, Spot};
use crate::syntax::Directive;

/// Names of Authgear's identity headers, as in the variables `$x_authgear_NAME`.
const IDENTITY: &[&str] = &[
    "session_valid",
    "user_id",
    "user_anonymous",
    "user_verified",
    "user_roles",
    "session_acr",
    "session_amr",
    "session_authenticated_at",
    "user_can_reauthenticate",
];

/// Directives that decide nothing where `authgear` is off.
const OF_VERDICTS: &[&str] = &[
    "authgear_cache",
    "authgear_cache_valid",
    "authgear_cache_use_stale",
    "authgear_login",
    "authgear_login_redirect",
    "authgear_mode",
    "authgear_on_error",
];

/// Checks all lines.
pub fn check(site: &Site<'_>, report: &mut Report) {
    check_variables(site.main, report);
    for (_, spot) in site.spots() {
        check_endpoint(spot, report);
        check_without_authgear(spot, report);
    }
    check_logins(site, report);
}

fn check_variables(block: &[Directive], report: &mut Report) {
    const BEGIN: &str = "$x_authgear_";
    for line in block {
        for word in &line.arguments {
            let word = word.replace("${", "$");
            for rest in word.split(BEGIN).skip(1) {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
                if !IDENTITY.contains(&name.to_ascii_lowercase().as_str()) {
                    let what = format!("Authgear sends nothing for \"{BEGIN}{}\"", shown(&name));
                    report.add(Problem::UnknownVariable, Some(&line.place), what);
                }
            }
        }
        check_variables(line.children(), report);
    }
}

/// One location has one handler of its content.
fn check_endpoint(spot: &Spot<'_>, report: &mut Report) {
    if let (Some(endpoint), Some(pass)) = (spot.endpoint, spot.passes.first()) {
        let what = format!(
            "\"{}\" and \"{}\" are in one location, {}",
            endpoint.name, pass.name, spot.name
        );
        report.add(Problem::TwoHandlers, Some(&endpoint.place), what);
    }
}

fn check_without_authgear(spot: &Spot<'_>, report: &mut Report) {
    if spot.settings.authgear().is_some() || spot.endpoint.is_some() {
        return;
    }
    let counts =
        |line: &&Directive| OF_VERDICTS.contains(&line.name.as_str()) && line.first() != "off";
    let is_server = spot.name == "(no location)";
    for line in spot.block.iter().filter(|line| !is_server && counts(line)) {
        // A nested location may enable it.
        if !spot.block.iter().any(|inner| inner.name == "location") {
            let what = format!("\"{}\" where \"authgear\" is off", line.name);
            report.add(Problem::WithoutAuthgear, Some(&line.place), what);
        }
    }
}

fn check_logins(site: &Site<'_>, report: &mut Report) {
    let login = |spot: &Spot<'_>| spot.settings.line("authgear_login_redirect").cloned();
    let lines = site.spots().filter(|(_, spot)| spot.settings.authgear().is_some());
    for line in lines.filter_map(|(_, spot)| login(spot)).filter(|line| line.first() != "off") {
        let url = line.first();
        if !["http://", "https://", "/", "$"].iter().any(|begin| url.starts_with(begin)) {
            let what = "the URL of \"authgear_login_redirect\" has neither scheme nor \"/\"";
            report.add(Problem::RelativeLogin, Some(&line.place), what);
        }
        let in_force = |spot: &Spot<'_>| login(spot).is_some_and(|own| own.place == line.place);
        let used =
            site.spots().any(|(_, spot)| in_force(spot) && !spot.settings.require().is_empty());
        if !used {
            let what = "\"authgear_login_redirect\" where nothing requires a session";
            report.add(Problem::LoginWithoutRequire, Some(&line.place), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    #[track_caller]
    fn finds(lines: &str, expected: &[&str]) {
        let text = format!("http {{ server {{ {lines} }} }}");
        let conf = parse("f", &text).expect("valid");
        let mut report = Report::default();
        check(&Site::new(&conf), &mut report);
        let words: Vec<_> = report.findings.iter().map(|finding| finding.problem.word()).collect();
        assert_eq!(words, expected, "{lines}");
    }

    #[test]
    fn lines_that_have_no_effect_are_found() {
        finds("location / { add_header A $x_authgear_usr_id; }", &["unknown_variable"]);
        finds("location / { add_header A \"${x_authgear_user_id}x\"; }", &[]);
        finds("location / { authgear_status; proxy_pass http://a; }", &["two_handlers"]);
        finds("location / { authgear_status; }", &[]);
        finds("location / { authgear_cache v; }", &["without_authgear"]);
        finds("authgear_cache v; location / { authgear a; }", &[]);
        finds("location / { authgear_cache v; location /a { authgear a; } }", &[]);
        let on = "authgear a; authgear_login_redirect";
        finds(&format!("{on} https://a/; location / {{ }}"), &["login_without_require"]);
        finds(&format!("{on} https://a/; location / {{ authgear_require session; }}"), &[]);
        finds(&format!("{on} login; authgear_require session;"), &["relative_login"]);
        finds(&format!("{on} off; location / {{ }}"), &[]);
    }
}
