//! The protocols that a client offers are those that rustls finds in its hello.
//! The input is tried as records, and as what stands in one hello.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;
use waystation::wire::tls::{offered_protocols, record_len};

fn compare(input: &[u8]) {
    let Some(record) = record_len(input).and_then(|length| input.get(..length)) else {
        return;
    };
    let Ok(ours) = offered_protocols(record) else {
        return;
    };
    let ours: Vec<_> = ours.map(<[u8]>::to_vec).collect();
    assert!(ours.len() < record.len());
    let mut acceptor = Acceptor::default();
    if acceptor.read_tls(&mut &record[..]).is_err() {
        return;
    }
    if let Ok(Some(accepted)) = acceptor.accept() {
        let hello = accepted.client_hello();
        let theirs = hello.alpn().into_iter().flatten();
        let theirs: Vec<_> = theirs.map(<[u8]>::to_vec).collect();
        assert_eq!(ours, theirs);
    }
}

fn hello(body: &[u8]) -> Option<Vec<u8>> {
    let [high, low] = u16::try_from(body.len()).ok()?.to_be_bytes();
    let message = [&[1, 0, high, low], body].concat();
    let [high, low] = u16::try_from(message.len()).ok()?.to_be_bytes();
    Some([&[22, 3, 1, high, low], &message[..]].concat())
}

fuzz_target!(|input: &[u8]| {
    compare(input);
    if let Some(record) = hello(input) {
        compare(&record);
    }
});
