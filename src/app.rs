//! From configuration to running server, and out again.
//!
//! Owns the order of things: identity, logging, sockets, workers, admin, and
//! at the end the phases of shutdown. Everything that an operator can get
//! wrong is told before the first peer is let in.

mod access;
mod addresses;
mod certificates;
pub mod cli;
mod descriptors;
mod hosted;
mod housekeeping;
mod interfaces;
pub mod logging;
mod memory;
mod observe;
mod peers;
mod quic;
mod server;
mod shutdown;
mod store;
mod supervisor;
mod trimmer;
mod worker;

use std::io::{self, Write};

use multiaddr::Multiaddr;

use crate::config::Loaded;
use crate::identity::KeyFile;

pub use hosted::{Hosted, Stop};
use server::{Files, Server};
use shutdown::Signals;

/// Runs the server until it is told to stop.
///
/// # Errors
/// [`crate::config::ConfigError`] for what the operator has to change; anything
/// else is the system's.
#[expect(clippy::needless_pass_by_value, reason = "the configuration ends here")]
pub fn run(loaded: Loaded) -> anyhow::Result<()> {
    // Files that the operator wrote come first: nothing is made before them.
    let files = Files::read(&loaded)?;
    let (identity, key_file) = cli::open_identity(&loaded)?;
    let _level = logging::init(&loaded)?;
    if key_file == KeyFile::Created {
        let file = loaded.config.identity.key_file.display();
        tracing::info!(%file, "identity created");
    }
    if let Some(key) = &files.private_network {
        let fingerprint = key.fingerprint();
        tracing::info!(%fingerprint, "private network: only peers with the same key can connect");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let server = Server::start(&loaded, identity, files).await?;
        banner(&server)?;
        server.run(Signals::listen()?).await;
        Ok(())
    })
}

/// What an operator hands out, on standard output.
fn banner(server: &Server) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "waystation {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "peer id    {}", server.peer_id())?;
    let addresses: Vec<Multiaddr> = server.addresses();
    for address in addresses {
        writeln!(out, "listening  {address}")?;
    }
    if let Some(admin) = server.admin_address() {
        writeln!(out, "admin      http://{admin}/metrics")?;
    }
    out.flush()
}
