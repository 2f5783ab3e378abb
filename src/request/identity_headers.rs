//! Request headers of a verdict.

use authgear::identity::{Name, NAMES};
use authgear::verdict::Verdict;

use crate::conf::Authgear;
use nginx::{FieldsOf, HeaderName};

impl FieldsOf<Verdict> for Authgear {
    fn most(verdict: &Verdict) -> usize {
        verdict.most_fields()
    }

    fn fields(verdict: &Verdict) -> impl Iterator<Item = (HeaderName<'_>, &[u8])> {
        sent_fields(verdict).map(|(name, value)| (header_name(name), value))
    }
}

/// The fields of a verdict that backends get. nginx's proxy modules send no empty headers either.
pub(super) fn sent_fields(verdict: &Verdict) -> impl Iterator<Item = (Name<'_>, &[u8])> {
    verdict.named_fields().filter(|(_, value)| !value.is_empty())
}

/// Returns the name with its hash, which is computed at compile time for Authgear's own names.
pub(super) fn header_name(name: Name<'_>) -> HeaderName<'_> {
    static KNOWN: [HeaderName<'static>; NAMES.len()] = HeaderName::all(NAMES);
    let known = if let Name::Known(place) = name { KNOWN.get(place) } else { None };
    known.copied().unwrap_or_else(|| HeaderName::new(name.as_str().as_bytes()))
}
