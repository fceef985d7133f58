//! The packet threads.
