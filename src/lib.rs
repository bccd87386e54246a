//! Waystation: a libp2p circuit relay and bootstrap server.

pub mod admin;
pub mod app;
pub mod clock;
pub mod config;
pub mod connection;
pub mod engine;
pub mod identity;
pub mod listener;
pub mod metrics;
pub mod service;
pub mod state;
pub mod upgrade;
pub mod wire;
