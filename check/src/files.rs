//! Files that the configuration names: readable, of the right content, and not for everybody.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use authgear::operations::webhook::Secret;
use authgear::token::{Algorithm, KeySet};

use crate::exchange::certificates;
use crate::finding::{Problem, Report};
use crate::project::{Keys, Project};
use crate::site::Site;
use crate::syntax::Place;

/// Checks the files of a project.
pub fn check_project(project: &Project, verifies_tokens: bool, report: &mut Report) {
    let place = &project.place;
    if let Some(file) = &project.trusted {
        if readable(file, place, report).is_some() {
            if let Err(error) = certificates(file) {
                let what = format!("ssl_trusted_certificate \"{}\": {error}", file.display());
                report.add(Problem::BadCertificates, Some(place), what);
            }
        }
    }
    if let Keys::File(file) = &project.keys {
        if let Some(content) = readable(file, place, report) {
            check_keys(project, file, &content, verifies_tokens, report);
        }
    }
}

fn check_keys(
    project: &Project,
    file: &Path,
    content: &[u8],
    verifies_tokens: bool,
    report: &mut Report,
) {
    let name = file.display();
    if has_private_key(content) {
        let what = format!("the key set \"{name}\" has a private or secret key");
        report.add(Problem::PrivateKeyInKeySet, Some(&project.place), what);
    }
    let Err(error) = KeySet::parse(content, &project.algorithms) else { return };
    let others = KeySet::parse(content, Algorithm::ALL).is_ok() && verifies_tokens;
    let problem = if others { Problem::JwksAlgorithm } else { Problem::BadKeySet };
    report.add(problem, Some(&project.place), format!("jwks_file \"{name}\": {error}"));
}

/// Returns true if a key of a set has a private or symmetric part.
fn has_private_key(content: &[u8]) -> bool {
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(content) else { return false };
    let keys = document.get("keys").and_then(|keys| keys.as_array()).into_iter().flatten();
    keys.into_iter().any(|key| key.get("d").is_some() || key.get("k").is_some())
}

/// Checks the secrets of webhooks.
pub fn check_webhooks(site: &Site<'_>, folder: &Path, report: &mut Report) {
    for (_, spot) in site.spots() {
        let Some(webhook) = spot.endpoint.filter(|line| line.name == "authgear_webhook") else {
            continue;
        };
        let (file, place) = (folder.join(webhook.first()), &webhook.place);
        let Some(content) = readable(&file, place, report) else { continue };
        let name = file.display();
        let mode = fs::metadata(&file).map_or(0, |data| data.permissions().mode());
        if mode & 0o004 != 0 {
            let what = format!(
                "the secret file \"{name}\" can be read by everybody (mode {:04o})",
                mode & 0o7777
            );
            report.add(Problem::SecretReadableByAll, Some(place), what);
        }
        if let Err(error) = Secret::read(&content) {
            let what = format!("the secret file \"{name}\" {error}");
            report.add(Problem::BadWebhookSecret, Some(place), what);
        } else if let Some(wrong) = wrong_shape(&content) {
            let what = format!("the secret file \"{name}\" {wrong}");
            report.add(Problem::BadWebhookSecret, Some(place), what);
        }
    }
}

/// What a secret of Authgear never has, but a file that was made by mistake may have. The secret
/// itself is not shown.
fn wrong_shape(content: &[u8]) -> Option<&'static str> {
    let text = content.strip_suffix(b"\n").unwrap_or(content);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let quoted = matches!(text, [b'"' | b'\'', ..]) && matches!(text, [.., b'"' | b'\'']);
    if text.starts_with(b"-----BEGIN") {
        Some("is a PEM file, and no webhook secret")
    } else if quoted {
        Some("has quotes around the secret")
    } else if text.iter().any(u8::is_ascii_whitespace) {
        Some("has spaces or several lines")
    } else {
        None
    }
}

/// The content of a file, after the checks that hold for all of them.
fn readable(file: &Path, place: &Place, report: &mut Report) -> Option<Vec<u8>> {
    let name = file.display();
    let read = fs::metadata(file).and_then(|data| Ok((data, fs::read(file)?)));
    match read {
        Ok((data, content)) => {
            if data.permissions().mode() & 0o022 != 0 {
                let mode = data.permissions().mode() & 0o7777;
                let what = format!("others can write to \"{name}\" (mode {mode:04o})");
                report.add(Problem::WritableByOthers, Some(place), what);
            }
            Some(content)
        }
        // nginx reads it as root; who runs this program may be somebody else.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            report.skip(format!("\"{name}\": {error}; run authgear-check as root"));
            None
        }
        Err(error) => {
            let what = format!("cannot read \"{name}\": {error}");
            report.add(Problem::UnreadableFile, Some(place), what);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_another_shape_are_told() {
        for (text, wrong) in [
            ("0123456789abcdefghijklmnopqrstuv\n", false),
            ("0123456789abcdefghijklmnopqrstuv\r\n", false),
            ("{\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZg\"}", false),
            ("\"0123456789abcdefghijklmnopqrstuv\"", true),
            ("secret: 0123456789abcdefghijklmnopqrstuv", true),
            ("0123456789abcdefghij\nklmnopqrstuv\n", true),
            ("-----BEGIN PRIVATE KEY-----", true),
        ] {
            assert_eq!(wrong_shape(text.as_bytes()).is_some(), wrong, "{text}");
        }
    }

    #[test]
    fn private_keys_are_seen_in_a_key_set() {
        assert!(has_private_key(br#"{"keys":[{"kty":"RSA","n":"a","d":"b"}]}"#));
        assert!(has_private_key(br#"{"keys":[{"kty":"oct","k":"b"}]}"#));
        assert!(!has_private_key(br#"{"keys":[{"kty":"RSA","n":"a","e":"AQAB"}]}"#));
        assert!(!has_private_key(b"no JSON"));
    }
}
