//! The handshake payload, and the same bytes as a row of frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::noise::{MAX_MUXERS, Payload, decode_frame};

fuzz_target!(|input: &[u8]| {
    if let Ok((payload, used)) = Payload::decode(input) {
        assert_eq!(used, input.len());
        assert!(payload.stream_muxers.len() <= MAX_MUXERS);
        let mut out = Vec::new();
        payload.encode(&mut out);
        assert_eq!(Payload::decode(&out), Ok((payload, out.len())));
    }
    let mut rest = input;
    while let Ok((body, used)) = decode_frame(rest) {
        assert_eq!(body.len() + 2, used);
        rest = &rest[used..];
    }
});
