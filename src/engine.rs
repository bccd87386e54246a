//! Sans-IO state machines: bytes and time go in, bytes and events come out.

pub mod handshake;
pub mod muxer;
pub mod negotiate;
pub mod record;
