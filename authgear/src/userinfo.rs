//! The answer of Authgear's userinfo endpoint: what the user's profile says.
//!
//! It is kept as a [`Verdict`] whose identity has the claims as fields. So the cache, the purge log
//! and joined look-ups treat it as they treat the resolver's answer. These fields go to variables
//! only, never to a backend by themselves.

use percent_encoding::{percent_encode, AsciiSet, CONTROLS};
use serde_json::{Map, Value};

use crate::identity::Identity;
use crate::verdict::{Unavailable, Verdict};

/// Largest document, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// Longest value of a claim, in bytes and as it is encoded. A longer one is left out.
pub const MAX_CLAIM: usize = 2048;

/// Most custom attributes. Further ones are left out.
pub const MAX_CUSTOM: usize = 32;

/// Claims that are text, as variables name them.
const TEXTS: [&str; 6] =
    ["preferred_username", "name", "given_name", "family_name", "picture", "locale"];

/// Claims with a claim beside them that tells whether Authgear verified the value.
const VERIFIABLE: [(&str, &str); 2] =
    [("email", "email_verified"), ("phone_number", "phone_number_verified")];

/// Beginning of the names of all fields.
const FIELD: &str = "x-authgear-userinfo-";

/// Bytes that are written as `%XX`, besides those that are not ASCII: what is written can be read
/// back.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Reads an answer.
///
/// Status 200 with a document of a user is [`Verdict::Valid`]. Status 401 is [`Verdict::Invalid`]:
/// Authgear knows no session for the credentials. Everything else is [`Verdict::Unavailable`].
pub fn read(status: u16, body: &[u8]) -> Verdict {
    match status {
        200 => parse(body).map_or(Verdict::Unavailable(Unavailable::BadAnswer), Verdict::Valid),
        401 => Verdict::Invalid,
        400..=499 => Verdict::Unavailable(Unavailable::Refused),
        _ => Verdict::Unavailable(Unavailable::BadStatus),
    }
}

/// The claim `name` in a verdict of [`read`]: `email`, `email_unverified`, `custom_NAME`. `-` and
/// `_` are equal, and the case of letters is ignored.
pub fn claim<'a>(verdict: &'a Verdict, name: &[u8]) -> Option<&'a [u8]> {
    let Verdict::Valid(identity) = verdict else { return None };
    identity.get_suffix(&[b"userinfo_", name].concat()).filter(|value| !value.is_empty())
}

fn parse(body: &[u8]) -> Option<Identity> {
    if body.len() > MAX_DOCUMENT {
        return None;
    }
    let document: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let user = text(&document, "sub")?;
    let mut builder = Identity::builder();
    builder.push(b"x-authgear-user-id", user.as_bytes()).ok()?;
    let mut push = |name: &str, value: &str| {
        let encoded = percent_encode(value.as_bytes(), ENCODED).to_string();
        if !encoded.is_empty() && encoded.len() <= MAX_CLAIM {
            let name = format!("{FIELD}{}", name.replace('_', "-"));
            // A second name that differs in case only, or one that no variable has, is left out.
            let _ = builder.push(name.as_bytes(), encoded.as_bytes());
        }
    };
    for (name, verified) in VERIFIABLE {
        let Some(value) = text(&document, name) else { continue };
        push(&format!("{name}_unverified"), value);
        if document.get(verified) == Some(&Value::Bool(true)) {
            push(name, value);
        }
    }
    for name in TEXTS {
        if let Some(value) = text(&document, name) {
            push(name, value);
        }
    }
    let custom = document.get("custom_attributes").and_then(Value::as_object);
    for (name, value) in custom.into_iter().flatten().take(MAX_CUSTOM) {
        let name = format!("custom_{name}");
        match value {
            Value::String(value) => push(&name, value),
            Value::Number(value) => push(&name, &value.to_string()),
            Value::Bool(value) => push(&name, &value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => {}
        }
    }
    Some(builder.build())
}

fn text<'a>(document: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    document.get(name)?.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{purges::PurgeEpoch, record};
    use proptest::prelude::*;
    use serde_json::json;

    /// As a real Authgear answers for a first-party client (userinfo-session).
    const RECORDED: &[u8] = br#"{"custom_attributes":{},"email":"alice@acme.test","email_verified":false,"https://authgear.com/claims/user/is_anonymous":false,"https://authgear.com/claims/user/roles":["admin","stock:view"],"sub":"5bbfee13-733e-4fc5-ad55-94ed7df42bc4","updated_at":1795625467,"x_web3":{}}"#;

    fn claim_of(document: &Value, name: &str) -> Option<String> {
        let verdict = read(200, document.to_string().as_bytes());
        assert!(matches!(verdict, Verdict::Valid(_)), "{document}");
        claim(&verdict, name.as_bytes()).map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn an_unverified_email_is_not_the_email() {
        let verdict = read(200, RECORDED);
        assert_eq!(claim(&verdict, b"email"), None);
        assert_eq!(claim(&verdict, b"email_unverified"), Some(&b"alice@acme.test"[..]));
        let Verdict::Valid(identity) = verdict else { panic!("no user") };
        assert_eq!(identity.user_id(), Some(&b"5bbfee13-733e-4fc5-ad55-94ed7df42bc4"[..]));
    }

    #[test]
    fn only_the_value_true_verifies() {
        for (name, flag) in VERIFIABLE {
            for (verified, found) in [
                (json!(true), Some("x".to_owned())),
                (json!(false), None),
                (json!("true"), None),
                (json!(1), None),
                (json!(null), None),
            ] {
                let document = json!({ "sub": "a", name: "x", flag: verified });
                assert_eq!(claim_of(&document, name), found, "{document}");
            }
            let document = json!({ "sub": "a", name: "x" });
            assert_eq!(claim_of(&document, name), None);
        }
    }

    #[test]
    fn texts_and_custom_attributes_are_claims() {
        let document = json!({
            "sub": "a", "name": "Zo\u{eb} 100%", "given_name": "Zo\u{eb}", "family_name": "B",
            "preferred_username": "zoe", "picture": "https://a.test/p", "locale": "fr", "email": 7,
            "custom_attributes": {
                "department_id": "r&d", "Level": 3, "member": true, "tags": ["x"], "none": null
            },
        });
        for (name, value) in [
            ("name", Some("Zo%C3%AB 100%25")),
            ("preferred_username", Some("zoe")),
            ("picture", Some("https://a.test/p")),
            ("locale", Some("fr")),
            ("email_unverified", None),
            ("custom_department_id", Some("r&d")),
            ("custom_level", Some("3")),
            ("custom_member", Some("true")),
            ("custom_tags", None),
            ("custom_none", None),
        ] {
            assert_eq!(claim_of(&document, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn line_breaks_and_large_values_reach_no_header() {
        let split = json!({ "sub": "a", "name": "x\r\nRemote-User: admin" });
        assert_eq!(claim_of(&split, "name").as_deref(), Some("x%0D%0ARemote-User: admin"));
        let large = json!({ "sub": "a", "name": "x".repeat(MAX_CLAIM + 1), "locale": "fr" });
        assert_eq!(claim_of(&large, "name"), None);
        assert_eq!(claim_of(&large, "locale").as_deref(), Some("fr"));
        let many: Map<_, _> = (0..100).map(|n| (format!("n{n:03}"), json!(n))).collect();
        let many = json!({ "sub": "a", "custom_attributes": many });
        assert_eq!(claim_of(&many, "custom_n031").as_deref(), Some("31"));
        assert_eq!(claim_of(&many, "custom_n032"), None);
    }

    #[test]
    fn answers_without_a_user_are_errors() {
        let unavailable = |why| Verdict::Unavailable(why);
        let large = format!("{{\"sub\":\"{}\"}}", "a".repeat(MAX_DOCUMENT));
        let bodies =
            ["", "null", "[]", "{}", "{\"sub\":\"\"}", "{\"sub\":1}", "{", "{\"sub\":\"a\\n\"}"];
        for body in bodies.into_iter().chain([large.as_str()]) {
            assert_eq!(
                read(200, body.as_bytes()),
                unavailable(Unavailable::BadAnswer),
                "{body:.20}"
            );
        }
        assert_eq!(read(401, RECORDED), Verdict::Invalid);
        assert_eq!(read(403, RECORDED), unavailable(Unavailable::Refused));
        assert_eq!(read(302, RECORDED), unavailable(Unavailable::BadStatus));
        assert_eq!(read(500, RECORDED), unavailable(Unavailable::BadStatus));
    }

    proptest! {
        #[test]
        fn no_body_panics_and_what_is_read_is_kept(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            name in ".{0,60}", key in "[a-zA-Z0-9_]{0,20}", value in ".{0,60}",
        ) {
            read(200, &body);
            let document = json!({ "sub": "a", "name": name, "custom_attributes": { key: value } });
            let verdict = read(200, document.to_string().as_bytes());
            for (_, value) in verdict.fields() {
                prop_assert!(value.iter().all(|byte| (b' '..=b'~').contains(byte)));
            }
            let kept = record::encode(PurgeEpoch::default(), None, &verdict).unwrap();
            prop_assert_eq!(record::decode(&kept).map(|(.., again)| again), Some(verdict));
        }
    }
}
