//! A stream of identify messages, merged as a reader does, within bounds and
//! read back alike from what is written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::identify::{Identify, MAX_ADDRS, MAX_MESSAGES, MAX_PROTOCOLS};
use waystation::wire::{DecodeError, length_delimited};

fuzz_target!(|input: &[u8]| {
    let mut all = Identify::default();
    let mut rest = input;
    for _ in 1..MAX_MESSAGES {
        let Ok((message, used)) = Identify::decode(rest) else {
            break;
        };
        assert_eq!(
            Identify::decode(&rest[..used - 1]),
            Err(DecodeError::Incomplete)
        );
        check(&message);
        all.merge(message);
        assert!(all.listen_addrs.len() <= MAX_ADDRS);
        assert!(all.protocols.len() <= MAX_PROTOCOLS);
        rest = &rest[used..];
    }
    // Most inputs have no good length; try the bytes as a body, too.
    let mut framed = Vec::new();
    length_delimited::encode(input, &mut framed);
    if let Ok((message, _)) = Identify::decode(&framed) {
        check(&message);
    }
});

fn check(message: &Identify<'_>) {
    let mut out = Vec::new();
    message.encode(&mut out);
    // Only the tags of skipped fields and padded varints are lost in writing.
    assert_eq!(Identify::decode(&out), Ok((message.clone(), out.len())));
}
