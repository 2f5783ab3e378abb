//! Users and their credentials.

use std::collections::HashMap;

use super::versions::ClientKind;
use crate::crypto::sha256;
use crate::random;

/// A user of the fake's project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: String,
    pub anonymous: bool,
    pub verified: bool,
    pub can_reauthenticate: bool,
    pub roles: Vec<String>,
    pub amr: Vec<String>,
    /// Unix seconds; 0 when unknown.
    pub authenticated_at: i64,
    pub disabled: bool,
}

impl User {
    /// A verified user whose id is the name, without roles and (as in production) without amr.
    pub fn named(name: &str) -> Self {
        Self {
            id: name.to_owned(),
            anonymous: false,
            verified: true,
            can_reauthenticate: true,
            roles: Vec::new(),
            amr: Vec::new(),
            authenticated_at: 1_700_000_000,
            disabled: false,
        }
    }

    pub fn roles(mut self, roles: &[&str]) -> Self {
        self.roles = roles.iter().map(|&role| role.to_owned()).collect();
        self
    }

    pub fn amr(mut self, amr: &[&str]) -> Self {
        self.amr = amr.iter().map(|&method| method.to_owned()).collect();
        self
    }

    /// The headers of a valid session of this user, in the order of Go, which sorts them.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![("X-Authgear-Session-Amr", self.amr.join(" "))];
        if self.authenticated_at != 0 {
            let at = self.authenticated_at.to_string();
            headers.push(("X-Authgear-Session-Authenticated-At", at));
        }
        headers.extend([
            ("X-Authgear-Session-Valid", "true".to_owned()),
            ("X-Authgear-User-Anonymous", self.anonymous.to_string()),
            ("X-Authgear-User-Can-Reauthenticate", self.can_reauthenticate.to_string()),
            ("X-Authgear-User-Id", self.id.clone()),
        ]);
        if !self.roles.is_empty() {
            headers.push(("X-Authgear-User-Roles", self.roles.join(",")));
        }
        headers.push(("X-Authgear-User-Verified", self.verified.to_string()));
        headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The contents of Authgear's databases.
#[derive(Debug, Default)]
pub(crate) struct Store {
    users: HashMap<String, User>,
    /// Grants by the hash of the opaque token, which is also a JWT's `jti`; the value is the user's
    /// id.
    access_grants: HashMap<String, String>,
    /// The clients of these grants, where they are not first-party ones.
    clients: HashMap<String, ClientKind>,
    /// Documents of the userinfo endpoint, by user, for first-party clients and for others.
    userinfo: HashMap<String, [String; 2]>,
    app_sessions: HashMap<String, String>,
    sessions: HashMap<String, String>,
}

impl Store {
    pub(crate) fn put(&mut self, user: User) {
        self.users.insert(user.id.clone(), user);
    }

    /// Adds the user of a new credential, without undoing the test's changes.
    fn know(&mut self, user: &User) -> String {
        self.users.entry(user.id.clone()).or_insert_with(|| user.clone());
        user.id.clone()
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.users.remove(id);
    }

    pub(crate) fn change(&mut self, id: &str, change: impl FnOnce(&mut User)) {
        change(self.users.get_mut(id).unwrap_or_else(|| panic!("no user {id}")));
    }

    pub(crate) fn grant(&mut self, user: &User) -> String {
        let (token, user) = (random::token(), self.know(user));
        self.access_grants.insert(sha256(token.as_bytes()), user);
        token
    }

    /// Makes a grant of another kind of client.
    pub(crate) fn grant_to(&mut self, user: &User, client: ClientKind) -> String {
        let token = self.grant(user);
        self.clients.insert(sha256(token.as_bytes()), client);
        token
    }

    /// Adds a grant by its hash, as a JWT's `jti` has it.
    pub(crate) fn add_grant(&mut self, hash: &str, user: &User, client: ClientKind) {
        let user = self.know(user);
        self.access_grants.insert(hash.to_owned(), user);
        self.clients.insert(hash.to_owned(), client);
    }

    pub(crate) fn add_session(&mut self, cookie: &str, user: &User) {
        let user = self.know(user);
        self.sessions.insert(cookie.to_owned(), user);
    }

    pub(crate) fn add_app_session(&mut self, cookie: &str, user: &User) {
        let user = self.know(user);
        self.app_sessions.insert(cookie.to_owned(), user);
    }

    pub(crate) fn set_userinfo(&mut self, user: &str, first_party: &str, others: &str) {
        self.userinfo.insert(user.to_owned(), [first_party.to_owned(), others.to_owned()]);
    }

    pub(crate) fn userinfo(&self, user: &str, client: ClientKind) -> Option<&String> {
        let [first_party, others] = self.userinfo.get(user)?;
        Some(if client == ClientKind::FirstParty { first_party } else { others })
    }

    /// The client of a grant; cookies are held by first-party ones.
    pub(crate) fn client_of(&self, credential: &str) -> ClientKind {
        self.clients.get(credential).copied().unwrap_or_default()
    }

    pub(crate) fn app_session(&mut self, user: &User) -> String {
        let (token, user) = (random::token(), self.know(user));
        self.app_sessions.insert(token.clone(), user);
        token
    }

    pub(crate) fn session(&mut self, user: &User) -> String {
        let (token, user) = (random::session(), self.know(user));
        self.sessions.insert(token.clone(), user);
        token
    }

    /// Names of the users, for the login page.
    pub(crate) fn names(&self) -> Vec<&String> {
        let mut names: Vec<_> = self.users.keys().collect();
        names.sort();
        names
    }

    /// Makes a session of a user who has just authenticated. `None` for an unknown user.
    pub(crate) fn log_in(&mut self, id: &str, now: i64) -> Option<String> {
        let user = self.users.get_mut(id)?;
        user.authenticated_at = now;
        let user = user.clone();
        Some(self.session(&user))
    }

    /// Ends a session or a grant, given the client's credential or a JWT's `jti`.
    pub(crate) fn end(&mut self, credential: &str) {
        self.access_grants.remove(credential);
        self.access_grants.remove(&sha256(credential.as_bytes()));
        self.app_sessions.remove(credential);
        self.sessions.remove(credential);
    }

    pub(crate) fn user(&self, id: &str) -> Option<&User> {
        self.users.get(id)
    }

    pub(crate) fn by_grant(&self, hash: &str) -> Option<&String> {
        self.access_grants.get(hash)
    }

    pub(crate) fn by_app_session(&self, token: &str) -> Option<&String> {
        self.app_sessions.get(token)
    }

    pub(crate) fn by_session(&self, token: &str) -> Option<&String> {
        self.sessions.get(token)
    }
}
