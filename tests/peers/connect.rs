//! Circuits that work, between peers of a kind: end to end through the relay,
//! and in bulk.

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::StreamProtocol;

use crate::hop;
use crate::peer::{Way, meet};
use crate::server::Server;
use crate::{PROMPT, pattern, within};

const CIRCUITS: &str = "waystation_relay_circuits";
const BULK: StreamProtocol = StreamProtocol::new("/waystation-test/bulk");
const BULK_BYTES: u64 = 100 << 20;
/// About 2 MiB/s each way, under two layers of muxer and Noise in a debug
/// build, with the other tests beside it: far below what is normal.
const BULK_MAX: Duration = Duration::from_secs(100);

over_muxers_and_quic! {
    two_peers_meet_and_ping_through_the_relay
    a_hundred_mebibytes_pass_each_way
    bytes_behind_a_request_belong_to_the_circuit
}

over_tls! {
    two_peers_meet_and_ping_through_the_relay
    a_hundred_mebibytes_pass_each_way
    bytes_behind_a_request_belong_to_the_circuit
}

async fn two_peers_meet_and_ping_through_the_relay(way: impl Into<Way>) {
    let way = way.into();
    let server = Server::start_for(way, &[]);
    let (mut source, mut target) = meet(&server, way).await;
    server.until(CIRCUITS, 1.0).await;
    source.until_pinged(target.id(), 5).await;
    target.until_pinged(source.id(), 5).await;
    drop(source);
    drop(target);
    server.until_nothing_is_held().await;
}

async fn a_hundred_mebibytes_pass_each_way(way: impl Into<Way>) {
    let way = way.into();
    let server = Server::start_for(
        way,
        &["relay.circuit_bytes_max=0", "relay.circuit_duration_max=0"],
    );
    let (source, target) = meet(&server, way).await;
    let mut offered = target.streams().accept(BULK).unwrap();
    within(BULK_MAX, "a hundred mebibytes each way", async {
        let (there, here) = futures::join!(
            async {
                let opened = source.streams().open_stream(target.id(), BULK).await;
                exchange(opened.unwrap(), 1, 2).await
            },
            async {
                let (_, stream) = offered.next().await.unwrap();
                exchange(stream, 2, 1).await
            }
        );
        assert_eq!((there, here), (BULK_BYTES, BULK_BYTES));
    })
    .await;
    let metrics = server.metrics().await;
    for direction in ["source_to_destination", "destination_to_source"] {
        let series = format!(r#"waystation_relay_bytes_total{{direction="{direction}"}}"#);
        // What the peers add for their own muxer and encryption counts as well.
        assert!(metrics.value(&series) > BULK_BYTES as f64);
    }
}

async fn bytes_behind_a_request_belong_to_the_circuit(way: impl Into<Way>) {
    let way = way.into();
    let server = Server::start_for(way, &[]);
    let (source, target, mut offers) = hop::pair(&server, way).await;
    let early = pattern(5, 0, 20_000);
    let ((answer, near), (_, _, mut far)) = futures::join!(
        hop::connect_and_send(&source, &server, target.id(), &early),
        offers.accept()
    );
    assert_eq!(answer.status, hop::OK);
    let mut arrived = vec![0; early.len()];
    within(PROMPT, "early bytes", far.read_exact(&mut arrived))
        .await
        .unwrap();
    assert!(arrived == early);
    drop(near);
}

/// Sends one pattern while receiving the other; how many right bytes came.
async fn exchange<S>(stream: S, send: u64, expect: u64) -> u64
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        let mut offset = 0;
        while offset < BULK_BYTES {
            let block = pattern(send, offset, BLOCK);
            writer.write_all(&block).await.unwrap();
            offset += block.len() as u64;
        }
        writer.close().await.unwrap();
    };
    let receiving = async {
        let mut offset = 0;
        let mut block = vec![0; BLOCK];
        while offset < BULK_BYTES {
            reader.read_exact(&mut block).await.unwrap();
            assert!(block == pattern(expect, offset, BLOCK), "at {offset}");
            offset += block.len() as u64;
        }
        assert_eq!(reader.read(&mut block).await.unwrap(), 0, "more than sent");
        offset
    };
    futures::join!(sending, receiving).1
}

/// Bytes per write and read; a multiple of eight.
const BLOCK: usize = 64 * 1024;
