//! Attacks by extensions and types in the header.

use super::*;

#[test]
fn extensions_and_nested_tokens_are_rejected() {
    let mut rows = Vec::new();
    for value in [json!(["exp"]), json!(["b64"]), json!([]), json!(null)] {
        rows.push(("crit", header_with("crit", value), TokenError::Critical));
    }
    for value in [json!("exp"), json!(1)] {
        rows.push(("crit without a list", header_with("crit", value), TokenError::Critical));
    }
    for value in [json!(false), json!(true), json!(null)] {
        rows.push(("b64", header_with("b64", value), TokenError::Critical));
    }
    rows.push(("b64 as text", header_with("b64", "false"), TokenError::Critical));
    for value in [json!("JWT"), json!("json"), json!(null)] {
        rows.push(("cty", header_with("cty", value), TokenError::Type));
    }
    rows.push(("cty without text", header_with("cty", json!([])), TokenError::Type));
    // RFC 7797: claims without base64url encoding.
    let header = with(with(header(), "b64", false), "crit", json!(["b64"])).to_string();
    let message = format!("{}.{}", encode(&header), r#"{"sub":"x"}"#);
    let signature = encode(sign(Algorithm::RS256, message.as_bytes()));
    rows.push(("unencoded", format!("{message}.{signature}").into(), TokenError::Critical));
    assert_refused(rows);
}

#[test]
fn only_access_token_types_are_accepted() {
    let refused = TokenError::Type;
    let mut rows = vec![("missing", token_with_header(&without(header(), "typ")), refused)];
    for name in [
        "JWT",
        "jwt",
        "",
        "at",
        "at+jwt ",
        " at+jwt",
        "at+jwt\0",
        "at jwt",
        "at+JWS",
        "id+jwt",
        "dpop+jwt",
        "application/jwt",
        "application/application/at+jwt",
        "text/at+jwt",
        "application/at+jwt; charset=utf-8",
        "\u{ff41}t+jwt",
        "at+\u{212a}wt",
    ] {
        rows.push((name, header_with("typ", name), refused));
    }
    rows.push(("null", header_with("typ", json!(null)), refused));
    for value in [json!(1), json!(["at+jwt"]), json!({"at+jwt": 1})] {
        rows.push(("no string", header_with("typ", value), refused));
    }
    assert_refused(rows);
    for name in ["at+jwt", "AT+JWT", "At+Jwt", "application/at+jwt", "APPLICATION/AT+JWT"] {
        assert!(check(&header_with("typ", name)).is_ok(), "{name}");
    }
}
