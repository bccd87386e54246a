//! Into the TLS of secure WebSocket, with a certificate of the operator's, in
//! either role.
//!
//! Bounded by what the engine takes of a handshake. A client that is refused is
//! told why in an alert.

use std::future::poll_fn;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

use super::UpgradeError;
use super::drive::Line;
use crate::certificates::CHAIN_MAX;
use crate::connection::carrier::layer::{Decoder, Encoder};
use crate::connection::carrier::tls::{RecordDecoder, RecordEncoder};
use crate::engine::tls::{TlsHandshake, WEB_HANDSHAKE_MAX};

/// A server that has the longest chain of ours can be dialed.
const _: () = assert!(CHAIN_MAX < WEB_HANDSHAKE_MAX, "no room for a chain");

/// Shakes hands with a client, and encrypts whatever comes next.
pub(super) async fn accept<S>(line: &mut Line<S>, config: ServerConfig) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsHandshake::server(config).map_err(UpgradeError::Secure)?;
    finish(line, handshake).await
}

/// As [`accept`], with the server of this name.
pub(super) async fn connect<S>(
    line: &mut Line<S>,
    config: ClientConfig,
    name: ServerName<'static>,
) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = Vec::new();
    let handshake =
        TlsHandshake::client_of(config, name, &mut hello).map_err(UpgradeError::Secure)?;
    line.carrier.enqueue(&hello)?;
    line.more(handshake.input_max()).await?;
    finish(line, handshake).await
}

async fn finish<S>(line: &mut Line<S>, mut handshake: TlsHandshake) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = Vec::new();
    let finished = loop {
        let taken = handshake.handle_input(&mut line.input, &mut answer);
        line.carrier.enqueue(&answer)?;
        answer.clear();
        match taken {
            Ok((used, finished)) => {
                line.input.drain(..used);
                if let Some(finished) = finished {
                    break finished;
                }
            }
            Err(error) => {
                // Told as far as the peer listens; the deadline is running.
                poll_fn(|cx| line.carrier.poll_flush(cx)).await?;
                return Err(UpgradeError::Secure(error));
            }
        }
        line.more(handshake.input_max()).await?;
    };
    let decoder = Decoder::Tls(RecordDecoder::new(finished.open));
    let encoder = Encoder::Tls(RecordEncoder::new(finished.seal));
    let pushed = line.carrier.push(decoder, encoder, &mut line.input);
    if pushed.is_err() {
        // Told as far as the peer listens; the deadline is running.
        poll_fn(|cx| line.carrier.poll_flush(cx)).await?;
    }
    Ok(pushed?)
}
