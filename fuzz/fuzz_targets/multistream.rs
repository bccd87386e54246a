//! A flight of messages, as a lazy peer sends it: each one that is read is
//! written alike, and no prefix of it says anything else than incomplete.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::DecodeError;
use waystation::wire::multistream::{MAX_MESSAGE, decode, encode};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    loop {
        match decode(rest) {
            Ok((message, used)) => {
                assert!(message.token().len() < MAX_MESSAGE);
                let mut out = Vec::new();
                encode(message, &mut out);
                assert_eq!(out, rest[..used]);
                assert_eq!(decode(&rest[..used - 1]), Err(DecodeError::Incomplete));
                rest = &rest[used..];
            }
            Err(DecodeError::Incomplete) => {
                assert!(rest.len() < MAX_MESSAGE + 2);
                break;
            }
            Err(_) => break,
        }
    }
});
