//! Attacks by encoding, nesting and size.

use super::*;

#[test]
fn only_canonical_base64url_is_accepted() {
    let [header, payload, signature] = parts();
    let malformed = TokenError::Malformed;
    let join = |parts: [&str; 3]| parts.join(".").into_bytes();
    let good = text(good_token());
    let mut rows = vec![
        ("nothing", Vec::new(), malformed),
        ("dots", b"..".to_vec(), malformed),
        ("opaque", b"0123456789abcdefghijklmnopqrstuv".to_vec(), malformed),
        ("one part", header.clone().into(), malformed),
        ("two parts", format!("{header}.{payload}").into(), malformed),
        ("four parts", format!("{good}.").into(), malformed),
        ("four parts, one empty", format!("{header}..{payload}.{signature}").into(), malformed),
        (
            "five parts",
            format!("{header}.{payload}.{payload}.{payload}.{signature}").into(),
            malformed,
        ),
        ("leading dot", format!(".{good}").into(), malformed),
        ("space before", format!(" {good}").into(), malformed),
        ("tab before", format!("\t{good}").into(), malformed),
        ("space after", format!("{good} ").into(), malformed),
        ("line end after", format!("{good}\n").into(), malformed),
        ("NUL after", format!("{good}\0").into(), malformed),
        ("in quotes", format!("\"{good}\"").into(), malformed),
        ("twice", format!("{good},{good}").into(), malformed),
        ("with its scheme", format!("Bearer {good}").into(), malformed),
        ("percent-encoded", good.replace('.', "%2E").into(), malformed),
        ("byte order mark", format!("\u{feff}{good}").into(), malformed),
        ("JSON serialization", format!(r#"{{"payload":"{payload}"}}"#).into(), malformed),
    ];
    for padding in ["=", "==", "\n", "\r\n", " ", "!", "\0"] {
        rows.push((
            "header padded",
            join([&(header.clone() + padding), &payload, &signature]),
            malformed,
        ));
        rows.push((
            "signature padded",
            join([&header, &payload, &(signature.clone() + padding)]),
            malformed,
        ));
        // Changes the signed text.
        rows.push((
            "claims padded",
            join([&header, &(payload.clone() + padding), &signature]),
            TokenError::Signature,
        ));
    }
    // Replaces a character by those of the other base64 alphabet, within the signature.
    for at in 0..signature.len() {
        for other in ["+", "/"] {
            let mut changed = signature.clone();
            changed.replace_range(at..=at, other);
            rows.push(("other alphabet", join([&header, &payload, &changed]), malformed));
        }
    }
    // 256 bytes leave 4 bits of the last character unused.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(&signature[341..]).unwrap();
    assert_eq!((signature.len(), last % 16), (342, 0));
    for bits in 1..16 {
        let changed = format!("{}{}", &signature[..341], &alphabet[last + bits..=last + bits]);
        rows.push(("unused bits", join([&header, &payload, &changed]), malformed));
    }
    assert_refused(rows);
}

/// The key has signed these tokens, but their parts are malformed.
#[test]
fn malformed_parts_are_rejected_even_if_signed() {
    let malformed = TokenError::Malformed;
    let signed = |header: &str, payload: &str| {
        let message = format!("{header}.{payload}");
        format!("{message}.{}", encode(sign(Algorithm::RS256, message.as_bytes()))).into_bytes()
    };
    // Texts whose length leaves unused bits.
    let header_text = format!("{:<61}", header().to_string());
    let claims_text = format!("{:<1000}", user_claims().to_string());
    let (head, claims) = (encode(&header_text), encode(&claims_text));
    assert!(check(&signed(&head, &claims)).is_ok());
    let unused = |part: &str| {
        assert!(part.ends_with("CA") || part.ends_with("IA"), "{part}");
        format!("{}B", &part[..part.len() - 1])
    };
    let padded = |part: &str| format!("{part}{}", ["", "", "==", "="][part.len() % 4]);
    let standard = |text: &str| base64::engine::general_purpose::STANDARD_NO_PAD.encode(text);
    let other_alphabet = standard(&claims_text.replace("my-spa", "\u{3ff}\u{3ff}\u{3ff}"));
    assert!(other_alphabet.contains(['+', '/']));
    let mut rows = vec![
        ("header with unused bits", signed(&unused(&head), &claims), malformed),
        ("claims with unused bits", signed(&head, &unused(&claims)), malformed),
        ("header padded", signed(&padded(&head), &claims), malformed),
        ("claims padded", signed(&head, &padded(&claims)), malformed),
        ("claims in base64", signed(&head, &other_alphabet), malformed),
        (
            "claims with a space",
            signed(&head, &format!("{} {}", &claims[..40], &claims[40..])),
            malformed,
        ),
        (
            "claims with a dot",
            signed(&head, &format!("{}.{}", &claims[..40], &claims[40..])),
            malformed,
        ),
    ];
    for text in [
        "",
        " ",
        "null",
        "true",
        "1",
        "\"text\"",
        "[]",
        "nothing",
        "{",
        "{}{}",
        "{}x",
        "{},",
        "{\"a\"}",
        "\u{feff}{}",
        "{'sub':'x'}",
        "{\"sub\":\"\\ud800\"}",
    ] {
        rows.push((text, signed(&head, &encode(text)), malformed));
        rows.push((text, signed(&encode(text), &claims), malformed));
    }
    // A header with another beginning than Authgear's: the server reads such a token as opaque.
    let spaced = header().to_string().replacen('{', "{ ", 1);
    rows.push(("no eyJ", signed(&encode(spaced), &claims), malformed));
    let marked = format!("\u{feff}{}", user_claims());
    rows.push(("claims after a byte order mark", signed(&head, &encode(marked)), malformed));
    let invalid = [claims_text.as_bytes(), b"\xff"].concat();
    rows.push(("no UTF-8", signed(&head, &encode(invalid)), malformed));
    let utf16: Vec<u8> = claims_text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    rows.push(("UTF-16", signed(&head, &encode(utf16)), malformed));
    assert_refused(rows);
}

#[test]
fn deep_nesting_is_rejected() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("\"x\":{}1{}", open.repeat(depth), close.repeat(depth))
    };
    let mut rows = Vec::new();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        // The object itself is one level.
        let fine = nested(open, close, 31);
        assert!(check(&token(header().to_string(), appended(&user_claims(), &fine))).is_ok());
        assert!(check(&token(appended(&header(), &fine), user_claims().to_string())).is_ok());
        for depth in [32, 127, 500, 1000] {
            let deep = nested(open, close, depth);
            let in_claims = token(header().to_string(), appended(&user_claims(), &deep));
            let in_header = token(appended(&header(), &deep), user_claims().to_string());
            let too_large = appended(&header(), &deep).len() * 4 / 3 > MAX_HEADER;
            let refused = if too_large { TokenError::TooLarge } else { TokenError::Malformed };
            let row = if depth == 32 { "in claims, 32 deep" } else { "in claims" };
            rows.push((row, in_claims, TokenError::Malformed));
            rows.push(("in header", in_header, refused));
        }
        let open_only = format!("\"x\":{}", open.repeat(2000));
        let token = token(header().to_string(), appended(&user_claims(), &open_only));
        rows.push(("never closed", token, TokenError::Malformed));
    }
    assert_refused(rows);
}

#[test]
fn tokens_headers_and_members_are_capped() {
    let padded = |padding: usize| claims_with("padding", "p".repeat(padding));
    let largest = (11_000..12_000).rfind(|&n| padded_len(n) <= MAX_TOKEN).unwrap();
    assert!(padded(largest).len() > MAX_TOKEN - 4);
    assert!(check(&padded(largest)).is_ok());
    assert_refused_as("a byte too long", &padded(largest + 1), TokenError::TooLarge);
    assert_refused_as("far too long", &padded(100_000), TokenError::TooLarge);
    assert_eq!(check(&vec![b'a'; MAX_TOKEN + 1]), Err(TokenError::TooLarge));
    assert_eq!(check(&[&b"eyJ"[..], &[b'.'; MAX_TOKEN - 3]].concat()), Err(TokenError::Malformed));

    let header_of = |padding: usize| with(header(), "padding", "p".repeat(padding));
    let largest =
        (0..4096).rfind(|&n| encode(header_of(n).to_string()).len() <= MAX_HEADER).unwrap();
    assert!(check(&token_with_header(&header_of(largest))).is_ok());
    let longer = token_with_header(&header_of(largest + 1));
    assert_refused_as("header too long", &longer, TokenError::TooLarge);

    let members = |object: Value, members: usize| {
        (0..members).fold(object, |object, n| with(object, &format!("x{n}"), 0))
    };
    let own = user_claims().as_object().unwrap().len();
    assert!(check_claims(&members(user_claims(), 256 - own)).is_ok());
    let token = token_with_claims(&members(user_claims(), 257 - own));
    assert_refused_as("too many claims", &token, TokenError::Malformed);
    assert!(check_claims(&with(user_claims(), "x", members(json!({}), 256))).is_ok());
    let token = claims_with("x", members(json!({}), 257));
    assert_refused_as("too many members", &token, TokenError::Malformed);
}

/// Returns the length of a token with this much padding in its claims, without signing it.
fn padded_len(padding: usize) -> usize {
    let claims = with(user_claims(), "padding", "p".repeat(padding)).to_string();
    encode(header().to_string()).len() + encode(claims).len() + 2 + 342
}
