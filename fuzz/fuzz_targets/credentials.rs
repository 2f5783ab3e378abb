//! Headers of a client: only credentials are sent, and equal keys mean equal bytes sent.
#![no_main]

use authgear::credentials::{
    CookieNames, Credentials, Remainder, MAX_AUTHORIZATION, MAX_COOKIE, MAX_COOKIES,
};
use authgear::resolver::{self, endpoint::Endpoint};
use libfuzzer_sys::fuzz_target;

/// Reads lines: `Authorization` if the first begins with `=`, then `Cookie` fields.
fn read<'a>(text: &'a [u8], names: &CookieNames) -> Credentials<'a> {
    let mut lines = text.split(|&byte| byte == b'\n').peekable();
    let authorization = lines.next_if(|line| line.starts_with(b"=")).map(|line| &line[1..]);
    Credentials::read(authorization, lines, names)
}

fuzz_target!(|data: &[u8]| {
    // The input has a cookie prefix and two requests.
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let [prefix, first, second] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let Ok(names) = CookieNames::new(prefix) else { return };
    let text = first;
    let (first, second) = (read(first, &names), read(second, &names));

    let clean = |value: &[u8]| value.iter().all(|&b| b == b'\t' || !b.is_ascii_control());
    if let Some(value) = first.authorization() {
        assert!(value.len() <= MAX_AUTHORIZATION && clean(value));
        assert!(value[..7].eq_ignore_ascii_case(b"bearer "));
        assert_eq!(first.bearer(), Some(&value[7..]));
    }
    if let Some(header) = first.cookie_header() {
        assert!(clean(&header) && header.len() <= MAX_COOKIES * (MAX_COOKIE + 2));
        for cookie in header.split(|&byte| byte == b';') {
            let name = cookie.trim_ascii().split(|&byte| byte == b'=').next().unwrap_or_default();
            assert!(names.contains(name.trim_ascii_end()));
        }
        // Go reads the same cookies from the header, and removal leaves none of them.
        let again = Credentials::read(None, [header.as_slice()], &names);
        assert_eq!(again.cookie_header().as_deref(), Some(header.as_slice()));
        assert_eq!(names.remove_from(&header), Remainder::Nothing);
    }
    for field in text.split(|&byte| byte == b'\n') {
        if let Remainder::Part(left) = names.remove_from(field) {
            assert!(left.len() < field.len());
            assert_eq!(names.remove_from(&left), Remainder::All);
        }
    }
    first.expires_at(&names, 1_700_000_000);
    first.has_session(&names);
    assert!(!first.without_cookies().has_cookies());

    let canonical = |credentials: &Credentials<'_>| {
        let mut bytes = Vec::new();
        credentials.write_canonical(&mut bytes);
        bytes
    };
    let same = first.authorization() == second.authorization()
        && first.cookie_header() == second.cookie_header();
    assert_eq!(canonical(&first) == canonical(&second), same);

    let endpoint = Endpoint::parse("https://a.test").unwrap();
    let client = resolver::ClientInfo {
        address: Some(data),
        user_agent: Some(data),
        trace: (Some(data), Some(data)),
        request_id: Some(data),
    };
    let prefix = resolver::prefix(&endpoint, "/resolve").unwrap();
    let request = resolver::request(&prefix, &first, &client).unwrap();
    assert_eq!(request.get("host"), Some(&b"a.test"[..]));
});
