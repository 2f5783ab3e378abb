//! Events and orders: whatever is sent, a user is named by as many bytes as one may have, and
//! nothing is done that was not asked for.
#![no_main]

use authgear::metrics::Format;
use authgear::purge_request::{is_cross_site, is_form, Target};
use authgear::webhook::{Event, Secret, MAX_USER_ID};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match Event::read(data) {
        Ok(Event::Changed(users)) => {
            assert!(!users.is_empty());
            assert!(users.iter().all(|id| (1..=MAX_USER_ID).contains(&id.len())));
        }
        Ok(Event::Ended { user, .. }) => assert!((1..=MAX_USER_ID).contains(&user.len())),
        Ok(Event::Ignored) | Err(_) => {}
    }
    if let Ok(secret) = Secret::read(data) {
        assert!(!secret.verify(data, data));
    }
    let (query, form) = data.split_at(data.len() / 2);
    match Target::read(query, form) {
        Ok(Target::User(id)) => assert!((1..=MAX_USER_ID).contains(&id.len())),
        Ok(Target::All) => assert!(data.windows(4).any(|part| part == b"all=")),
        Err(_) => {}
    }
    // Only of pages of its own is a browser believed that does not say where it comes from.
    if !is_cross_site(None, Some(query), Some(form)) {
        let authority = query.to_ascii_lowercase();
        assert!(authority.starts_with(b"http"));
    }
    is_form(data);
    Format::choose(query, Some(form));
});
