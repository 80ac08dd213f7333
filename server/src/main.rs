//! The binary. Everything it can do is in the library, under `cli`.

use std::process::ExitCode;

/// A fifth of what a server does with glibc's allocator, when many answer at once, is to allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    drumline_server::cli::main()
}
