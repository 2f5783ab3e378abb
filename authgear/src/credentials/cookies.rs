//! Cookies as Go's `net/http` reads them.

use memchr::{memchr, memchr_iter};
use thiserror::Error;

use super::field::is_token_byte;

/// Longest `http.cookie_prefix`, in bytes.
pub const MAX_COOKIE_PREFIX: usize = 64;

/// Most pieces, separated by `;`, of all `Cookie` fields of a request: `httpcookiemaxnum` of Go's
/// `net/http` unless configured otherwise. Empty pieces count.
pub const MAX_PIECES: usize = 3000;

/// The cookies the resolver reads, by their names without the project's prefix.
pub(super) const SESSION: &[u8] = b"session";
pub(super) const APP_ACCESS_TOKEN: &[u8] = b"app_access_token";
const APP_SESSION: &[u8] = b"app_session";

/// Reason why a text is no cookie prefix. The message continues a sentence about the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CookiePrefixError {
    /// Longer than [`MAX_COOKIE_PREFIX`].
    #[error("is longer than {MAX_COOKIE_PREFIX} bytes")]
    TooLong,
    /// A byte that no cookie name can have.
    #[error("has an invalid character")]
    Character,
}

/// The names of a project's cookies: `session`, `app_session` and `app_access_token` after its
/// `http.cookie_prefix`.
///
/// The default has no prefix, like Authgear's.
///
/// Authgear reads cookies with Go's `net/http` (`readCookies` of `cookie.go`, Go 1.26):
///
/// | Part | Rule |
/// |---|---|
/// | number | More than [`MAX_PIECES`] pieces in all fields together, empty ones included: no cookie is read. |
/// | pieces | Separated by `;`, inside quotes too. Each field is read for itself, in order. |
/// | white space | Space, TAB, CR and LF around a piece, and around a name, are removed. None is removed between `=` and the value. |
/// | empty piece | Skipped. |
/// | name | All before the first `=`; the whole piece if there is none. Compared byte by byte. It must be a token (RFC 9110 section 5.6.2), which the names here are. |
/// | value | All behind the first `=`, further ones included; empty if there is none. |
/// | quotes | One `"` at each end is removed from a value of two bytes or more that has both. |
/// | value bytes | 0x20 to 0x7E without `"` and `\`. Any other byte, a TAB too, and the cookie is not read. |
/// | several of one name | All are read; Authgear asks for the first. |
///
/// A cookie that Go does not read makes no session, and is neither sent nor part of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CookieNames {
    prefix: Box<[u8]>,
}

impl CookieNames {
    /// Names with this prefix, which may be empty.
    ///
    /// # Errors
    ///
    /// A cookie name is a token (RFC 6265 section 4.1.1). A prefix with another byte is refused, as
    /// is one longer than [`MAX_COOKIE_PREFIX`].
    pub fn new(prefix: &[u8]) -> Result<Self, CookiePrefixError> {
        if prefix.len() > MAX_COOKIE_PREFIX {
            return Err(CookiePrefixError::TooLong);
        }
        if !prefix.iter().all(|&byte| is_token_byte(byte)) {
            return Err(CookiePrefixError::Character);
        }
        Ok(Self { prefix: prefix.into() })
    }

    /// Returns whether this is one of the names, byte by byte.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.length_at_start(name) == Some(name.len())
    }

    /// Returns what is left of the value of a `Cookie` field without the project's cookies, those
    /// included that Go would not read: another parser might.
    ///
    /// Nothing is left of a field with more than [`MAX_PIECES`] pieces. The cost is linear in its
    /// length, and nothing is allocated unless a part is left out.
    pub fn remove_from(&self, field: &[u8]) -> Remainder {
        if count_pieces(field) > MAX_PIECES {
            return Remainder::Nothing;
        }
        let mut pieces = self.find_in(field);
        let mut found = pieces.next();
        if found.is_none() {
            return Remainder::All;
        }
        let mut left = Vec::with_capacity(field.len());
        let mut end_of_last = 0;
        while let Some(Found { start, end, .. }) = found {
            let kept = field.get(end_of_last..start).unwrap_or_default();
            // Nothing is between two pieces that are both left out: no copy is called then.
            if !kept.is_empty() {
                left.extend_from_slice(kept);
            }
            end_of_last = end.saturating_add(1);
            found = pieces.next();
        }
        match field.get(end_of_last..) {
            Some(rest) => left.extend_from_slice(rest),
            // The last piece was left out: so is the `;` before it.
            None => drop(left.pop()),
        }
        if start_of_piece(&left).is_none() {
            return Remainder::Nothing;
        }
        left.truncate(trim_end(&left).len());
        let leading = left.len() - trim_start(&left).len();
        left.drain(..leading);
        Remainder::Part(left)
    }

    pub(super) fn strip_prefix<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        name.strip_prefix(&*self.prefix)
    }

    /// Finds the pieces of a field that have one of the names.
    pub(super) fn find_in<'f, 'n>(&'n self, field: &'f [u8]) -> FoundIn<'f, 'n> {
        FoundIn { names: self, field, at: 0 }
    }

    /// Returns the length of the name that the text begins with.
    #[inline]
    fn length_at_start(&self, text: &[u8]) -> Option<usize> {
        // Nearly all other cookies differ in the first byte.
        let bare = match self.prefix.first() {
            None => text,
            first if first == text.first() => self.strip_prefix(text)?,
            _ => return None,
        };
        let name = match bare.first()? {
            b's' if bare.starts_with(SESSION) => SESSION,
            b'a' if bare.starts_with(APP_SESSION) => APP_SESSION,
            b'a' if bare.starts_with(APP_ACCESS_TOKEN) => APP_ACCESS_TOKEN,
            _ => return None,
        };
        Some(self.prefix.len() + name.len())
    }
}

/// The rest of a value from which something was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remainder {
    /// Nothing was removed.
    All,
    /// The rest.
    Part(Vec<u8>),
    /// Nothing else was there, or too much to look at.
    Nothing,
}

/// A piece of a field with one of the project's names.
pub(super) struct Found<'f> {
    /// The cookie, without the white space around it.
    pub cookie: &'f [u8],
    /// Length of its name.
    name: usize,
    /// Index behind the `;` before the piece.
    start: usize,
    /// Index of the `;` behind the piece, or of the end of the field.
    end: usize,
}

impl Found<'_> {
    /// Returns whether Go accepts the value.
    pub(super) fn has_valid_value(&self) -> bool {
        let is_valid =
            |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b';' | b'\\');
        let value = value_after_sign(trim_start(self.cookie.get(self.name..).unwrap_or_default()));
        // The fold reads every byte, so that the compiler can vectorize it.
        value.iter().fold(true, |valid, &byte| valid & is_valid(byte))
    }
}

/// See [`CookieNames::find_in`].
pub(super) struct FoundIn<'f, 'n> {
    names: &'n CookieNames,
    field: &'f [u8],
    /// Where the next piece begins.
    at: usize,
}

impl<'f> Iterator for FoundIn<'f, '_> {
    type Item = Found<'f>;

    #[inline]
    fn next(&mut self) -> Option<Found<'f>> {
        loop {
            let rest = self.field.get(self.at..)?;
            let skipped = start_of_piece(rest)?;
            let begin = self.at + skipped;
            let text = self.field.get(begin..)?;
            // A name has no `;`.
            let name = self.names.length_at_start(text).unwrap_or(0);
            let after = text.get(name..)?;
            let end = begin + name + end_of_piece(after);
            self.at = end.saturating_add(1);
            if name > 0 && ends_name(after) {
                let start = match skipped {
                    0 => begin,
                    _ => trim_end(self.field.get(..begin)?).len(),
                };
                return Some(Found {
                    cookie: trim_end(self.field.get(begin..end)?),
                    name,
                    start,
                    end,
                });
            }
        }
    }
}

/// Returns the number of pieces of a field. An empty field is one, as for Go.
pub(super) fn count_pieces(field: &[u8]) -> usize {
    memchr_iter(b';', field).count() + 1
}

/// Returns the index of the first byte that belongs to a cookie.
fn start_of_piece(text: &[u8]) -> Option<usize> {
    text.iter().position(|&byte| byte != b';' && !is_space(byte))
}

/// Returns the index of the `;` behind a piece, or of the end.
fn end_of_piece(text: &[u8]) -> usize {
    find(b';', text).unwrap_or(text.len())
}

/// Returns the index of the first such byte.
fn find(byte: u8, text: &[u8]) -> Option<usize> {
    // A call of memchr costs more than it saves on a short piece.
    const SHORT: usize = 16;
    let short = text.get(..SHORT).unwrap_or(text);
    match short.iter().position(|&own| own == byte) {
        None if text.len() > SHORT => memchr(byte, text),
        found => found,
    }
}

/// Returns whether a name ends before this text.
fn ends_name(text: &[u8]) -> bool {
    matches!(trim_start(text).first(), None | Some(b'=' | b';'))
}

/// Returns the name of a cookie: all of it if there is no `=`.
pub(crate) fn cookie_name(cookie: &[u8]) -> &[u8] {
    name_and_value(cookie).0
}

/// Returns the name, and the value without quotes.
#[inline]
pub(super) fn name_and_value(cookie: &[u8]) -> (&[u8], &[u8]) {
    let at = find(b'=', cookie).unwrap_or(cookie.len());
    let (name, value) = cookie.split_at_checked(at).unwrap_or((cookie, &[]));
    (trim_end(trim_start(name)), value_after_sign(value))
}

/// Returns the value behind the `=`, without quotes.
fn value_after_sign(text: &[u8]) -> &[u8] {
    let value = text.get(1..).unwrap_or_default();
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    bare.unwrap_or(value)
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_space(byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}

/// White space of Go's `textproto.TrimString`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}
