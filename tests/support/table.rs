//! Authgear's decision table: requests and their results.

use serde_json::json;

use crate::authgear::{FakeAuthgear, User};
use crate::client::Request;

/// One row: a request's credentials, and the resolver's answer.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    /// Authorization and Cookie headers.
    pub headers: Vec<Header>,
    pub expect: Expect,
}

type Header = (&'static str, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No `x-authgear-*` header at all.
    Nothing,
    /// `true`, as this user.
    Valid(User),
    /// `false`, and whether the session cookie is cleared.
    Invalid { cleared: bool },
}

impl Case {
    /// Adds the row's credentials to a request.
    pub fn apply(&self, request: Request) -> Request {
        let headers = self.headers.iter();
        headers.fold(request, |request, (name, value)| request.header(name, value))
    }

    /// The `x-authgear-*` headers of the resolver's answer, names in lower case, sorted: as
    /// [`Recorded::identity`](crate::Recorded::identity) has them.
    pub fn identity(&self) -> Vec<(String, String)> {
        match &self.expect {
            Expect::Nothing => Vec::new(),
            Expect::Invalid { .. } => vec![("x-authgear-session-valid".into(), "false".into())],
            Expect::Valid(user) => {
                let headers = user.headers().into_iter();
                headers.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
            }
        }
    }
}

struct Table<'a> {
    authgear: &'a FakeAuthgear,
    cases: Vec<Case>,
}

impl Table<'_> {
    fn add<const N: usize>(&mut self, name: &'static str, headers: [Header; N], expect: Expect) {
        self.cases.push(Case { name, headers: headers.into(), expect });
    }

    /// A Cookie header of Authgear's cookies, and one of the application's own.
    fn cookies(&self, cookies: &[(&str, &str)]) -> Header {
        let prefix = self.authgear.cookie_prefix();
        let ours = cookies.iter().map(|(name, value)| format!("; {prefix}{name}={value}"));
        ("Cookie", format!("theme=dark{}", ours.collect::<String>()))
    }
}

fn bearer(token: &str) -> Header {
    ("Authorization", format!("Bearer {token}"))
}

/// The table for this Authgear, each row with credentials of its own. Requests have to reach it
/// with the Host and scheme of its origin.
pub fn decision_table(authgear: &FakeAuthgear) -> Vec<Case> {
    use Expect::{Invalid, Nothing, Valid};
    let alice = authgear.add_user(User::named("alice").roles(&["editor", "billing:admin"]));
    let bob = authgear.add_user(User::named("bob").amr(&["pwd", "otp", "mfa"]));
    let guest = authgear.add_user(User {
        anonymous: true,
        verified: false,
        can_reauthenticate: false,
        authenticated_at: 0,
        ..User::named("guest")
    });
    let mallory = authgear.add_user(User { disabled: true, ..User::named("mallory") });
    let gone = User::named("gone");

    let ended = |credential: String| {
        authgear.expire(&credential);
        credential
    };
    let mut table = Table { authgear, cases: Vec::new() };
    let t = &mut table;

    t.add("nothing", [], Nothing);
    t.add("other cookies only", [t.cookies(&[])], Nothing);
    t.add("basic", [("Authorization", "Basic YWxpY2U6cHc=".into())], Nothing);

    let opaque = authgear.opaque_token(&alice);
    t.add("opaque bearer", [bearer(&opaque)], Valid(alice.clone()));
    t.add(
        "scheme in any case",
        [("Authorization", format!("bEARER {opaque}"))],
        Valid(alice.clone()),
    );
    t.add("two spaces", [("Authorization", format!("Bearer  {opaque}"))], Nothing);
    t.add("no token", [("Authorization", "Bearer".into())], Nothing);
    t.add("JWT bearer", [bearer(&authgear.jwt(&bob))], Valid(bob.clone()));
    t.add("anonymous user", [bearer(&authgear.jwt(&guest))], Valid(guest));

    let expired = authgear.token(&alice).expires_in(-60).sign();
    t.add("expired JWT", [bearer(&expired)], Nothing);
    t.add("garbage", [bearer("garbage")], Nothing);
    t.add("garbage like a JWT", [bearer("eyJhbGciOiJSUzI1NiJ9.e30.AAAA")], Nothing);
    t.add("revoked opaque", [bearer(&ended(authgear.opaque_token(&alice)))], Nothing);
    t.add("revoked JWT", [bearer(&ended(authgear.jwt(&alice)))], Nothing);
    let elsewhere = authgear.token(&alice).claim("aud", json!(["https://other.test"])).sign();
    t.add("JWT for another origin", [bearer(&elsewhere)], Nothing);
    let machine = authgear.machine_token("https://api.test").sign();
    t.add("machine's token", [bearer(&machine)], Nothing);
    t.add("ID token", [bearer(&authgear.id_token(&alice).sign())], Nothing);
    t.add("refresh token", [bearer(&authgear.refresh_token())], Nothing);

    let session = authgear.session(&alice);
    let dead = ended(authgear.session(&alice));
    let with_session = t.cookies(&[("session", &session)]);
    let with_dead = t.cookies(&[("session", &dead)]);
    let cleared = Invalid { cleared: true };
    t.add("session", [with_session.clone()], Valid(alice.clone()));
    t.add("dead session", [with_dead.clone()], cleared.clone());
    t.add("empty session", [t.cookies(&[("session", "")])], cleared.clone());
    t.add("bad bearer, session", [bearer("bad"), with_session.clone()], Valid(alice.clone()));
    t.add("bad bearer, dead session", [bearer("bad"), with_dead.clone()], cleared.clone());
    let bobs = bearer(&authgear.opaque_token(&bob));
    t.add("bearer, dead session", [bobs.clone(), with_dead], Valid(bob.clone()));
    t.add("bearer, another's session", [bobs, with_session], Valid(bob.clone()));

    let (app, token) = (authgear.app_session(&bob), authgear.app_access_token(&alice));
    let both = [("app_access_token", token.as_str()), ("app_session", app.as_str())];
    t.add("app_session", [t.cookies(&both[1..])], Valid(bob.clone()));
    t.add("app_access_token", [t.cookies(&both[..1])], Valid(alice.clone()));
    t.add("app_session goes first", [t.cookies(&both)], Valid(bob.clone()));
    let jwt = authgear.jwt(&bob);
    t.add(
        "JWT in app_access_token",
        [t.cookies(&[("app_access_token", &jwt)])],
        Valid(bob.clone()),
    );
    t.add("dead app_session", [t.cookies(&[("app_session", "dead")])], Nothing);
    t.add("dead app_access_token", [t.cookies(&[("app_access_token", "dead")])], Nothing);
    let chain = [("app_session", "dead"), ("app_access_token", &token), ("session", &dead)];
    t.add("falls through", [bearer("bad"), t.cookies(&chain)], Valid(alice.clone()));
    let apps = [("session", session.as_str()), ("app_session", &app)];
    t.add("app_session, another's session", [t.cookies(&apps)], Valid(bob));

    let disabled = Invalid { cleared: false };
    t.add("bearer, disabled", [bearer(&authgear.jwt(&mallory))], disabled.clone());
    let mallorys = authgear.session(&mallory);
    t.add("session, disabled", [t.cookies(&[("session", &mallorys)])], cleared.clone());
    let mallorys = bearer(&authgear.opaque_token(&mallory));
    let with_session = t.cookies(&[("session", &session)]);
    t.add("bearer, disabled, and a good session", [mallorys, with_session], cleared);
    let token = authgear.opaque_token(&gone);
    authgear.remove_user("gone");
    t.add("bearer, user gone", [bearer(&token)], disabled);

    table.cases
}
