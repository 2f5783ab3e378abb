//! Hashes and MACs that tests compare or forge.

use aws_lc_rs::digest::{digest, SHA256};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;

/// SHA-256 as lower-case hex, as in [`Recorded::body_sha256`](crate::Recorded).
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// The `x-authgear-body-signature` of a webhook's body.
pub fn webhook_signature(secret: &[u8], body: &[u8]) -> String {
    HEXLOWER.encode(&hmac_sha256(secret, body))
}

pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}
