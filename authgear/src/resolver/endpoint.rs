//! The address of Authgear: absolute URLs, and the public origin of a project.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use thiserror::Error;

use super::system_names;

/// Longest URL that is read, in bytes.
pub const MAX_URL: usize = 2048;

/// Longest DNS name in text form without the trailing dot, in bytes (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;

/// Longest label of a DNS name, in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// Path of the key set on the public origin (`pkg/auth/handler/oauth/jwks.go`).
const JWKS_PATH: &str = "/oauth2/jwks";

/// Path of userinfo on the public origin (`pkg/auth/handler/oauth/user_info.go`).
const USERINFO_PATH: &str = "/oauth2/userinfo";

/// Path of the resolver on the public origin (`pkg/resolver/handler/resolve.go`).
const RESOLVER_PATH: &str = "/_resolver/resolve";

/// Error of [`Url::parse`] and [`Endpoint::parse`].
///
/// The message continues a sentence about the value. It does not repeat the value, since a URL
/// written by mistake may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Longer than [`MAX_URL`].
    #[error("is longer than {MAX_URL} bytes")]
    TooLong,
    /// A byte that is not visible ASCII.
    #[error("has an invalid character")]
    Character,
    /// No scheme, or another than `http` and `https`.
    #[error("must begin with \"http://\" or \"https://\"")]
    Scheme,
    /// Not the syntax of RFC 3986.
    #[error("is malformed")]
    Malformed,
    /// A user name or password before the host.
    #[error("must not have a user name or password")]
    UserInfo,
    /// Nothing where the host belongs.
    #[error("has no host")]
    NoHost,
    /// Neither a DNS name nor an IP address.
    #[error("has an invalid host")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("has an invalid port")]
    Port,
    /// A `?` part.
    #[error("must not have a query")]
    Query,
    /// A `#` part.
    #[error("must not have a fragment")]
    Fragment,
    /// A path where only an origin is meant.
    #[error("must not have a path")]
    Path,
}

/// Scheme of a [`Url`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the port of a URL that names none: 80 or 443 (RFC 9110 section 4.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An absolute `http` or `https` URL without user information, query and fragment.
///
/// The URL is normalized, so that equal places compare equal: the host is lower-case without a
/// trailing dot, an IPv6 address is compressed (RFC 5952), and the default port is omitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    host: String,
    ip: Option<IpAddr>,
    port: u16,
    authority: String,
    path: String,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// See [`UrlError`]. Rejects a host whose last label is a number unless it is an IPv4 address in
    /// dotted decimal notation, since parsers disagree on its meaning (`127.1`).
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Character);
        }
        let (scheme, rest) = [Scheme::Http, Scheme::Https]
            .into_iter()
            .find_map(|scheme| Some((scheme, strip_scheme(text, scheme)?)))
            .ok_or(UrlError::Scheme)?;
        // `Uri` would drop a fragment silently.
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        if rest.is_empty() || rest.starts_with(['/', '?', ':']) {
            return Err(UrlError::NoHost);
        }

        let uri = Uri::try_from(text).map_err(|_| UrlError::Malformed)?;
        let authority = uri.authority().ok_or(UrlError::NoHost)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(UrlError::Query);
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => scheme.default_port(),
            Some(port) => parse_port(port)?,
            None => return Err(UrlError::Malformed),
        };
        let (host, ip) = parse_host(host)?;

        let mut authority = match ip {
            Some(IpAddr::V6(_)) => format!("[{host}]"),
            _ => host.clone(),
        };
        if port != scheme.default_port() {
            authority.push_str(&format!(":{port}"));
        }
        Ok(Self { scheme, host, ip, port, authority, path: uri.path().to_owned() })
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: a DNS name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host as an IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The port; the scheme's default if the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value for `Host`: the host, IPv6 in brackets, and the port unless it is the default.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether requests may cross a public network unencrypted: the scheme is `http`, and the host
    /// is neither loopback nor link-local nor private (RFC 1918, RFC 4193). A name other than
    /// `localhost` counts as public.
    pub fn is_exposed(&self) -> bool {
        let safe = match self.ip {
            Some(ip) => system_names::is_private(ip),
            None => system_names::is_localhost(&self.host),
        };
        self.scheme == Scheme::Http && !safe
    }

    /// The path as written, not decoded; at least `/`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.path)
    }
}

/// The public origin of an Authgear project.
///
/// Authgear derives the project, and the `aud` it expects in a token, from the scheme and host of a
/// request (`pkg/lib/endpoints/endpoints.go`). So requests must name exactly this origin, whatever
/// address the resolver listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    url: Url,
    origin: String,
}

impl Endpoint {
    /// Parses an origin: a URL whose path is empty or `/`.
    ///
    /// # Errors
    ///
    /// Those of [`Url::parse`], and [`UrlError::Path`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text)?;
        if url.path != "/" {
            return Err(UrlError::Path);
        }
        let origin = format!("{}://{}", url.scheme.as_str(), url.authority);
        Ok(Self { url, origin })
    }

    /// The origin as a URL; its path is `/`.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// `scheme://authority` without a trailing slash, as Authgear writes it in `iss` and `aud`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The scheme of the origin.
    pub fn scheme(&self) -> Scheme {
        self.url.scheme
    }

    /// The authority of the origin, see [`Url::authority`].
    pub fn authority(&self) -> &str {
        &self.url.authority
    }

    /// The resolver's URL on the origin: `/_resolver/resolve`.
    pub fn resolver_url(&self) -> Url {
        Url { path: RESOLVER_PATH.to_owned(), ..self.url.clone() }
    }

    /// The userinfo endpoint's URL on the origin: `/oauth2/userinfo`.
    pub fn userinfo_url(&self) -> Url {
        Url { path: USERINFO_PATH.to_owned(), ..self.url.clone() }
    }

    /// The key set's URL on the origin: `/oauth2/jwks`.
    pub fn jwks_url(&self) -> Url {
        Url { path: JWKS_PATH.to_owned(), ..self.url.clone() }
    }
}

/// Reads the name of a server's certificate: a host name or an address, in the form that
/// [`Url::host`] has.
pub fn server_name(text: &str) -> Result<String, UrlError> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) => Ok(parse_host(text)?.0),
    }
}

/// Returns the text after `scheme://`; the scheme's case is ignored (RFC 3986 section 3.1).
fn strip_scheme(text: &str, scheme: Scheme) -> Option<&str> {
    let (name, rest) = text.split_once("://")?;
    name.eq_ignore_ascii_case(scheme.as_str()).then_some(rest)
}

/// Parses `:port`.
fn parse_port(text: &str) -> Result<u16, UrlError> {
    text.strip_prefix(':')
        // `u16::from_str` accepts `+80`.
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .filter(|&port| port != 0)
        .ok_or(UrlError::Port)
}

/// Normalizes a host; IPv6 is given in brackets.
fn parse_host(text: &str) -> Result<(String, Option<IpAddr>), UrlError> {
    if let Some(literal) = text.strip_prefix('[') {
        let ip: Ipv6Addr = literal
            .strip_suffix(']')
            .and_then(|literal| literal.parse().ok())
            .ok_or(UrlError::Host)?;
        return Ok((ip.to_string(), Some(ip.into())));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Ok(ip) = name.parse::<Ipv4Addr>() {
        return Ok((ip.to_string(), Some(ip.into())));
    }
    if name.len() > MAX_HOST || !name.split('.').all(is_label) || ends_in_number(name) {
        return Err(UrlError::Host);
    }
    Ok((name.to_ascii_lowercase(), None))
}

/// Whether `label` is valid in a host name (RFC 1123 section 2.1). Underscores are allowed too, since
/// container names have them.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn ends_in_number(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn server_names_are_host_names_or_addresses() {
        for (text, name) in [
            ("Auth.Example.com", Some("auth.example.com")),
            ("auth.example.com.", Some("auth.example.com")),
            ("authgear", Some("authgear")),
            ("10.0.0.7", Some("10.0.0.7")),
            ("2001:DB8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("", None),
            ("*.example.com", None),
            ("auth.example.com:443", None),
            ("https://auth.example.com", None),
            ("auth.example.com/", None),
            ("auth example", None),
            ("$host", None),
            ("10.0.0.700", None),
        ] {
            assert_eq!(server_name(text).ok().as_deref(), name, "{text}");
        }
    }

    #[test]
    fn only_plain_http_to_public_hosts_is_exposed() {
        for (url, exposed) in [
            ("https://a.example", false),
            ("https://192.0.2.1", false),
            ("http://a.example", true),
            ("http://authgear:3001/resolve", true),
            ("http://192.0.2.1", true),
            ("http://172.32.0.1", true),
            ("http://[2001:db8::1]", true),
            ("http://[::ffff:192.0.2.1]", true),
            ("http://localhost:3000", false),
            ("http://LOCALHOST.", false),
            ("http://app.localhost", false),
            ("http://notlocalhost", true),
            ("http://127.9.9.9", false),
            ("http://10.0.0.7:3001", false),
            ("http://172.31.0.1", false),
            ("http://192.168.1.1", false),
            ("http://169.254.1.1", false),
            ("http://[::1]", false),
            ("http://[fd00::1]", false),
            ("http://[fe80::1]", false),
            ("http://[::ffff:10.0.0.1]", false),
        ] {
            assert_eq!(Url::parse(url).unwrap().is_exposed(), exposed, "{url}");
        }
    }

    #[test]
    fn urls_have_a_normal_form() {
        for (text, normal, host, port, authority) in [
            ("http://a", "http://a/", "a", 80, "a"),
            ("https://a/", "https://a/", "a", 443, "a"),
            (
                "HTTPS://MyApp.Authgear.Cloud",
                "https://myapp.authgear.cloud/",
                "myapp.authgear.cloud",
                443,
                "myapp.authgear.cloud",
            ),
            ("http://a:80/", "http://a/", "a", 80, "a"),
            ("http://a:443/", "http://a:443/", "a", 443, "a:443"),
            ("https://a:443", "https://a/", "a", 443, "a"),
            ("https://a:80", "https://a:80/", "a", 80, "a:80"),
            ("http://a:0080/", "http://a/", "a", 80, "a"),
            ("http://a:65535/x/Y", "http://a:65535/x/Y", "a", 65535, "a:65535"),
            ("http://a.example./x", "http://a.example/x", "a.example", 80, "a.example"),
            (
                "http://auth_gear:3001/resolve",
                "http://auth_gear:3001/resolve",
                "auth_gear",
                3001,
                "auth_gear:3001",
            ),
            (
                "http://127.0.0.1:3001/",
                "http://127.0.0.1:3001/",
                "127.0.0.1",
                3001,
                "127.0.0.1:3001",
            ),
            ("http://[::1]", "http://[::1]/", "::1", 80, "[::1]"),
            (
                "http://[2001:DB8:0:0::1]:8080/a",
                "http://[2001:db8::1]:8080/a",
                "2001:db8::1",
                8080,
                "[2001:db8::1]:8080",
            ),
            ("http://a//b/../%2F", "http://a//b/../%2F", "a", 80, "a"),
        ] {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), normal);
            assert_eq!((url.host(), url.port(), url.authority()), (host, port, authority));
            assert_eq!(url.ip(), host.parse().ok());
            assert!(url.to_string().ends_with(url.path()));
        }
        assert_eq!(Url::parse("http://A.:80"), Url::parse("http://a/"));
        assert_ne!(Url::parse("http://a/"), Url::parse("https://a/"));
    }

    #[test]
    fn malformed_urls_are_rejected_with_their_reason() {
        let long_label = format!("http://{}/", "a".repeat(64));
        let long_host = format!("http://{}a/", "abcdefg.".repeat(32));
        let long_url = format!("http://a/{}", "b".repeat(MAX_URL));
        for (text, error) in [
            ("", UrlError::Scheme),
            ("a.example", UrlError::Scheme),
            ("//a/", UrlError::Scheme),
            ("/_auth", UrlError::Scheme),
            ("http:a", UrlError::Scheme),
            ("http:/a", UrlError::Scheme),
            ("ftp://a", UrlError::Scheme),
            ("httpss://a", UrlError::Scheme),
            ("unix:///run/x", UrlError::Scheme),
            ("http://", UrlError::NoHost),
            ("http:///", UrlError::NoHost),
            ("http://:80", UrlError::NoHost),
            ("http://?a", UrlError::NoHost),
            ("http://#a", UrlError::Fragment),
            ("http://a b", UrlError::Character),
            ("http://a/\u{e9}", UrlError::Character),
            ("http://a/\0", UrlError::Character),
            ("http://a/\r\nHost: b", UrlError::Character),
            ("http://u@a", UrlError::UserInfo),
            ("http://u:p@a/", UrlError::UserInfo),
            ("http://a?", UrlError::Query),
            ("http://a/?b=c", UrlError::Query),
            ("http://a/#", UrlError::Fragment),
            ("http://a/b#c", UrlError::Fragment),
            ("http://a:", UrlError::Port),
            ("http://a:/", UrlError::Port),
            ("http://a:0", UrlError::Port),
            ("http://a:65536", UrlError::Port),
            ("http://a:+80", UrlError::Port),
            ("http://a:http", UrlError::Port),
            ("http://[::1]a", UrlError::Port),
            ("http://.", UrlError::Host),
            ("http://a..", UrlError::Host),
            ("http://.a", UrlError::Host),
            ("http://a..b", UrlError::Host),
            ("http://-a", UrlError::Host),
            ("http://a-.b", UrlError::Host),
            ("http://a!", UrlError::Host),
            ("http://$host", UrlError::Host),
            ("http://127.1", UrlError::Host),
            ("http://2130706433", UrlError::Host),
            ("http://256.0.0.1", UrlError::Host),
            ("http://010.0.0.1", UrlError::Host),
            ("http://[fe80::1%25eth0]", UrlError::Host),
            ("http://[a]", UrlError::Host),
            ("http://[127.0.0.1]", UrlError::Host),
            ("http://[::1", UrlError::Malformed),
            ("http://::1/", UrlError::NoHost),
            ("http://2001:db8::1/", UrlError::Malformed),
            (&long_label, UrlError::Host),
            (&long_host, UrlError::Host),
            (&long_url, UrlError::TooLong),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn hosts_and_urls_may_have_their_maximum_length() {
        let label = "a".repeat(MAX_LABEL);
        let host = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(host.len(), MAX_HOST);
        assert!(Url::parse(&format!("http://{host}./")).is_ok());
        assert_eq!(Url::parse(&format!("http://{host}a/")), Err(UrlError::Host));

        let url = format!("http://a/{}", "b".repeat(MAX_URL - 9));
        assert!(Url::parse(&url).is_ok());
    }

    #[test]
    fn endpoint_is_an_origin() {
        for (text, origin) in [
            ("https://MyApp.authgear.cloud", "https://myapp.authgear.cloud"),
            ("https://myapp.authgear.cloud:443/", "https://myapp.authgear.cloud"),
            ("http://localhost:3100", "http://localhost:3100"),
            ("http://[::1]:3100/", "http://[::1]:3100"),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.origin(), origin);
            assert_eq!(
                format!("{}://{}", endpoint.scheme().as_str(), endpoint.authority()),
                origin
            );
            assert_eq!(endpoint.url().to_string(), format!("{origin}/"));
            assert_eq!(
                endpoint.resolver_url(),
                Url::parse(&format!("{origin}/_resolver/resolve")).unwrap()
            );
        }
        assert_eq!(Endpoint::parse("https://a/x"), Err(UrlError::Path));
        assert_eq!(Endpoint::parse("https://a//"), Err(UrlError::Path));
        assert_eq!(Endpoint::parse("https://a/?x"), Err(UrlError::Query));
        assert_eq!(Endpoint::parse("a"), Err(UrlError::Scheme));
    }

    #[test]
    fn messages_read_after_a_name() {
        assert_eq!(UrlError::NoHost.to_string(), "has no host");
        assert_eq!(UrlError::Port.to_string(), "has an invalid port");
        assert_eq!(UrlError::Path.to_string(), "must not have a path");
        assert_eq!(UrlError::Scheme.to_string(), "must begin with \"http://\" or \"https://\"");
        assert_eq!(UrlError::TooLong.to_string(), "is longer than 2048 bytes");
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in any::<String>(), scheme in "(?i:https?)://") {
            let _ = Url::parse(&text);
            let _ = Url::parse(&format!("{scheme}{text}"));
        }

        #[test]
        fn nearly_valid_urls_parse_to_sound_urls_or_not_at_all(text in r"(?i:https?)://[\[\]@:./?#%a-c0-9_-]{0,24}") {
            let _ = Endpoint::parse(&text);
            if let Ok(url) = Url::parse(&text) {
                prop_assert!(!url.host().is_empty() && url.port() != 0);
                prop_assert!(url.path().starts_with('/'));
                prop_assert_eq!(Url::parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn well_formed_urls_round_trip(
            text in r"https?://([a-z0-9_]{1,8}\.){0,3}[a-z][a-z0-9]{0,8}(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~!$&'()*+,;=:@/%-]{0,12})?"
        ) {
            let url = Url::parse(&text);
            prop_assert!(url.is_ok(), "{:?}", url);
            let url = url.unwrap();
            prop_assert!(url.path() == "/" || text.ends_with(url.path()));
            prop_assert_eq!(Url::parse(&url.to_string()), Ok(url));
        }
    }
}
