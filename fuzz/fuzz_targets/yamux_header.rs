//! Headers that are read are written alike; anything shorter is incomplete.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::DecodeError;
use waystation::wire::yamux::{HEADER_LEN, Header};

fuzz_target!(|input: &[u8]| match Header::decode(input) {
    Ok((header, used)) => {
        assert_eq!(used, HEADER_LEN);
        assert_eq!(header.encode(), input[..used]);
    }
    Err(DecodeError::Incomplete) => assert!(input.len() < HEADER_LEN),
    Err(DecodeError::Malformed(_)) => assert!(input.len() >= HEADER_LEN),
    Err(DecodeError::TooLarge { .. }) => unreachable!("a header announces nothing"),
});
