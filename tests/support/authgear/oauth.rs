//! The OAuth endpoints of the main server: discovery, dynamic registration, login, and tokens for
//! the clients that registered themselves.
//!
//! The login page answers by itself: its user is [`USER`]. A code holds the authorization request
//! that it is for, so nothing is stored.

use std::collections::HashMap;

use aws_lc_rs::digest::{digest, SHA256};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{json, Value};

use super::main_server::USERINFO_PATH;
use super::resolver::{Answer, Authgear};
use super::token::Token;
use super::users::User;
use super::versions::Version;
use crate::random;
use crate::recorded::Recorded;

/// Id of the user who logs in.
const USER: &str = "alice";

/// Prefix of the ids of clients that registered themselves.
const DYNAMIC_CLIENT: &str = "dcrc_";

type Form = HashMap<String, String>;

/// A protected resource of the project, and its scopes.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) uri: String,
    pub(crate) scopes: Vec<String>,
}

/// An error that Authgear reports, with its description.
type OAuthError = (&'static str, &'static str);

impl Authgear<'_> {
    /// Answers a request to one of the endpoints.
    pub(crate) fn oauth(&self, request: &Recorded, body: &[u8]) -> Option<Answer> {
        let form = || form(&String::from_utf8_lossy(body));
        let query = || form_of_target(&request.target);
        match (request.method.as_str(), request.path()) {
            (
                "GET",
                "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration",
            ) => Some(self.discovery()),
            ("POST", "/oauth2/register") => Some(register(body)),
            ("GET", "/oauth2/authorize") => Some(self.authorize(&query())),
            ("POST", "/oauth2/token") => Some(self.token(&form())),
            _ => None,
        }
    }

    /// The metadata of OpenID Connect, and of RFC 8414: one document.
    fn discovery(&self) -> Answer {
        let at = |path: &str| format!("{}{path}", self.deployment.origin);
        let mut document = json!({
            "authorization_endpoint": at("/oauth2/authorize"),
            "claims_supported": [
                "iss", "aud", "iat", "exp", "sub", "email", "email_verified", "phone_number",
                "phone_number_verified", "preferred_username", "family_name", "given_name",
                "middle_name", "name", "nickname", "picture", "profile", "website", "gender",
                "birthdate", "zoneinfo", "locale", "address", "updated_at",
            ],
            "code_challenge_methods_supported": ["S256"],
            "dpop_signing_alg_values_supported": ["ES256", "RS256"],
            "end_session_endpoint": at("/oauth2/end_session"),
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "issuer": self.deployment.origin,
            "jwks_uri": at(super::resolver::JWKS_PATH),
            "response_modes_supported": ["query", "fragment", "form_post"],
            "response_types_supported":
                ["code", "urn:authgear:params:oauth:response-type:settings-action", "none"],
            "revocation_endpoint": at("/oauth2/revoke"),
            "scopes_supported": [
                "offline_access", "device_sso", "openid", "profile", "email", "address", "phone",
                "https://authgear.com/scopes/full-access",
                "https://authgear.com/scopes/full-userinfo",
                "https://authgear.com/scopes/pre-authenticated-url",
            ],
            "subject_types_supported": ["public"],
            "token_endpoint": at("/oauth2/token"),
            "token_endpoint_auth_methods_supported":
                ["none", "client_secret_post", "client_secret_basic"],
            "userinfo_endpoint": at(USERINFO_PATH),
        });
        if self.registers_clients() {
            document["registration_endpoint"] = at("/oauth2/register").into();
        }
        self.public_document(&document)
    }

    /// Returns true if clients may register themselves.
    fn registers_clients(&self) -> bool {
        !self.deployment.resources.is_empty() || self.deployment.version == Version::November2026
    }

    /// Logs the user in, and redirects with a code, or with an error.
    fn authorize(&self, query: &Form) -> Answer {
        let value = |name: &str| query.get(name).map_or("", String::as_str);
        let (client, target) = (value("client_id"), value("redirect_uri"));
        if !client.starts_with(DYNAMIC_CLIENT) || target.is_empty() {
            return Answer::text(400, "invalid client or redirect URI");
        }
        let mut back = match self.authorization_error(query) {
            Some((error, description)) => {
                vec![("error", error.to_owned()), ("error_description", description.to_owned())]
            }
            None => vec![("code", BASE64URL_NOPAD.encode(json!(query).to_string().as_bytes()))],
        };
        back.push(("state", value("state").to_owned()));
        let back: Vec<String> =
            back.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let separator = if target.contains('?') { '&' } else { '?' };
        let location = format!("{target}{separator}{}", back.join("&"));
        Answer::bytes(303, Vec::new()).with(vec![("Location".to_owned(), location)])
    }

    fn authorization_error(&self, query: &Form) -> Option<OAuthError> {
        let value = |name: &str| query.get(name).map_or("", String::as_str);
        if value("response_type") != "code" || value("code_challenge").is_empty() {
            return Some(("invalid_request", "a code with PKCE is supported"));
        }
        let scopes: Vec<&str> = value("scope").split(' ').collect();
        if !scopes.contains(&"openid") {
            return Some(("invalid_scope", "must request 'openid' scope"));
        }
        let mut known = vec!["openid", "offline_access"];
        if let Some(uri) = query.get("resource") {
            let Some(resource) = self.deployment.resources.iter().find(|own| own.uri == *uri)
            else {
                return Some(("invalid_target", "resource is not registered"));
            };
            known.extend(resource.scopes.iter().map(String::as_str));
        }
        let is_known = scopes.iter().all(|scope| known.contains(scope));
        (!is_known).then_some(("invalid_scope", "scope is not allowed"))
    }

    /// Exchanges a code. Without a resource the token is opaque.
    fn token(&self, form: &Form) -> Answer {
        let value = |name: &str| form.get(name).map_or("", String::as_str);
        let code = BASE64URL_NOPAD.decode(value("code").as_bytes()).ok();
        let request: Option<Form> = code.and_then(|code| serde_json::from_slice(&code).ok());
        let challenge =
            BASE64URL_NOPAD.encode(digest(&SHA256, value("code_verifier").as_bytes()).as_ref());
        let same = |request: &Form| {
            request.get("code_challenge") == Some(&challenge)
                && ["client_id", "redirect_uri", "resource"]
                    .iter()
                    .all(|name| request.get(*name) == form.get(*name))
        };
        let Some(request) = request.filter(same) else {
            return answer(400, &json!({ "error": "invalid_grant" }));
        };
        let scope = request.get("scope").map_or("", String::as_str);
        let opaque = random::token();
        let token = match request.get("resource") {
            None => opaque,
            Some(resource) => {
                let key = self.keys[0].clone();
                let user = User::named(USER);
                Token::access(key, &self.deployment.origin, &user, &opaque)
                    .claim("aud", vec![resource.as_str()])
                    .claim("scope", scope)
                    .claim("client_id", value("client_id"))
                    .sign()
            }
        };
        let document = json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": 1800,
            "refresh_token": random::session(),
            "scope": scope,
        });
        answer(200, &document)
    }
}

/// Registers a client, without a secret.
fn register(body: &[u8]) -> Answer {
    let Ok(Value::Object(mut client)) = serde_json::from_slice(body) else {
        return answer(400, &json!({ "error": "invalid_client_metadata" }));
    };
    client.insert("client_id".to_owned(), format!("{DYNAMIC_CLIENT}{}", random::token()).into());
    client.retain(|name, _| {
        ["client_id", "client_name", "redirect_uris", "grant_types", "response_types"]
            .contains(&name.as_str())
    });
    client.insert("token_endpoint_auth_method".to_owned(), "none".into());
    answer(201, &Value::Object(client))
}

fn answer(status: u16, document: &Value) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Answer::bytes(status, document.to_string().into_bytes()).with(headers.into())
}

fn form_of_target(target: &str) -> Form {
    form(target.split_once('?').map_or("", |(_, query)| query))
}

/// Reads `application/x-www-form-urlencoded`.
fn form(text: &str) -> Form {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

fn escaped(value: &str) -> String {
    form_urlencoded::byte_serialize(value.as_bytes()).collect()
}
