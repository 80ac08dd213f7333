//! The binary. Everything it can do is in the library, under `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    drumline_server::cli::main()
}
