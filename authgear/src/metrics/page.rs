//! The report as an HTML page.
//!
//! The page is self-contained. The Content-Security-Policy allows its script and style by hash, and
//! requests to the same origin only. The numbers are embedded as JSON; the script shows and
//! refreshes them.

use aws_lc_rs::digest::{digest, SHA256};
use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::Report;

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// A page and its Content-Security-Policy.
#[derive(Clone, Debug)]
pub struct Page {
    /// HTML in UTF-8.
    pub html: String,
    /// Value of `Content-Security-Policy`.
    pub policy: String,
}

impl Report {
    /// Formats the report as a page.
    pub fn page(&self) -> Page {
        // In JSON these occur in strings only, where the escapes have the same meaning.
        let data = self.json().replace('<', "\\u003c").replace('>', "\\u003e");
        let html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>Authgear for nginx</title>\n\
             <link rel=\"icon\" href=\"data:,\">\n\
             <style>{STYLE}</style>\n</head>\n<body>\n\
             <main id=\"page\"></main>\n\
             <noscript><p>The numbers are shown by a script. They are here too: \
             <a href=\"?format=json\">JSON</a>, \
             <a href=\"?format=prometheus\">Prometheus</a>.</p></noscript>\n\
             <script type=\"application/json\" id=\"data\">{data}</script>\n\
             <script>{SCRIPT}</script>\n</body>\n</html>\n"
        );
        let (script, style) = (hash(SCRIPT), hash(STYLE));
        let policy = format!(
            "default-src 'none'; script-src {script}; style-src {style}; img-src data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Page { html, policy }
    }
}

/// Returns the hash source of a text for a Content-Security-Policy (CSP level 3, section 2.3.1).
fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}
