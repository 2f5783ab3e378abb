//! The attack list: each row changes one thing in a valid token, and names the error that rejects it.

mod claims;
mod encodings;
mod headers;
mod keys;
mod signatures;

use super::*;

type Row = (&'static str, Vec<u8>, TokenError);

fn assert_refused(rows: Vec<Row>) {
    for (name, token, expected) in rows {
        assert_refused_as(name, &token, expected);
        // Rejected under the most permissive profile too.
        let profile =
            Profile { algorithms: Algorithm::ALL.into(), machine_tokens: true, ..profile() };
        assert!(verify(&token, key_set(), &profile, NOW).is_err(), "{name}, with all allowed");
    }
}

fn text(token: Vec<u8>) -> String {
    String::from_utf8(token).unwrap()
}

/// Returns the parts of a valid token.
fn parts() -> [String; 3] {
    let token = text(good_token());
    let parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

/// Returns a token that is valid except for a member of its header.
fn header_with(name: &str, value: impl Into<Value>) -> Vec<u8> {
    token_with_header(&with(header(), name, value))
}

/// Like `claims_with`, with the value given as JSON text.
fn claims_with_text(name: &str, value: &str) -> Vec<u8> {
    let claims = appended(&without(user_claims(), name), &format!("\"{name}\":{value}"));
    token(header().to_string(), claims)
}

#[test]
fn the_unchanged_token_is_accepted() {
    assert!(check(&good_token()).is_ok());
    assert!(check(&claims_with_text("exp", &EXPIRES.to_string())).is_ok());
}

#[test]
fn each_error_has_its_reason_and_message() {
    let words: Vec<_> = TokenError::ALL.iter().map(|error| error.reason().as_str()).collect();
    assert_eq!(
        words,
        [
            "token_too_large",
            "token_malformed",
            "token_algorithm",
            "token_type",
            "token_critical",
            "token_no_kid",
            "token_unknown_key",
            "token_signature",
            "token_issuer",
            "token_audience",
            "token_expired",
            "token_not_yet_valid",
            "token_missing_claim",
            "token_claims",
            "token_revoked",
            "token_machine",
        ]
    );
    for error in TokenError::ALL {
        assert!(error.to_string().contains("the token"), "{error}");
    }
}
