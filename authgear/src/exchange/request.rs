//! The bytes of a request without a body.

use std::fmt;

use thiserror::Error;

/// Error of [`RequestPrefix::new`]: the target is not a path in origin form (RFC 9112 section
/// 3.2.1), or the authority cannot be a field value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("invalid path or authority of a request")]
pub struct InvalidTarget;

/// Beginning of all requests for one URL: the request line and the fields that never differ.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestPrefix(Box<[u8]>);

impl RequestPrefix {
    /// A GET for `path` with these fields. Names are lower-case.
    ///
    /// # Errors
    ///
    /// When `path` is not visible ASCII that begins with `/`, or a value has a control byte.
    pub fn new(path: &str, fields: &[(&str, &str)]) -> Result<Self, InvalidTarget> {
        let is_path = path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_path || !fields.iter().all(|(_, value)| is_field_value(value.as_bytes())) {
            return Err(InvalidTarget);
        }
        let mut bytes = format!("GET {path} HTTP/1.1\r\n").into_bytes();
        for (name, value) in fields {
            push(&mut bytes, name, value.as_bytes());
        }
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// Starts a request with room for `more` bytes of fields.
    pub fn start(&self, more: usize) -> RequestBuilder {
        let mut bytes = Vec::with_capacity(self.0.len() + more + END.len());
        bytes.extend_from_slice(&self.0);
        RequestBuilder(bytes)
    }
}

/// A request to which fields are added.
pub struct RequestBuilder(Vec<u8>);

impl RequestBuilder {
    /// Adds a field. False if the value has a control byte: the field is left out then.
    pub fn push(&mut self, name: &'static str, value: &[u8]) -> bool {
        let is_valid = is_field_value(value);
        if is_valid {
            push(&mut self.0, name, value);
        }
        is_valid
    }

    /// The request.
    pub fn finish(mut self) -> RequestHead {
        self.0.extend_from_slice(END);
        RequestHead(self.0)
    }
}

/// A request in the bytes that are sent.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead(Vec<u8>);

impl RequestHead {
    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The request line, without its end.
    pub fn line(&self) -> &[u8] {
        self.lines().next().unwrap_or_default()
    }

    /// Names and values of the fields.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines().skip(1).filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            Some((line.get(..colon)?, line.get(colon + SEPARATOR.len()..)?))
        })
    }

    /// The value of the first field with this lower-case name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.0.split(|&byte| byte == b'\n');
        lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).take_while(|l| !l.is_empty())
    }
}

impl fmt::Debug for RequestHead {
    /// Shows the request line and the names, never the values: they have credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        f.write_str(&text(self.line()))?;
        f.write_str(" ")?;
        f.debug_set().entries(self.fields().map(|(name, _)| text(name))).finish()
    }
}

impl fmt::Debug for RequestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.start(0).finish(), f)
    }
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Self(self.0.clone()).finish(), f)
    }
}

const SEPARATOR: &[u8] = b": ";
const END: &[u8] = b"\r\n";

/// Length of a field whose value has this many bytes.
pub const fn field_len(name: &str, value: usize) -> usize {
    name.len() + SEPARATOR.len() + value + END.len()
}

fn push(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), SEPARATOR, value, END] {
        bytes.extend_from_slice(part);
    }
}

/// Returns true if a field may have this value: no control byte but the tab (RFC 9110 section 5.5).
fn is_field_value(value: &[u8]) -> bool {
    // No early exit, so that the compiler can vectorize it.
    value.iter().fold(true, |valid, &byte| valid & (!byte.is_ascii_control() | (byte == b'\t')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn prefix() -> RequestPrefix {
        RequestPrefix::new("/a/b", &[("host", "a.test"), ("x-b", "c")]).unwrap()
    }

    #[test]
    fn a_request_is_the_bytes_of_rfc_9112() {
        let mut request = prefix().start(0);
        assert!(request.push("cookie", b"session=a\xff"));
        assert!(request.push("user-agent", b""));
        let request = request.finish();
        let expected: &[u8] = b"GET /a/b HTTP/1.1\r\nhost: a.test\r\nx-b: c\r\n\
            cookie: session=a\xff\r\nuser-agent: \r\n\r\n";
        assert_eq!(request.as_bytes(), expected);
        assert_eq!(request.get("cookie"), Some(&b"session=a\xff"[..]));
        assert_eq!(request.get("user-agent"), Some(&b""[..]));
        assert_eq!(request.get("session"), None);
    }

    #[test]
    fn debug_output_has_no_value() {
        let mut request = prefix().start(0);
        request.push("cookie", b"secret");
        let shown = [format!("{request:?}"), format!("{:?}", request.finish())];
        for shown in shown {
            assert!(shown.contains("GET /a/b") && shown.contains("cookie"), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert!(!format!("{:?}", prefix()).contains("a.test"));
    }

    #[test]
    fn a_target_is_a_path_in_origin_form() {
        for path in ["/", "//a/b", "/%41?b=c", "/a:80"] {
            assert!(RequestPrefix::new(path, &[]).is_ok(), "{path:?}");
        }
        for path in ["", "resolve", "a b", "http://a/", "a:80", "/\r\n", "/a b", "/a#b", "/\u{e9}"]
        {
            assert_eq!(RequestPrefix::new(path, &[]), Err(InvalidTarget), "{path:?}");
        }
        assert_eq!(RequestPrefix::new("/", &[("host", "a\r\nb: c")]), Err(InvalidTarget));
    }

    proptest! {
        #[test]
        fn no_value_makes_another_field(values in vec(vec(any::<u8>(), 0..20), 0..6)) {
            let mut request = prefix().start(0);
            let sent: Vec<_> = values.iter().filter(|value| request.push("x-c", value)).collect();
            let request = request.finish();
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut parsed = httparse::Request::new(&mut headers);
            let bytes = request.as_bytes();
            prop_assert_eq!(parsed.parse(bytes), Ok(httparse::Status::Complete(bytes.len())));
            prop_assert_eq!(parsed.headers.len(), 2 + sent.len());
            prop_assert_eq!(request.fields().count(), 2 + sent.len());
            for (field, value) in request.fields().skip(2).zip(sent) {
                prop_assert_eq!(field, (&b"x-c"[..], &value[..]));
            }
            for value in &values {
                prop_assert_eq!(is_field_value(value), http::HeaderValue::from_bytes(value).is_ok());
            }
        }
    }
}
