use super::*;
use proptest::prelude::*;

/// Beginnings that lead a browser to another site, or break a header line.
const FOREIGN: &[&str] = &[
    "//x",
    "/\\x",
    "\\/x",
    "\\\\x",
    "/\t/x",
    "/%09/x",
    "/%0a/x",
    "/%0D%0Ax",
    "/\r\nx",
    "%2f%2fx",
    "/%2fx",
    "/%2Fx",
    "/%5cx",
    "/%252fx",
    "/%25252fx",
    "https://x",
    "http:x",
    "javascript:x",
    "x",
    "",
    " /x",
    "/./%2fx",
    "/.//x",
    "/..//x",
    "/a/..//x",
    "/a/%2e%2e//x",
    "/a/../\\x",
    "/\u{1}x",
    "/%00x",
    "/%7fx",
];

#[test]
fn a_state_that_leads_elsewhere_is_replaced_by_the_root() {
    for state in FOREIGN {
        let query = format!("state={}", percent_encode(state.as_bytes(), NON_ALPHANUMERIC));
        assert_eq!(return_path(query.as_bytes()), b"/", "{state:?}");
    }
    assert_eq!(return_path(b""), b"/");
    assert_eq!(return_path(b"state="), b"/");
    let long = format!("state=/{}", "a".repeat(MAX_STATE));
    assert_eq!(return_path(long.as_bytes()), b"/");
}

#[test]
fn a_path_of_this_site_is_kept_with_its_query() {
    for path in ["/", "/a", "/a/b?c=d&e=//f", "/a%20b", "/a//b", "/?u=https://x/", "/%E3%81%82#x"] {
        let query = format!("x=y&state={}", percent_encode(path.as_bytes(), NON_ALPHANUMERIC));
        assert_eq!(return_path(query.as_bytes()), path.as_bytes(), "{path}");
    }
}

fn state_of(url: &str) -> Vec<u8> {
    return_path(url.split_once('?').unwrap().1.as_bytes())
}

#[test]
fn a_long_target_loses_its_query_and_then_its_path() {
    let url = |target: &str| {
        authorize_url("https://a.test", "id", "https://s.test/cb", Visit::Login, target.as_bytes())
    };
    let long = "a".repeat(MAX_URL);
    for (target, state) in [
        ("/a?b=c".to_owned(), "/a?b=c"),
        (format!("/a?{long}"), "/a"),
        (format!("/{long}"), "/"),
        ("//x".to_owned(), "/"),
    ] {
        assert!(url(&target).len() <= MAX_URL);
        assert_eq!(state_of(&url(&target)), state.as_bytes());
    }
}

#[test]
fn each_visit_names_its_page_at_authgear() {
    for (visit, expected) in [
        (Visit::Login, "&x_page=login&state="),
        (Visit::Signup, "&x_page=signup&state="),
        (Visit::StepUp, "&x_page=login&prompt=login&state="),
    ] {
        let url = authorize_url("https://a.test", "i d", "https://s.test/cb", visit, b"/");
        let begin = "https://a.test/oauth2/authorize?response_type=none&scope=openid&\
                     client_id=i%20d&redirect_uri=https%3A//s.test/cb";
        assert_eq!(url, format!("{begin}{expected}/"));
    }
    let url = end_session_url("https://a.test", "https://s.test/?a=b");
    assert_eq!(
        url,
        "https://a.test/oauth2/end_session?post_logout_redirect_uri=https%3A//s.test/%3Fa%3Db"
    );
}

#[test]
fn a_logout_is_own_only_by_a_form_or_a_click_of_this_site() {
    let own = |is_post, navigates, site: Option<&str>, origin: Option<&str>| {
        let bytes = |text: Option<&'static str>| text.map(str::as_bytes);
        let site = match site {
            Some("same-origin") => Some("same-origin"),
            Some("same-site") => Some("same-site"),
            Some("none") => Some("none"),
            Some(_) => Some("cross-site"),
            None => None,
        };
        let origin = origin.map(|o| if o == "https://s.test" { "https://s.test" } else { "null" });
        is_own_logout(is_post, navigates, bytes(site), bytes(origin), Some(b"s.test"))
    };
    assert!(own(true, true, Some("same-origin"), None));
    assert!(own(true, false, Some("same-site"), None));
    assert!(own(true, true, None, Some("https://s.test")));
    assert!(!own(true, true, Some("cross-site"), None));
    assert!(!own(true, true, None, Some("null")));
    assert!(own(false, true, Some("same-origin"), None));
    assert!(!own(false, false, Some("same-origin"), None));
    assert!(!own(false, true, Some("none"), None));
    assert!(!own(false, true, Some("cross-site"), None));
    assert!(!own(false, true, None, None));
}

#[test]
fn a_write_needs_proof_that_it_comes_from_this_site() {
    let own: Option<&[u8]> = Some(b"https://s.test");
    for (site, origin, expected) in [
        (Some(&b"same-origin"[..]), None, false),
        (Some(b"same-site"), None, false),
        (Some(b"none"), own, true),
        (Some(b"cross-site"), own, true),
        (None, own, false),
        (None, Some(&b"https://other.test"[..]), true),
        (None, Some(b"http://s.test"), true),
        (None, Some(b"null"), true),
        (None, None, true),
    ] {
        assert_eq!(is_foreign_write(site, origin, own), expected, "{site:?} {origin:?}");
    }
}

#[test]
fn pages_repeat_no_text_of_the_request() {
    let page = error_page(b"error=access_denied&error_description=<script>&state=/x").unwrap();
    assert!(page.html.contains("access_denied") && !page.html.contains("script"));
    let page = error_page(b"error=<script>alert(1)</script>").unwrap();
    assert!(page.html.contains("<code>unknown</code>") && !page.html.contains("script"));
    assert_eq!(error_page(b"state=/"), None);
    let page = no_session_page(b"<b>\"'&", "auth.test");
    assert!(
        page.html.contains("&#60;b&#62;&#34;&#39;&#38;") && page.html.contains("cookie_not_shared")
    );
}

#[test]
fn the_mark_of_a_step_up_is_found_among_other_cookies() {
    for (cookies, expected) in [
        ("authgear_step_up=1", true),
        ("a=b; authgear_step_up=1; c=d", true),
        ("authgear_step_up=2", false),
        ("xauthgear_step_up=1", false),
        ("", false),
    ] {
        assert_eq!(has_step_up(cookies.as_bytes()), expected, "{cookies}");
    }
    assert!(step_up_cookie(true).ends_with("; Secure"));
    assert!(!step_up_cookie(false).contains("Secure"));
}

/// Resolves a target as a browser does: tabs and line ends are dropped, `\` counts as `/`, and dot
/// segments are removed. Returns whether the browser stays on the site.
fn stays(target: &[u8]) -> bool {
    let text: Vec<u8> = target
        .iter()
        .filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r'))
        .map(|&byte| if byte == b'\\' { b'/' } else { byte })
        .collect();
    let text: &[u8] = text.trim_ascii_start();
    text.starts_with(b"/") && !text.starts_with(b"//")
}

proptest! {
    #[test]
    fn no_state_leads_to_another_site(text in "[/\\\\%25cCfF02.a:?#\t\r\n x]{0,16}") {
        let query = format!("state={}", percent_encode(text.as_bytes(), NON_ALPHANUMERIC));
        let mut path = return_path(query.as_bytes());
        prop_assert!(!path.iter().any(|byte| byte.is_ascii_control()), "{text:?}");
        let end = path.iter().position(|&b| matches!(b, b'?' | b'#')).unwrap_or(path.len());
        path.truncate(end);
        for _ in 0..4 {
            prop_assert!(stays(&path), "{text:?}");
            path = percent_decode(&path).collect();
        }
    }

    #[test]
    fn any_bytes_give_a_path_and_a_short_url(text in prop::collection::vec(any::<u8>(), 0..64)) {
        let path = return_path(&[&b"state="[..], &text].concat());
        prop_assert!(path.starts_with(b"/"));
        let url = authorize_url("https://a.test", "id", "https://s/cb", Visit::Login, &text);
        prop_assert!(url.len() <= MAX_URL && url.bytes().all(|byte| byte.is_ascii_graphic()));
        let _ = error_page(&text);
    }
}
