//! Directives in force at a level of the configuration: those that it has, and those that it
//! inherits as nginx and the module do.

use std::collections::BTreeMap;

use crate::syntax::Directive;

/// Endpoints of the module, which belong to one location.
pub const ENDPOINTS: &[&str] =
    &["authgear_status", "authgear_purge", "authgear_webhook", "authgear_protected_resource"];

/// Directives of nginx that say who gets in, or name a backend of files.
const OF_NGINX: &[&str] =
    &["satisfy", "auth_basic", "auth_request", "root", "resolver", "error_page"];

/// Directives in force, by name: the lines of the nearest level that has any.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    lines: BTreeMap<&'a str, Vec<&'a Directive>>,
}

impl<'a> Settings<'a> {
    /// The settings within a block of this level.
    pub fn within(&self, block: &'a [Directive]) -> Self {
        let mut own: BTreeMap<&str, Vec<&Directive>> = BTreeMap::new();
        for directive in block {
            let name = directive.name.as_str();
            let counts = name.starts_with("authgear") && !ENDPOINTS.contains(&name);
            if counts || OF_NGINX.contains(&name) {
                own.entry(name).or_default().push(directive);
            }
            // `allow` and `deny` are one list.
            if matches!(name, "allow" | "deny") {
                own.entry("allow").or_default().push(directive);
            }
        }
        let mut lines = self.lines.clone();
        // A login of a lower level replaces one of either kind.
        for (own_kind, other) in [
            ("authgear_login", "authgear_login_redirect"),
            ("authgear_login_redirect", "authgear_login"),
        ] {
            if own.contains_key(own_kind) {
                lines.remove(other);
            }
        }
        lines.extend(own);
        Self { lines }
    }

    /// Lines of a directive that are in force.
    pub fn all(&self, name: &str) -> &[&'a Directive] {
        self.lines.get(name).map_or(&[], Vec::as_slice)
    }

    /// The line of a directive that is in force.
    pub fn line(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).first().copied()
    }

    /// The first argument of a directive, or a default.
    pub fn value(&self, name: &str, default: &'a str) -> &'a str {
        self.line(name).map_or(default, Directive::first)
    }

    /// Returns true if a directive is `on`.
    pub fn is_on(&self, name: &str, default: &'a str) -> bool {
        self.value(name, default) == "on"
    }

    /// The line of `authgear`, unless it is off.
    pub fn authgear(&self) -> Option<&'a Directive> {
        self.line("authgear").filter(|line| line.first() != "off")
    }

    /// Lines of `authgear_require` in force; none where `authgear` or the requirement is off.
    pub fn require(&self) -> &[&'a Directive] {
        let lines = self.all("authgear_require");
        let off = lines.first().is_some_and(|line| line.first() == "off");
        if off || self.authgear().is_none() {
            &[]
        } else {
            lines
        }
    }

    /// Returns true if a login is offered.
    pub fn has_login(&self) -> bool {
        let on = |name| self.line(name).is_some_and(|line| line.first() != "off");
        on("authgear_login") || on("authgear_login_redirect")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    #[test]
    fn the_lower_level_replaces_all_lines_of_a_directive() {
        let text = "authgear https://a.example; authgear_require session; authgear_mode jwt; \
                    authgear_login on; authgear_status; allow all; deny all; \
                    lower { authgear_require role=a; authgear_require role=b; \
                            authgear_login_redirect /login; deny all; } \
                    off { authgear off; } open { authgear_require off; }";
        let read = parse("f", text).expect("valid");
        let block = |name: &str| {
            read.iter().find(|directive| directive.name == name).expect("a block").children()
        };
        let top = Settings::default().within(&read);
        let lower = top.within(block("lower"));
        assert_eq!(lower.value("authgear_mode", "resolver"), "jwt");
        let first: Vec<_> = lower.require().iter().map(|line| line.first()).collect();
        assert_eq!(first, ["role=a", "role=b"]);
        assert_eq!(lower.all("allow").len(), 1);
        assert!(lower.line("authgear_login").is_none() && lower.has_login());
        assert!(lower.line("authgear_status").is_none());
        assert!(top.within(block("off")).require().is_empty());
        assert!(top.within(block("open")).require().is_empty());
        assert!(!top.require().is_empty());
    }
}
