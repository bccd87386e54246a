//! Many circuits at once, one of which nobody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;

use crate::hop::{self, Target};
use crate::peer::Muxer;
use crate::server::Server;
use crate::{PROMPT, pattern, within};

/// With the stalled one, two hundred.
const LIVELY: usize = 199;
const ECHO: usize = 64 * 1024;
/// For all echoes together, on a machine that is busy with the other tests.
const ECHOES_MAX: Duration = Duration::from_secs(30);
/// What a circuit may hold when nobody reads: a window in the relay and one in
/// the target, with room for what is on its way.
pub(crate) const HELD_MAX: usize = 1 << 20;
/// Which pattern is pushed, and in what blocks.
const PUSHED: u64 = 77;
const BLOCK: usize = 8 * 1024;
const STALL_RESETS: &str = "waystation_mplex_stall_resets_total";

over_muxers_and_quic! {
    a_stalled_reader_does_not_stop_the_other_circuits
}

async fn a_stalled_reader_does_not_stop_the_other_circuits(muxer: Muxer) {
    let server = Server::start_for(
        muxer,
        &[
            "relay.circuits_per_peer_max=256",
            "relay.circuit_bytes_max=0",
            "relay.circuit_duration_max=0",
        ],
    );
    let (source, target, mut offers) = hop::pair(&server, muxer).await;
    let mut circuits = Vec::new();
    for _ in 0..LIVELY {
        circuits.push(hop::circuit(&source, &server, &target, &mut offers).await);
    }
    // All circuits share the source's connection. A peer of rust-libp2p's
    // mplex stops reading altogether when one of its streams is full, so over
    // mplex the stalled reader has a connection of its own.
    let (pushed, mut unread, _target) = match muxer {
        Muxer::Yamux | Muxer::Quic => {
            let (near, far) = hop::circuit(&source, &server, &target, &mut offers).await;
            (Pushing::start(near, usize::MAX), far, None)
        }
        Muxer::Mplex => {
            let stalling = hop::connected(&server, muxer).await;
            hop::reserved(&stalling, &server).await;
            let mut offers = Target::new(&stalling);
            let (near, far) = hop::circuit(&source, &server, &stalling, &mut offers).await;
            (
                Pushing::start(near, usize::MAX),
                far,
                Some((stalling, offers)),
            )
        }
    };
    server.until("waystation_relay_circuits", 200.0).await;
    pushed.until(256 * 1024).await;
    let echoes = circuits
        .into_iter()
        .zip(0..)
        .map(|((near, far), seed)| echo(near, far, seed));
    within(ECHOES_MAX, "the other circuits", try_join_all(echoes))
        .await
        .unwrap();
    match muxer {
        Muxer::Yamux => {
            // Flow control keeps it waiting; it goes on when it is read again.
            assert!(pushed.so_far() <= HELD_MAX, "{}", pushed.so_far());
            read_on(&mut unread, 2 * HELD_MAX).await;
        }
        // The target's own transport takes ten MiB before it says stop.
        Muxer::Quic => read_on(&mut unread, pushed.so_far()).await,
        // Without flow control, it had to give way.
        Muxer::Mplex => server.until(STALL_RESETS, 1.0).await,
    }
}

/// A task that sends for as long as it can.
pub(crate) struct Pushing {
    bytes: Arc<AtomicUsize>,
}

impl Pushing {
    /// Sends `total` bytes, and ends the direction behind them.
    pub(crate) fn start(mut stream: Stream, total: usize) -> Self {
        let bytes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&bytes);
        tokio::spawn(async move {
            for offset in (0..total).step_by(BLOCK) {
                let block = pattern(PUSHED, offset as u64, BLOCK.min(total - offset));
                if stream.write_all(&block).await.is_err() {
                    return;
                }
                counted.fetch_add(block.len(), Ordering::Relaxed);
            }
            // The relay may have ended the circuit.
            let _ = stream.close().await;
        });
        Self { bytes }
    }

    pub(crate) fn so_far(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) async fn until(&self, bytes: usize) {
        within(PROMPT, "pushing", async {
            while self.so_far() < bytes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Sends a block over the circuit and back.
async fn echo(mut near: Stream, mut far: Stream, seed: u64) -> std::io::Result<()> {
    let block = pattern(seed, 0, ECHO);
    let there = async {
        let (mut reader, mut writer) = (&mut near).split();
        let mut back = vec![0; ECHO];
        let sending = async {
            writer.write_all(&block).await?;
            writer.flush().await
        };
        futures::try_join!(sending, reader.read_exact(&mut back))?;
        assert!(back == block, "not what was sent");
        Ok(())
    };
    let here = async {
        let mut block = vec![0; ECHO];
        far.read_exact(&mut block).await?;
        far.write_all(&block).await?;
        far.flush().await
    };
    futures::try_join!(there, here)?;
    Ok(())
}

/// Reads what has been pushed.
pub(crate) async fn read_on(stream: &mut Stream, bytes: usize) {
    let mut arrived = vec![0; bytes];
    within(2 * PROMPT, "reading on", stream.read_exact(&mut arrived))
        .await
        .unwrap();
    assert!(arrived == pattern(PUSHED, 0, bytes), "not what was sent");
}
