//! Record of a cached verdict in shared memory: the verdict, its purge epoch and its key.

use crate::shared::purges::PurgeEpoch;
use crate::token::Fingerprint;
use crate::verdict::Verdict;

/// Source of the verdict: the resolver, or a token that this module verified.
const RESOLVER: u8 = 0;
const TOKEN: u8 = 1;

/// Encodes a record. `since` is the purge epoch at the start of the look-up; `key` is the key that
/// verified the token, `None` for a verdict of the resolver. Returns `None` for a verdict that is
/// valid for one request only; see [`Verdict::encode`].
pub fn encode(since: PurgeEpoch, key: Option<Fingerprint>, verdict: &Verdict) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&since.to_bytes());
    match key {
        None => bytes.push(RESOLVER),
        Some(key) => {
            bytes.push(TOKEN);
            bytes.extend_from_slice(&key.to_bytes());
        }
    }
    verdict.encode(&mut bytes).then_some(bytes)
}

/// Inverse of [`encode`]. The bytes are not trusted.
pub fn decode(bytes: &[u8]) -> Option<(PurgeEpoch, Option<Fingerprint>, Verdict)> {
    let (since, bytes) = PurgeEpoch::split(bytes)?;
    let (key, verdict) = match bytes.split_first()? {
        (&RESOLVER, verdict) => (None, verdict),
        (&TOKEN, rest) => {
            let (key, verdict) = rest.split_first_chunk()?;
            (Some(Fingerprint::from_bytes(*key)), verdict)
        }
        _ => return None,
    };
    let verdict = Verdict::decode(verdict)?;
    // A token's record of an older version lacks the grant, which policy needs.
    let lacks_grant = matches!(&verdict, Verdict::Valid(own) if own.grant().is_none());
    (key.is_none() || !lacks_grant).then_some((since, key, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Grant, Identity};
    use crate::verdict::NoSession;

    #[test]
    fn records_round_trip_and_truncated_ones_are_rejected() {
        let key = Fingerprint::from_bytes(*b"01234567");
        let (since, _) = PurgeEpoch::split(b"abcdefgh").unwrap();
        for key in [None, Some(key)] {
            for verdict in
                [Verdict::Invalid, Verdict::BearerNotAccepted, Verdict::None(NoSession::Resolver)]
            {
                let bytes = encode(since, key, &verdict).unwrap();
                for len in 0..bytes.len() {
                    assert_eq!(decode(&bytes[..len]), None, "{len}");
                }
                assert_eq!(decode(&bytes), Some((since, key, verdict)));
            }
            assert_eq!(encode(since, key, &Verdict::None(NoSession::NoCredentials)), None);
        }
        assert_eq!(decode(&[0, 0, 0, 0, 0, 0, 0, 0, 2, 1]), None);
    }

    #[test]
    fn a_token_record_without_a_grant_is_rejected() {
        let key = Fingerprint::from_bytes(*b"01234567");
        let (since, _) = PurgeEpoch::split(b"abcdefgh").unwrap();
        let resolved = Verdict::Valid(Identity::default());
        let bytes = encode(since, None, &resolved).unwrap();
        assert_eq!(decode(&bytes), Some((since, None, resolved.clone())));
        assert_eq!(decode(&encode(since, Some(key), &resolved).unwrap()), None);

        let mut builder = Identity::builder();
        builder.set_grant(Grant::default());
        let verified = Verdict::Valid(builder.build());
        let bytes = encode(since, Some(key), &verified).unwrap();
        assert_eq!(decode(&bytes), Some((since, Some(key), verified)));
    }
}
