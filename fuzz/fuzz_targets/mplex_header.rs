//! Headers that are read are within bounds and have one spelling only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::DecodeError;
use waystation::wire::mplex::{Header, MAX_FRAME, MAX_HEADER_LEN, MAX_ID};

fuzz_target!(|input: &[u8]| match Header::decode(input) {
    Ok((header, used)) => {
        assert!(header.id <= MAX_ID && header.length <= MAX_FRAME);
        let mut out = [0; MAX_HEADER_LEN];
        let len = header.encode(&mut out);
        assert_eq!(out[..len], input[..used]);
        for end in 0..used {
            assert_eq!(Header::decode(&input[..end]), Err(DecodeError::Incomplete));
        }
    }
    // Two varints of nine bytes at most: eighteen bytes are never too few.
    Err(DecodeError::Incomplete) => assert!(input.len() < 18),
    Err(_) => {}
});
