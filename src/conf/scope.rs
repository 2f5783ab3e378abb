//! Digests of settings: verdicts are shared only under equal ones.

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// Digest of settings, each with its length.
pub(super) fn scope(settings: impl Iterator<Item: AsRef<[u8]>>) -> [u8; SHA256_OUTPUT_LEN] {
    let mut digest = Context::new(&SHA256);
    for setting in settings {
        let setting = setting.as_ref();
        digest.update(&(setting.len() as u64).to_be_bytes());
        digest.update(setting);
    }
    let mut scope = [0; SHA256_OUTPUT_LEN];
    scope.copy_from_slice(digest.finish().as_ref());
    scope
}
