use super::cookies::name_and_value;
use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn names() -> CookieNames {
    CookieNames::default()
}

fn bearer(value: &[u8]) -> Option<Vec<u8>> {
    Credentials::read(Some(value), [], &names()).authorization().map(<[u8]>::to_vec)
}

fn cookies(prefix: &str, fields: &[&[u8]]) -> Option<Vec<u8>> {
    let names = CookieNames::new(prefix.as_bytes()).unwrap();
    Credentials::read(None, fields.iter().copied(), &names).cookie_header()
}

fn canonical(credentials: &Credentials<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    credentials.write_canonical(&mut out);
    out
}

#[test]
fn bearer_is_read_as_authgear_reads_it() {
    for value in [
        "Bearer token",
        "bearer token",
        "BEARER token",
        "Bearer  token",
        "Bearer a b",
        "Bearer \ttoken",
        "Bearer \u{e9}",
        "bearer ,",
    ] {
        assert_eq!(bearer(value.as_bytes()).as_deref(), Some(value.as_bytes()), "{value:?}");
    }
    for value in [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer   ",
        "Bearer \t ",
        "Bearertoken",
        "Bearer\ttoken",
        "Bearer\u{a0}token",
        "Bearer: token",
        "Basic Bearer token",
        "Basic dXNlcjpwYXNz",
        "DPoP token",
        "token",
        "Bearer a\0b",
        "Bearer a\nb",
        "Bearer a\r\nCookie: session=b",
        "Bearer a\x7fb",
        "\u{b}Bearer a",
    ] {
        assert_eq!(bearer(value.as_bytes()), None, "{value:?}");
    }
}

#[test]
fn white_space_around_a_field_value_is_no_part_of_it() {
    assert_eq!(bearer(b" \tBearer  token\t "), Some(b"Bearer  token".to_vec()));
}

#[test]
fn an_authorization_over_the_cap_is_left_out() {
    let mut value = b"Bearer ".to_vec();
    value.resize(MAX_AUTHORIZATION, b'a');
    assert_eq!(bearer(&value), Some(value.clone()));
    value.push(b'a');
    assert_eq!(bearer(&value), None);
}

#[test]
fn only_the_projects_cookies_that_go_reads_are_sent() {
    for (prefix, fields, sent) in [
        ("", &["session=a"][..], Some("session=a")),
        ("", &["app_session=a"], Some("app_session=a")),
        ("", &["app_access_token=a"], Some("app_access_token=a")),
        ("", &["lang=en; session=a; theme=x"], Some("session=a")),
        ("", &["session=a;session=b", "session=c"], Some("session=a; session=b; session=c")),
        ("", &["app_session=a; session=b"], Some("app_session=a; session=b")),
        ("", &[" \tsession\t = a \t; x"], Some("session\t = a")),
        ("", &["session=a=b"], Some("session=a=b")),
        ("", &["session=\"a b\""], Some("session=\"a b\"")),
        ("", &["session="], Some("session=")),
        ("", &["session"], Some("session")),
        ("", &["session=\u{e9}; session=\ta; session=a\tb; session=a"], Some("session=a")),
        ("", &[";;; ;session=a;"], Some("session=a")),
        ("", &[], None),
        ("", &[""], None),
        ("", &["=session"], None),
        ("", &["Session=a; SESSION=a; sessions=a; xsession=a; session2=a"], None),
        ("", &["same_site_strict=true; csrf_token=a; device_token=b"], None),
        ("", &["x=session=a"], None),
        ("", &["x=\"; session=a\""], None),
        ("", &["x=\"; session=a; y=\""], Some("session=a")),
        ("", &["session=\"; session=\\; session=\"a; session=a\"b"], None),
        ("", &["session=\"\"; session=\"a,b c\""], Some("session=\"\"; session=\"a,b c\"")),
        ("", &["session x=a; session,=a; $session=a"], None),
        ("", &["session=a\x01; session=b\x7f; session=c"], Some("session=c")),
        ("", &["session=a\r\nx: y"], None),
        ("", &["session\n=a"], None),
        ("", &["\nsession=a\r"], Some("session=a")),
        ("my_", &["session=a; my_session=b; My_session=c"], Some("my_session=b")),
        (
            "my_",
            &["my_app_session=a; my_app_access_token=b"],
            Some("my_app_session=a; my_app_access_token=b"),
        ),
        ("my_", &["my_; my_my_session=a"], None),
        (
            "app_",
            &["app_session=a; session=b; app_app_session=c"],
            Some("app_session=a; app_app_session=c"),
        ),
    ] {
        let bytes: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
        assert_eq!(
            cookies(prefix, &bytes).as_deref(),
            sent.map(str::as_bytes),
            "{prefix:?} {fields:?}"
        );
    }
}

#[test]
fn removal_keeps_other_cookies_unchanged() {
    let part = |text: &str| Remainder::Part(text.as_bytes().to_vec());
    for (prefix, field, left) in [
        ("", "lang=en; theme=x", Remainder::All),
        ("", "", Remainder::All),
        ("", " a = b ;;", Remainder::All),
        ("", "Session=a; sessions=b; xsession=c", Remainder::All),
        ("my_", "session=a", Remainder::All),
        ("", "session=a", Remainder::Nothing),
        ("", "session", Remainder::Nothing),
        ("", ";; session=a;", Remainder::Nothing),
        ("", " session = a ; app_session=b;app_access_token=c; ", Remainder::Nothing),
        ("my_", "my_session=a; session=b", part("session=b")),
        ("", "lang=en; session=a; theme=\"x\"", part("lang=en; theme=\"x\"")),
        ("", "session=a; lang=en", part("lang=en")),
        ("", "lang=en; session=a", part("lang=en")),
        ("", "a=1;session=a;b=2;  c=3", part("a=1;b=2;  c=3")),
        ("", "a=1; session=a; session=b; a=2", part("a=1; a=2")),
    ] {
        let names = CookieNames::new(prefix.as_bytes()).unwrap();
        assert_eq!(names.remove_from(field.as_bytes()), left, "{prefix:?} {field:?}");
    }
}

#[test]
fn the_bearer_scheme_is_recognised_in_any_case() {
    for value in ["Bearer a", "BEARER", "bearer ", " \tBearer a", "Bearer\ta", "bearer, a"] {
        assert!(has_bearer_scheme(value.as_bytes()), "{value:?}");
    }
    for value in ["", "Basic bearer", "Bearertoken", "bearer-x y", "Bear er"] {
        assert!(!has_bearer_scheme(value.as_bytes()), "{value:?}");
    }
}

#[test]
fn cookies_over_the_caps_are_left_out() {
    let mut long = b"session=".to_vec();
    long.resize(MAX_COOKIE, b'a');
    assert_eq!(cookies("", &[&long]), Some(long.clone()));
    long.push(b'a');
    assert_eq!(cookies("", &[&long, b"session=b"]), Some(b"session=b".to_vec()));

    // Other cookies do not use up the places.
    let many = format!("{}{}", "x=1; ".repeat(100), "session=a; ".repeat(100));
    let kept = "session=a; ".repeat(MAX_COOKIES);
    assert_eq!(
        cookies("", &[many.as_bytes()]).as_deref(),
        Some(kept.trim_end_matches("; ").as_bytes())
    );
}

#[test]
fn a_cookie_prefix_is_a_token() {
    assert_eq!(CookieNames::new(b""), Ok(CookieNames::default()));
    assert!(CookieNames::new(b"__Secure-a.b_").unwrap().contains(b"__Secure-a.b_session"));
    assert!(CookieNames::new(&[b'a'; MAX_COOKIE_PREFIX]).is_ok());
    assert_eq!(CookieNames::new(&[b'a'; MAX_COOKIE_PREFIX + 1]), Err(CookiePrefixError::TooLong));
    for prefix in ["a b", "a=", "a;", "a,", "\"", "a\0", "\u{e9}", "a\t", "(", "/"] {
        assert_eq!(
            CookieNames::new(prefix.as_bytes()),
            Err(CookiePrefixError::Character),
            "{prefix:?}"
        );
    }
    assert_eq!(CookiePrefixError::TooLong.to_string(), "is longer than 64 bytes");
}

#[test]
fn credentials_are_empty_without_bearer_and_cookies() {
    let none = Credentials::read(Some(b"Basic x"), [&b"a=b"[..]], &names());
    assert!(none.is_empty() && !none.has_cookies());
    assert_eq!((none.authorization(), none.cookie_header()), (None, None));
    let bearer = Credentials::read(Some(b"Bearer x"), [], &names());
    assert!(!bearer.is_empty() && !bearer.has_cookies());
    let cookie = Credentials::read(None, [&b"session=x"[..]], &names());
    assert!(!cookie.is_empty() && cookie.has_cookies());
}

#[test]
fn debug_output_shows_no_credential() {
    let credentials = Credentials::read(Some(b"Bearer secret"), [&b"session=secret"[..]], &names());
    let text = format!("{credentials:?}");
    assert_eq!(text, "Credentials { authorization: true, cookies: 1 }");
}

#[test]
fn the_canonical_form_is_that_of_what_is_sent() {
    let names = names();
    let form = |authorization: Option<&'static str>, cookies: &[&'static str]| {
        canonical(&Credentials::read(
            authorization.map(str::as_bytes),
            cookies.iter().map(|cookie| cookie.as_bytes()),
            &names,
        ))
    };
    assert_eq!(form(None, &[]), [0; 8]);
    assert_eq!(
        form(Some("bearer a"), &["session"]),
        b"\0\0\0\x08bearer a\0\0\0\x01\0\0\0\x07session"
    );
    // The fields that the cookies came in are not told apart.
    assert_eq!(form(None, &["session=a;x=y;session=b"]), form(None, &["session=a", "session=b"]));
    assert_ne!(form(Some("bearer a"), &[]), form(Some("Bearer a"), &[]));
    assert_ne!(form(None, &["session=a; session=b"]), form(None, &["session=b; session=a"]));
}

/// A request of few distinct bytes, so that equal credentials are likely.
fn request() -> impl Strategy<Value = (Option<Vec<u8>>, Vec<Vec<u8>>)> {
    let authorization = r"([bB]earer|Basic)[ \t](session|[\x00 ])?=?";
    let field = r"([ \t]?(session|x)=?(session|[=;\x7f ])?;?){0,2}";
    (
        option::of(authorization.prop_map(String::into_bytes)),
        vec(field.prop_map(String::into_bytes), 0..3),
    )
}

fn read(request: &(Option<Vec<u8>>, Vec<Vec<u8>>)) -> Credentials<'_> {
    Credentials::read(request.0.as_deref(), request.1.iter().map(Vec::as_slice), &names())
}

/// Decodes what `write_canonical` wrote, and returns the bytes behind it too.
fn decode(mut bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>, &[u8]) {
    fn length(bytes: &mut &[u8]) -> usize {
        let (length, rest) = bytes.split_first_chunk::<4>().unwrap();
        *bytes = rest;
        u32::from_be_bytes(*length) as usize
    }
    fn take(bytes: &mut &[u8]) -> Vec<u8> {
        let length = length(bytes);
        let (taken, rest) = bytes.split_at(length);
        *bytes = rest;
        taken.to_vec()
    }
    let authorization = take(&mut bytes);
    let cookies = (0..length(&mut bytes)).map(|_| take(&mut bytes)).collect();
    (authorization, cookies, bytes)
}

#[test]
fn has_session_looks_at_the_cookie_that_authgear_reads() {
    let secret = "0123456789abcdefABCDEF0123456789";
    let names = CookieNames::new(b"dev_").expect("a prefix");
    for (cookie, expected) in [
        (format!("dev_session=id.{secret}"), true),
        (format!("a=b; dev_session=\"id.{secret}\""), true),
        (format!("dev_session=x; dev_session=id.{secret}"), false),
        (format!("dev_session=id.{secret}; dev_session=x"), true),
        (format!("dev_session=\tx; dev_session=id.{secret}"), true),
        (format!("dev_session=\tid.{secret}"), false),
        (format!("dev_session= id.{secret}"), false),
        (format!("dev_session \t=id.{secret} \t"), true),
        (format!("dev_session=\"id.{secret}"), false),
        (format!("session=id.{secret}"), false),
        (format!("dev_app_session=id.{secret}"), false),
        (format!("dev_session=.{secret}"), false),
        (format!("dev_session=\u{e9}.{secret}"), false),
        (format!("dev_session=id.{secret}0"), false),
        (format!("dev_session=id.{}", &secret[1..]), false),
        (format!("dev_session=id.{}-", &secret[1..]), false),
        (format!("dev_session=i.d.{secret}"), false),
        ("dev_session=".to_owned(), false),
        ("dev_session".to_owned(), false),
    ] {
        let credentials = Credentials::read(None, [cookie.as_bytes()], &names);
        assert_eq!(credentials.has_session(&names), expected, "{cookie}");
    }
}

#[test]
fn the_earliest_expiry_counts() {
    // {"exp":1000}, {"exp":2000}, {"exp":3000}
    let [one, two, three] =
        ["eyJ.eyJleHAiOjEwMDB9.", "eyJ.eyJleHAiOjIwMDB9.", "eyJ.eyJleHAiOjMwMDB9."];
    let names = CookieNames::default();
    let expires_at = |bearer: &str, cookie: &str, now| {
        let bearer = format!("Bearer {bearer}");
        let cookie = format!("app_access_token={cookie}");
        let credentials = Credentials::read(Some(bearer.as_bytes()), [cookie.as_bytes()], &names);
        credentials.expires_at(&names, now)
    };
    assert_eq!(expires_at(three, two, 0), Some(2000));
    assert_eq!(expires_at(two, three, 0), Some(2000));
    assert_eq!(expires_at(one, three, 999), Some(1000));
    assert_eq!(expires_at(one, three, 1000), Some(3000));
    assert_eq!(expires_at(one, "opaque", 1000), None);
    assert_eq!(expires_at("opaque", "opaque", 0), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn canonical_forms_are_equal_when_what_is_sent_is(a in request(), b in request()) {
        let (a, b) = (read(&a), read(&b));
        let sent_equal = a.authorization() == b.authorization()
            && a.cookie_header() == b.cookie_header();
        prop_assert_eq!(canonical(&a) == canonical(&b), sent_equal);
    }

    #[test]
    fn canonical_forms_can_be_decoded(request in request(), tail in vec(any::<u8>(), 0..8)) {
        let credentials = read(&request);
        let mut bytes = canonical(&credentials);
        bytes.extend_from_slice(&tail);
        let (authorization, cookies, rest) = decode(&bytes);
        prop_assert_eq!(authorization, credentials.authorization().unwrap_or_default());
        let header = (!cookies.is_empty()).then(|| cookies.join(&b"; "[..]));
        prop_assert_eq!(header, credentials.cookie_header());
        prop_assert_eq!(rest, tail.as_slice());
    }

    #[test]
    fn removal_leaves_all_other_cookies_and_none_of_the_projects(
        field in r"([ \t]?(session|app_session|x)?[ ]?=?(session|[=;\x00 ])?;?){0,5}",
    ) {
        let (names, field) = (names(), field.into_bytes());
        let left = match names.remove_from(&field) {
            Remainder::All => field.clone(),
            Remainder::Part(left) => left,
            Remainder::Nothing => Vec::new(),
        };
        let others = |field: &[u8]| -> Vec<Vec<u8>> {
            let cookies = field.split(|&byte| byte == b';').map(trim);
            let others = cookies.filter(|c| !c.is_empty() && !names.contains(cookie_name(c)));
            others.map(<[u8]>::to_vec).collect()
        };
        prop_assert_eq!(others(&left), others(&field));
        prop_assert_eq!(names.remove_from(&left), Remainder::All);
    }

    #[test]
    fn the_credentials_sent_are_read_back_unchanged(request in request()) {
        let credentials = read(&request);
        let header = credentials.cookie_header();
        let again = Credentials::read(credentials.authorization(), header.as_deref(), &names());
        prop_assert_eq!(canonical(&again), canonical(&credentials));
    }

    #[test]
    fn credentials_kept_are_valid_field_values(
        authorization in option::of(vec(any::<u8>(), 0..40)),
        fields in vec(vec(any::<u8>(), 0..40), 0..4),
    ) {
        let bearer = authorization.map(|token| [b"bearer ", token.as_slice()].concat());
        let fields: Vec<_> =
            fields.into_iter().map(|value| [b"session=", value.as_slice()].concat()).collect();
        let credentials = Credentials::read(
            bearer.as_deref(),
            fields.iter().map(Vec::as_slice),
            &names(),
        );
        for value in [credentials.authorization().map(<[u8]>::to_vec), credentials.cookie_header()] {
            prop_assert!(value.is_none_or(|value| http::HeaderValue::from_bytes(&value).is_ok()));
        }
    }
}

/// Go's rules, as the table in [`CookieNames`] has them, in the plainest form: the names and values
/// of the project's cookies.
fn model(fields: &[Vec<u8>], names: &CookieNames) -> Vec<(Vec<u8>, Vec<u8>)> {
    fn trimmed(mut text: Vec<u8>) -> Vec<u8> {
        let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| b" \t\r\n".contains(byte));
        while is_space(text.first()) {
            text.remove(0);
        }
        while is_space(text.last()) {
            text.pop();
        }
        text
    }
    let pieces: Vec<Vec<u8>> = fields
        .iter()
        .flat_map(|field| field.split(|&byte| byte == b';'))
        .map(|piece| trimmed(piece.to_vec()))
        .collect();
    if pieces.len() > 3000 {
        return Vec::new();
    }
    let mut cookies = Vec::new();
    for piece in pieces {
        let at = piece.iter().position(|&byte| byte == b'=');
        let (name, mut value) = match at {
            Some(at) => (piece[..at].to_vec(), piece[at + 1..].to_vec()),
            None => (piece, Vec::new()),
        };
        if value.len() > 1 && value[0] == b'"' && value[value.len() - 1] == b'"' {
            value = value[1..value.len() - 1].to_vec();
        }
        let valid =
            value.iter().all(|byte| (0x20..0x7f).contains(byte) && !b"\";\\".contains(byte));
        if names.contains(&trimmed(name.clone())) && valid {
            cookies.push((trimmed(name), value));
        }
    }
    cookies
}

/// Fields of pieces that are, or resemble, the project's cookies.
fn cookie_fields() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        r"[ \t]{0,2}(a_)?(app_)?(session|access_token)[ \t]{0,2}(=[ \t]?\x22?[a-c =,\x22\\\t\x01\x7f]{0,3}\x22?)?[ \t]{0,2}"
            .prop_map(String::into_bytes),
        vec(any::<u8>(), 0..6),
    ];
    vec(vec(piece, 0..6).prop_map(|pieces| pieces.join(&b';')), 0..4)
}

#[test]
fn no_cookie_is_read_if_there_are_too_many_pieces() {
    let names = names();
    for (pieces, expected) in [(MAX_PIECES, Some(&b"session=a"[..])), (MAX_PIECES + 1, None)] {
        let one = [b"session=a".to_vec(), b";".repeat(pieces - 1)].concat();
        let halves = [b"session=a".to_vec(), b";".repeat(pieces - 2)];
        for fields in [&[one][..], &halves] {
            let fields = fields.iter().map(Vec::as_slice);
            let credentials = Credentials::read(None, fields, &names);
            assert_eq!(credentials.cookie_header().as_deref(), expected, "{pieces}");
        }
    }
    let other = |pieces: usize| [b"a=1".to_vec(), b";".repeat(pieces - 1)].concat();
    assert_eq!(names.remove_from(&other(MAX_PIECES)), Remainder::All);
    assert_eq!(names.remove_from(&other(MAX_PIECES + 1)), Remainder::Nothing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn cookies_are_read_as_in_a_model_of_go(fields in cookie_fields(), prefix in "(a_)?") {
        let names = CookieNames::new(prefix.as_bytes()).unwrap();
        let credentials = Credentials::read(None, fields.iter().map(Vec::as_slice), &names);
        let sent: Vec<_> = credentials
            .cookies
            .iter()
            .map(|cookie| name_and_value(cookie))
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        // A name with CR or LF behind it cannot be sent, nor can it arrive.
        let can_arrive = |field: &Vec<u8>| !field.iter().any(|byte| b"\r\n".contains(byte));
        prop_assume!(fields.iter().all(can_arrive));
        prop_assert_eq!(&sent, &model(&fields, &names));
        // The resolver reads the same from what is sent.
        let header: Vec<_> = credentials.cookie_header().into_iter().collect();
        prop_assert_eq!(&sent, &model(&header, &names));
    }
}
