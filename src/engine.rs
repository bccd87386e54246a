//! Sans-IO state machines: bytes and time go in, bytes and events come out.
//!
//! Engines own no socket, no clock and no shared handle. The drain rule is one
//! for all of them: after an input has been handed in, the caller takes every
//! event until there is none before it hands in the next. Bulk output goes
//! into a buffer that the caller owns ([`batch::Batch`]).

pub mod batch;
pub mod budget;
pub mod deadlines;
pub mod demux;
pub mod frames;
pub mod handshake;
pub mod muxer;
pub mod negotiate;
pub mod private_network;
pub mod record;
pub mod security;
pub mod tls;
pub mod token_bucket;
pub mod websocket;
