//! What one frame and one record cost on the way through: taking plaintext
//! apart, laying a frame into a batch, sealing and opening.
//!
//! The records group also answers whether a key should be kept expanded: the
//! server's own (expanded for each record) beside a key prepared once, and
//! ring beside aws-lc-rs.

use std::hint::black_box;

use aws_lc_rs::aead as aws;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ring::aead as ring;
use waystation::{
    engine::{
        batch::Batch,
        demux::{Demux, Event, Side, StreamId},
        frames::{self, Greeting},
        muxer::Muxer,
        record::{HEADER_LEN, MAX_PLAINTEXT, OpenKey, SealKey, TAG_LEN},
    },
    wire::{mplex, yamux},
};

const MUXERS: [(Muxer, &str); 2] = [(Muxer::Yamux, "yamux"), (Muxer::Mplex, "mplex")];

/// A ping, a full segment, and what bulk circuits carry.
const PAYLOADS: [usize; 3] = [64, 1400, 16 * 1024];

/// A lone small frame up to the longest record.
const PLAINTEXTS: [(usize, &str); 4] = [
    (64, "64 B"),
    (1400, "1.4 KiB"),
    (16 * 1024, "16 KiB"),
    (MAX_PLAINTEXT, "64 KiB"),
];

const KEY: [u8; 32] = [7; 32];

/// A stream that the other side opened, with an id of usual length.
fn stream(muxer: Muxer) -> StreamId {
    match muxer {
        Muxer::Yamux => StreamId::yamux(101),
        Muxer::Mplex => StreamId::mplex(50, false),
    }
}

/// `count` data frames as the peer sends them on a stream of its own.
fn incoming(muxer: Muxer, payload: usize, count: usize) -> Vec<u8> {
    let length = u32::try_from(payload).expect("a bench's payload");
    let header = match muxer {
        Muxer::Yamux => yamux::Header {
            kind: yamux::FrameKind::Data,
            flags: yamux::Flags::NONE,
            stream: 101,
            length,
        }
        .encode()
        .to_vec(),
        Muxer::Mplex => {
            let mut header = [0; mplex::MAX_HEADER_LEN];
            let used = mplex::Header {
                id: 50,
                flag: mplex::Flag::MessageInitiator,
                length,
            }
            .encode(&mut header);
            header[..used].to_vec()
        }
    };
    let mut frame = header;
    frame.resize(frame.len() + payload, 5);
    frame.repeat(count)
}

fn demux(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("demux");
    for (muxer, name) in MUXERS {
        for payload in PAYLOADS {
            let count = MAX_PLAINTEXT / (payload + 16);
            let plaintext = incoming(muxer, payload, count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}/{payload}"), |bencher| {
                let mut demux = Demux::new(muxer, Side::Listener);
                bencher.iter(|| {
                    let mut rest = black_box(&plaintext[..]);
                    let mut bytes = 0;
                    while let Some(event) = demux.next(&mut rest).expect("well-formed frames") {
                        if let Event::Data(_, payload) = event {
                            bytes += payload.len();
                        }
                    }
                    assert_eq!(bytes, count * payload);
                });
            });
        }
    }
    group.finish();
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (muxer, name) in MUXERS {
        for payload in PAYLOADS {
            let count = MAX_PLAINTEXT / (payload + 16);
            let bytes = vec![5; payload];
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}/{payload}"), |bencher| {
                bencher.iter_batched_ref(
                    // Written to before, as a buffer from the pool has been.
                    || Batch::new(vec![1; 80 * 1024]),
                    |batch| {
                        for _ in 0..count {
                            let payload = black_box(&bytes);
                            frames::data(muxer, stream(muxer), Greeting::None, payload, batch);
                        }
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for (length, name) in PLAINTEXTS {
        group.throughput(Throughput::Bytes(length as u64));
        let mut frame = vec![5; HEADER_LEN + length + TAG_LEN];

        let mut key = SealKey::new(KEY);
        group.bench_function(format!("{name}/server"), |bencher| {
            bencher.iter(|| key.seal(black_box(&mut frame)).expect("fits a record"));
        });

        let plaintext = &mut frame[HEADER_LEN..HEADER_LEN + length];
        let key = prepared_ring();
        group.bench_function(format!("{name}/ring prepared"), |bencher| {
            bencher.iter(|| {
                let nonce = ring::Nonce::assume_unique_for_key([0; 12]);
                key.seal_in_place_separate_tag(nonce, ring::Aad::empty(), black_box(plaintext))
                    .expect("fits a record")
            });
        });

        let key = prepared_aws();
        group.bench_function(format!("{name}/aws-lc-rs prepared"), |bencher| {
            bencher.iter(|| seal_aws(&key, black_box(plaintext)));
        });
        group.bench_function(format!("{name}/aws-lc-rs expanded"), |bencher| {
            bencher.iter(|| seal_aws(&prepared_aws(), black_box(plaintext)));
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for (length, name) in PLAINTEXTS {
        group.throughput(Throughput::Bytes(length as u64));
        // Opening is in place, so every round needs the record anew; the copy
        // is not part of what is measured. A record of its own counter 0 is
        // opened by a key of counter 0.
        let mut frame = vec![5; HEADER_LEN + length + TAG_LEN];
        SealKey::new(KEY).seal(&mut frame).expect("fits a record");
        let record = frame.split_off(HEADER_LEN);

        group.bench_function(format!("{name}/server"), |bencher| {
            bencher.iter_batched_ref(
                || (OpenKey::new(KEY), record.clone()),
                |(key, record)| key.open(record).expect("authentic").len(),
                BatchSize::SmallInput,
            );
        });

        let key = prepared_ring();
        group.bench_function(format!("{name}/ring prepared"), |bencher| {
            bencher.iter_batched_ref(
                || record.clone(),
                |record| {
                    let nonce = ring::Nonce::assume_unique_for_key([0; 12]);
                    let plaintext = key.open_in_place(nonce, ring::Aad::empty(), record);
                    plaintext.expect("authentic").len()
                },
                BatchSize::SmallInput,
            );
        });

        let key = prepared_aws();
        group.bench_function(format!("{name}/aws-lc-rs prepared"), |bencher| {
            bencher.iter_batched_ref(
                || record.clone(),
                |record| open_aws(&key, record),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("{name}/aws-lc-rs expanded"), |bencher| {
            bencher.iter_batched_ref(
                || record.clone(),
                |record| open_aws(&prepared_aws(), record),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn prepared_ring() -> ring::LessSafeKey {
    let key = ring::UnboundKey::new(&ring::CHACHA20_POLY1305, black_box(&KEY));
    ring::LessSafeKey::new(key.expect("a key of 32 bytes"))
}

fn prepared_aws() -> aws::LessSafeKey {
    let key = aws::UnboundKey::new(&aws::CHACHA20_POLY1305, black_box(&KEY));
    aws::LessSafeKey::new(key.expect("a key of 32 bytes"))
}

fn seal_aws(key: &aws::LessSafeKey, plaintext: &mut [u8]) -> aws::Tag {
    let nonce = aws::Nonce::assume_unique_for_key([0; 12]);
    key.seal_in_place_separate_tag(nonce, aws::Aad::empty(), plaintext)
        .expect("fits a record")
}

fn open_aws(key: &aws::LessSafeKey, record: &mut [u8]) -> usize {
    let nonce = aws::Nonce::assume_unique_for_key([0; 12]);
    let plaintext = key.open_in_place(nonce, aws::Aad::empty(), record);
    plaintext.expect("authentic").len()
}

criterion_group!(hot_path, demux, append, seal, open);
criterion_main!(hot_path);
