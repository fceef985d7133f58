//! The control socket: requests and responses, one JSON object a line.

pub mod proto;
