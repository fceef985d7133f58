//! The tokio shell, one thread.

pub mod clock;
pub mod log;
pub mod options;

/// Entry of the daemon.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
