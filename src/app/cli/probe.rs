//! `probe`: what to dial and how, from arguments to what is shown.
//!
//! Reads the files that arguments name, which the modules they are of bound. The
//! questions and their deadline are left to [`crate::probe`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use rustls::RootCertStore;

use crate::config::read_private_key;
use crate::config::units::parse_duration;
use crate::engine::muxer::Muxer;
use crate::engine::private_network::PrivateKey;
use crate::engine::security::Security;
use crate::probe::{self, Report, Request, Target, roots};

use super::print;

#[derive(Debug, Args)]
pub(super) struct Dial {
    /// Where the server is, for example /dns4/relay.example.net/tcp/4001, or with
    /// /ws or /tls/ws behind it. With /p2p/PEER-ID at its end, nobody else will do.
    #[arg(value_name = "MULTIADDR")]
    target: Target,
    /// Offer this muxer only, in place of both.
    #[arg(long, value_enum)]
    muxer: Option<MuxerName>,
    /// What to secure the connection with.
    #[arg(long, value_enum, default_value = "noise")]
    security: SecurityName,
    /// The server is in the private network of this key file (swarm.key).
    #[arg(long, value_name = "FILE", value_parser = private_key)]
    private_network: Option<PrivateKey>,
    /// On secure WebSocket, believe certificates that those in this file (PEM)
    /// vouch for, in place of those whom the system believes.
    #[arg(long, value_name = "FILE", value_parser = certificate_roots)]
    certificate_roots: Option<Arc<RootCertStore>>,
    /// Time for all of it.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
    /// Also make a reservation, which ends with the probe.
    #[arg(long)]
    reserve: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MuxerName {
    Yamux,
    Mplex,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SecurityName {
    Noise,
    Tls,
}

impl Dial {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let name = self.target.to_string();
        let request = Request {
            target: self.target,
            muxers: match self.muxer {
                None => Muxer::ALL.to_vec(),
                Some(MuxerName::Yamux) => vec![Muxer::Yamux],
                Some(MuxerName::Mplex) => vec![Muxer::Mplex],
            },
            security: match self.security {
                SecurityName::Noise => Security::Noise,
                SecurityName::Tls => Security::Tls,
            },
            private: self.private_network,
            roots: self.certificate_roots,
            timeout: self.timeout,
            reserve: self.reserve,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut report = Report::default();
        let outcome = runtime.block_on(probe::run(&request, &mut report));
        // A name that does not resolve in time is looked up by a thread that
        // nobody waits for.
        runtime.shutdown_background();
        print(&report.to_string())?;
        outcome.context(name)
    }
}

fn timeout(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text)
        .filter(|timeout| !timeout.is_zero())
        .ok_or("expected a duration above zero, for example 10s or 500ms")
}

fn private_key(file: &str) -> Result<PrivateKey, String> {
    read_private_key(Path::new(file))
}

fn certificate_roots(file: &str) -> Result<Arc<RootCertStore>, String> {
    roots::read(Path::new(file))
}
