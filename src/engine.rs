//! Sans-IO state machines: bytes and time go in, bytes and events come out.

pub mod muxer;
pub mod record;
pub mod token_bucket;
