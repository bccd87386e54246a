//! See the parent module.
use super::*;
