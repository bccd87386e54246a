//! ping: echoes blocks of 32 bytes until the peer has had enough
//! (libp2p ping spec).
//!
//! Keeps at most one incomplete block. A block that is incomplete when the
//! peer ends is dropped.

use std::time::Duration;

/// Protocol id.
pub const PROTOCOL: &str = "/ipfs/ping/1.0.0";

/// Size of a block.
pub const BLOCK: usize = 32;

/// A ping stream on which nothing comes for this long is reset: rust-libp2p
/// pings each 15 s on one stream and keeps it.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// The echo on one stream.
#[derive(Debug)]
pub struct Echo {
    block: [u8; BLOCK],
    filled: usize,
}

impl Default for Echo {
    fn default() -> Self {
        Self {
            block: [0; BLOCK],
            filled: 0,
        }
    }
}

impl Echo {
    /// Takes `input` and appends every block that it completes to `output`.
    pub fn handle_input(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        if self.filled > 0 {
            let part = input.len().min(BLOCK - self.filled);
            let (begin, rest) = input.split_at(part);
            self.block[self.filled..self.filled + part].copy_from_slice(begin);
            self.filled += part;
            input = rest;
            if self.filled < BLOCK {
                return;
            }
            output.extend_from_slice(&self.block);
            self.filled = 0;
        }
        let whole = input.len() - input.len() % BLOCK;
        let (blocks, rest) = input.split_at(whole);
        output.extend_from_slice(blocks);
        self.block[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut, every complete block comes back, and
        /// nothing of an incomplete one.
        #[test]
        fn echoes_whole_blocks(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..70) {
            let mut echo = Echo::default();
            let mut output = Vec::new();
            for piece in bytes.chunks(cut) {
                echo.handle_input(piece, &mut output);
            }
            prop_assert_eq!(&output[..], &bytes[..bytes.len() / 32 * 32]);
        }
    }
}
