//! The sliding replay window of datagrams.
