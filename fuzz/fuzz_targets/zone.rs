//! Damaged shared memory: the zone detects the damage, empties itself and works again.
#![no_main]

use std::sync::atomic::AtomicU32;

use authgear::credentials::{CookieNames, Credentials};
use authgear::shared::cache_key::{Key, KeySecret};
use authgear::shared::zone::{Flight, Owner, Worth, Zone, MIN_SIZE, NEVER};
use libfuzzer_sys::fuzz_target;

#[repr(align(8))]
struct Memory([u8; MIN_SIZE]);

fuzz_target!(|data: &[u8]| {
    let mut memory = Box::new(Memory([0; MIN_SIZE]));
    Zone::format(&mut memory.0).unwrap();
    let dirty = AtomicU32::new(0);
    let names = CookieNames::default();
    let key = |n: u8| {
        let bearer = [b"Bearer ", &[b'a' + n % 20][..]].concat();
        let credentials = Credentials::read(Some(&bearer), [], &names);
        Key::of(&KeySecret::from_bytes([1; 16]), b"", &credentials)
    };
    let mut now = 0;
    for step in data.chunks(4) {
        let &[op, n, high, low] = step else { break };
        now += 1;
        let at = usize::from(u16::from_be_bytes([high, low]));
        if op % 8 == 7 {
            // The zone begins with its magic number and its size, which `open()` checks.
            let index = 16 + at % (MIN_SIZE - 16);
            memory.0[index] ^= op;
            continue;
        }
        let Ok(mut zone) = Zone::open(&mut memory.0, &dirty) else {
            Zone::format(&mut memory.0).unwrap();
            continue;
        };
        let key = key(n);
        match op % 8 {
            0 | 1 => {
                let data = vec![n; at % 3000];
                let worth = if op & 8 == 0 { Worth::Lasting } else { Worth::Passing };
                let _ = zone.store(&key, None, worth, (now, NEVER), &data);
            }
            2 => {
                let owner = Owner { slot: u16::from(high), pid: 1 };
                if let Flight::Leader { id } = zone.lead(&key, owner, now, now + 5) {
                    zone.outcome(&key, id);
                }
            }
            3 => {
                zone.fail(&key, u64::from(low), high);
            }
            4 if op & 8 == 0 => {
                zone.remove(&key);
            }
            4 => {
                zone.touch(&key);
                if let Some(ended) = zone.flights_ended_since(u64::from(low)) {
                    ended.for_each(drop);
                }
            }
            _ => {
                zone.get(&key);
            }
        }
        zone.stats();
    }
});
