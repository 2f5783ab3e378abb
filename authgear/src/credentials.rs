//! The credentials of a request, as Authgear's resolver reads them.
//!
//! The resolver reads the first `Authorization` field if its scheme is `bearer`
//! (`pkg/lib/oauth/resolver.go`), and three cookies (`pkg/lib/session/cookie.go`). Nothing else of
//! a request is a credential, and nothing else is sent.
//!
//! The resolver is written in Go and reads fields with `net/http`. Rules of Go 1.26 for
//! `Authorization`:
//!
//! | Part | Rule |
//! |---|---|
//! | field | The first of several. |
//! | value | Spaces and tabs around the value are removed (`net/textproto`). |
//! | scheme | All before the first space (`strings.SplitN(value, " ", 2)`), `bearer` in any case. A tab does not end the scheme. |
//! | token | All behind that space, further spaces included. |
//!
//! The rules for cookies are those of [`CookieNames`].

mod binding;
mod cookies;
mod field;
#[cfg(test)]
mod tests;

use std::fmt;

use smallvec::SmallVec;

use crate::token;

pub use binding::{token_check, LookupMode, TokenCheck};
pub(crate) use cookies::cookie_name;
pub use cookies::{CookieNames, CookiePrefixError, Remainder, MAX_COOKIE_PREFIX, MAX_PIECES};
use field::{is_field_value, is_token_byte, trim};

/// Longest `Authorization` value that is sent, in bytes.
pub const MAX_AUTHORIZATION: usize = 16 * 1024;

/// Longest cookie that is sent, name and value, in bytes: the most that browsers store
/// (RFC 6265 section 6.1).
pub const MAX_COOKIE: usize = 4096;

/// Most cookies that are sent.
pub const MAX_COOKIES: usize = 16;

/// Returns whether the scheme of an `Authorization` value is `bearer`, with or without a token.
pub fn has_bearer_scheme(authorization: &[u8]) -> bool {
    trim(authorization).split_at_checked(b"bearer".len()).is_some_and(|(scheme, rest)| {
        scheme.eq_ignore_ascii_case(b"bearer")
            && rest.first().is_none_or(|&byte| !is_token_byte(byte))
    })
}

/// The credentials of a request that are sent to the resolver.
///
/// A credential that Authgear would not read, that cannot be sent, or that is beyond a cap is left
/// out, as if the client had not sent it. This fails closed: only a credential that the resolver
/// reads makes a session, so leaving one out can lose a session but never make one. If a request
/// has several credentials, the resolver may then decide on another of them, as it does itself when
/// one is invalid.
///
/// The default is the credentials of a request without any.
#[derive(Clone, Default)]
pub struct Credentials<'a> {
    authorization: Option<&'a [u8]>,
    /// Each has a name of the project's and a value that Go accepts.
    cookies: SmallVec<[&'a [u8]; 4]>,
}

impl<'a> Credentials<'a> {
    /// Reads the credentials of a request.
    ///
    /// `authorization` is the value of the first `Authorization` field. It counts if a token
    /// follows the scheme `bearer`.
    ///
    /// `cookies` are the values of the `Cookie` fields. Every cookie that has one of the names and
    /// that Go reads (see [`CookieNames`]) is kept, unchanged and in order. If several have the
    /// same name, the resolver takes the first.
    ///
    /// Left out are values with a control byte, which no HTTP field can carry
    /// (RFC 9110 section 5.5), an `authorization` longer than [`MAX_AUTHORIZATION`], cookies longer
    /// than [`MAX_COOKIE`], cookies after the first [`MAX_COOKIES`], and all cookies if the fields
    /// have more than [`MAX_PIECES`] pieces.
    ///
    /// The cost is linear in the length of the fields.
    pub fn read(
        authorization: Option<&'a [u8]>,
        cookies: impl IntoIterator<Item = &'a [u8]>,
        names: &CookieNames,
    ) -> Self {
        let authorization = authorization.map(trim).filter(|value| {
            value.len() <= MAX_AUTHORIZATION && is_bearer(value) && is_field_value(value)
        });
        let mut sent = SmallVec::new();
        let mut pieces = 0_usize;
        for field in cookies {
            pieces = pieces.saturating_add(cookies::count_pieces(field));
            if pieces > MAX_PIECES {
                sent.clear();
                break;
            }
            let room = MAX_COOKIES.saturating_sub(sent.len());
            let readable = names.find_in(field).filter(|found| {
                found.cookie.len() <= MAX_COOKIE
                    && found.has_valid_value()
                    && is_field_value(found.cookie)
            });
            sent.extend(readable.map(|found| found.cookie).take(room));
        }
        Self { authorization, cookies: sent }
    }

    /// Returns whether there is nothing to look up.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.cookies.is_empty()
    }

    /// The `Authorization` value to send, scheme included.
    pub fn authorization(&self) -> Option<&'a [u8]> {
        self.authorization
    }

    /// The bearer token: all behind the scheme in [`authorization`](Self::authorization).
    pub fn bearer(&self) -> Option<&'a [u8]> {
        self.authorization.and_then(bearer_of)
    }

    /// The same credentials without cookies.
    pub fn without_cookies(&self) -> Self {
        Self { authorization: self.authorization, cookies: SmallVec::new() }
    }

    /// Returns whether any of the project's cookies is to be sent.
    pub fn has_cookies(&self) -> bool {
        !self.cookies.is_empty()
    }

    /// The `Cookie` value to send: the project's cookies and no other.
    pub fn cookie_header(&self) -> Option<Vec<u8>> {
        self.has_cookies().then(|| self.cookies.join(&b"; "[..]))
    }

    /// The earliest expiry of those tokens that are JWTs, in seconds since 1970. A token that
    /// expired before `now` did not decide, and does not count.
    ///
    /// Nothing is verified, see [`token::expires_at`].
    pub fn expires_at(&self, names: &CookieNames, now: u64) -> Option<u64> {
        let tokens = [self.bearer(), self.cookie_value(names, cookies::APP_ACCESS_TOKEN)];
        let expiries = tokens.into_iter().flatten().filter_map(token::expires_at);
        expiries.filter(|&exp| exp > now).min()
    }

    /// Returns whether the first session cookie has Authgear's format, `<id>.<32 alnum>`
    /// (`pkg/lib/session/idpsession/provider.go`). The resolver's answer to such a cookie always
    /// has `X-Authgear-Session-Valid`.
    pub fn has_session(&self, names: &CookieNames) -> bool {
        self.cookie_value(names, cookies::SESSION).is_some_and(is_session)
    }

    /// The value of the first cookie `PREFIXname`: Authgear reads no other of that name.
    fn cookie_value(&self, names: &CookieNames, name: &[u8]) -> Option<&'a [u8]> {
        self.cookie_values(names, name).next()
    }

    /// The values of all cookies `PREFIXname`.
    fn cookie_values<'s>(
        &'s self,
        names: &'s CookieNames,
        name: &'s [u8],
    ) -> impl Iterator<Item = &'a [u8]> + 's {
        let cookies = self.cookies.iter().map(|cookie| cookies::name_and_value(cookie));
        let is_named = move |own: &[u8]| names.strip_prefix(own) == Some(name);
        cookies.filter(move |(own, _)| is_named(own)).map(|(_, value)| value)
    }

    /// Appends an encoding of exactly what would be sent, for use in a key.
    ///
    /// The encoding is injective and self-delimiting: two requests have equal encodings if and only
    /// if [`authorization`](Self::authorization) and [`cookie_header`](Self::cookie_header) are
    /// equal, whatever follows. It holds the credentials in clear: hash it, do not keep it.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        self.feed_canonical(&mut |bytes: &[u8]| out.extend_from_slice(bytes));
    }

    /// Gives `sink` what [`write_canonical`](Self::write_canonical) writes, piece by piece.
    pub(crate) fn feed_canonical(&self, sink: &mut impl CanonicalSink) {
        // An authorization is never empty: length 0 is its absence.
        feed_bytes(sink, self.authorization.unwrap_or_default());
        feed_length(sink, self.cookies.len());
        for cookie in &self.cookies {
            feed_bytes(sink, cookie);
        }
    }
}

/// Taker of the pieces of an encoding.
pub(crate) trait CanonicalSink {
    /// Takes the four bytes of a length. They are a piece of their own, because a hash takes a number
    /// with fewer instructions than bytes.
    fn take_length(&mut self, bytes: [u8; 4]);
    /// Takes any other bytes.
    fn take_bytes(&mut self, bytes: &[u8]);
}

impl<F: FnMut(&[u8])> CanonicalSink for F {
    fn take_length(&mut self, bytes: [u8; 4]) {
        self(&bytes);
    }

    fn take_bytes(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}

impl fmt::Debug for Credentials<'_> {
    /// Shows which credentials there are, never their bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorization", &self.authorization.is_some())
            .field("cookies", &self.cookies.len())
            .finish()
    }
}

/// Returns the prefix of the first cookie in a `Cookie` field that is a session of Authgear's by its
/// format, under a name with another prefix than that of `names`: the project's `cookie_prefix` may
/// be wrong. A prefix is at most [`MAX_COOKIE_PREFIX`] bytes of a cookie name.
pub fn session_prefix_of_another<'f>(field: &'f [u8], names: &CookieNames) -> Option<&'f str> {
    field.split(|&byte| byte == b';').take(MAX_PIECES).find_map(|piece| {
        let (name, value) = cookies::name_and_value(piece.trim_ascii());
        let prefix = name.strip_suffix(cookies::SESSION)?;
        let is_other = prefix.len() <= MAX_COOKIE_PREFIX
            && prefix.iter().all(|&byte| is_token_byte(byte))
            && !names.contains(name);
        (is_other && is_session(value)).then(|| std::str::from_utf8(prefix).ok()).flatten()
    })
}

/// Compares the value of a cookie with the format of a session: see [`Credentials::has_session`].
fn is_session(value: &[u8]) -> bool {
    // The secret is the end of a value without a second dot.
    let Some((id, secret)) = value.split_last_chunk::<33>() else { return false };
    let [b'.', secret @ ..] = secret else { return false };
    !id.is_empty()
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && secret.iter().all(u8::is_ascii_alphanumeric)
}

fn is_bearer(value: &[u8]) -> bool {
    bearer_of(value).is_some_and(|token| !token.is_empty())
}

/// Returns what follows the scheme `bearer` and one space.
fn bearer_of(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_first_chunk()?;
    let token = rest.strip_prefix(b" ")?;
    is_word(scheme, b"bearer").then_some(token)
}

/// Compares with a word of lower-case letters, in any case. The loop has no early exit, so that the
/// compiler can vectorize it: two letters differ in case by the bit 0x20 alone.
fn is_word<const N: usize>(text: &[u8; N], word: &[u8; N]) -> bool {
    let difference = |(byte, letter): (&u8, &u8)| (byte | 0x20) ^ letter;
    text.iter().zip(word).map(difference).fold(0, |a, b| a | b) == 0
}

fn feed_bytes(sink: &mut impl CanonicalSink, bytes: &[u8]) {
    feed_length(sink, bytes.len());
    sink.take_bytes(bytes);
}

fn feed_length(sink: &mut impl CanonicalSink, length: usize) {
    // The caps keep every length far below 2^32.
    sink.take_length((length as u32).to_be_bytes());
}
