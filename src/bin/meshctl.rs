//! The command line. Under the name `meshd` or `tincd` it is the daemon, so that one file on disk is enough to
//! run both.

use std::process::ExitCode;

use meshd::config::options::Called;

fn main() -> ExitCode {
    if Called::is_daemon(std::env::args_os().next().as_deref()) {
        meshd::daemon::main()
    } else {
        meshd::cli::main()
    }
}
