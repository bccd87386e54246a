//! A peer's frames come out the same however they are cut into reads, and what
//! is read of a header is written alike. The first byte tells where to cut; the
//! rest is tried as an HTTP request as well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation::engine::websocket::{Inbound, Role, WebSocketError, upgrade::Server};
use waystation::wire::websocket::{HEADER_MAX, Header};

fn taken(input: &[u8], piece: usize) -> (Vec<u8>, Option<Vec<u8>>, Option<WebSocketError>) {
    let mut inbound = Inbound::new(Role::Server);
    let (mut bytes, mut pong) = (Vec::new(), None);
    for part in input.chunks(piece) {
        let mut buffer = part.to_vec();
        match inbound.decode(&mut buffer, 0..part.len(), 0) {
            Ok(end) => bytes.extend_from_slice(&buffer[..end]),
            Err(error) => return (Vec::new(), None, Some(error)),
        }
        pong = inbound.pong().or(pong);
    }
    (bytes, pong, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, input)) = input.split_first() else {
        return;
    };
    let piece = usize::from(*cut) + 1;
    assert_eq!(taken(input, input.len().max(1)), taken(input, piece));

    if let Ok((header, used)) = Header::decode(input) {
        let mut out = [0; HEADER_MAX];
        assert_eq!(header.encode(&mut out), used);
        assert_eq!(out[..used], input[..used]);
    }

    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let at_once = Server::default().handle_input(input, &mut whole);
    let mut server = Server::default();
    for part in input.chunks(piece) {
        match server.handle_input(part, &mut pieces) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => break,
        }
    }
    if matches!(at_once, Ok(Some(_))) {
        assert_eq!(whole, pieces);
    }
});
