//! The report as a page for people.
//!
//! It is complete in itself, and its Content-Security-Policy lets the browser take nothing from
//! anywhere but the same place: script and style are allowed by their hashes. The numbers stand
//! in it as JSON, which its script shows and fetches anew.

use aws_lc_rs::digest::{digest, SHA256};
use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::Report;

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// A page, and what it needs to be allowed.
#[derive(Clone, Debug)]
pub struct Page {
    /// HTML in UTF-8.
    pub html: String,
    /// Value of `Content-Security-Policy`.
    pub policy: String,
}

impl Report {
    /// As a page.
    pub fn page(&self) -> Page {
        // Nothing in JSON but strings can have these, and there the escape means the same.
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

/// As a source of a Content-Security-Policy (CSP level 3, section 2.3.1).
fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}
