//! Tests of key sets, including malicious ones.

use super::*;

fn rsa() -> Value {
    rsa_jwk(&keys().rsa, "new")
}

fn set_of(keys: &[Value]) -> Value {
    json!({"keys": keys})
}

fn parse(jwks: &Value) -> Result<(KeySet, usize), JwksError> {
    read_keys(jwks, &[Algorithm::RS256])
}

fn parse_any(jwks: &Value) -> Result<(KeySet, usize), JwksError> {
    read_keys(jwks, Algorithm::ALL)
}

/// Returns the ids of the usable keys, and the number of skipped ones.
fn kept(keys: &[Value]) -> (Vec<String>, usize) {
    // Always includes a good key.
    let mut all = vec![with(rsa(), "kid", "good")];
    all.extend_from_slice(keys);
    let (set, skipped) = parse_any(&set_of(&all)).unwrap();
    assert_eq!(set.len() + skipped, all.len());
    (set.kids().map(str::to_owned).collect(), skipped)
}

fn assert_skipped(name: &str, key: Value) {
    let key = &[key];
    assert_eq!(kept(key), (vec!["good".to_owned()], 1), "{name}");
    let alone = parse_any(&set_of(key)).map(|(set, _)| set.len());
    assert_eq!(alone, Err(JwksError::NoUsableKey), "{name}");
}

fn assert_kept(name: &str, key: Value) {
    assert_eq!(kept(&[key]).1, 0, "{name}");
}

/// An RSA key with a modulus of this many bits.
fn rsa_of(bits: usize) -> Value {
    let mut n = vec![0x55; bits.div_ceil(8)];
    n[0] = 1 << ((bits - 1) % 8);
    with(rsa(), "n", encode(n))
}

#[test]
fn the_key_set_of_authgear_is_usable() {
    let (set, skipped) = parse(&authgear_jwks()).unwrap();
    assert_eq!((set.len(), skipped), (2, 0));
    assert_eq!(set.kids().collect::<Vec<_>>(), ["new", "old"]);
    assert!(set.contains("new") && set.contains("old"));
    for kid in ["", "ne", "NEW", "new "] {
        assert!(!set.contains(kid), "{kid}");
    }
    assert_eq!(format!("{set:?}"), r#"KeySet [Some("new"), Some("old")]"#);
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&set);
}

#[test]
fn only_key_set_documents_are_parsed() {
    let good = authgear_jwks().to_string();
    let parse = |text: &[u8]| KeySet::parse(text, &[Algorithm::RS256]).map(|(set, _)| set.len());
    assert_eq!(parse(good.as_bytes()), Ok(2));
    assert_eq!(parse(format!("\r\n {good}\n").as_bytes()), Ok(2));

    let half = &good.as_bytes()[..good.len() / 2];
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0C\xbf\xa6\xa3\x02\0\0\0";
    let marked = format!("\u{feff}{good}");
    let html = "<!DOCTYPE html><html><title>Sign in</title></html>";
    let twice = good.replacen('{', r#"{"keys":[],"#, 1);
    let twice_within = good.replacen(r#""kty""#, r#""kty":"RSA","kty""#, 1);
    let twice_elsewhere = good.replacen('{', r#"{"x":{"a":1,"a":2},"#, 1);
    let deep = good.replacen('{', &format!(r#"{{"x":{}1{},"#, "[".repeat(40), "]".repeat(40)), 1);
    let deeper = "[".repeat(200_000);
    for text in [
        &b""[..],
        b" ",
        b"keys",
        half,
        gzip,
        marked.as_bytes(),
        html.as_bytes(),
        twice.as_bytes(),
        twice_within.as_bytes(),
        twice_elsewhere.as_bytes(),
        deep.as_bytes(),
        deeper.as_bytes(),
        b"{\"keys\":[]}x",
        b"{\"keys\":[\xff]}",
    ] {
        assert_eq!(parse(text), Err(JwksError::Json), "{:?}", String::from_utf8_lossy(text));
    }
    let alone = rsa().to_string();
    for text in [
        "null",
        "[]",
        "\"\"",
        "1",
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":"x"}"#,
        r#"{"Keys":[]}"#,
        &alone,
        &format!("[{alone}]"),
    ] {
        assert_eq!(parse(text.as_bytes()), Err(JwksError::NotASet), "{text}");
    }
    for text in [r#"{"keys":[]}"#, r#"{"keys":[null,1,"x",[],{},true]}"#] {
        assert_eq!(parse(text.as_bytes()), Err(JwksError::NoUsableKey), "{text}");
    }
}

#[test]
fn key_sets_are_capped() {
    let mut text = authgear_jwks().to_string();
    text.push_str(&" ".repeat(MAX_KEY_SET - text.len()));
    let parse = |text: &str| KeySet::parse(text.as_bytes(), &[Algorithm::RS256]).map(drop);
    assert_eq!(parse(&text), Ok(()));
    text.push(' ');
    assert_eq!(parse(&text), Err(JwksError::TooLarge));
    assert_eq!(parse(&" ".repeat(5_000_000)), Err(JwksError::TooLarge));

    let of = |count: usize| {
        let keys: Vec<_> = (0..count).map(|n| with(rsa(), "kid", n.to_string())).collect();
        parse_any(&set_of(&keys)).map(|(set, _)| set.len())
    };
    assert_eq!(of(MAX_KEYS), Ok(MAX_KEYS));
    assert_eq!(of(MAX_KEYS + 1), Err(JwksError::TooLarge));
    assert_eq!(
        parse(&format!(r#"{{"keys":[{}0]}}"#, "0,".repeat(MAX_KEYS))),
        Err(JwksError::TooLarge)
    );
}

#[test]
fn keys_with_a_duplicate_id_are_skipped() {
    let mut keys = vec![
        with(rsa(), "kid", "twice"),
        rsa_jwk(&keys().other_rsa, "once"),
        rsa_jwk(&keys().other_rsa, "twice"),
    ];
    let ids = |keys: &[Value]| {
        let (set, skipped) = parse(&set_of(keys)).unwrap();
        (set.kids().collect::<Vec<_>>().join(" "), skipped)
    };
    assert_eq!(ids(&keys), ("once".into(), 2));
    // Also if the other key cannot verify, or is the same key.
    keys[2] = with(keys[2].clone(), "use", "enc");
    assert_eq!(ids(&keys), ("once".into(), 2));
    keys[2] = keys[0].clone();
    assert_eq!(ids(&keys), ("once".into(), 2));
    keys[2] = with(keys[2].clone(), "kid", "Twice");
    assert_eq!(ids(&keys), ("twice once Twice".into(), 0));

    keys = vec![with(rsa(), "kid", "x"); 3];
    assert_eq!(parse(&set_of(&keys)).map(drop), Err(JwksError::NoUsableKey));
    // Keys without an id are not duplicates.
    keys = vec![without(rsa(), "kid"); 2];
    assert_eq!(parse(&set_of(&keys)).unwrap().0.len(), 2);
}

#[test]
fn keys_for_other_uses_are_skipped() {
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!("SIG")),
        ("use", json!("")),
        ("use", json!(null)),
        ("use", json!(["sig"])),
        ("key_ops", json!([])),
        ("key_ops", json!(["sign"])),
        ("key_ops", json!(["encrypt", "wrapKey"])),
        ("key_ops", json!(["Verify"])),
        ("key_ops", json!("verify")),
        ("key_ops", json!(null)),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("HS256")),
        ("alg", json!("none")),
        ("alg", json!("ES256")),
        ("alg", json!("EdDSA")),
        ("alg", json!("")),
        ("alg", json!(null)),
        ("alg", json!(["RS256"])),
        ("kty", json!("rsa")),
        ("kty", json!("EC")),
        ("kty", json!("OKP")),
        ("kty", json!("oct")),
        ("kty", json!("")),
        ("kty", json!(null)),
        ("kid", json!("")),
        ("kid", json!(null)),
        ("kid", json!(1)),
        ("kid", json!("a\0b")),
        ("kid", json!("k".repeat(MAX_KID + 1))),
    ] {
        assert_skipped(&format!("{name} {value}"), with(rsa(), name, value));
    }
    assert_skipped("no kty", without(rsa(), "kty"));
    assert_skipped(
        "use and key_ops",
        with(with(rsa(), "use", "enc"), "key_ops", json!(["verify"])),
    );
    assert_kept("key_ops", with(without(rsa(), "use"), "key_ops", json!(["verify"])));
    assert_kept("more key_ops", with(rsa(), "key_ops", json!(["sign", "verify"])));
    assert_kept("neither", without(rsa(), "use"));
    assert_kept("no alg", without(rsa(), "alg"));
    assert_kept("no kid", without(rsa(), "kid"));
    assert_kept("longest kid", with(rsa(), "kid", "k".repeat(MAX_KID)));
    assert_kept("certificates", with(rsa(), "x5c", json!(["MIIB"])));

    // An algorithm that is not allowed.
    let jwks = set_of(&[with(rsa(), "alg", "PS256")]);
    assert_eq!(parse(&jwks).map(drop), Err(JwksError::NoUsableKey));
    assert_eq!(read_keys(&authgear_jwks(), &[]).map(drop), Err(JwksError::NoUsableKey));
    let ec = set_of(&[without(ec_jwk(&keys().p256, "P-256", "ES256", "p"), "alg")]);
    assert_eq!(parse(&ec).map(drop), Err(JwksError::NoUsableKey));
}

#[test]
fn secret_keys_are_skipped() {
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        for value in [json!("AQAB"), json!(""), json!(null), json!([])] {
            assert_skipped(name, with(rsa(), name, value));
        }
    }
    assert_skipped("oct", json!({"kty": "oct", "kid": "x", "alg": "HS256", "k": encode([7; 32])}));
    assert_skipped("oct as RS256", json!({"kty": "oct", "kid": "x", "alg": "RS256", "k": "AAAA"}));
    let ec = ec_jwk(&keys().p256, "P-256", "ES256", "x");
    assert_skipped("EC", with(ec, "d", "AQAB"));
    assert_skipped("Ed25519", with(ed25519_jwk(), "d", "AQAB"));
}

#[test]
fn weak_and_malformed_rsa_keys_are_skipped() {
    for bits in [2048, 2049, 3072, 4096, 8191, 8192] {
        assert_kept(&format!("{bits} bits"), rsa_of(bits));
    }
    for bits in [8, 512, 1024, 2040, 2047, 8193, 16384] {
        assert_skipped(&format!("{bits} bits"), rsa_of(bits));
    }
    let n = base64url(rsa()["n"].as_str().unwrap().as_bytes()).unwrap();
    let mut even = n.clone();
    *even.last_mut().unwrap() &= !1;
    for (name, value) in [
        ("even", json!(encode(&even))),
        ("zero before", json!(encode([&[0], &*n].concat()))),
        ("zeros", json!(encode([0; 256]))),
        ("empty", json!("")),
        ("one byte", json!("Aw")),
        ("padded", json!(base64::engine::general_purpose::URL_SAFE.encode(&n))),
        ("no base64url", json!("n n")),
        ("a number", json!(65537)),
        ("null", json!(null)),
    ] {
        assert_skipped(name, with(rsa(), "n", value));
    }
    assert_skipped("no n", without(rsa(), "n"));
    assert_skipped("no e", without(rsa(), "e"));

    let exponent = |exponent: u64| {
        let bytes = exponent.to_be_bytes();
        encode(&bytes[exponent.leading_zeros() as usize / 8..])
    };
    for e in [3, 5, 17, 257, 65537, (1 << 32) - 1] {
        assert_kept(&format!("exponent {e}"), with(rsa(), "e", exponent(e)));
    }
    for e in [0, 1, 2, 4, 65536, 1 << 32, (1 << 32) + 1, u64::MAX] {
        assert_skipped(&format!("exponent {e}"), with(rsa(), "e", exponent(e)));
    }
    for (name, value) in [
        ("zero before", json!("AAEAAQ")),
        ("empty", json!("")),
        ("nine bytes", json!(encode([1, 0, 0, 0, 0, 0, 0, 0, 3]))),
        ("as large as n", json!(encode(&n))),
        ("unused bits", json!("Ax")),
        ("a number", json!(65537)),
    ] {
        assert_skipped(name, with(rsa(), "e", value));
    }
}

#[test]
fn malformed_curve_keys_are_skipped() {
    let p256 = || ec_jwk(&keys().p256, "P-256", "ES256", "x");
    let p384 = || ec_jwk(&keys().p384, "P-384", "ES384", "x");
    assert_kept("P-256", p256());
    assert_kept("P-384", p384());
    assert_kept("Ed25519", ed25519_jwk());
    let x = base64url(p256()["x"].as_str().unwrap().as_bytes()).unwrap();
    let y = base64url(p256()["y"].as_str().unwrap().as_bytes()).unwrap();
    let mut off = y.clone();
    off[31] ^= 1;
    for (name, key) in [
        ("off the curve", with(p256(), "y", encode(off))),
        ("at infinity", with(with(p256(), "x", encode([0; 32])), "y", encode([0; 32]))),
        ("beyond the field", with(p256(), "x", encode([255; 32]))),
        ("short x", with(p256(), "x", encode(&x[1..]))),
        ("long y", with(p256(), "y", encode([&[0], &*y].concat()))),
        (
            "a byte moved",
            with(with(p256(), "x", encode(&x[..31])), "y", encode([&x[31..], &y].concat())),
        ),
        ("no x", without(p256(), "x")),
        ("no y", without(p256(), "y")),
        ("no crv", without(p256(), "crv")),
        ("P-256 as P-384", with(p256(), "crv", "P-384")),
        ("P-384 as P-256", with(p384(), "crv", "P-256")),
        ("ES384 on P-256", with(p256(), "alg", "ES384")),
        ("RS256 on P-256", with(p256(), "alg", "RS256")),
        ("secp256k1", with(with(p256(), "crv", "secp256k1"), "alg", "ES256K")),
        ("secp256k1 without alg", without(with(p256(), "crv", "secp256k1"), "alg")),
        ("lower case", with(p256(), "crv", "p-256")),
        ("X25519", with(ed25519_jwk(), "crv", "X25519")),
        ("Ed448", with(ed25519_jwk(), "crv", "Ed448")),
        ("short Ed25519", with(ed25519_jwk(), "x", encode([1; 31]))),
        ("long Ed25519", with(ed25519_jwk(), "x", encode([1; 33]))),
        ("empty Ed25519", with(ed25519_jwk(), "x", "")),
    ] {
        assert_skipped(name, key);
    }
}

/// Processes share a set in this form.
#[test]
fn key_sets_round_trip_through_their_json() {
    let jwks = json!({"keys": [
        with(rsa_jwk(&keys().rsa, "new\" \\ \u{e9}"), "x5c", json!(["MIIC"])),
        without(rsa_jwk(&keys().other_rsa, "old"), "alg"),
        ec_jwk(&keys().p256, "P-256", "ES256", "p256"),
        ec_jwk(&keys().p384, "P-384", "ES384", "p384"),
        ed25519_jwk(),
        {"kty": "oct", "k": "AAAA"},
    ]});
    let (set, skipped) = read_keys(&jwks, Algorithm::ALL).unwrap();
    assert_eq!((set.len(), skipped), (5, 1));
    let json = set.to_json();
    // With quotes, since a modulus in base64 may contain any three letters.
    for left_out in ["\"x5c\"", "\"oct\"", "\"created_at\""] {
        assert!(!json.contains(left_out), "{left_out}");
    }
    let (again, skipped) = KeySet::parse(json.as_bytes(), Algorithm::ALL).unwrap();
    assert_eq!((again.to_json(), skipped), (json, 0));
    assert_eq!(again.kids().collect::<Vec<_>>(), set.kids().collect::<Vec<_>>());
    for key in &set.keys {
        let key = key.fingerprint();
        assert!(again.has(key));
        assert_eq!(Fingerprint::from_bytes(key.to_bytes()), key);
    }
}

#[test]
fn the_fingerprint_depends_on_the_key_only() {
    let print = |jwk: Value| {
        read_keys(&json!({"keys": [jwk]}), &[Algorithm::RS256]).unwrap().0.keys[0].fingerprint()
    };
    let jwk = rsa_jwk(&keys().rsa, "a");
    assert_eq!(print(jwk.clone()), print(with(jwk.clone(), "created_at", 1)));
    assert_ne!(print(jwk.clone()), print(rsa_jwk(&keys().other_rsa, "a")));
    assert_ne!(print(jwk), print(rsa_jwk(&keys().rsa, "b")));
}

/// Shared memory has a limited size for the usable keys.
#[test]
fn too_many_large_keys_are_rejected() {
    let key = |n: usize| {
        let kid = format!("{n:0>256}");
        json!({"kty": "RSA", "kid": kid, "n": encode([0xff; 1024]), "e": "AQAB", "x": "x".repeat(900)})
    };
    let set = |count: usize| parse(&set_of(&(0..count).map(key).collect::<Vec<_>>()));
    let (most, _) = set(50).unwrap();
    assert!(most.to_json().len() < 96 * 1024 && !most.to_json().contains("xx"));
    assert_eq!(set(64).unwrap_err(), JwksError::TooLarge);
}
