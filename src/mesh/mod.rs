//! The control plane: lines, punts, configuration and time in; floods, dials, probes, hooks and route
//! snapshots out. Knows no link dialect and no socket.

pub mod event;
pub mod settings;
pub mod view;

pub use event::{Input, Output};
pub use settings::Settings;
