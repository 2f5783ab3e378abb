//! Syntax of HTTP fields.

/// Removes the white space around a value, which is no part of it (RFC 9110 section 5.5).
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Returns whether an HTTP field can carry these bytes.
pub(super) fn is_field_value(value: &[u8]) -> bool {
    // The fold reads every byte, so that the compiler can vectorize it.
    let control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    !value.iter().fold(false, |found, &byte| found | control(byte))
}

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
