//! Into WebSocket: the HTTP exchange in front of everything that peers say.
//!
//! Bounded by what the engine takes of a head. A client that asks for something
//! else is answered as HTTP has it before its connection is closed.

use std::future::poll_fn;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::UpgradeError;
use super::drive::Line;
use crate::connection::carrier::layer::{Decoder, Encoder};
use crate::connection::carrier::websocket::{FrameDecoder, FrameEncoder};
use crate::engine::websocket::Role;
use crate::engine::websocket::upgrade::{Client, HEAD_MAX, Server};

/// Agrees on WebSocket with a client, and frames whatever comes next.
pub(super) async fn accept<S>(line: &mut Line<S>) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut server = Server::default();
    let mut answer = Vec::new();
    loop {
        let taken = server.handle_input(&line.input, &mut answer);
        line.carrier.enqueue(&answer)?;
        match taken {
            Ok(Some(used)) => {
                line.input.drain(..used);
                break;
            }
            Ok(None) => {
                line.input.clear();
                line.more(HEAD_MAX).await?;
            }
            Err(error) => {
                // Told as far as the client listens; the deadline is running.
                poll_fn(|cx| line.carrier.poll_flush(cx)).await?;
                return Err(error.into());
            }
        }
    }
    frame(line, Role::Server).await
}

/// Agrees on WebSocket with the server at `host`, as it stands in a URL.
pub(super) async fn connect<S>(line: &mut Line<S>, host: &str) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| io::Error::other("no random bytes"))?;
    let mut request = Vec::new();
    let mut client = Client::request(host, nonce, &mut request);
    line.carrier.enqueue(&request)?;
    let used = loop {
        line.more(HEAD_MAX).await?;
        match client.handle_input(&line.input)? {
            Some(used) => break used,
            None => line.input.clear(),
        }
    };
    line.input.drain(..used);
    frame(line, Role::Client).await
}

async fn frame<S>(line: &mut Line<S>, role: Role) -> Result<(), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let decoder = Decoder::WebSocket(FrameDecoder::new(role));
    let encoder = Encoder::WebSocket(FrameEncoder::new(role));
    let pushed = line.carrier.push(decoder, encoder, &mut line.input);
    if pushed.is_err() {
        // Told as far as the peer listens; the deadline is running.
        poll_fn(|cx| line.carrier.poll_flush(cx)).await?;
    }
    Ok(pushed?)
}
