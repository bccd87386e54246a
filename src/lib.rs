//! Waystation: a libp2p circuit relay and bootstrap server.
//!
//! Data moves one way; a module calls to the right or into a leaf.
//!
//! ```text
//! listener → upgrade → connection → service → state
//!                                ↘ wire, engine (pure)
//!                                  metrics, clock, config, identity, certificates, store (leaves)
//! ```
//!
//! On top of it: [`app`] turns a configuration into a running server, [`admin`]
//! answers its operator over HTTP, [`probe`] looks at a server from outside.
//! Locks are numbered in [`state`].

pub mod admin;
pub mod app;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod connection;
pub mod engine;
pub mod identity;
pub mod listener;
pub mod metrics;
pub mod probe;
pub mod service;
pub mod state;
pub mod store;
pub mod upgrade;
pub mod wire;
