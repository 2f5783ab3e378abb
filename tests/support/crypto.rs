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

/// A type of private key.
#[derive(Clone, Copy, Debug)]
pub enum KeyType {
    P256,
    Ed25519,
}

/// A new private key as `openssl genpkey` writes it.
pub fn private_key(key_type: KeyType) -> String {
    let algorithm = match key_type {
        KeyType::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyType::Ed25519 => &rcgen::PKCS_ED25519,
    };
    rcgen::KeyPair::generate_for(algorithm).expect("a key").serialize_pem()
}
