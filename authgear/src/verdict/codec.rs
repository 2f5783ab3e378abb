//! Binary form of verdicts, for memory shared by processes of one version of this module.
//!
//! The first byte is the kind. For a valid session, the fields follow up to the end; before them,
//! if a token was verified, scope, client id and audiences of its grant. A field
//! begins with a byte: the low half is the index of a known name, from 1, or 0; the high half is
//! the form of the value. Then follow the name, if it is not a known one, and the value. Bytes of
//! variable length are preceded by their length.

use std::io::Write as _;

use super::{NoSession, Verdict};
use crate::identity::{is_control, Grant, Identity, NAMES, PREFIX};

const INVALID: u8 = 1;
const NONE: u8 = 2;
const VALID: u8 = 3;
const BEARER_NOT_ACCEPTED: u8 = 4;
/// A valid session with the grant of a verified token.
const VALID_TOKEN: u8 = 5;

/// Code of a name that is not in [`NAMES`].
const OTHER_NAME: u8 = 0;

/// Forms of a value.
const BYTES: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const DECIMAL: u8 = 3;
const UUID: u8 = 4;

/// Positions of the hyphens in the text form of a UUID (RFC 9562 section 4), and its length.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_LEN: usize = 36;

impl Verdict {
    /// Appends the binary form. Returns `false` for a verdict that is valid for one request only:
    /// those without credentials, with a rejected token, or of a look-up that failed or was not made.
    pub fn encode(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Valid(identity) => {
                match identity.grant() {
                    None => out.push(VALID),
                    Some(grant) => {
                        out.push(VALID_TOKEN);
                        for part in grant.parts() {
                            encode_bytes(part, out);
                        }
                    }
                }
                encode_identity(identity, out);
            }
            Self::Invalid => out.push(INVALID),
            Self::BearerNotAccepted => out.push(BEARER_NOT_ACCEPTED),
            Self::None(NoSession::Resolver) => out.push(NONE),
            Self::None(NoSession::NoCredentials | NoSession::Token(_))
            | Self::Unavailable(_)
            | Self::Limited(_) => return false,
        }
        true
    }

    /// Inverse of [`encode`](Self::encode). The bytes are not trusted: fields pass the checks of
    /// [`IdentityBuilder::push`](crate::identity::IdentityBuilder::push), and bytes that are not
    /// completely valid give `None`.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&VALID, fields) => decode_identity(fields, None).map(Self::Valid),
            (&VALID_TOKEN, mut fields) => {
                let (scope, client_id) = (decode_bytes(&mut fields)?, decode_bytes(&mut fields)?);
                let grant = Grant::from_parts(scope, client_id, decode_bytes(&mut fields)?);
                decode_identity(fields, Some(grant)).map(Self::Valid)
            }
            (&INVALID, []) => Some(Self::Invalid),
            (&BEARER_NOT_ACCEPTED, []) => Some(Self::BearerNotAccepted),
            (&NONE, []) => Some(Self::None(NoSession::Resolver)),
            _ => None,
        }
    }
}

fn encode_identity(identity: &Identity, out: &mut Vec<u8>) {
    for (name, value) in identity.iter() {
        let known = (1..).zip(NAMES).find(|(_, known)| *known == name);
        let name_code = known.map_or(OTHER_NAME, |(code, _)| code);
        let head = out.len();
        out.push(name_code);
        if name_code == OTHER_NAME {
            encode_bytes(name.strip_prefix(PREFIX).unwrap_or_default().as_bytes(), out);
        }
        let form = encode_value(value, out);
        if let Some(head) = out.get_mut(head) {
            *head |= form << 4;
        }
    }
}

/// Appends the value in its shortest form, and returns that form.
fn encode_value(value: &[u8], out: &mut Vec<u8>) -> u8 {
    match value {
        b"true" => return TRUE,
        b"false" => return FALSE,
        _ => {}
    }
    if let Some(number) = parse_decimal(value) {
        encode_varint(number, out);
        return DECIMAL;
    }
    if let Some(uuid) = parse_uuid(value) {
        out.extend_from_slice(&uuid.to_be_bytes());
        return UUID;
    }
    encode_bytes(value, out);
    BYTES
}

fn decode_identity(mut bytes: &[u8], grant: Option<Grant<'_>>) -> Option<Identity> {
    // Room for all fields that Authgear sends and their usual size.
    let grant_len = grant.map_or(0, |grant| grant.parts().map(<[u8]>::len).iter().sum());
    let values = 2 * bytes.len() + UUID_LEN + grant_len;
    let mut builder = Identity::builder_for(NAMES.len(), values);
    while let Some((&head, rest)) = bytes.split_first() {
        bytes = rest;
        let form = head >> 4;
        let pushed = match head & 0x0f {
            OTHER_NAME => {
                let name = [PREFIX.as_bytes(), decode_bytes(&mut bytes)?].concat();
                let mut value = Vec::new();
                decode_value(form, &mut bytes, &mut value)?;
                builder.push(&name, &value)
            }
            code => {
                let place = code.checked_sub(1).filter(|place| usize::from(*place) < NAMES.len());
                builder.push_known(place?, |values| decode_value(form, &mut bytes, values))?
            }
        };
        pushed.ok()?;
    }
    if let Some(grant) = grant {
        builder.set_grant(grant);
    }
    Some(builder.build())
}

/// Appends the value, if it is valid in a header.
fn decode_value(form: u8, bytes: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    match form {
        BYTES => {
            let value = decode_bytes(bytes).filter(|value| !is_control(value))?;
            out.extend_from_slice(value);
        }
        TRUE => out.extend_from_slice(b"true"),
        FALSE => out.extend_from_slice(b"false"),
        DECIMAL => write_decimal(decode_varint(bytes)?, out),
        UUID => {
            let (uuid, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            write_uuid(*uuid, out);
        }
        _ => return None,
    }
    Some(())
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn decode_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Appends seven bits per byte, the lowest first. The top bit marks that more follow (LEB128).
fn encode_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn decode_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Parses a number in its canonical spelling only, so that it decodes to the same text.
fn parse_decimal(text: &[u8]) -> Option<u64> {
    let canonical = match text {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    std::str::from_utf8(text).ok().filter(|_| canonical)?.parse().ok()
}

/// Parses a UUID in lower case only, so that it decodes to the same text.
fn parse_uuid(text: &[u8]) -> Option<u128> {
    if text.len() != UUID_LEN {
        return None;
    }
    text.iter().enumerate().try_fold(0, |uuid, (at, &byte)| {
        let digit = match byte {
            b'-' if HYPHENS.contains(&at) => return Some(uuid),
            _ if HYPHENS.contains(&at) => return None,
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(uuid << 4 | u128::from(digit))
    })
}

fn write_decimal(number: u64, out: &mut Vec<u8>) {
    // Writing to a `Vec` does not fail.
    let _ = write!(out, "{number}");
}

fn write_uuid(uuid: [u8; 16], out: &mut Vec<u8>) {
    for (at, byte) in uuid.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend([byte >> 4, byte & 0x0f].map(|digit| match digit {
            0..=9 => b'0' + digit,
            _ => b'a' - 10 + digit,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unavailable;
    use super::*;
    use crate::identity::{join_audiences, MAX_TOTAL, MAX_VALUE};
    use crate::verdict::TokenError;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const USER: &str = "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f";

    fn valid(fields: &[(&str, &[u8])]) -> Verdict {
        let mut builder = Identity::builder();
        for (name, value) in fields {
            builder.push(format!("{PREFIX}{name}").as_bytes(), value).unwrap();
        }
        Verdict::Valid(builder.build())
    }

    /// The known names without their prefix.
    fn known() -> [&'static str; NAMES.len()] {
        NAMES.map(|name| name.strip_prefix(PREFIX).unwrap())
    }

    fn encode(verdict: &Verdict) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(verdict.encode(&mut out));
        out
    }

    #[test]
    fn decoded_known_names_equal_pushed_ones() {
        for name in NAMES {
            let mut builder = Identity::builder();
            builder.push(name.as_bytes(), b"true").unwrap();
            let verdict = Verdict::decode(&encode(&Verdict::Valid(builder.build()))).unwrap();
            assert_eq!(verdict.fields().collect::<Vec<_>>(), [(name, &b"true"[..])]);
        }
    }

    /// Size of an encoded value, without the field's first byte.
    fn value_size(value: &[u8]) -> usize {
        let verdict = valid(&[("user-id", value)]);
        let bytes = encode(&verdict);
        assert_eq!(Verdict::decode(&bytes), Some(verdict), "{value:?}");
        bytes.len() - 2
    }

    #[test]
    fn a_typical_identity_is_small() {
        let verdict = valid(&[
            ("session-valid", b"true"),
            ("user-id", USER.as_bytes()),
            ("user-anonymous", b"false"),
            ("user-verified", b"true"),
            ("user-can-reauthenticate", b"true"),
            ("user-roles", b""),
            ("session-amr", b"pwd,otp,mfa"),
            ("session-authenticated-at", b"1700000000"),
        ]);
        let bytes = encode(&verdict);
        assert_eq!(bytes.len(), 1 + 4 + 17 + 2 + 13 + 6);
        assert!(bytes.len() < 64);
        assert_eq!(Verdict::decode(&bytes), Some(verdict));
    }

    #[test]
    fn verdicts_without_identity_take_one_byte() {
        for verdict in [
            Verdict::Invalid,
            Verdict::BearerNotAccepted,
            Verdict::None(NoSession::Resolver),
            valid(&[]),
        ] {
            let bytes = encode(&verdict);
            assert_eq!(bytes.len(), 1);
            assert_eq!(Verdict::decode(&bytes), Some(verdict.clone()));
            assert_eq!(Verdict::decode(&[&bytes[..], &[0xff]].concat()), None, "{verdict:?}");
        }
    }

    #[test]
    fn verdicts_valid_for_one_request_are_not_encoded() {
        for verdict in [
            Verdict::None(NoSession::NoCredentials),
            Verdict::None(NoSession::Token(TokenError::Expired)),
            Verdict::Limited(std::time::Duration::from_secs(1)),
            Verdict::Unavailable(Unavailable::Timeout),
            Verdict::Unavailable(Unavailable::Internal),
        ] {
            let mut out = b"before".to_vec();
            assert!(!verdict.encode(&mut out));
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn grants_of_verified_tokens_round_trip() {
        let mut builder = Identity::builder();
        builder.push(b"x-authgear-session-valid", b"true").unwrap();
        let audiences = join_audiences(["https://a.test", "https://b.test"]);
        builder.set_grant(Grant::from_parts(b"openid read", b"spa", &audiences));
        let bytes = encode(&Verdict::Valid(builder.build()));
        let Some(Verdict::Valid(identity)) = Verdict::decode(&bytes) else {
            panic!("no session in {bytes:?}");
        };
        let grant = identity.grant().unwrap();
        assert!(grant.has_scope("read") && grant.has_audience("https://b.test"));
        assert_eq!(grant.client_id(), b"spa");
        assert_eq!(identity.iter().count(), 1);
    }

    #[test]
    fn values_round_trip_in_their_shortest_form() {
        for (value, size) in [
            ("true", 0),
            ("false", 0),
            ("True", 5),
            ("", 1),
            ("0", 1),
            ("00", 3),
            ("-1", 3),
            ("+1", 3),
            ("1 ", 3),
            ("127", 1),
            ("128", 2),
            ("0128", 5),
            ("1700000000", 5),
            ("18446744073709551615", 10),
            ("18446744073709551616", 21),
            ("1700000000.5", 13),
            (USER, 16),
            (&USER.to_uppercase(), 37),
            (&USER.replace('-', "0"), 37),
            (&USER.replace('c', "g"), 37),
            (&USER.replace('-', ""), 33),
            (&format!("{}--{}", &USER[..7], &USER[9..]), 37),
            ("00000000-0000-0000-0000-000000000000", 16),
            ("\u{e9}", 3),
        ] {
            assert_eq!(value_size(value.as_bytes()), size, "{value:?}");
        }
        assert_eq!(value_size(&[b'a'; 127]), 128);
        assert_eq!(value_size(&[b'a'; 128]), 130);
        assert_eq!(value_size(&[b'a'; MAX_VALUE]), MAX_VALUE + 3);
    }

    #[test]
    fn known_names_take_no_byte_of_their_own() {
        for name in known() {
            assert_eq!(encode(&valid(&[(name, b"true")])).len(), 2, "{name}");
        }
        let bytes = encode(&valid(&[("user-email", b"true")]));
        assert_eq!(bytes, [&[VALID, TRUE << 4, 10][..], b"user-email"].concat());
    }

    #[test]
    fn malformed_bytes_are_no_verdict() {
        let long = [&[VALID, 1, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0xff; 4], &[1]].concat();
        let overlong = [&[VALID, 0x31][..], &[0x80; 10], &[0]].concat();
        let overflow = [&[VALID, 0x31][..], &[0xff; 9], &[2]].concat();
        for bytes in [
            &b""[..],
            &[0],
            &[6],
            &[0xff],
            // A grant that is truncated.
            &[VALID_TOKEN],
            &[VALID_TOKEN, 0, 0],
            &[VALID_TOKEN, 1, b'a', 0, 2, b'b'],
            // An unknown form or name.
            &[VALID, 0x51],
            &[VALID, 0x1a],
            &[VALID, 0x1f],
            // Truncated.
            &[VALID, 0x10],
            &[VALID, 0x01],
            &[VALID, 0x01, 1],
            &[VALID, 0x31, 0x80],
            &[VALID, 0x41, 1, 2, 3],
            &long,
            &overlong,
            &overflow,
            // Invalid in an identity: a duplicate name, an invalid name, a control byte.
            &[VALID, 0x11, 0x21],
            &[VALID, 0x10, 0],
            &[VALID, 0x10, 1, b'_'],
            b"\x03\x10\x0ebody-signature",
            &[VALID, 0x01, 1, b'\n'],
        ] {
            assert_eq!(Verdict::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn decoded_identities_keep_the_caps() {
        let mut bytes = vec![VALID];
        for name in b'a'..=b'd' {
            bytes.extend_from_slice(&[OTHER_NAME, 1, name]);
            encode_bytes(&vec![b'x'; MAX_TOTAL / 4 - PREFIX.len() - 1], &mut bytes);
        }
        assert!(Verdict::decode(&bytes).is_some());
        bytes.extend_from_slice(&[OTHER_NAME, 1, b'e', 0]);
        assert_eq!(Verdict::decode(&bytes), None);

        let mut bytes = vec![VALID, 0x01];
        encode_bytes(&[b'x'; MAX_VALUE + 1], &mut bytes);
        assert_eq!(Verdict::decode(&bytes), None);
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::sample::select(vec!["true", "false", "", USER, "0", "007"])
                .prop_map(|value| value.as_bytes().to_vec()),
            any::<u64>().prop_map(|number| number.to_string().into_bytes()),
            any::<[u8; 16]>().prop_map(|uuid| {
                let mut text = Vec::new();
                write_uuid(uuid, &mut text);
                text
            }),
            "[0-9]{1,22}".prop_map(String::into_bytes),
            "[0-9a-g]{8}(-[0-9a-f]{4}){3}-[0-9a-fA]{12}".prop_map(String::into_bytes),
            vec(prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8], 0..300),
        ]
    }

    fn grant() -> impl Strategy<Value = Option<(Vec<u8>, String, Vec<String>)>> {
        let audiences = vec("[a-z:/.]{1,20}", 0..4);
        prop::option::of((vec(any::<u8>(), 0..50), "[a-z_]{0,20}", audiences))
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let name = prop_oneof![
            3 => prop::sample::select(known().to_vec()).prop_map(str::to_owned),
            1 => "[a-z0-9-]{1,116}",
        ];
        (vec((name, value()), 0..12), grant()).prop_map(|(fields, grant)| {
            let mut builder = Identity::builder();
            for (name, value) in fields {
                // Duplicate names are rejected here.
                let _ = builder.push(format!("{PREFIX}{name}").as_bytes(), &value);
            }
            if let Some((scope, client_id, audiences)) = grant {
                let audiences = join_audiences(audiences.iter().map(String::as_str));
                builder.set_grant(Grant::from_parts(&scope, client_id.as_bytes(), &audiences));
            }
            builder.build()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn identities_round_trip(identity in identity(), before in vec(any::<u8>(), 0..4)) {
            let verdict = Verdict::Valid(identity);
            let mut bytes = before.clone();
            prop_assert!(verdict.encode(&mut bytes));
            prop_assert!(bytes.starts_with(&before));
            prop_assert_eq!(Verdict::decode(&bytes[before.len()..]), Some(verdict));
        }

        #[test]
        fn decoding_any_bytes_is_safe_and_stable(mut bytes in vec(any::<u8>(), 0..200), valid in any::<bool>()) {
            if let Some(kind) = bytes.first_mut().filter(|_| valid) {
                *kind = VALID;
            }
            if let Some(verdict) = Verdict::decode(&bytes) {
                prop_assert_eq!(Verdict::decode(&encode(&verdict)), Some(verdict));
            }
        }

        #[test]
        fn decoding_damaged_identities_is_safe_and_stable(
            identity in identity(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&Verdict::Valid(identity));
            for (index, byte) in changes {
                *index.get_mut(&mut bytes) = byte;
            }
            bytes.truncate(end.index(bytes.len()) + 1);
            if let Some(verdict) = Verdict::decode(&bytes) {
                prop_assert_eq!(Verdict::decode(&encode(&verdict)), Some(verdict));
            }
        }
    }
}
