//! Authgear's webhooks: verification and meaning of events.
//!
//! Authgear posts events as JSON and signs the body with a secret shared with the receiver
//! (`pkg/lib/hook/hook_web.go`). Each event is sent once and in any order, and an observer can
//! replay it. So an event only speaks for the time up to its timestamp.

use aws_lc_rs::{constant_time, hmac};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use serde::Deserialize;
use thiserror::Error;

/// Header with the signature, in lower case.
pub const SIGNATURE: &str = "x-authgear-body-signature";

/// Maximum size of an event's body, in bytes.
pub const MAX_BODY: usize = 256 * 1024;

/// Maximum size of a file with a secret, in bytes.
pub const MAX_SECRET_FILE: usize = 16 * 1024;

/// Longest user id, in bytes. Authgear's are UUIDs.
pub const MAX_USER_ID: usize = 256;

/// Allowed size of a secret, in bytes. Authgear generates 32 (`pkg/util/secrets/generate.go`).
const SECRET: std::ops::RangeInclusive<usize> = 16..=1024;

/// Error of [`Secret::read`]. The message continues a sentence about the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file is larger than [`MAX_SECRET_FILE`].
    #[error("is larger than 16k")]
    TooLarge,
    /// The file looks like JSON but is not a JWK or JWK set with a key of type `oct`.
    #[error("has no key of type \"oct\"")]
    NoKey,
    /// The secret is too short or too long.
    #[error("must hold from 16 to 1024 bytes")]
    Length,
}

/// Secret that signs events.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl std::fmt::Debug for Secret {
    /// Shows no part of the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads the secret from the content of a file: its bytes without the final line ending. A file
    /// that begins with `{` is a JWK or JWK set (RFC 7517), as in Authgear's own
    /// `authgear.secrets.yaml`, and the first key of type `oct` counts.
    ///
    /// # Errors
    ///
    /// See [`SecretError`].
    pub fn read(file: &[u8]) -> Result<Self, SecretError> {
        if file.len() > MAX_SECRET_FILE {
            return Err(SecretError::TooLarge);
        }
        let text = file.strip_suffix(b"\n").unwrap_or(file);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if !text.trim_ascii_start().starts_with(b"{") {
            return Self::new(text);
        }
        #[derive(Deserialize)]
        struct Jwk {
            kty: String,
            k: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum SecretFile {
            Set { keys: Vec<Jwk> },
            One(Jwk),
        }
        let keys = match serde_json::from_slice(text).map_err(|_| SecretError::NoKey)? {
            SecretFile::Set { keys } => keys,
            SecretFile::One(key) => vec![key],
        };
        let key = keys.into_iter().find(|key| key.kty == "oct").and_then(|key| key.k);
        let bytes = key.and_then(|k| URL_SAFE_NO_PAD.decode(k).ok()).ok_or(SecretError::NoKey)?;
        Self::new(&bytes)
    }

    fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        if !SECRET.contains(&bytes.len()) {
            return Err(SecretError::Length);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Whether `signature` matches the body: HMAC-SHA256 in lower-case hexadecimal
    /// (`pkg/util/crypto/hmac_sha256.go`). Compares in constant time.
    pub fn verify(&self, body: &[u8], signature: &[u8]) -> bool {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        // The length is no secret: a body without a signature is not hashed.
        if signature.len() != 64 {
            return false;
        }
        let tag = hmac::sign(&self.0, body);
        let digits =
            |byte: &u8| [byte >> 4, byte & 15].map(|n| *HEX.get(usize::from(n)).unwrap_or(&b'0'));
        let expected: Vec<u8> = tag.as_ref().iter().flat_map(digits).collect();
        constant_time::verify_slices_are_equal(&expected, signature).is_ok()
    }
}

/// Error for a body that is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an Authgear event")]
pub struct NoEvent;

/// Action that an event requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// No action.
    Ignored,
    /// Purge these users: their cached verdicts are outdated.
    Changed(Vec<String>),
    /// Purge the user and reject older tokens: the account is blocked or deleted.
    Ended {
        /// Id of the user.
        user: String,
        /// Time of the event, in seconds since 1970. Tokens issued earlier are rejected.
        at: u64,
    },
}

/// Events that change a user's identity fields, besides those that begin with `identity.`
/// (`pkg/lib/config/hook.go`). Reauthentication changes the time of authentication.
const CHANGES: [&str; 7] = [
    "user.profile.updated",
    "user.reenabled",
    "user.deletion_unscheduled",
    "user.anonymization_scheduled",
    "user.anonymization_unscheduled",
    "user.anonymous.promoted",
    "user.reauthenticated",
];

/// Events that block or delete a user.
const ENDS: [&str; 4] =
    ["user.disabled", "user.deletion_scheduled", "user.deleted", "user.anonymized"];

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    payload: Payload,
    #[serde(default)]
    context: EventContext,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    user: Option<User>,
    anonymous_user: Option<User>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EventContext {
    timestamp: Option<serde_json::Number>,
    user_id: Option<String>,
}

#[derive(Deserialize)]
struct User {
    id: String,
}

impl Event {
    /// Reads an event from a body whose signature was verified.
    ///
    /// # Errors
    ///
    /// The body must be JSON with a `type`. An event that requires an action must name the user, and
    /// the time if it ends access.
    pub fn read(body: &[u8]) -> Result<Self, NoEvent> {
        let event: Envelope = serde_json::from_slice(body).map_err(|_| NoEvent)?;
        let kind = event.kind.as_str();
        let (changes, ends) = (CHANGES.contains(&kind), ENDS.contains(&kind));
        if !changes && !ends && !kind.starts_with("identity.") {
            return Ok(Self::Ignored);
        }
        let Payload { user, anonymous_user } = event.payload;
        let named = user.map(|user| user.id).or(event.context.user_id);
        let anonymous = anonymous_user.map(|user| user.id);
        let users: Vec<String> = named.into_iter().chain(anonymous).collect();
        if users.iter().any(|id| id.is_empty() || id.len() > MAX_USER_ID) {
            return Err(NoEvent);
        }
        if !ends {
            return if users.is_empty() { Err(NoEvent) } else { Ok(Self::Changed(users)) };
        }
        let at = event.context.timestamp.as_ref().and_then(serde_json::Number::as_u64);
        match (users.into_iter().next(), at) {
            (Some(user), Some(at)) => Ok(Self::Ended { user, at }),
            _ => Err(NoEvent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{json, Value};

    const SECRET: &[u8] = b"0123456789abcdefghijABCDEFGHIJ_Z";

    #[test]
    fn only_the_exact_signature_is_accepted() {
        let secret = Secret::read(SECRET).unwrap();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), b"{\"a\":1}");
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(secret.verify(b"{\"a\":1}", hex.as_bytes()));
        for (name, body, signature) in [
            ("another body", &b"{\"a\":2}"[..], hex.clone()),
            ("upper case", b"{\"a\":1}", hex.to_ascii_uppercase()),
            ("none", b"{\"a\":1}", String::new()),
            ("a part of it", b"{\"a\":1}", hex[..63].to_owned()),
            ("more", b"{\"a\":1}", format!("{hex}0")),
            ("spaces", b"{\"a\":1}", format!(" {hex}")),
            ("another one", b"{\"a\":1}", "0".repeat(64)),
        ] {
            assert!(!secret.verify(body, signature.as_bytes()), "{name}");
        }
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    /// RFC 4231, test case 6: a key longer than a block.
    #[test]
    fn signatures_are_hmac_sha256() {
        let secret = Secret::new(&[0xaa; 131]).unwrap();
        let body = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let tag = b"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert!(secret.verify(body, tag));
    }

    #[test]
    fn secrets_are_read_from_text_and_jwk_files() {
        let k = URL_SAFE_NO_PAD.encode(SECRET);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), b"body");
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8(SECRET.to_vec()).unwrap();
        for file in [
            text.clone(),
            format!("{text}\n"),
            format!("{text}\r\n"),
            format!("{{\"kty\":\"oct\",\"k\":\"{k}\"}}\n"),
            format!("{{\"keys\":[{{\"kty\":\"RSA\",\"n\":\"x\"}},{{\"kty\":\"oct\",\"k\":\"{k}\"}},{{\"kty\":\"oct\",\"k\":\"AAAA\"}}]}}"),
        ] {
            let secret = Secret::read(file.as_bytes()).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(secret.verify(b"body", hex.as_bytes()), "{file}");
        }
        let long = "a".repeat(1025);
        let larger = "a".repeat(MAX_SECRET_FILE + 1);
        for (file, error) in [
            ("", SecretError::Length),
            ("\n", SecretError::Length),
            ("0123456789abcde\n", SecretError::Length),
            (&long, SecretError::Length),
            (&larger, SecretError::TooLarge),
            ("{}", SecretError::NoKey),
            ("{\"kty\":\"oct\"}", SecretError::NoKey),
            ("{\"kty\":\"oct\",\"k\":\"not base64url!\"}", SecretError::NoKey),
            ("{\"kty\":\"oct\",\"k\":\"AAAA\"}", SecretError::Length),
            ("{\"keys\":[]}", SecretError::NoKey),
        ] {
            assert_eq!(Secret::read(file.as_bytes()).unwrap_err(), error, "{file:.40}");
        }
        // Other white space belongs to the secret.
        assert!(!Secret::read(format!("{text} ").as_bytes())
            .unwrap()
            .verify(b"body", hex.as_bytes()));
    }

    fn event(kind: &str) -> Value {
        json!({
            "id": "00000000000001b3", "seq": 435, "type": kind,
            "payload": {"user": {"id": "alice", "is_disabled": true, "standard_attributes": {}}},
            "context": {"timestamp": 1_700_000_000, "user_id": "alice", "triggered_by": "admin_api",
                        "geo_location_code": null, "app_id": "myapp"},
        })
    }

    fn read(event: &Value) -> Result<Event, NoEvent> {
        Event::read(event.to_string().as_bytes())
    }

    #[test]
    fn each_kind_of_event_has_its_action() {
        let changed = Event::Changed(vec!["alice".to_owned()]);
        let ended = Event::Ended { user: "alice".to_owned(), at: 1_700_000_000 };
        for (kind, expected) in [
            ("user.disabled", &ended),
            ("user.deletion_scheduled", &ended),
            ("user.deleted", &ended),
            ("user.anonymized", &ended),
            ("user.profile.updated", &changed),
            ("user.reenabled", &changed),
            ("user.deletion_unscheduled", &changed),
            ("user.anonymization_scheduled", &changed),
            ("user.anonymization_unscheduled", &changed),
            ("user.anonymous.promoted", &changed),
            ("user.reauthenticated", &changed),
            ("identity.email.added", &changed),
            ("identity.phone.verified", &changed),
            ("identity.oauth.disconnected", &changed),
            ("user.created", &Event::Ignored),
            ("user.authenticated", &Event::Ignored),
            ("usage.alert.triggered", &Event::Ignored),
            ("user.disabled2", &Event::Ignored),
            ("USER.DISABLED", &Event::Ignored),
            ("", &Event::Ignored),
            ("something.new", &Event::Ignored),
        ] {
            assert_eq!(read(&event(kind)).as_ref(), Ok(expected), "{kind}");
        }
        assert_eq!(read(&json!({"type": "anything"})), Ok(Event::Ignored));
    }

    #[test]
    fn the_payload_names_the_user_before_the_context() {
        let mut admin = event("user.disabled");
        admin["context"]["user_id"] = json!("somebody-else");
        assert_eq!(read(&admin), Ok(Event::Ended { user: "alice".to_owned(), at: 1_700_000_000 }));
        let mut without = event("user.deleted");
        without["payload"] = json!({});
        assert_eq!(
            read(&without),
            Ok(Event::Ended { user: "alice".to_owned(), at: 1_700_000_000 })
        );
        let mut promoted = event("user.anonymous.promoted");
        promoted["payload"]["anonymous_user"] = json!({"id": "nobody"});
        assert_eq!(
            read(&promoted),
            Ok(Event::Changed(vec!["alice".to_owned(), "nobody".to_owned()]))
        );
    }

    #[test]
    fn malformed_events_are_rejected() {
        let change = |pointer: &str, value: Value| {
            let mut event = event("user.disabled");
            *event.pointer_mut(pointer).expect("a member") = value;
            event
        };
        for event in [
            json!(null),
            json!([]),
            json!({}),
            json!({"type": 1}),
            json!({"type": "user.disabled"}),
            json!({"type": "user.profile.updated", "context": {"timestamp": 1}}),
            json!({"type": "user.disabled", "payload": {"user": {"id": "a"}}}),
            change("/type", json!(["user.disabled"])),
            change("/payload/user/id", json!("")),
            change("/payload/user/id", json!(7)),
            change("/payload/user/id", json!("a".repeat(MAX_USER_ID + 1))),
            change("/payload/user", json!("alice")),
            change("/context/timestamp", json!(-1)),
            change("/context/timestamp", json!("1700000000")),
            change("/context/timestamp", json!(null)),
            change("/context", json!([])),
        ] {
            assert_eq!(read(&event), Err(NoEvent), "{event}");
        }
        for body in [&b""[..], b"{", b"\xff", b"{\"type\":\"a\"} x"] {
            assert_eq!(Event::read(body), Err(NoEvent));
        }
        let deep = "[".repeat(MAX_BODY);
        assert_eq!(Event::read(deep.as_bytes()), Err(NoEvent));
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Event::read(&body);
            let _ = Secret::read(&body);
        }

        #[test]
        fn any_changed_signature_is_rejected(
            body in prop::collection::vec(any::<u8>(), 0..100),
            at in 0..64_usize,
            byte in any::<u8>(),
        ) {
            let secret = Secret::read(SECRET).unwrap();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &body);
            let mut hex: Vec<u8> =
                tag.as_ref().iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect();
            prop_assert!(secret.verify(&body, &hex));
            let same = hex[at] == byte;
            hex[at] = byte;
            prop_assert_eq!(secret.verify(&body, &hex), same);
        }
    }
}
