//! The way out: links closed, scripts of what went down, our own subnets, tinc-down.
//!
//! Order: tinc-config-cli.md section 3.3.

use std::time::Duration;

use anyhow::bail;
use tokio::{
    sync::mpsc,
    time::{Instant as TokioInstant, timeout},
};

use crate::{
    control::proto::Response,
    daemon::{Event, clock, driver::Driver, hooks, signals::Ask, systemd},
    mesh::HookEvent,
};

/// How long scripts of nodes and subnets may hold up the exit. systemd's stop limit of tinc's unit is
/// 5 s.
const SCRIPTS: Duration = Duration::from_secs(3);
/// How long graph work after the last link may take before nodes count as unreachable.
const SETTLE: Duration = Duration::from_millis(50);

impl Driver {
    /// Stops everything in order. A second signal ends it at once, with an error.
    pub(super) async fn stop(&mut self, mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        tracing::info!("stopping");
        systemd::stopping();
        if self.is_up() {
            let now = clock::now();
            let closed = self.links.close_all("we are stopping");
            for input in closed {
                self.mesh.handle(input, now);
            }
            self.work(now);
            // A publication may wait for its pace.
            tokio::time::sleep(SETTLE).await;
            self.work(clock::now());
            match timeout(SCRIPTS, self.last_hooks(&mut events)).await {
                Ok(done) => done?,
                Err(_) => tracing::warn!("scripts still ran after {SCRIPTS:?}"),
            }
            if let Some(workers) = self.workers.take() {
                workers.stop();
            }
        }
        tokio::select! {
            _ = hooks::run_device(&self.hooks.scripts, false) => {}
            () = second_signal(&mut events) => bail!("stopped at once by a second signal"),
        }
        tracing::info!("stopped");
        for reply in self.stopping.take().unwrap_or_default() {
            let _ = reply.send(Response::Done(true));
        }
        // Lets the clients' tasks write that.
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    /// Runs the scripts of the nodes that went down, then those of our own subnets.
    async fn last_hooks(&mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        self.drain_hooks(events).await?;
        for subnet in self.config.settings.subnets.clone() {
            self.hooks.push(&HookEvent::Subnet {
                up: false,
                node: self.config.settings.name.clone(),
                subnet,
                address: None,
            });
        }
        self.drain_hooks(events).await
    }

    /// Runs the scripts that wait until none is left.
    async fn drain_hooks(&mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        loop {
            self.hooks.start_due(clock::now());
            if self.hooks.is_idle() {
                return Ok(());
            }
            let due = self.hooks.poll_timeout().map(TokioInstant::from_std);
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::HookDone(lane)) => self.hooks.finished(&lane),
                    Some(Event::Signal(Ask::Stop)) => bail!("stopped at once by a second signal"),
                    Some(_) | None => {}
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(|| TokioInstant::now() + SCRIPTS)) => {}
            }
        }
    }
}

/// Waits for another signal to stop; everything else that comes is too late.
async fn second_signal(events: &mut mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if matches!(event, Event::Signal(Ask::Stop)) {
            return;
        }
    }
    std::future::pending().await
}
