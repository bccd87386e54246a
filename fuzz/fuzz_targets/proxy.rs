//! PROXY headers of both versions, whole and cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::DecodeError;
use waystation::wire::proxy::{HEADER_MAX, decode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((source, length)) = decode(bytes) {
        assert!(length <= bytes.len() && length <= HEADER_MAX);
        // It is the same header without what is behind it, and none before.
        assert_eq!(decode(&bytes[..length]), Ok((source, length)));
        assert_eq!(decode(&bytes[..length - 1]), Err(DecodeError::Incomplete));
    }
});
