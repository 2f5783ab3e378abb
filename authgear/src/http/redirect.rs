//! Redirect targets: detection of redirect loops, and the authority of the current URL.

/// Whether a redirect to `target` would send the browser back to the current request: a loop.
///
/// `path` is the decoded path after internal redirects, `request_uri` the URI that the client
/// sent; `target` loops if it names either. `host` is the request's `Host`. The scheme is not
/// compared, since a proxy may terminate TLS. Ports are compared if both are given.
pub fn leads_back(target: &[u8], host: &[u8], path: &[u8], request_uri: &[u8]) -> bool {
    let (authority, target) = split(target);
    if authority.is_some_and(|authority| !is_same_host(authority, host)) {
        return false;
    }
    let asked = decode(until(request_uri, b"?#"));
    // A relative target is resolved against the client's URI (RFC 3986 section 5.2).
    let target = match target {
        [] if authority.is_none() => asked.clone(),
        [] | [b'/', ..] => decode(target),
        _ => {
            let folder = asked.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            [asked.get(..folder).unwrap_or_default(), &decode(target)].concat()
        }
    };
    let target = normal(&target);
    // nginx redirects `/folder` to `/folder/`.
    let is_target = |here: &[u8]| here == target || here.strip_suffix(b"/") == Some(&*target);
    is_target(&normal(path)) || is_target(&normal(&asked))
}

/// Returns the path of a configured redirect target, if it is on the same server and contains no
/// variable.
pub fn configured_path(target: &str) -> Option<&str> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    (path.starts_with('/') && !path.starts_with("//") && !path.contains('$')).then_some(path)
}

/// Builds the authority of a URL, without the scheme's default port. `None` without a host.
pub fn authority_of(scheme: &[u8], host: &[u8], port: &[u8]) -> Option<Vec<u8>> {
    if host.is_empty() {
        return None;
    }
    Some(match (scheme, port) {
        (b"https", b"443") | (b"http", b"80") | (_, b"") => host.to_vec(),
        _ => [host, b":", port].concat(),
    })
}

/// Splits a target into its authority, if any, and its path.
fn split(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let schemes: [&[u8]; 3] = [b"http://", b"https://", b"//"];
    let start = schemes.into_iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(scheme.len())
    });
    let Some(rest) = start.and_then(|start| target.get(start..)) else {
        return (None, until(target, b"?#"));
    };
    let authority = until(rest, b"/?#");
    let path = rest.get(authority.len()..).unwrap_or_default();
    (Some(authority), until(path, b"?#"))
}

fn until<'a>(text: &'a [u8], ends: &[u8]) -> &'a [u8] {
    text.split(|byte| ends.contains(byte)).next().unwrap_or_default()
}

fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    let ((one, one_port), (other, other_port)) = (host_and_port(one), host_and_port(other));
    let ports_differ = matches!((one_port, other_port), (Some(one), Some(other)) if one != other);
    one.eq_ignore_ascii_case(other) && !ports_differ
}

fn host_and_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    match authority.iter().rposition(|&byte| byte == b':') {
        // Colons within brackets belong to an IPv6 address.
        Some(colon) if !authority.ends_with(b"]") => {
            let (host, port) = authority.split_at(colon);
            (host, port.get(1..))
        }
        _ => (authority, None),
    }
}

/// Decodes percent-encoding; invalid sequences stay as they are.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let byte = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Normalizes a decoded path: removes empty and dot segments, keeps a slash at the end.
fn normal(path: &[u8]) -> Vec<u8> {
    // Each segment has its slash in front.
    let mut normal = Vec::with_capacity(path.len() + 1);
    for segment in path.split(|&byte| byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => normal.truncate(normal.iter().rposition(|&byte| byte == b'/').unwrap_or(0)),
            segment => {
                normal.push(b'/');
                normal.extend_from_slice(segment);
            }
        }
    }
    if normal.is_empty() || path.ends_with(b"/") {
        normal.push(b'/');
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_port_is_left_out_of_the_authority() {
        for (scheme, host, port, expected) in [
            ("https", "a.test", "443", Some("a.test")),
            ("https", "a.test", "8443", Some("a.test:8443")),
            ("https", "a.test", "80", Some("a.test:80")),
            ("http", "a.test", "80", Some("a.test")),
            ("http", "[::1]", "8080", Some("[::1]:8080")),
            ("https", "a.test", "", Some("a.test")),
            // Otherwise the path would be read as the host.
            ("https", "", "443", None),
        ] {
            let authority = authority_of(scheme.as_bytes(), host.as_bytes(), port.as_bytes());
            assert_eq!(authority.as_deref(), expected.map(str::as_bytes), "{host}:{port}");
        }
    }

    fn back(target: &str, path: &str, request_uri: &str) -> bool {
        leads_back(target.as_bytes(), b"app.test:8080", path.as_bytes(), request_uri.as_bytes())
    }

    #[test]
    fn only_targets_that_name_the_current_page_lead_back() {
        for (target, path, request_uri, expected) in [
            ("/login", "/login", "/login", true),
            ("/login?to=/x#y", "/login", "/login?a=b", true),
            ("/login", "/", "/", false),
            ("/login", "/login2", "/login2", false),
            // A rewritten request has both paths.
            ("/login", "/login.php", "/login?x", true),
            ("/login.php", "/login.php", "/login", true),
            // A TLS terminator changes scheme and port.
            ("https://app.test/login", "/login", "/login", true),
            ("HTTPS://App.Test:8080/login", "/login", "/login", true),
            ("http://app.test:8080/login", "/login", "/login", true),
            ("//app.test/login", "/login", "/login", true),
            ("https://app.test:8443/login", "/login", "/login", false),
            ("https://login.test/login", "/login", "/login", false),
            ("https://app.test.evil/login", "/login", "/login", false),
            ("https://app.test", "/", "/", true),
            ("https://app.test?a=b", "/", "/?c", true),
            // The same path in another spelling.
            ("/log%69n", "/login", "/login", true),
            ("/login", "/login", "/log%69n", true),
            ("//app.test//a/./b/../c", "/a/c", "/a/c", true),
            ("/a%20b", "/a b", "/a%20b", true),
            ("/100%", "/100%", "/100%", true),
            ("/a%2fb", "/a/b", "/a%2fb", true),
            // nginx adds a slash to a folder.
            ("/login", "/login/", "/login/", true),
            ("/login/", "/login", "/login", false),
            ("/", "/", "//", true),
            // Relative targets.
            ("login", "/a/login", "/a/login", true),
            ("login", "/b/login", "/a/x", false),
            ("../login", "/login", "/a/x", true),
            ("?login", "/x", "/x", true),
            ("", "/x", "/x", true),
        ] {
            assert_eq!(back(target, path, request_uri), expected, "{target} {path} {request_uri}");
        }
        assert!(leads_back(b"http://[::1]/x", b"[::1]:80", b"/x", b"/x"));
        assert!(!leads_back(b"http://[::1]/x", b"[::2]", b"/x", b"/x"));
        assert!(!leads_back(b"http://a/x", b"", b"/x", b"/x"));
    }

    #[test]
    fn only_local_targets_without_variables_have_a_configured_path() {
        for (target, path) in [
            ("/login", Some("/login")),
            ("/login?to=$authgear_return_to", Some("/login")),
            ("/login#$x", Some("/login")),
            ("/$x", None),
            ("//host/login", None),
            ("https://host/login", None),
            ("$scheme://$host/login", None),
            ("", None),
        ] {
            assert_eq!(configured_path(target), path, "{target}");
        }
    }

    proptest! {
        #[test]
        fn a_redirect_to_the_current_path_always_leads_back(path in "/([a-z.%][a-z./%]{0,12})?", query in "([?#][a-z/?]{0,4})?") {
            let target = path.clone() + &query;
            prop_assert!(back(&target, "/", &path), "{}", target);
        }
    }
}
