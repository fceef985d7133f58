//! The command line. With the feature `daemon`, the program is the daemon if its name is `meshd` or `tincd`. So one
//! file on disk is enough for both.

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
