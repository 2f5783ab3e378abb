//! Answers of the main server, which serves keys, userinfo and login pages.

use serde_json::{json, Value};

use super::resolver::{Answer, Authgear};
use crate::random;
use crate::recorded::Recorded;

pub(crate) const JWKS_PATH: &str = "/oauth2/jwks";
pub(crate) const USERINFO_PATH: &str = "/oauth2/userinfo";

/// Body of a refused userinfo request.
const INVALID_SESSION: &str =
    "{\"error\":\"invalid_grant\",\"error_description\":\"invalid session\"}\n";

/// Headers of every answer of the main server.
fn page_headers() -> Vec<(String, String)> {
    let nonce: String = random::token().to_ascii_uppercase();
    let policy = format!(
        "script-src 'self' https: 'nonce-{nonce}' 'strict-dynamic'; object-src 'none'; base-uri \
         'none'; frame-ancestors 'none'"
    );
    headers([
        ("Content-Security-Policy", policy),
        ("Set-Cookie", format!("csp_nonce={nonce}; Path=/; HttpOnly")),
        ("Vary", "User-Agent".to_owned()),
        ("X-Frame-Options", "DENY".to_owned()),
    ])
    .chain(super::resolver::common_headers())
    .collect()
}

/// Headers of documents that every origin may read.
fn public_headers() -> impl Iterator<Item = (String, String)> {
    page_headers().into_iter().chain(headers([
        ("Access-Control-Allow-Origin", "*".to_owned()),
        ("Access-Control-Max-Age", "900".to_owned()),
    ]))
}

fn headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, String)>,
) -> impl Iterator<Item = (String, String)> {
    headers
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect::<Vec<_>>()
        .into_iter()
}

impl Authgear<'_> {
    /// A document that every origin may read.
    pub(crate) fn public_document(&self, document: &Value) -> Answer {
        let own =
            public_headers().chain(headers([("Content-Type", "application/json".to_owned())]));
        Answer::bytes(200, format!("{document}\n").into_bytes()).with(own.collect())
    }

    /// The key set, readable by every origin. Asked under another origin, a redirect to the own one.
    pub(crate) fn jwks(&self, request: &Recorded) -> Answer {
        let origin = &self.deployment.origin;
        if self.deployment.request_origin(request) != *origin {
            let location = format!("{origin}{}", request.target);
            let body = format!("<a href=\"{location}\">Temporary Redirect</a>.\n\n");
            let own = headers([
                ("Content-Type", "text/html; charset=utf-8".to_owned()),
                ("Location", location),
            ]);
            return Answer::bytes(307, body.into_bytes())
                .with(public_headers().chain(own).collect());
        }
        let keys: Vec<_> = self.keys.iter().map(|key| key.jwk()).collect();
        self.public_document(&json!({ "keys": keys }))
    }

    /// The user of a token or of a session cookie. Clients of a third party get fewer claims.
    pub(crate) fn userinfo(&self, request: &Recorded) -> Answer {
        let shared = page_headers().into_iter().chain(headers([
            ("Cache-Control", "no-store".to_owned()),
            ("Pragma", "no-cache".to_owned()),
            ("Vary", "Origin".to_owned()),
        ]));
        let document = self.holder(request).and_then(|(credential, user)| {
            self.store.userinfo(user, self.store.client_of(&credential))
        });
        if let Some(document) = document {
            let own = headers([("Content-Type", "application/json".to_owned())]);
            let body = document.as_bytes().to_vec();
            return Answer::bytes(200, body).with(shared.chain(own).collect());
        }
        let challenge = "Bearer error=\"invalid_grant\", error_description=\"invalid session\"";
        let cleared = self
            .deployment
            .cookie(request, "session")
            .map(|_| ("Set-Cookie".to_owned(), self.deployment.cleared_session_cookie(request)));
        let own = headers([("Www-Authenticate", challenge.to_owned())]).chain(cleared);
        let body = INVALID_SESSION.as_bytes().to_vec();
        Answer::bytes(401, body).with(shared.chain(own).collect())
    }
}
