//! Attacks on signatures and algorithms.

use aws_lc_rs::hmac;

use super::*;

#[test]
fn any_other_signature_is_rejected() {
    let [header, payload, signature] = parts();
    let changed = |at: usize| {
        let mut bytes = base64url(signature.as_bytes()).unwrap();
        bytes[at] ^= 1;
        format!("{header}.{payload}.{}", encode(bytes)).into_bytes()
    };
    let part_of = |claims: Value, which: usize| {
        text(token_with_claims(&claims)).split('.').nth(which).unwrap().to_owned()
    };
    let mallory = with(user_claims(), "sub", "mallory");
    let by_the_other_key = token_by(super::header().to_string(), user_claims().to_string(), |m| {
        sign_rsa(&keys().other_rsa, &signature::RSA_PKCS1_SHA256, m)
    });
    let doubled = encode(base64url(signature.as_bytes()).unwrap().repeat(2));
    assert_refused(vec![
        ("first byte", changed(0), TokenError::Signature),
        ("last byte", changed(255), TokenError::Signature),
        ("empty", format!("{header}.{payload}.").into(), TokenError::Signature),
        (
            "truncated",
            format!("{header}.{payload}.{}", &signature[..340]).into(),
            TokenError::Signature,
        ),
        (
            "one character",
            format!("{header}.{payload}.{}", &signature[..1]).into(),
            TokenError::Malformed,
        ),
        ("longer", format!("{header}.{payload}.{doubled}").into(), TokenError::Signature),
        (
            "all zeros",
            format!("{header}.{payload}.{}", encode([0; 256])).into(),
            TokenError::Signature,
        ),
        (
            "of another token",
            format!("{header}.{payload}.{}", part_of(mallory.clone(), 2)).into(),
            TokenError::Signature,
        ),
        (
            "with another token's claims",
            format!("{header}.{}.{signature}", part_of(mallory, 1)).into(),
            TokenError::Signature,
        ),
        ("absent", format!("{header}.{payload}").into(), TokenError::Malformed),
        ("of another key of the set", by_the_other_key, TokenError::Signature),
    ]);
}

#[test]
fn algorithms_outside_the_profile_are_rejected() {
    let claims = user_claims().to_string();
    let [_, payload, signature] = parts();
    let refused = TokenError::Algorithm;
    let mut rows = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "rs256", "RS256\0", ""]
    {
        let part = encode(with(header(), "alg", name).to_string());
        rows.push((name, format!("{part}.{payload}.").into(), refused));
        rows.push((name, format!("{part}.{payload}.{signature}").into(), refused));
        rows.push((name, header_with("alg", name), refused));
    }
    for (name, value) in [
        ("array", json!(["RS256"])),
        ("number", json!(256)),
        ("null", json!(null)),
        ("object", json!({"RS256": 1})),
        ("boolean", json!(true)),
    ] {
        rows.push((name, header_with("alg", value), refused));
    }
    rows.push(("missing", token_with_header(&without(header(), "alg")), refused));

    // The public key as HMAC secret, in every form known to an attacker.
    let jwk = rsa_jwk(&keys().rsa, "new");
    let n = base64url(jwk["n"].as_str().unwrap().as_bytes()).unwrap();
    let der = keys().rsa.public_key().as_ref();
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|l| String::from_utf8_lossy(l)).collect();
    let pem = format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        lines.join("\n")
    );
    for secret in [
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        der,
        &n,
        jwk.to_string().as_bytes(),
        authgear_jwks().to_string().as_bytes(),
        b"",
    ] {
        for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let key = hmac::Key::new(algorithm, secret);
            let hmac = |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
            let header_of = |name| with(header(), "alg", name).to_string();
            rows.push((name, token_by(header_of(name), &claims, hmac), refused));
            let as_rs256 = token_by(header_of("RS256"), &claims, hmac);
            rows.push(("HMAC as RS256", as_rs256, TokenError::Signature));
        }
    }
    for name in ["PS256", "PS384", "RS384", "RS512", "ES256", "EdDSA"] {
        rows.push((name, header_with("alg", name), refused));
    }
    assert_refused(rows);
}

/// The project's list of algorithms does not extend the algorithms of a key.
#[test]
fn a_key_verifies_only_its_own_algorithms() {
    let all = Profile { algorithms: Algorithm::ALL.into(), ..profile() };
    let set = |jwk: Value| read_keys(&json!({"keys": [jwk]}), Algorithm::ALL).unwrap().0;
    let only_rs256 = set(rsa_jwk(&keys().rsa, "new"));
    let any = set(without(rsa_jwk(&keys().rsa, "new"), "alg"));
    for algorithm in [Algorithm::PS256, Algorithm::RS512] {
        let header = with(header(), "alg", algorithm.as_str()).to_string();
        let right = token_by(&header, user_claims().to_string(), |m| sign(algorithm, m));
        assert_eq!(verify(&right, &only_rs256, &all, NOW), Err(TokenError::Algorithm));
        assert!(verify(&right, &any, &all, NOW).is_ok());
        // An RS256 signature declared as another algorithm.
        let wrong = token(&header, user_claims().to_string());
        assert_eq!(verify(&wrong, &any, &all, NOW), Err(TokenError::Signature));
    }
    let header = with(header(), "alg", "ES256").to_string();
    let token = token_by(&header, user_claims().to_string(), |m| sign(Algorithm::ES256, m));
    assert_eq!(verify(&token, &any, &all, NOW), Err(TokenError::Algorithm));
}
