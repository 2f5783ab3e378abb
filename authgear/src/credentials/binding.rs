//! Binding of tokens to an audience: which of a request's tokens this module verifies itself.
//!
//! Authgear's resolver never compares `aud` with an audience of the application. So where one is
//! configured, a JWT counts only if it verifies here, audience included, in every mode. Opaque
//! tokens and sessions have no audience: Authgear's own applications hold them, and the resolver
//! decides about them.
//!
//! The mode `resolver` follows the same rule instead of a refusal by `nginx -t`: one project holds
//! the audience for pages with cookies as well as for an API with tokens. There a token must verify
//! here and then still be accepted by the resolver, so that revocation counts as well. Keys are
//! fetched only once a JWT comes.

use super::cookies::{APP_ACCESS_TOKEN, SESSION};
use super::{CookieNames, Credentials};
use crate::token::looks_like_jwt;

/// Who decides about tokens: the argument of `authgear_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookupMode {
    /// The resolver, about all credentials.
    #[default]
    Resolver,
    /// This module, about bearer tokens only.
    Jwt,
    /// This module about the JWTs that verify, the resolver about the rest.
    Auto,
}

/// Which token of a request this module verifies, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenCheck {
    /// None: ask the resolver about all credentials.
    Nothing,
    /// The bearer. Its result decides, also if keys are unavailable; the resolver is never asked.
    Bearer,
    /// The bearer. If it is accepted, that decides; otherwise ask the resolver about all
    /// credentials.
    BearerOrResolver,
    /// The bearer. If it is rejected, or keys are unavailable, that decides; otherwise ask the
    /// resolver about the credentials [without token cookies](Credentials::without_token_cookies).
    BearerAndResolver,
    /// The [token cookie](Credentials::token_cookie). If it is accepted, ask the resolver about all
    /// credentials; otherwise about those
    /// [without token cookies](Credentials::without_token_cookies). If none are left, the rejection
    /// decides.
    ///
    /// A browser sends a cookie of its own accord and nobody clears this one, so a stale one does
    /// not shut out a good session. A bearer is sent on purpose, so its rejection decides.
    Cookie,
}

/// Decides which token to verify here. `has_audience` tells whether an audience is configured
/// explicitly.
pub fn token_check(
    mode: LookupMode,
    has_audience: bool,
    credentials: &Credentials<'_>,
    names: &CookieNames,
) -> TokenCheck {
    let is_jwt = credentials.bearer().is_some_and(looks_like_jwt);
    match (mode, has_audience) {
        (LookupMode::Jwt, _) if credentials.bearer().is_some() => TokenCheck::Bearer,
        (LookupMode::Jwt, _) => TokenCheck::Nothing,
        (LookupMode::Auto, true) if is_jwt => TokenCheck::Bearer,
        (LookupMode::Auto, false) if is_jwt => TokenCheck::BearerOrResolver,
        (LookupMode::Resolver, true) if is_jwt => TokenCheck::BearerAndResolver,
        (LookupMode::Auto | LookupMode::Resolver, true) if credentials.has_token_cookie(names) => {
            TokenCheck::Cookie
        }
        (LookupMode::Auto | LookupMode::Resolver, _) => TokenCheck::Nothing,
    }
}

impl<'a> Credentials<'a> {
    /// Whether there is an IdP session cookie, whatever its value.
    pub fn has_session_cookie(&self, names: &CookieNames) -> bool {
        self.cookie_values(names, SESSION).next().is_some()
    }

    /// Returns the JWT in the cookie `app_access_token`. `None` if there are several: which one
    /// counts depends on details of Authgear's parser.
    pub fn token_cookie(&self, names: &CookieNames) -> Option<&'a [u8]> {
        let mut tokens =
            self.cookie_values(names, APP_ACCESS_TOKEN).filter(|value| looks_like_jwt(value));
        match (tokens.next(), tokens.next()) {
            (Some(token), None) => Some(token),
            _ => None,
        }
    }

    /// Returns whether a cookie `app_access_token` holds a JWT.
    pub fn has_token_cookie(&self, names: &CookieNames) -> bool {
        self.cookie_values(names, APP_ACCESS_TOKEN).any(looks_like_jwt)
    }

    /// Returns the same credentials without cookies `app_access_token` that hold a JWT.
    pub fn without_token_cookies(&self, names: &CookieNames) -> Self {
        let holds_token = |cookie: &&'a [u8]| {
            let one = Self { authorization: None, cookies: [*cookie].into_iter().collect() };
            one.has_token_cookie(names)
        };
        let cookies = self.cookies.iter().copied().filter(|cookie| !holds_token(cookie)).collect();
        Self { authorization: self.authorization, cookies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln";

    fn read<'a>(bearer: Option<&'a str>, cookie: &'a str) -> Credentials<'a> {
        let authorization = bearer.map(str::as_bytes);
        Credentials::read(authorization, [cookie.as_bytes()], &CookieNames::default())
    }

    #[test]
    fn each_mode_verifies_the_tokens_that_must_be_bound() {
        use LookupMode::{Auto, Jwt, Resolver};
        use TokenCheck::{Bearer, BearerAndResolver, BearerOrResolver, Cookie, Nothing};
        let (jwt, opaque) = (format!("Bearer {JWT}"), "Bearer 9VM8rAbDIkViPevma5wJ2rIcKjOitniY");
        let (jwt, opaque) = (Some(&*jwt), Some(opaque));
        let token_cookie = format!("session=a; app_access_token={JWT}");
        let opaque_cookie = "app_access_token=9VM8rAbDIkViPevma5wJ2rIcKjOitniY";
        for (mode, bearer, cookie, without_audience, with_audience) in [
            (Resolver, None, "session=a", Nothing, Nothing),
            (Resolver, jwt, "", Nothing, BearerAndResolver),
            (Resolver, jwt, &*token_cookie, Nothing, BearerAndResolver),
            (Resolver, opaque, "", Nothing, Nothing),
            (Resolver, opaque, &token_cookie, Nothing, Cookie),
            (Resolver, None, &token_cookie, Nothing, Cookie),
            (Resolver, None, opaque_cookie, Nothing, Nothing),
            (Auto, None, "session=a", Nothing, Nothing),
            (Auto, jwt, "session=a", BearerOrResolver, Bearer),
            (Auto, opaque, "", Nothing, Nothing),
            (Auto, opaque, &token_cookie, Nothing, Cookie),
            (Auto, None, &token_cookie, Nothing, Cookie),
            (Jwt, jwt, &token_cookie, Bearer, Bearer),
            (Jwt, opaque, "", Bearer, Bearer),
            (Jwt, None, &token_cookie, Nothing, Nothing),
        ] {
            let credentials = read(bearer, cookie);
            for (has_audience, expected) in [(false, without_audience), (true, with_audience)] {
                assert_eq!(
                    token_check(mode, has_audience, &credentials, &CookieNames::default()),
                    expected,
                    "{mode:?} {has_audience} {bearer:?} {cookie}"
                );
            }
        }
    }

    #[test]
    fn token_cookies_are_found_and_left_out() {
        let names = CookieNames::default();
        let cookie = format!("session=a; app_access_token=\"{JWT}\"; app_session=b");
        let credentials = read(Some("Bearer x"), &cookie);
        assert_eq!(credentials.token_cookie(&names), Some(JWT.as_bytes()));
        let rest = credentials.without_token_cookies(&names);
        assert_eq!(rest.cookie_header(), Some(b"session=a; app_session=b".to_vec()));
        assert_eq!(rest.bearer(), Some(&b"x"[..]));

        let opaque = read(None, "app_access_token=abc");
        assert_eq!(opaque.token_cookie(&names), None);
        assert_eq!(opaque.without_token_cookies(&names).cookie_header(), opaque.cookie_header());

        let only = format!("app_access_token={JWT}");
        assert!(read(None, &only).without_token_cookies(&names).is_empty());
    }

    #[test]
    fn of_several_token_cookies_none_counts() {
        let names = CookieNames::default();
        let two = format!("app_access_token={JWT}; app_access_token={JWT}x; session=a");
        let credentials = read(None, &two);
        let check = token_check(LookupMode::Auto, true, &credentials, &names);
        assert_eq!(check, TokenCheck::Cookie);
        assert_eq!(credentials.token_cookie(&names), None);
        let rest = credentials.without_token_cookies(&names).cookie_header();
        assert_eq!(rest, Some(b"session=a".to_vec()));
    }
}
