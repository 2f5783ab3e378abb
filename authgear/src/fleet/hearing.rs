//! Meaning of a value that was read from the stream.

use super::event::{Event, EventKey, Header, Publisher, What};
use super::repeats::{NumberWindow, Repeats, MAX_PUBLISHERS};
use super::secret::{SecretId, Secrets};

/// Meaning of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An event of this host, which it applied when it published it.
    Own(u64),
    /// An event of another host that was heard before.
    Again,
    /// An event that is older than the retention: no verdict is as old. A period that lasts, and one
    /// that was lifted, are never too old.
    Old,
    /// An event to apply.
    New(Event),
    /// The value is no event that a secret of this host can open: another secret, another version.
    Unreadable(Option<SecretId>),
    /// The value names a secret of this host and is not authentic.
    Forged(SecretId),
}

/// Keys of a publisher, and its last numbers.
struct KnownPublisher {
    keys: Vec<(SecretId, EventKey)>,
    window: NumberWindow,
}

/// Opens values. It lives in the process of the keeper: what another process heard before is heard
/// again.
pub struct Hearing {
    secrets: Secrets,
    prefix: Box<str>,
    own: Publisher,
    retention: u64,
    publishers: Repeats<KnownPublisher>,
}

impl Hearing {
    /// `prefix` is that of the fleet's keys, `own` the publisher of this host, and `retention` the
    /// age in milliseconds from which an event concerns nothing.
    pub fn new(secrets: Secrets, prefix: &str, own: Publisher, retention: u64) -> Self {
        let publishers = Repeats::new(MAX_PUBLISHERS);
        Self { secrets, prefix: prefix.into(), own, retention, publishers }
    }

    /// Opens a value at `now`, in milliseconds since 1970.
    pub fn hear(&mut self, value: &[u8], now: u64) -> Heard {
        let Some((header, sealed)) = Header::split(value) else { return Heard::Unreadable(None) };
        let Header { secret: id, publisher, number } = header;
        let known = self.publishers.get(&publisher);
        let has_key = |known: &&mut KnownPublisher| known.keys.iter().any(|(own, _)| *own == id);
        let (is_new, event) = match known.filter(has_key) {
            Some(known) => {
                let mut keys = known.keys.iter().filter(|(own, _)| *own == id);
                let open = |(_, key): &(_, EventKey)| key.open(&self.prefix, &header, sealed);
                let Some(event) = keys.find_map(open) else { return Heard::Forged(id) };
                (known.window.is_new(number), event)
            }
            None => {
                let mut secrets = self.secrets.all().filter(|secret| secret.id() == id).peekable();
                if secrets.peek().is_none() {
                    return Heard::Unreadable(Some(id));
                }
                let mut open = secrets.filter_map(|secret| {
                    let key = EventKey::new(secret, &publisher)?;
                    let event = key.open(&self.prefix, &header, sealed)?;
                    Some((key, event))
                });
                let opened = open.next();
                drop(open);
                let Some((key, event)) = opened else { return Heard::Forged(id) };
                (self.remember(publisher, number, (id, key)), event)
            }
        };
        if publisher == self.own {
            return Heard::Own(number);
        }
        if !is_new {
            return Heard::Again;
        }
        if now.saturating_sub(event.at) > self.retention && !holds(&event, now) {
            return Heard::Old;
        }
        Heard::New(event)
    }

    /// Remembers a publisher under one more secret, and returns whether the number is new.
    fn remember(&mut self, publisher: Publisher, number: u64, key: (SecretId, EventKey)) -> bool {
        if let Some(known) = self.publishers.get(&publisher) {
            known.keys.push(key);
            return known.window.is_new(number);
        }
        let window = NumberWindow::new(number);
        self.publishers.insert(publisher, KnownPublisher { keys: vec![key], window });
        true
    }
}

/// Returns true for a period that has not ended at `now`, in milliseconds since 1970, and for one
/// that was lifted: a host may hold the period that it lifts.
fn holds(event: &Event, now: u64) -> bool {
    match event.what {
        What::Period { period, .. } => period.is_none_or(|(_, until)| until > now / 1000),
        _ => false,
    }
}

impl std::fmt::Debug for Hearing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hearing")
            .field("publishers", &self.publishers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::event::Sealer;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const NOW: u64 = 1_000_000;
    const OWN: Publisher = Publisher::from_bytes([1; 16]);
    const OTHER: Publisher = Publisher::from_bytes([2; 16]);

    fn secrets(lines: &[&str]) -> Secrets {
        Secrets::read(lines.join("\n").as_bytes()).unwrap()
    }

    fn sealed(lines: &[&str], publisher: Publisher, number: u64, event: &Event) -> Vec<u8> {
        Sealer::new(&secrets(lines), "authgear", publisher).unwrap().seal(number, event).unwrap()
    }

    fn hearing(lines: &[&str]) -> Hearing {
        Hearing::new(secrets(lines), "authgear", OWN, 1000)
    }

    #[test]
    fn events_of_others_are_heard_once() {
        let mut hearing = hearing(&[A]);
        let event = Event::user(NOW, None, b"alice");
        let value = sealed(&[A], OTHER, 5, &event);
        assert_eq!(hearing.hear(&value, NOW), Heard::New(event.clone()));
        assert_eq!(hearing.hear(&value, NOW), Heard::Again);
        assert_eq!(hearing.hear(&sealed(&[A], OTHER, 4, &event), NOW), Heard::New(event.clone()));
        // Numbers of publishers are apart.
        let third = Publisher::from_bytes([3; 16]);
        assert_eq!(hearing.hear(&sealed(&[A], third, 5, &event), NOW), Heard::New(event));
    }

    #[test]
    fn own_events_come_back_each_time() {
        let mut hearing = hearing(&[A]);
        let value = sealed(&[A], OWN, 5, &Event::everything(0, None));
        assert_eq!(hearing.hear(&value, NOW), Heard::Own(5));
        assert_eq!(hearing.hear(&value, NOW), Heard::Own(5));
    }

    #[test]
    fn events_older_than_the_retention_are_passed_over() {
        let heard = |at| {
            let event = Event::user(at, None, b"alice");
            hearing(&[A]).hear(&sealed(&[A], OTHER, 5, &event), NOW)
        };
        assert_eq!(heard(NOW - 1001), Heard::Old);
        assert!(matches!(heard(NOW - 1000), Heard::New(_)));
        // By the clock of a host that is ahead.
        assert!(matches!(heard(u64::MAX), Heard::New(_)));
    }

    #[test]
    fn a_period_is_never_too_old_until_it_ends() {
        let heard = |at, period| {
            let user = crate::fleet::event::UserId::new(b"alice").unwrap();
            let event = Event { at, project: None, what: What::Period { user, order: 1, period } };
            hearing(&[A]).hear(&sealed(&[A], OTHER, 5, &event), NOW)
        };
        let now = NOW / 1000;
        assert!(matches!(heard(0, Some((0, now + 1))), Heard::New(_)));
        assert!(matches!(heard(0, Some((0, u64::MAX))), Heard::New(_)));
        assert_eq!(heard(0, Some((0, now))), Heard::Old);
        assert!(matches!(heard(0, None), Heard::New(_)));
    }

    #[test]
    fn a_rotation_of_secrets_loses_nothing() {
        let event = Event::user(NOW, None, b"alice");
        // New line second, then first, then alone.
        let mut readers = [hearing(&[A, B]), hearing(&[B, A])];
        for reader in &mut readers {
            let old = sealed(&[A], OTHER, 1, &event);
            let new = sealed(&[B, A], OTHER, 2, &event);
            assert_eq!(reader.hear(&old, NOW), Heard::New(event.clone()));
            assert_eq!(reader.hear(&new, NOW), Heard::New(event.clone()));
            // The same event under the other secret is the same event.
            assert_eq!(reader.hear(&sealed(&[B], OTHER, 1, &event), NOW), Heard::Again);
        }
        let mut alone = hearing(&[A]);
        let id = secrets(&[B]).first().id();
        let new = sealed(&[B], OTHER, 2, &event);
        assert_eq!(alone.hear(&new, NOW), Heard::Unreadable(Some(id)));
    }

    #[test]
    fn what_is_not_authentic_is_told_apart_and_remembered_nowhere() {
        let mut hearing = hearing(&[A]);
        let id = secrets(&[A]).first().id();
        let event = Event::user(NOW, None, b"alice");
        let value = sealed(&[A], OTHER, 5, &event);
        let mut forged = value.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(hearing.hear(&forged, NOW), Heard::Forged(id));
        assert!(hearing.publishers.is_empty());
        // A forged repeat does not hide the event.
        assert_eq!(hearing.hear(&value, NOW), Heard::New(event));
        assert_eq!(hearing.hear(&forged, NOW), Heard::Forged(id));
        for garbage in [&b""[..], b"x", &value[..28], &[2; 60], &[1; 5000]] {
            assert_eq!(hearing.hear(garbage, NOW), Heard::Unreadable(None), "{}", garbage.len());
        }
    }
}
