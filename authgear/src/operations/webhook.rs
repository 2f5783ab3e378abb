//! Authgear's webhooks: verification and meaning of events.
//!
//! Authgear posts events as JSON and signs the body with a secret shared with the receiver
//! (`pkg/lib/hook/hook_web.go`). Each event is sent once and in any order, and an observer can
//! replay it. So an event only speaks for the time up to its timestamp.

use aws_lc_rs::{constant_time, hmac};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use jiff::Timestamp;
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
///
/// | event | action |
/// |---|---|
/// | `user.deleted`, `user.anonymized` | [`Ended`](Self::Ended) |
/// | `user.deletion_scheduled`, `user.anonymization_scheduled` | `Ended`, unless the event says that the user is not disabled: then [`Status`](Self::Status) |
/// | `user.disabled` with a time of its beginning and end | `Status` with that period: the user's sessions are kept, and count again afterwards |
/// | `user.disabled` otherwise | `Ended`, unless the event says that the user is not disabled: then `Status` |
/// | `user.reenabled`, `user.deletion_unscheduled`, `user.anonymization_unscheduled` | `Status`, without a period unless the event names one: lifts an earlier one. Tokens from before an `Ended` stay refused, since Authgear has ended their sessions |
/// | `user.profile.updated`, `user.anonymous.promoted`, `user.reauthenticated`, `identity.*` | [`Changed`](Self::Changed) |
/// | `user.created`, `user.authenticated`, `usage.alert.triggered`, blocking events, unknown ones | [`Ignored`](Self::Ignored) |
///
/// Authgear sends nothing when a period begins or ends, when roles change, and when a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// No action.
    Ignored,
    /// Purge these users: their cached verdicts are outdated.
    Changed(Vec<String>),
    /// Purge the user and reject older tokens: the account is blocked or deleted, and its sessions
    /// have ended.
    Ended {
        /// Id of the user.
        user: String,
        /// Time of the event, in seconds since 1970. Tokens issued earlier are rejected.
        at: u64,
    },
    /// Purge the user, and remember when the account is disabled by the clock.
    Status {
        /// Id of the user.
        user: String,
        /// Number that orders the events of a project: a greater one is later. Events arrive in any
        /// order, and can be replayed.
        order: u64,
        /// When the account is disabled; `None` lifts an earlier period.
        disabled: Option<Period>,
    },
}

/// Time during which an account is disabled, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First second.
    pub from: u64,
    /// First second after it; `None` if it does not end.
    pub until: Option<u64>,
}

/// Events that change a user's identity fields, besides those that begin with `identity.`
/// (`pkg/lib/config/hook.go`). Reauthentication changes the time of authentication.
const CHANGES: [&str; 3] =
    ["user.profile.updated", "user.anonymous.promoted", "user.reauthenticated"];

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    seq: Option<u64>,
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

/// A user, with the state of the account after the event (`pkg/api/model/user.go`).
#[derive(Deserialize)]
struct User {
    id: String,
    is_disabled: Option<bool>,
    temporarily_disabled_from: Option<Timestamp>,
    temporarily_disabled_until: Option<Timestamp>,
    account_valid_from: Option<Timestamp>,
    account_valid_until: Option<Timestamp>,
}

impl User {
    /// The next or current period during which the account is disabled by the clock.
    fn disabled_period(&self, now: u64) -> Option<Period> {
        self.temporary_period().or_else(|| {
            let from = self.account_valid_until.map(floor);
            match self.account_valid_from.map(ceil).filter(|begin| *begin > now) {
                Some(begin) => Some(Period { from: now, until: Some(begin) }),
                None => from.map(|from| Period { from, until: None }),
            }
        })
    }

    fn temporary_period(&self) -> Option<Period> {
        let from = self.temporarily_disabled_from.map(floor)?;
        let until = self.temporarily_disabled_until.map(ceil)?;
        (from < until).then_some(Period { from, until: Some(until) })
    }
}

/// Seconds since 1970; an earlier time counts as 1970.
fn floor(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}

fn ceil(time: Timestamp) -> u64 {
    floor(time) + u64::from(time.subsec_nanosecond() > 0)
}

impl Event {
    /// Reads an event from a body whose signature was verified.
    ///
    /// # Errors
    ///
    /// The body must be JSON with a `type`. An event that requires an action must name the user, and
    /// the time if it changes access.
    pub fn read(body: &[u8]) -> Result<Self, NoEvent> {
        let event: Envelope = serde_json::from_slice(body).map_err(|_| NoEvent)?;
        let kind = event.kind.as_str();
        let changes = CHANGES.contains(&kind) || kind.starts_with("identity.");
        let status = Status::of(kind);
        if !changes && status.is_none() {
            return Ok(Self::Ignored);
        }
        let Payload { user, anonymous_user } = event.payload;
        let named = user.as_ref().map(|user| user.id.clone()).or(event.context.user_id);
        let anonymous = anonymous_user.map(|user| user.id);
        let users: Vec<String> = named.into_iter().chain(anonymous).collect();
        if users.iter().any(|id| id.is_empty() || id.len() > MAX_USER_ID) {
            return Err(NoEvent);
        }
        let Some(status) = status else {
            return if users.is_empty() { Err(NoEvent) } else { Ok(Self::Changed(users)) };
        };
        let at = event.context.timestamp.as_ref().and_then(serde_json::Number::as_u64);
        let (Some(id), Some(at)) = (users.into_iter().next(), at) else { return Err(NoEvent) };
        Ok(status.action(user.as_ref(), id, at, event.seq.unwrap_or(at)))
    }
}

/// Kinds of events about the status of an account (`pkg/lib/authn/user/account_status.go`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    /// The user is gone.
    Gone,
    /// The account is disabled, and deleted or anonymized later.
    Scheduled,
    /// Disabled, at once or from a time on.
    Disabled,
    /// Enabled again.
    Enabled,
}

impl Status {
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "user.deleted" | "user.anonymized" => Self::Gone,
            "user.deletion_scheduled" | "user.anonymization_scheduled" => Self::Scheduled,
            "user.disabled" => Self::Disabled,
            "user.reenabled" | "user.deletion_unscheduled" | "user.anonymization_unscheduled" => {
                Self::Enabled
            }
            _ => return None,
        })
    }

    /// Decides by what the event says of the user. An event that does not tell whether the user is
    /// disabled is taken at its name.
    fn action(self, user: Option<&User>, id: String, at: u64, order: u64) -> Event {
        let is_disabled = user.and_then(|user| user.is_disabled);
        let temporary = user.and_then(User::temporary_period);
        let has_ended = match self {
            Self::Gone => true,
            Self::Scheduled => is_disabled != Some(false),
            // Disabled now, and not for a while: its sessions have ended.
            Self::Disabled => match temporary {
                // The beginning may be "now", just after the time of the event.
                Some(period) => is_disabled == Some(true) && period.from > at.saturating_add(1),
                None => is_disabled != Some(false),
            },
            Self::Enabled => false,
        };
        if has_ended {
            return Event::Ended { user: id, at };
        }
        let disabled = user.and_then(|user| user.disabled_period(at));
        if self == Self::Enabled && is_disabled == Some(true) && disabled.is_none() {
            return Event::Changed(vec![id]);
        }
        Event::Status { user: id, order, disabled }
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
            ("user.anonymization_scheduled", &ended),
            ("user.anonymous.promoted", &changed),
            ("user.reauthenticated", &changed),
            ("identity.email.added", &changed),
            ("identity.phone.verified", &changed),
            ("identity.oauth.disconnected", &changed),
            ("user.created", &Event::Ignored),
            ("user.authenticated", &Event::Ignored),
            ("user.signed_out", &Event::Ignored),
            ("user.session.terminated", &Event::Ignored),
            ("user.pre_create", &Event::Ignored),
            ("user.profile.pre_update", &Event::Ignored),
            ("user.pre_schedule_deletion", &Event::Ignored),
            ("user.pre_schedule_anonymization", &Event::Ignored),
            ("oidc.jwt.pre_create", &Event::Ignored),
            ("oidc.id_token.pre_create", &Event::Ignored),
            ("authentication.pre_initialize", &Event::Ignored),
            ("authentication.post_identified", &Event::Ignored),
            ("authentication.pre_authenticated", &Event::Ignored),
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

    const AT: u64 = 1_700_000_000;

    /// A time near [`AT`] as Authgear writes it.
    fn time(seconds: i64) -> Value {
        json!(Timestamp::from_second(AT as i64 + seconds).unwrap().to_string())
    }

    /// The event as it is read, with these members of its user.
    fn read_with(kind: &str, members: &[(&str, Value)]) -> Event {
        let mut event = event(kind);
        for (name, value) in members {
            event["payload"]["user"][*name] = value.clone();
        }
        read(&event).unwrap_or_else(|error| panic!("{event}: {error}"))
    }

    #[test]
    fn the_state_of_the_user_decides_whether_access_ends_now_or_later() {
        let ended = Event::Ended { user: "alice".to_owned(), at: AT };
        let status = |disabled: Option<(u64, Option<u64>)>| {
            let disabled = disabled.map(|(from, until)| Period { from, until });
            Event::Status { user: "alice".to_owned(), order: 435, disabled }
        };
        let (no, yes) = (("is_disabled", json!(false)), ("is_disabled", json!(true)));
        let from = |seconds| ("temporarily_disabled_from", time(seconds));
        let until = |seconds| ("temporarily_disabled_until", time(seconds));
        let valid_from = |seconds| ("account_valid_from", time(seconds));
        let valid_until = |seconds| ("account_valid_until", time(seconds));
        let unknown = ("is_disabled", Value::Null);
        for (kind, members, expected) in [
            ("user.disabled", vec![yes.clone()], ended.clone()),
            ("user.disabled", vec![unknown.clone()], ended.clone()),
            ("user.disabled", vec![no.clone()], status(None)),
            (
                "user.disabled",
                vec![no.clone(), from(60), until(120)],
                status(Some((AT + 60, Some(AT + 120)))),
            ),
            (
                "user.disabled",
                vec![yes.clone(), from(-5), until(120)],
                status(Some((AT - 5, Some(AT + 120)))),
            ),
            // Disabled for another reason than the period, which lies ahead.
            ("user.disabled", vec![yes.clone(), from(60), until(120)], ended.clone()),
            // A period that ends before it begins is none.
            ("user.disabled", vec![yes.clone(), from(60), until(60)], ended.clone()),
            ("user.disabled", vec![yes.clone(), from(60)], ended.clone()),
            ("user.deletion_scheduled", vec![yes.clone()], ended.clone()),
            ("user.deletion_scheduled", vec![no.clone()], status(None)),
            ("user.anonymization_scheduled", vec![yes.clone()], ended.clone()),
            ("user.deleted", vec![no.clone()], ended.clone()),
            ("user.anonymized", vec![no.clone()], ended),
            ("user.reenabled", vec![no.clone()], status(None)),
            ("user.deletion_unscheduled", vec![no.clone()], status(None)),
            ("user.anonymization_unscheduled", vec![no.clone()], status(None)),
            ("user.reenabled", vec![unknown], status(None)),
            ("user.reenabled", vec![yes.clone()], Event::Changed(vec!["alice".to_owned()])),
            (
                "user.reenabled",
                vec![no.clone(), from(60), until(120)],
                status(Some((AT + 60, Some(AT + 120)))),
            ),
            ("user.reenabled", vec![no.clone(), valid_until(60)], status(Some((AT + 60, None)))),
            (
                "user.reenabled",
                vec![yes, valid_from(60), valid_until(120)],
                status(Some((AT, Some(AT + 60)))),
            ),
            ("user.reenabled", vec![no, valid_from(-60)], status(None)),
        ] {
            assert_eq!(read_with(kind, &members), expected, "{kind} {members:?}");
        }
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (from, until, expected) in [
            ("2026-11-25T17:33:21Z", "2026-11-25T17:33:26Z", (1_795_628_001, 1_795_628_006)),
            ("2026-11-25T17:33:21.9Z", "2026-11-25T17:33:26.1Z", (1_795_628_001, 1_795_628_007)),
            (
                "2026-11-26T01:33:21+08:00",
                "2026-11-25T12:33:26-05:00",
                (1_795_628_001, 1_795_628_006),
            ),
        ] {
            let members = [
                ("is_disabled", json!(false)),
                ("temporarily_disabled_from", json!(from)),
                ("temporarily_disabled_until", json!(until)),
            ];
            let Event::Status { disabled: Some(period), .. } = read_with("user.disabled", &members)
            else {
                panic!("no period from {from} until {until}");
            };
            assert_eq!((period.from, period.until), (expected.0, Some(expected.1)), "{from}");
        }
        let mut bad = event("user.disabled");
        bad["payload"]["user"]["temporarily_disabled_from"] = json!("tomorrow");
        assert_eq!(read(&bad), Err(NoEvent));
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
