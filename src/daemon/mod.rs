//! The tokio shell, one thread.

pub mod clock;
pub mod log;
pub mod options;
