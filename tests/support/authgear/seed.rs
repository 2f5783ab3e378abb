//! Credentials with given values, and tokens of each kind of client.

use super::versions::ClientKind;
use super::{FakeAuthgear, Token, User};
use crate::crypto::sha256;

impl FakeAuthgear {
    /// An opaque access token of this kind of client.
    pub fn opaque_token_of(&self, user: &User, client: ClientKind) -> String {
        self.shared.state.update(|state| state.store.grant_to(user, client))
    }

    /// A JWT access token of this kind of client, to be changed before it is signed. That of a
    /// machine has no user.
    pub fn token_of(&self, user: &User, client: ClientKind) -> Token {
        if client == ClientKind::Machine {
            return self.machine_token(self.origin());
        }
        let opaque = self.opaque_token_of(user, client);
        let token = Token::access(self.signing_key(), self.origin(), user, &opaque);
        token.claim("client_id", client.client_id())
    }

    /// Adds a session with this value of the cookie `session`.
    pub fn add_session(&self, cookie: &str, user: &User) {
        self.shared.state.update(|state| state.store.add_session(cookie, user));
    }

    /// Adds an application's session with this value of the cookie `app_session`.
    pub fn add_app_session(&self, cookie: &str, user: &User) {
        self.shared.state.update(|state| state.store.add_app_session(cookie, user));
    }

    /// Adds an opaque token with this value.
    pub fn add_opaque_token(&self, token: &str, user: &User, client: ClientKind) {
        self.add_grant(&sha256(token.as_bytes()), user, client);
    }

    /// Adds the grant behind a JWT, by its `jti`.
    pub fn add_grant(&self, jti: &str, user: &User, client: ClientKind) {
        self.shared.state.update(|state| state.store.add_grant(jti, user, client));
    }

    /// Sets what userinfo answers about a user: to first-party clients, and to others.
    pub fn set_userinfo(&self, user: &User, first_party: &str, others: &str) {
        self.shared.state.update(|state| state.store.set_userinfo(&user.id, first_party, others));
    }

    /// Registers an application with its redirect URIs, for its login and logout.
    pub fn register(&self, client_id: &str, redirect_uris: &[String]) {
        self.shared.state.update(|state| {
            client_id.clone_into(&mut state.client.id);
            state.client.redirect_uris = redirect_uris.iter().cloned().collect();
        });
    }

    /// Whether its database or Redis is down, so that every answer is Authgear's internal error.
    pub fn fail_internally(&self, fails: bool) {
        self.shared.state.update(|state| state.fails_internally = fails);
    }

    /// Stops the fake's clock at this time, in seconds since 1970. It decides about tokens only.
    pub fn stop_clock(&self, now: i64) {
        self.shared.state.update(|state| state.clock = Some(now));
    }
}
