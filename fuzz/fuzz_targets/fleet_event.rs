//! Events of a fleet: what is not sealed opens nothing, what is sealed is opened as it was, and no
//! byte of it can be changed.
#![no_main]

use authgear::fleet::event::{Event, Publisher, Sealer};
use authgear::fleet::hearing::{Heard, Hearing};
use authgear::fleet::secret::Secrets;
use libfuzzer_sys::fuzz_target;

const SECRET: &[u8] = b"0123456789abcdefghijABCDEFGHIJ_Z";
const OWN: Publisher = Publisher::from_bytes([1; 16]);
const OTHER: Publisher = Publisher::from_bytes([2; 16]);

fn hear(value: &[u8]) -> Heard {
    let secrets = Secrets::read(SECRET).unwrap();
    Hearing::new(secrets, "authgear", OWN, 1000).hear(value, 5)
}

fuzz_target!(|data: &[u8]| {
    let _ = Secrets::read(data);
    assert!(matches!(hear(data), Heard::Unreadable(_) | Heard::Forged(_)));

    let secrets = Secrets::read(SECRET).unwrap();
    let sealer = Sealer::new(&secrets, "authgear", OTHER).unwrap();
    let event = Event::user(5, None, data);
    let mut value = sealer.seal(data.len() as u64, &event).unwrap();
    assert_eq!(hear(&value), Heard::New(event));

    let at = data.iter().fold(0, |sum, byte| sum * 31 % 65521 + usize::from(*byte)) % value.len();
    value[at] ^= data.first().map_or(1, |byte| byte | 1);
    assert!(matches!(hear(&value), Heard::Unreadable(_) | Heard::Forged(_)));
});
