//! Signals as events. Source: config/tinc.md section 4.5.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::Event;

/// Requests by signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalRequest {
    /// HUP: reload the configuration and reopen the log.
    Reload,
    /// ALRM: dial missing links now.
    Retry,
    /// INT, TERM, QUIT: stop; the second signal stops at once.
    Stop,
    /// USR1: log the connections.
    LogConnections,
    /// USR2: log nodes, edges, subnets and totals.
    LogGraph,
}

/// Catches the signals while the runtime lives.
pub fn catch(events: &mpsc::Sender<Event>) -> io::Result<()> {
    for (kind, ask) in [
        (SignalKind::hangup(), SignalRequest::Reload),
        (SignalKind::alarm(), SignalRequest::Retry),
        (SignalKind::interrupt(), SignalRequest::Stop),
        (SignalKind::terminate(), SignalRequest::Stop),
        (SignalKind::quit(), SignalRequest::Stop),
        (SignalKind::user_defined1(), SignalRequest::LogConnections),
        (SignalKind::user_defined2(), SignalRequest::LogGraph),
    ] {
        let mut signals = signal(kind)?;
        let events = events.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if events.send(Event::Signal(ask)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
