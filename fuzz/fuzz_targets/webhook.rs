//! Webhook events and purge forms: user ids keep their cap, and no action is taken that the input
//! does not name.
#![no_main]

use authgear::metrics::Format;
use authgear::operations::purge_request::{is_cross_site, is_form, PurgeForm};
use authgear::operations::webhook::{Event, Secret, MAX_USER_ID};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match Event::read(data) {
        Ok(Event::Changed(users)) => {
            assert!(!users.is_empty());
            assert!(users.iter().all(|id| (1..=MAX_USER_ID).contains(&id.len())));
        }
        Ok(Event::Ended { user, .. } | Event::Status { user, .. }) => {
            assert!((1..=MAX_USER_ID).contains(&user.len()))
        }
        Ok(Event::Ignored) | Err(_) => {}
    }
    if let Ok(secret) = Secret::read(data) {
        assert!(!secret.verify(data, data));
    }
    let (query, form) = data.split_at(data.len() / 2);
    match PurgeForm::read(query, form) {
        Ok(PurgeForm::User(id)) => assert!((1..=MAX_USER_ID).contains(&id.len())),
        Ok(PurgeForm::All) => assert!(data.windows(4).any(|part| part == b"all=")),
        Err(_) => {}
    }
    // Without Fetch Metadata, only an `Origin` equal to `Host` is the same site.
    if !is_cross_site(None, Some(query), Some(form)) {
        let authority = query.to_ascii_lowercase();
        assert!(authority.starts_with(b"http"));
    }
    is_form(data);
    Format::choose(query, Some(form));
});
