//! From configuration to running server, and out again.
//!
//! Owns the order of things: identity, logging, sockets, workers, admin, and
//! at the end the phases of shutdown. Everything that an operator can get
//! wrong is told before the first peer is let in.

mod access;
mod addresses;
pub mod cli;
mod interfaces;
pub mod logging;
mod memory;
mod observe;
mod peers;
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

use server::{Files, Server};

/// Runs the server until it is told to stop.
///
/// # Errors
/// [`crate::config::ConfigError`] for what the operator has to change; anything
/// else is the system's.
#[expect(clippy::needless_pass_by_value, reason = "the configuration ends here")]
pub fn run(loaded: Loaded) -> anyhow::Result<()> {
    // Files that the operator wrote come first: nothing is made before them.
    let files = Files {
        lists: loaded.access_lists()?,
        token: loaded.admin_token()?,
        systems: server::open_asn_database(&loaded)?,
    };
    let (identity, key_file) = cli::open_identity(&loaded)?;
    let _level = logging::init(&loaded)?;
    if key_file == KeyFile::Created {
        let file = loaded.config.identity.key_file.display();
        tracing::info!(%file, "identity created");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let server = Server::start(&loaded, identity, files).await?;
        banner(&server)?;
        server.run().await
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
