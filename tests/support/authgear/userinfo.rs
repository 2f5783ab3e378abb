//! Profiles of users at the userinfo endpoint.

use serde_json::{json, Value};

use super::main_server::USERINFO_PATH;
use super::FakeAuthgear;

impl FakeAuthgear {
    /// Gives the user this profile: claims of the userinfo document besides `sub`.
    pub fn set_profile(&self, user: &str, mut claims: Value) {
        claims["sub"] = json!(user);
        self.set_userinfo_document(user, &claims.to_string());
    }

    /// Makes this the document of userinfo for the credentials of `user`.
    pub fn set_userinfo_document(&self, user: &str, document: &str) {
        let document = format!("{document}\n");
        self.shared.state.update(|state| state.store.set_userinfo(user, &document, &document));
    }

    pub fn userinfo_url(&self) -> String {
        format!("{}{USERINFO_PATH}", self.url())
    }

    /// The number of requests to userinfo.
    pub fn userinfo_hits(&self) -> usize {
        self.shared.log.count(|request| request.path() == USERINFO_PATH)
    }

    #[track_caller]
    pub fn wait_for_userinfo_hits(&self, n: usize) {
        self.shared.log.wait_for(n, |request| request.path() == USERINFO_PATH);
    }
}
