//! Findings and their words.

use serde::Serialize;

use crate::syntax::Place;

macro_rules! problems {
    ($($variant:ident $word:literal: $why:literal; $remedy:literal)*) => {
        /// A kind of finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Problem {
            $(#[doc = $why] $variant,)*
        }

        impl Problem {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word that names the kind in output and documentation.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// Why it matters.
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why),* }
            }

            /// The remedy.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),* }
            }
        }
    };
}

problems! {
    AnsweredBeforeAccess "answered_before_access":
        "nginx answers \"return\" before the access phase: everybody gets this answer.";
        "Serve the answer in another way, as by \"try_files\", or set \"authgear_require off\" there."
    BadCertificates "bad_certificates":
        "Without them no connection to Authgear is trusted.";
        "Write the certificates of the authority to the file, in PEM."
    BadKeySet "bad_key_set":
        "nginx does not start, or rejects all tokens.";
        "Write the answer of the endpoint's /oauth2/jwks to the file, and see \"algorithms\"."
    BadSetting "bad_setting":
        "nginx does not start with this configuration.";
        "Correct the line; docs/directives.md has its form."
    BadWebhookSecret "bad_webhook_secret":
        "No event of Authgear is accepted: disabled users stay logged in.";
        "Write the webhook secret that Authgear's portal shows to the file, and nothing else."
    CertificateNotVerified "certificate_not_verified":
        "Anybody on the way can answer as Authgear, and read all credentials.";
        "Remove \"ssl_verify off\"; name the authority in \"ssl_trusted_certificate\"."
    ClockSkew "clock_skew":
        "Tokens are rejected as expired or not yet valid, and \"max_age\" is measured wrongly.";
        "Synchronise the clock of this machine (NTP), or that of Authgear's."
    ConnectFailed "connect_failed":
        "Nobody gets in while Authgear cannot be reached.";
        "Check that Authgear runs there, and the firewall; the address may be wrong."
    CookieDomain "cookie_domain":
        "Browsers do not send Authgear's session cookie to this server: nobody gets in with a session.";
        "Serve the site and Authgear under one parent domain, with \"http.cookie_domain\" of Authgear; or use tokens and \"authgear_mode jwt\"."
    CookiePrefix "cookie_prefix":
        "The session cookie has another name than the module reads: nobody gets in with a session.";
        "Set \"cookie_prefix\" to \"http.cookie_prefix\" of Authgear."
    CredentialsInClear "credentials_in_clear":
        "Anybody on the way can read tokens and session cookies, and use them.";
        "Use https for this URL."
    DiscoveryFailed "discovery_failed":
        "The endpoint may not be that of an Authgear project.";
        "Set \"endpoint\" to the origin that Authgear's portal shows."
    DnsFailed "dns_failed":
        "Nobody gets in while the host has no address.";
        "Correct the host, or the name servers of \"resolver\"."
    IssuerMismatch "issuer_mismatch":
        "Tokens are rejected with token_issuer, and the resolver knows no JWT.";
        "Set \"endpoint\" to the issuer, which is the public origin of the project."
    JwksAlgorithm "jwks_algorithm":
        "All tokens are rejected with token_algorithm.";
        "Set \"algorithms\" to those of the published keys."
    JwksFailed "jwks_failed":
        "No token can be verified.";
        "Correct \"jwks_url\". An internal address needs an Authgear with TRUST_PROXY=true."
    JwksUnusable "jwks_unusable":
        "No token can be verified.";
        "Correct \"jwks_url\": it must give Authgear's key set."
    LoginWithoutRequire "login_without_require":
        "Nobody is led to the login: without a requirement no request is denied.";
        "Add \"authgear_require session\" where users must log in."
    ModuleNotLoaded "module_not_loaded":
        "nginx does not start: it does not know the directives.";
        "Add \"load_module modules/ngx_http_authgear_module.so;\" at the top of nginx.conf."
    ModuleSignature "module_signature":
        "nginx refuses the module: \"is not binary compatible\".";
        "Install the module that was built for this nginx, or build it with the nginx's options."
    ModuleUnreadable "module_unreadable":
        "nginx does not start without the module.";
        "Correct the path of \"load_module\", or install the module."
    ModuleVersion "module_version":
        "nginx refuses a module of another version.";
        "Install the module that was built for this version of nginx."
    NoHttpAnswer "no_http_answer":
        "Nobody gets in without answers of Authgear.";
        "Check that the URL is that of Authgear, and its scheme: http and https have different ports."
    NotAResolver "not_a_resolver":
        "Every user counts as anonymous: nobody gets in, and no session is passed on.";
        "Set \"resolver_url\" to Authgear's resolver: it ends with /_resolver/resolve or /resolve. A \"cookie_prefix\" that is wrong looks the same."
    NotUsed "not_used":
        "Nothing in this configuration is protected by Authgear.";
        "Add \"authgear\" and \"authgear_require\" where users must log in, or check another file."
    PrivateKeyInKeySet "private_key_in_key_set":
        "Whoever reads the file can sign tokens that count everywhere. The module skips the key.";
        "Write only public keys to the file, and replace the key that was in it."
    RelativeLogin "relative_login":
        "Browsers look for the login page below the page that they asked for.";
        "Write the whole URL, or a path that begins with \"/\"."
    ResolverLocationMissing "resolver_location_missing":
        "Look-ups, with credentials, go to another location, such as \"location /\" and its backend.";
        "Add the location, with \"internal\", to this server."
    ResolverStatus "resolver_status":
        "Every look-up fails, and nobody gets in.";
        "Correct \"resolver_url\" and \"endpoint\". 404 means that the path or the project's host is unknown."
    ResolverUrlWithoutPath "resolver_url_without_path":
        "Authgear's resolver answers at /_resolver/resolve and /resolve only.";
        "Add the path to \"resolver_url\"."
    SecretReadableByAll "secret_readable_by_all":
        "Every user of this machine can forge events of Authgear.";
        "Run chmod o-r on the file: nginx reads it as root."
    TlsFailed "tls_failed":
        "Nobody gets in: the module closes a connection whose certificate it does not trust.";
        "Name the authority in \"ssl_trusted_certificate\", the certificate's name in \"ssl_name\", or renew the certificate."
    TwoHandlers "two_handlers":
        "nginx uses one of them, which depends on the order of the lines.";
        "Give the endpoint a location of its own."
    UnknownProject "unknown_project":
        "nginx does not start with this configuration.";
        "Define the authgear_project, or correct its name."
    UnknownVariable "unknown_variable":
        "The variable is always empty.";
        "Correct its name; docs/directives.md lists the variables."
    WithoutAuthgear "without_authgear":
        "The line has no effect, and the location is open.";
        "Add \"authgear\" and \"authgear_require\", or remove the line."
    UnreadableFile "unreadable_file":
        "nginx does not start without the file.";
        "Correct the path, or make the file readable to the user who starts nginx."
    WritableByOthers "writable_by_others":
        "Whoever can write this file decides whom nginx trusts.";
        "Run chmod go-w on the file."
}

/// A fault that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub problem: Problem,
    /// The fault, in words.
    pub what: String,
    /// The line that leads there, if one does.
    pub place: Option<Place>,
}

/// Findings, and what could not be checked.
#[derive(Debug, Default)]
pub struct Report {
    /// Findings, in the order of their discovery.
    pub findings: Vec<Finding>,
    /// Checks that were not made, with the reason.
    pub unchecked: Vec<String>,
}

impl Report {
    /// Adds a finding, once.
    pub fn add(&mut self, problem: Problem, place: Option<&Place>, what: impl Into<String>) {
        let finding = Finding { problem, what: what.into(), place: place.cloned() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Notes a check that was not made, once.
    pub fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.unchecked.contains(&what) {
            self.unchecked.push(what);
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { problem, what, place } in &self.findings {
            let place = place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
            text.push_str(&format!(
                "{}: {what}{place}\n  why: {}\n  what to do: {}\n",
                problem.word(),
                problem.why(),
                problem.remedy()
            ));
        }
        for what in &self.unchecked {
            text.push_str(&format!("not checked: {what}\n"));
        }
        match self.findings.len() {
            0 => text.push_str("no findings\n"),
            1 => text.push_str("1 finding\n"),
            n => text.push_str(&format!("{n} findings\n")),
        }
        text
    }

    /// The report for programs, as JSON.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            id: &'a str,
            what: &'a str,
            why: &'a str,
            remedy: &'a str,
            file: Option<&'a str>,
            line: Option<usize>,
        }
        #[derive(Serialize)]
        struct Document<'a> {
            findings: Vec<Line<'a>>,
            not_checked: &'a [String],
        }
        fn line(finding: &Finding) -> Line<'_> {
            Line {
                id: finding.problem.word(),
                what: &finding.what,
                why: finding.problem.why(),
                remedy: finding.problem.remedy(),
                file: finding.place.as_ref().map(|place| &*place.file),
                line: finding.place.as_ref().map(|place| place.line),
            }
        }
        let findings = self.findings.iter().map(line).collect();
        let document = Document { findings, not_checked: &self.unchecked };
        serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
    }
}

/// Text from outside for a message: printable ASCII, and not more than a line of it.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars().take(LONGEST).map(printable).collect()
}
