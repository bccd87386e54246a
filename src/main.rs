//! The program: arguments in, exit code out.
//!
//! Owns the allocator, which a library must not choose. Everything else is the
//! library's.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    waystation::app::cli::main()
}
