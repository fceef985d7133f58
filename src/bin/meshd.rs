//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshd::daemon::main()
}
