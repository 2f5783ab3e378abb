//! Example keys and signatures of RFC 7515, 7517, 7520 and 8037.
//!
//! The headers have no `typ`, so all are rejected as tokens. The signatures are valid.

use super::*;

/// RFC 7515 appendix A.1: HS256.
const RFC7515_A1: &str = concat!(
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA",
    "4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB9",
    "2K27uhbUJU1p1r_wW1gFWFOEjXk",
);

/// RFC 7515 appendix A.2: RS256.
const RFC7515_A2_N: &str = concat!(
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrc",
    "S2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGz",
    "jb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xs",
    "mtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8",
    "q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
);
const RFC7515_A2: &str = concat!(
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA",
    "6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat",
    "0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t",
    "1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07",
    "Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnv",
    "Wh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77",
    "Rw",
);

/// RFC 7515 appendix A.3: ES256.
const RFC7515_A3: &str = concat!(
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA",
    "6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4Ga",
    "wxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
);

/// RFC 7515 appendix A.5: none.
const RFC7515_A5: &str = concat!(
    "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6",
    "Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
);

/// RFC 7515 appendix E: an unknown extension.
const RFC7515_E: &str = concat!(
    "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0s",
    "DQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJTA.",
);

/// RFC 7517 appendices A.1 and A.2: the modulus of the RSA key.
const RFC7517_N: &str = concat!(
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxu",
    "hDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN",
    "5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5",
    "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBni",
    "Iqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
);

/// RFC 7520 sections 3.3 and 3.4: the modulus of the RSA key.
const RFC7520_N: &str = concat!(
    "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7",
    "nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHH",
    "ig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC",
    "0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixo",
    "R7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw",
);
/// RFC 7520 section 3.4: the private exponent of the RSA key.
const RFC7520_D: &str = concat!(
    "bWUC9B-EFRIo8kpGfh0ZuyGPvMNKvYWNtB_ikiH9k20eT-O1q_I78eiZkpXxXQ0UTEs2LsNRS-8u",
    "JbvQ-A1irkwMSMkK1J3XTGgdrhCku9gRldY7sNA_AKZGh-Q661_42rINLRCe8W-nZ34ui_qOfkLn",
    "K9QWDDqpaIsA-bMwWWSDFu2MUBYwkHTMEzLYGqOe04noqeq1hExBTHBOBdkMXiuFhUq1BU6l-DqE",
    "iWxqg82sXt2h-LMnT3046AOYJoRioz75tSUQfGCshWTBnP5uDjd18kKhyv07lhfSJdrPdM5Plyl2",
    "1hsFf4L_mHCuoFau7gdsPfHPxxjVOcOpBrQzwQ",
);

/// RFC 7520 section 4.1.
const RFC7520_RS256: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXT",
    "igJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW9",
    "1IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGh",
    "lcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.MRjdkly",
    "7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996",
    "ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qH",
    "RD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3",
    "xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fc",
    "Ie8u9ipH84ogoree7vjbU5y18kDquDg",
);

/// RFC 7520 section 4.2.
const RFC7520_PS384: &str = concat!(
    "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXT",
    "igJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW9",
    "1IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGh",
    "lcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.cu22eBq",
    "kYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDq",
    "HCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8",
    "ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2",
    "Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6",
    "GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw",
);

/// RFC 7520 section 4.3.
const RFC7520_ES512: &str = concat!(
    "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXT",
    "igJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW9",
    "1IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGh",
    "lcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.AE_R_YZ",
    "CChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2c",
    "mL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY",
    "8OcGDqoRuBomu9xQ2",
);

/// RFC 7520 section 4.4.
const RFC7520_HS256: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAz",
    "NyJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9",
    "vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmV",
    "ldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4",
    ".s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
);

const RFC7520_KID: &str = "bilbo.baggins@hobbiton.example";

/// RFC 8037 appendix A.4: EdDSA.
const RFC8037_A4: &str = concat!(
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.",
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
);

fn rfc7515_rsa() -> Value {
    json!({"kty": "RSA", "n": RFC7515_A2_N, "e": "AQAB"})
}

fn rfc7515_ec() -> Value {
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    })
}

fn rfc7520_rsa() -> Value {
    json!({"kty": "RSA", "kid": RFC7520_KID, "use": "sig", "n": RFC7520_N, "e": "AQAB"})
}

fn rfc8037_ed25519() -> Value {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    json!({"kty": "OKP", "crv": "Ed25519", "x": x})
}

fn set_of(key: Value) -> KeySet {
    let (set, skipped) = read_keys(&json!({"keys": [key]}), Algorithm::ALL).unwrap();
    assert_eq!((set.len(), skipped), (1, 0));
    set
}

fn any_algorithm() -> Profile {
    Profile { algorithms: Algorithm::ALL.into(), ..profile() }
}

#[test]
fn example_signatures_verify() {
    for (jwk, algorithm, token) in [
        (rfc7515_rsa(), Algorithm::RS256, RFC7515_A2),
        (rfc7515_ec(), Algorithm::ES256, RFC7515_A3),
        (rfc7520_rsa(), Algorithm::RS256, RFC7520_RS256),
        (rfc7520_rsa(), Algorithm::PS384, RFC7520_PS384),
        (rfc8037_ed25519(), Algorithm::EdDSA, RFC8037_A4),
    ] {
        let set = set_of(jwk);
        let kid = set.kids().next().map(str::to_owned);
        let key = set.find(kid.as_deref()).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = base64url(signature.as_bytes()).unwrap();
        assert_eq!(key.verify(algorithm, message.as_bytes(), &signature), Ok(()), "{token}");

        for &other in Algorithm::ALL.iter().filter(|other| **other != algorithm) {
            assert!(key.verify(other, message.as_bytes(), &signature).is_err(), "{other:?}");
        }
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 0x10;
            let verified = key.verify(algorithm, message.as_bytes(), &changed);
            assert_eq!(verified, Err(TokenError::Signature), "{at}");
        }
        let changed = format!("{message}x");
        let verified = key.verify(algorithm, changed.as_bytes(), &signature);
        assert_eq!(verified, Err(TokenError::Signature));
    }
}

#[test]
fn examples_are_rejected_as_access_tokens() {
    for (name, jwk, token, error) in [
        ("RFC 7515 A.1", rfc7515_rsa(), RFC7515_A1, TokenError::Algorithm),
        ("RFC 7515 A.2", rfc7515_rsa(), RFC7515_A2, TokenError::Type),
        ("RFC 7515 A.3", rfc7515_ec(), RFC7515_A3, TokenError::Type),
        ("RFC 7515 A.5", rfc7515_rsa(), RFC7515_A5, TokenError::Algorithm),
        ("RFC 7515 E", rfc7515_rsa(), RFC7515_E, TokenError::Algorithm),
        ("RFC 7520 4.1", rfc7520_rsa(), RFC7520_RS256, TokenError::Type),
        ("RFC 7520 4.2", rfc7520_rsa(), RFC7520_PS384, TokenError::Type),
        ("RFC 7520 4.3", rfc7520_rsa(), RFC7520_ES512, TokenError::Algorithm),
        ("RFC 7520 4.4", rfc7520_rsa(), RFC7520_HS256, TokenError::Algorithm),
        ("RFC 8037 A.4", rfc8037_ed25519(), RFC8037_A4, TokenError::Type),
    ] {
        let verified = verify(token.as_bytes(), &set_of(jwk), &any_algorithm(), NOW);
        assert_eq!(verified, Err(error), "{name}");
    }
}

/// RFC 7517 appendix A.1: one key for encryption, one that verifies.
#[test]
fn example_public_keys_for_signatures_are_usable() {
    let ec = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "use": "enc",
        "kid": "1",
    });
    let rsa =
        json!({"kty": "RSA", "n": RFC7517_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
    let (set, skipped) = read_keys(&json!({"keys": [ec, rsa]}), Algorithm::ALL).unwrap();
    assert_eq!((set.kids().collect::<Vec<_>>(), skipped), (vec!["2011-04-29"], 1));
    // Without its `use`, the key would verify.
    set_of(with(ec, "use", "sig"));
    // RFC 7520 section 3.1: a curve that is not supported.
    let p521 = json!({
        "kty": "EC",
        "kid": RFC7520_KID,
        "use": "sig",
        "crv": "P-521",
        "x": "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
        "y": "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1",
    });
    let (set, skipped) = read_keys(&json!({"keys": [p521, rfc7515_ec()]}), Algorithm::ALL).unwrap();
    assert_eq!((set.len(), skipped), (1, 1));
}

/// RFC 7517 appendices A.2 and A.3, RFC 7520 sections 3.4 and 3.5, RFC 8037 appendix A.1.
#[test]
fn example_secret_keys_are_skipped() {
    let ec = with(rfc7515_ec(), "d", "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI");
    let rsa = with(rfc7520_rsa(), "d", RFC7520_D);
    let ed25519 = with(rfc8037_ed25519(), "d", "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    let oct = json!({
        "kty": "oct",
        "kid": "018c0ae5-4d9b-471b-bfd6-eef314bc7037",
        "use": "sig",
        "alg": "HS256",
        "k": "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
    });
    let wrapping = json!({"kty": "oct", "alg": "A128KW", "k": "GawgguFyGrWKav7AX4VKUg"});
    for key in [ec, rsa, ed25519, oct, wrapping] {
        let read = read_keys(&json!({"keys": [key]}), Algorithm::ALL).map(drop);
        assert_eq!(read, Err(JwksError::NoUsableKey), "{key}");
    }
}
