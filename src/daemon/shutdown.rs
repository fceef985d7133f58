//! Stops the daemon: scripts of disappearing nodes and subnets, of our own subnets, tinc-down, then the links.
//!
//! tinc closes its links first. meshd forwards packets while scripts run, because the stop may be a restart, and the
//! daemon cannot tell. Order of the scripts: config/tinc.md section 3.3.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use meshd_api::proto::Response;
use meshd_os::clock;
use meshd_proto::mesh::HookEvent;

use crate::{Event, driver::Driver, hooks, systemd::Note};

/// Longest delay of the exit by scripts of nodes and subnets. The stop limit of tinc's systemd unit is 5 s.
const SCRIPTS: Duration = Duration::from_secs(3);

impl Driver {
    /// Stops everything in order. A second signal stops at once, with an error.
    pub(super) async fn stop(&mut self, mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.vitals.services.notify(Note::Stopping);
        self.life.leaving = true;
        let limit = clock::now() + SCRIPTS;
        if self.is_up() {
            for event in self.mesh.farewell() {
                self.hooks.push(&event);
            }
            self.last_hooks(&mut events, limit).await?;
            for subnet in self.config.settings.subnets.clone() {
                self.hooks.push(&HookEvent::Subnet {
                    up: false,
                    node: self.config.settings.name.clone(),
                    subnet,
                    address: None,
                });
            }
            self.last_hooks(&mut events, limit).await?;
            if !self.hooks.is_idle() {
                tracing::warn!(
                    "stopping without the end of scripts, which still run after {SCRIPTS:?}"
                );
            }
            self.write_note();
        }
        self.kill_tinc_up();
        let (scripts, done) = (self.hooks.scripts.clone(), self.inbox.events.clone());
        let runner = self.hooks.runner.clone();
        tokio::spawn(async move {
            hooks::run_down(&runner, &scripts).await;
            let _ = done.send(Event::DeviceDown).await;
        });
        while !self.device.is_down {
            self.turn_once(&mut events, None).await?;
        }
        if let Some(workers) = self.net.workers.take() {
            workers.stop();
        }
        tracing::info!("stopped");
        if let Some(clients) = self
            .life
            .stopping
            .take()
            .filter(|clients| !clients.is_empty())
        {
            for reply in clients {
                let _ = reply.send(Response::Done(true));
            }
            // Lets the clients' tasks write their answers.
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Runs until no script is left, or to the limit.
    async fn last_hooks(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        limit: Instant,
    ) -> anyhow::Result<()> {
        self.hooks.start_due(clock::now());
        while !self.hooks.is_idle() && clock::now() < limit {
            self.turn_once(events, Some(limit)).await?;
        }
        Ok(())
    }
}
