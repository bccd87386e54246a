//! Whole connections over loopback sockets, driven by peers that are written
//! frame by frame.

mod peer;
mod services;
