//! Assertions: the identity of a session as a signed JWT (`authgear_assertion`), for backends that
//! can be reached past nginx.
//!
//! A backend that checks the signature knows that nginx made the identity, for this backend, a
//! moment ago.

mod key;

use std::rc::Rc;
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use crate::identity::Identity;
pub use key::{KeyError, SigningKey, MAX_KEY_FILE};

/// `typ` of an assertion. No other JWT has it, so none passes for an assertion (RFC 8725 section
/// 3.11).
pub const TYPE: &str = "authgear-assertion+jwt";

/// Media type of a key set (RFC 7517 section 8.5.2).
pub const KEY_SET_TYPE: &str = "application/jwk-set+json";

/// Time for which an assertion holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// `iat`
    pub issued_at: u64,
    /// `exp`
    pub expires_at: u64,
    /// From this time another assertion is made.
    pub renewed_at: u64,
}

impl Term {
    /// The term of an assertion that is made `now` for `ttl`, of a session whose token expires at
    /// `session_expires_at`. `None` if it has expired.
    pub fn of(now: u64, ttl: Duration, session_expires_at: Option<u64>) -> Option<Self> {
        let ttl = ttl.as_secs();
        let end = now.saturating_add(ttl);
        let expires_at = session_expires_at.map_or(end, |session| session.min(end));
        let renewed_at = now.saturating_add(ttl / 2);
        (expires_at > now).then_some(Self { issued_at: now, expires_at, renewed_at })
    }

    /// Tells whether a backend may still be given the assertion.
    pub fn holds(&self, now: u64) -> bool {
        // The clock may have been set back.
        (self.issued_at..self.renewed_at.min(self.expires_at)).contains(&now)
    }
}

/// Settings of the assertions for one audience.
#[derive(Debug)]
pub struct Issuer {
    /// The keys. The first one signs, the others are published.
    pub keys: Vec<Rc<SigningKey>>,
    /// `iss`
    pub name: String,
    /// `aud`
    pub audience: String,
    /// Time for which an assertion holds.
    pub ttl: Duration,
}

impl Issuer {
    /// Compares the keys, by their `kid`, and all other settings.
    pub fn is_same(&self, other: &Self) -> bool {
        let (own, others) = (self.keys.iter(), other.keys.iter());
        own.map(|key| key.kid()).eq(others.map(|key| key.kid()))
            && self.name == other.name
            && self.audience == other.audience
            && self.ttl == other.ttl
    }

    /// Makes an assertion about the session of a user. `None` without a user, or if no random
    /// numbers are available. `None` too if the user id is no UTF-8: two users could have the same
    /// `sub` otherwise.
    pub fn sign(&self, identity: &Identity, term: &Term) -> Option<String> {
        let key = self.keys.first()?;
        let subject = std::str::from_utf8(identity.user_id()?).ok().filter(|id| !id.is_empty())?;
        let claims = Claims { issuer: self, subject, identity, term };
        key.sign(TYPE, &claims)
    }

    /// The public keys, as a JWK set (RFC 7517).
    pub fn key_set(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| key.jwk()).collect();
        json!({ "keys": keys }).to_string()
    }
}

/// Claims of an assertion. Those about the session have the names of the request headers.
struct Claims<'a> {
    issuer: &'a Issuer,
    subject: &'a str,
    identity: &'a Identity,
    term: &'a Term,
}

impl Serialize for Claims<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("iss", &self.issuer.name)?;
        map.serialize_entry("aud", &self.issuer.audience)?;
        map.serialize_entry("sub", self.subject)?;
        map.serialize_entry("iat", &self.term.issued_at)?;
        map.serialize_entry("exp", &self.term.expires_at)?;
        // Empty headers are not sent either.
        for (name, value) in self.identity.iter().filter(|(_, value)| !value.is_empty()) {
            map.serialize_entry(name, &String::from_utf8_lossy(value))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::key::tests::{ED25519, P256};
    use super::*;
    use aws_lc_rs::signature::{UnparsedPublicKey, ECDSA_P256_SHA256_FIXED, ED25519 as EDDSA};
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use base64::Engine as _;
    use proptest::prelude::*;
    use serde_json::Value;

    fn issuer(keys: &[&str]) -> Issuer {
        Issuer {
            keys: keys
                .iter()
                .map(|pem| Rc::new(SigningKey::from_pem(pem.as_bytes()).unwrap()))
                .collect(),
            name: "https://www.example.com".to_owned(),
            audience: "https://orders.internal".to_owned(),
            ttl: Duration::from_secs(60),
        }
    }

    fn identity(fields: &[(&str, &[u8])]) -> Identity {
        let mut builder = Identity::builder();
        for (name, value) in fields {
            builder.push(name.as_bytes(), value).unwrap();
        }
        builder.build()
    }

    fn decode(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    /// Header and claims of an assertion, whose signature is that of a key of the set.
    fn read(issuer: &Issuer, jwt: &str) -> (Value, Value) {
        let [header, claims, signature] = jwt.split('.').collect::<Vec<_>>()[..] else {
            panic!("{jwt}");
        };
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let (header, claims) = (decode(header), decode(claims));
        let set: Value = serde_json::from_str(&issuer.key_set()).unwrap();
        let key = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]);
        let key = key.unwrap();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        assert_eq!(key["alg"], header["alg"]);
        let verified = match header["alg"].as_str().unwrap() {
            "ES256" => {
                let point = [vec![4], part("x"), part("y")].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(signed.as_bytes(), &signature)
            }
            "EdDSA" => {
                UnparsedPublicKey::new(&EDDSA, part("x")).verify(signed.as_bytes(), &signature)
            }
            other => panic!("{other}"),
        };
        verified.unwrap();
        (header, claims)
    }

    #[test]
    fn an_assertion_has_the_session_and_the_signature_of_the_first_key() {
        let identity = identity(&[
            ("x-authgear-session-valid", b"true"),
            ("x-authgear-user-id", b"alice"),
            ("x-authgear-user-roles", b""),
            ("x-authgear-extra", b"caf\xc3\xa9 \"quoted\" \xff"),
        ]);
        let term = Term::of(1000, Duration::from_secs(60), None).unwrap();
        for (keys, algorithm) in [([P256, ED25519], "ES256"), ([ED25519, P256], "EdDSA")] {
            let issuer = issuer(&keys);
            let (header, claims) = read(&issuer, &issuer.sign(&identity, &term).unwrap());
            assert_eq!(
                header,
                json!({ "alg": algorithm, "typ": TYPE, "kid": issuer.keys[0].kid() })
            );
            assert_eq!(
                claims,
                json!({
                    "iss": "https://www.example.com",
                    "aud": "https://orders.internal",
                    "sub": "alice",
                    "iat": 1000,
                    "exp": 1060,
                    "x-authgear-session-valid": "true",
                    "x-authgear-user-id": "alice",
                    "x-authgear-extra": "caf\u{e9} \"quoted\" \u{fffd}",
                })
            );
        }
    }

    #[test]
    fn a_session_without_a_user_has_none() {
        let term = Term::of(1000, Duration::from_secs(60), None).unwrap();
        for fields in [
            &[("x-authgear-session-valid", &b"true"[..])][..],
            &[("x-authgear-user-id", b"")],
            // Replaced bytes would make two users one.
            &[("x-authgear-user-id", b"alice\xff")],
        ] {
            assert_eq!(issuer(&[P256]).sign(&identity(fields), &term), None);
        }
    }

    #[test]
    fn issuers_with_the_same_assertions_are_the_same() {
        let other = |change: fn(&mut Issuer)| {
            let mut other = issuer(&[P256]);
            change(&mut other);
            other
        };
        let own = issuer(&[P256]);
        assert!(own.is_same(&other(|_| ())));
        for change in [
            (|other| other.keys = issuer(&[ED25519]).keys) as fn(&mut Issuer),
            |other| other.keys.extend(issuer(&[ED25519]).keys),
            |other| other.name.push('x'),
            |other| other.audience.push('x'),
            |other| other.ttl = Duration::from_secs(61),
        ] {
            assert!(!own.is_same(&other(change)));
        }
    }

    #[test]
    fn a_term_ends_with_the_token_of_the_session() {
        let of = |session| Term::of(1000, Duration::from_secs(60), session);
        let ends = |session| of(session).map(|term| term.expires_at);
        assert_eq!(ends(None), Some(1060));
        assert_eq!(ends(Some(2000)), Some(1060));
        assert_eq!(ends(Some(1010)), Some(1010));
        assert_eq!(ends(Some(1000)), None);
        assert_eq!(ends(Some(10)), None);
    }

    #[test]
    fn an_assertion_is_given_for_half_its_time() {
        let term = Term::of(1000, Duration::from_secs(60), None).unwrap();
        for (now, holds) in [(999, false), (1000, true), (1029, true), (1030, false)] {
            assert_eq!(term.holds(now), holds, "{now}");
        }
        let short = Term::of(1000, Duration::from_secs(60), Some(1010)).unwrap();
        assert!(short.holds(1009) && !short.holds(1010));
    }

    proptest! {
        #[test]
        fn no_assertion_is_given_after_its_end(
            now in 0..4_000_000_000_u64,
            ttl in 1..100_000_u64,
            session in proptest::option::of(0..4_000_000_000_u64),
            later in 0..200_000_u64,
        ) {
            if let Some(term) = Term::of(now, Duration::from_secs(ttl), session) {
                prop_assert!(term.expires_at > now && term.expires_at <= now + ttl);
                prop_assert!(session.is_none_or(|session| term.expires_at <= session));
                prop_assert!(!term.holds(now + later) || now + later < term.expires_at);
            } else {
                prop_assert!(session.is_some_and(|session| session <= now));
            }
        }

        #[test]
        fn any_identity_gives_an_assertion_that_is_valid_in_a_header(
            value in proptest::collection::vec(0x20..=0xff_u8, 0..100),
        ) {
            let value: Vec<u8> = value.into_iter().filter(|byte| *byte != 0x7f).collect();
            let identity = identity(&[("x-authgear-user-id", b"alice"), ("x-authgear-a", &value)]);
            let issuer = issuer(&[ED25519]);
            let term = Term::of(1000, Duration::from_secs(60), None).unwrap();
            let jwt = issuer.sign(&identity, &term).unwrap();
            prop_assert!(jwt.bytes().all(|byte| byte.is_ascii_graphic()));
            let (_, claims) = read(&issuer, &jwt);
            let told = claims["x-authgear-a"].as_str().unwrap_or_default();
            prop_assert_eq!(told, String::from_utf8_lossy(&value));
        }
    }
}
