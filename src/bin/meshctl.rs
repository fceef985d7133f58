//! The command line. Built with the feature `daemon`, it is the daemon under the name `meshd` or `tincd`, so that one
//! file on disk is enough to run both.

use std::process::ExitCode;

use meshd::cli::{self, lab::Meshd};

#[cfg(feature = "daemon")]
fn main() -> ExitCode {
    use meshd::{config::options::Called, daemon};

    if Called::is_daemon(std::env::args_os().next().as_deref()) {
        daemon::main()
    } else {
        cli::main(Meshd::Within)
    }
}

#[cfg(not(feature = "daemon"))]
fn main() -> ExitCode {
    cli::main(Meshd::Apart)
}
