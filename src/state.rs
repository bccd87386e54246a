//! state

pub mod limits;
pub mod striped;
