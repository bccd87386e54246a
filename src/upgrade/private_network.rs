//! Into a private network: each side's nonce, and from then on its cipher.
//!
//! The first exchange on a socket, or within its WebSocket. A listener says
//! nothing before it has the dialer's nonce, so that a stranger who waits for
//! us hears nothing.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::UpgradeError;
use super::drive::Line;
use crate::connection::carrier::layer::{Decoder, Encoder};
use crate::engine::demux::Side;
use crate::engine::private_network::{NONCE_LEN, PrivateKey};

/// Exchanges nonces and puts the cipher under whatever comes next. Whether the
/// peer has the same key shows only there.
pub(super) async fn enter<S>(
    line: &mut Line<S>,
    key: &PrivateKey,
    side: Side,
) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut own = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut own).map_err(|_| io::Error::other("no random bytes"))?;
    if side == Side::Dialer {
        line.carrier.enqueue(&own)?;
    }
    let theirs = loop {
        if let Some(nonce) = line.input.first_chunk::<NONCE_LEN>() {
            break *nonce;
        }
        line.more(NONCE_LEN).await?;
    };
    line.input.drain(..NONCE_LEN);
    if side == Side::Listener {
        line.carrier.enqueue(&own)?;
    }
    let decoder = Decoder::Private(key.cipher(&theirs));
    let encoder = Encoder::Private(key.cipher(&own));
    line.carrier.push(decoder, encoder, &mut line.input)?;
    Ok(())
}
