//! state

pub mod striped;
