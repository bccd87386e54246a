//! Envelopes and the records in them. Nothing a fuzzer makes up verifies,
//! except the captured record it may start from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::wire::envelope::{Envelope, MAX_RECORD_ADDRS, PeerRecord, Voucher};

fuzz_target!(|input: &[u8]| {
    if let Ok((envelope, _)) = Envelope::decode(input) {
        let mut out = Vec::new();
        envelope.encode(&mut out);
        assert_eq!(Envelope::decode(&out), Ok((envelope, out.len())));
        if let Ok((record, signer)) = PeerRecord::open(&envelope) {
            assert_eq!(record.peer_id, signer.to_peer_id().to_bytes());
        }
    }
    if let Ok((record, _)) = PeerRecord::decode(input) {
        assert!(record.addresses.len() <= MAX_RECORD_ADDRS);
        let mut out = Vec::new();
        record.encode(&mut out);
        assert_eq!(PeerRecord::decode(&out), Ok((record, out.len())));
    }
    if let Ok((voucher, _)) = Voucher::decode(input) {
        let mut out = Vec::new();
        voucher.encode(&mut out);
        assert_eq!(Voucher::decode(&out), Ok((voucher, out.len())));
    }
});
