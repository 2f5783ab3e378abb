//! Protected resource metadata (RFC 9728): tells clients where to get tokens for an API.

use serde::Serialize;
use thiserror::Error;

/// Scopes that Authgear wants in each authorization request: it refuses one without `openid`, and
/// issues a refresh token only with `offline_access`. MCP clients ask for exactly the scopes that a
/// challenge or a metadata document lists.
pub const OPENID_SCOPES: [&str; 2] = ["openid", "offline_access"];

/// Media type of the document.
pub const CONTENT_TYPE: &str = "application/json";

/// Header that lets browsers read the document from every origin: it is public.
pub const ALLOW_ORIGIN: (&str, &str) = ("Access-Control-Allow-Origin", "*");

/// Path of the document, before the path of the resource (RFC 9728 section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Error of [`ProtectedResource::parse`]. The message continues a sentence about the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// Not an absolute URL with scheme `https` or `http` and a host.
    #[error("must be a URL with https:// or http:// and a host")]
    Url,
    /// A fragment, which RFC 9728 section 1.2 forbids.
    #[error("must not have a fragment")]
    Fragment,
    /// A user name or password.
    #[error("must not have a user name")]
    UserInfo,
    /// A character that is not valid in a URL, or in a quoted string of a header.
    #[error("has an invalid character")]
    Character,
}

/// The identifier of a protected resource: its URL, as clients use it and as it is in `aud`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedResource {
    url: String,
    /// Length of scheme and authority.
    origin_len: usize,
}

/// Optional members of a document.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata<'a> {
    /// Scopes of the resource.
    pub scopes: &'a [String],
    /// Whether [`OPENID_SCOPES`] come before the scopes.
    pub openid: bool,
    /// Name for people.
    pub name: Option<&'a str>,
    /// URL of the documentation.
    pub documentation: Option<&'a str>,
}

impl ProtectedResource {
    /// Parses the identifier of a resource.
    ///
    /// # Errors
    ///
    /// See [`ResourceError`].
    pub fn parse(url: &str) -> Result<Self, ResourceError> {
        if !is_quotable_url(url) {
            return Err(ResourceError::Character);
        }
        if url.contains('#') {
            return Err(ResourceError::Fragment);
        }
        let uri: ::http::Uri = url.parse().map_err(|_| ResourceError::Url)?;
        let is_http = matches!(uri.scheme_str(), Some("https" | "http"));
        let authority = uri.authority().filter(|own| is_http && !own.host().is_empty());
        let authority = authority.ok_or(ResourceError::Url)?;
        if authority.as_str().contains('@') {
            return Err(ResourceError::UserInfo);
        }
        let scheme = uri.scheme_str().unwrap_or_default();
        let origin_len = scheme.len() + "://".len() + authority.as_str().len();
        Ok(Self { url: url.to_owned(), origin_len })
    }

    /// Returns the identifier as it was given.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Scheme, host and port; path and query.
    fn split(&self) -> (&str, &str) {
        self.url.split_at_checked(self.origin_len).unwrap_or((&self.url, ""))
    }

    /// Returns path and query of the document's URL. `/` right behind the host is left out (RFC 9728
    /// section 3.1).
    pub fn metadata_target(&self) -> String {
        let (_, target) = self.split();
        let target = match target.strip_prefix('/') {
            Some("") => "",
            Some(query) if query.starts_with('?') => query,
            _ => target,
        };
        format!("{WELL_KNOWN}{target}")
    }

    /// Returns the path of the document's URL, decoded as nginx compares it with locations.
    pub fn metadata_path(&self) -> Vec<u8> {
        let target = self.metadata_target();
        let path = target.split('?').next().unwrap_or_default();
        percent_encoding::percent_decode_str(path).collect()
    }

    /// Returns the URL of the document. It depends on the identifier only and never on a request's
    /// Host.
    pub fn metadata_url(&self) -> String {
        let (origin, _) = self.split();
        format!("{origin}{}", self.metadata_target())
    }

    /// Builds the document. `authorization_server` is the project's issuer.
    pub fn document(&self, authorization_server: &str, metadata: &Metadata<'_>) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            resource: &'a str,
            authorization_servers: [&'a str; 1],
            bearer_methods_supported: [&'a str; 1],
            #[serde(skip_serializing_if = "Vec::is_empty")]
            scopes_supported: Vec<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            resource_name: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            resource_documentation: Option<&'a str>,
        }
        let scopes = metadata.scopes.iter().map(String::as_str);
        let document = Document {
            resource: &self.url,
            authorization_servers: [authorization_server],
            bearer_methods_supported: ["header"],
            scopes_supported: unique_scopes(metadata.openid, scopes),
            resource_name: metadata.name,
            resource_documentation: metadata.documentation,
        };
        // Texts and lists always serialize.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

/// Whether the text consists of characters of URLs that are valid in a quoted string of a header.
fn is_quotable_url(url: &str) -> bool {
    url.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>'))
}

/// Returns the scopes without duplicates. With `openid`, [`OPENID_SCOPES`] come first.
pub fn unique_scopes<'a>(openid: bool, scopes: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut unique = Vec::new();
    for scope in OPENID_SCOPES.into_iter().filter(|_| openid).chain(scopes) {
        if !unique.contains(&scope) {
            unique.push(scope);
        }
    }
    unique
}

/// Whether `scope` is a scope token (RFC 6749 section 3.3), and so valid in a quoted string.
pub fn is_scope(scope: &str) -> bool {
    let is_scope_byte = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    !scope.is_empty() && scope.bytes().all(is_scope_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(url: &str) -> ProtectedResource {
        ProtectedResource::parse(url).unwrap_or_else(|error| panic!("{url} {error}"))
    }

    #[test]
    fn the_metadata_url_has_the_well_known_path_between_host_and_path() {
        for (url, expected) in [
            ("https://mcp.acme.test/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("https://api.acme.test", "/.well-known/oauth-protected-resource"),
            ("https://api.acme.test/", "/.well-known/oauth-protected-resource"),
            ("https://a.test:8443/a/b/", "/.well-known/oauth-protected-resource/a/b/"),
            ("http://127.0.0.1:8080/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("https://[::1]/x?k=v", "/.well-known/oauth-protected-resource/x?k=v"),
            ("https://a.test/?k=v", "/.well-known/oauth-protected-resource?k=v"),
            ("https://a.test?k=v", "/.well-known/oauth-protected-resource?k=v"),
        ] {
            let own = resource(url);
            assert_eq!(own.metadata_target(), expected, "{url}");
            let path = expected.split('?').next().unwrap();
            assert_eq!(own.metadata_path(), path.as_bytes(), "{url}");
            let (scheme, rest) = url.split_once("://").unwrap();
            let host = rest.split(['/', '?']).next().unwrap();
            assert_eq!(own.metadata_url(), format!("{scheme}://{host}{expected}"), "{url}");
            assert_eq!(own.as_str(), url);
        }
    }

    #[test]
    fn a_resource_is_an_absolute_url() {
        for (url, error) in [
            ("", ResourceError::Url),
            ("mcp.acme.test", ResourceError::Url),
            ("/mcp", ResourceError::Url),
            ("urn:acme:api", ResourceError::Url),
            ("ftp://acme.test", ResourceError::Url),
            ("https://", ResourceError::Url),
            ("https:///mcp", ResourceError::Url),
            ("https://acme.test/#a", ResourceError::Fragment),
            ("https://me@acme.test/", ResourceError::UserInfo),
            ("https://acme.test/a b", ResourceError::Character),
            ("https://acme.test/\"", ResourceError::Character),
            ("https://acme.test/\\", ResourceError::Character),
            ("https://\u{e9}.test/", ResourceError::Character),
        ] {
            assert_eq!(ProtectedResource::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn the_document_lists_openid_before_the_scopes() {
        let scopes = ["tools:read".to_owned(), "openid".to_owned()];
        let metadata = Metadata {
            scopes: &scopes,
            openid: true,
            name: Some("Acme \"tools\""),
            documentation: Some("https://acme.test/docs"),
        };
        let own = resource("https://mcp.acme.test/mcp");
        assert_eq!(
            own.document("https://auth.acme.test", &metadata),
            r#"{"resource":"https://mcp.acme.test/mcp","#.to_owned()
                + r#""authorization_servers":["https://auth.acme.test"],"#
                + r#""bearer_methods_supported":["header"],"#
                + r#""scopes_supported":["openid","offline_access","tools:read"],"#
                + r#""resource_name":"Acme \"tools\"","#
                + r#""resource_documentation":"https://acme.test/docs"}"#
        );
        let without = Metadata { openid: false, ..Metadata::default() };
        assert_eq!(
            own.document("https://auth.acme.test", &without),
            r#"{"resource":"https://mcp.acme.test/mcp","#.to_owned()
                + r#""authorization_servers":["https://auth.acme.test"],"#
                + r#""bearer_methods_supported":["header"]}"#
        );
    }

    #[test]
    fn scope_tokens_are_those_of_oauth() {
        for scope in ["a", "tools:read", "https://authgear.com/scopes/full-access", "!"] {
            assert!(is_scope(scope), "{scope}");
        }
        for scope in ["", "a b", "a\"", "a\\", "\u{e9}", "a\n"] {
            assert!(!is_scope(scope), "{scope}");
        }
    }

    proptest! {
        #[test]
        fn any_resource_gives_a_url_of_its_own_origin(url in "https?://[a-z.]{1,10}(:[0-9]{1,4})?[/?a-z=]{0,20}") {
            if let Ok(own) = ProtectedResource::parse(&url) {
                let (origin, _) = own.split();
                prop_assert!(own.metadata_url().starts_with(origin));
                prop_assert!(!own.metadata_url().contains('"'));
            }
        }
    }
}
