//! What a connection is made of (transport, security, muxer), how that is chosen on the
//! command line, and how it is written: `tcp/noise/yamux`, `quic`.

use std::{fmt, str::FromStr};

use anyhow::bail;
use clap::ValueEnum;
use multistream_select::Version;
use serde::{Serialize, Serializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Quic,
    /// WebSocket
    Ws,
    /// Secure WebSocket
    Wss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Security {
    Noise,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Muxer {
    Yamux,
    Mplex,
}

/// As on the command line.
pub(crate) fn name<T: ValueEnum>(value: &T) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Seconds between the keep-alives of rust-libp2p's QUIC.
const KEEP_ALIVE: u16 = 5;

/// What a connection is made of, and how its peer behaves on it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Stack {
    /// Transport; with --address, what that says
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// Security offered to the server; QUIC has its own
    #[arg(long, value_enum, default_value_t = Security::Noise)]
    pub(crate) security: Security,
    /// Muxer offered to the server; QUIC has its own
    #[arg(long, value_enum, default_value_t = Muxer::Yamux)]
    pub(crate) muxer: Muxer,
    /// Send a stream's first request together with its negotiation, as go peers do;
    /// a rust-libp2p Swarm waits for the answer first
    #[arg(long)]
    pub(crate) lazy: bool,
    /// Seconds between the keep-alives of a QUIC peer, half of its idle time-out:
    /// 5 in rust-libp2p, 15 in go-libp2p
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) keep_alive: Option<u16>,
}

impl Stack {
    pub(crate) fn of(way: Way, lazy: bool) -> Self {
        Self {
            transport: way.transport,
            security: way.security,
            muxer: way.muxer,
            lazy,
            keep_alive: None,
        }
    }

    pub(crate) fn way(self) -> Way {
        Way {
            transport: self.transport,
            security: self.security,
            muxer: self.muxer,
        }
    }

    /// Whether each connection has a descriptor of its own on the server.
    pub(crate) fn takes_descriptors(self) -> bool {
        self.transport != Transport::Quic
    }

    pub(crate) fn stream_version(self) -> Version {
        if self.lazy {
            Version::V1Lazy
        } else {
            Version::V1
        }
    }

    pub(crate) fn keep_alive_seconds(self) -> u16 {
        self.keep_alive.unwrap_or(KEEP_ALIVE)
    }

    /// The arguments that make a child's stack this one.
    pub(crate) fn arguments(self) -> Vec<String> {
        let mut arguments = vec![
            format!("--transport={}", name(&self.transport)),
            format!("--security={}", name(&self.security)),
            format!("--muxer={}", name(&self.muxer)),
            format!("--keep-alive={}", self.keep_alive_seconds()),
        ];
        arguments.extend(self.lazy.then(|| "--lazy".to_owned()));
        arguments
    }
}

/// What a figure was measured over. QUIC has one security and one muxer, its own; what
/// is set here is then for a connection inside a circuit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) transport: Transport,
    pub(crate) security: Security,
    pub(crate) muxer: Muxer,
}

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        let above = |way: &Self| (way.security, way.muxer);
        self.transport == other.transport
            && (self.transport == Transport::Quic || above(self) == above(other))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = name(&self.transport);
        if self.transport == Transport::Quic {
            return formatter.write_str(&transport);
        }
        let (security, muxer) = (name(&self.security), name(&self.muxer));
        write!(formatter, "{transport}/{security}/{muxer}")
    }
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// TRANSPORT, TRANSPORT/SECURITY or TRANSPORT/SECURITY/MUXER.
impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split('/');
        let mut way = Self {
            transport: part(parts.next().unwrap_or_default())?,
            security: Security::Noise,
            muxer: Muxer::Yamux,
        };
        if let Some(security) = parts.next() {
            way.security = part(security)?;
        }
        if let Some(muxer) = parts.next() {
            way.muxer = part(muxer)?;
        }
        if parts.next().is_some() || (way.transport == Transport::Quic && text.contains('/')) {
            bail!("{text} has a part too many");
        }
        Ok(way)
    }
}

fn part<T: ValueEnum>(text: &str) -> anyhow::Result<T> {
    T::from_str(text, false).map_err(|_| {
        let known = T::value_variants().iter().map(name);
        anyhow::anyhow!(
            "{text:?} is none of {}",
            known.collect::<Vec<_>>().join(", ")
        )
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn way(text: &str) -> Way {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_left_out_is_noise_and_yamux() {
        assert_eq!(way("tcp").to_string(), "tcp/noise/yamux");
        assert_eq!(way("wss/tls").to_string(), "wss/tls/yamux");
        assert_eq!(way("tcp/noise/mplex").to_string(), "tcp/noise/mplex");
        assert_eq!(way("quic").to_string(), "quic");
    }

    #[test]
    fn what_is_not_known_is_said() {
        for text in [
            "",
            "udp",
            "tcp/ssl",
            "tcp/tls/h2",
            "tcp/tls/yamux/x",
            "quic/tls",
        ] {
            assert!(text.parse::<Way>().is_err(), "{text}");
        }
        let error = "tcp/ssl".parse::<Way>().unwrap_err().to_string();
        assert_eq!(error, "\"ssl\" is none of noise, tls");
    }

    #[test]
    fn quic_is_quic_whatever_runs_inside_its_circuits() {
        let inside = Way {
            muxer: Muxer::Mplex,
            ..way("quic")
        };
        assert_eq!(inside, way("quic"));
        assert_ne!(way("tcp"), way("tcp/tls"));
    }
}
