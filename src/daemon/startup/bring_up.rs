//! Brings the daemon up after opening the device: interface and tinc-up, dropped rights, sandbox, packet threads,
//! listening.
//!
//! Source: proto/threat-model.md section 4.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;

use meshd_config::Sandbox;
use meshd_proto::mesh::Input;

use crate::{
    Event, conn,
    driver::Driver,
    hooks::{
        DeviceUp, Runner,
        monitor::{Begin, Monitor, Own},
    },
    privileges,
    routes::{self, RouteFollower},
    sandbox::{self, Who},
    status::Offloads,
    systemd::Note,
};

/// Time after a restart in which nodes may claim the kept routes.
const ROUTES_SETTLE: Duration = Duration::from_secs(15);

impl Driver {
    /// Sets the interface up; [`Event::DeviceRising`] follows.
    pub(crate) fn bring_device_up(&self) {
        let shell = Arc::clone(&self.config.shell);
        let (tun, events) = (self.net.tun.clone(), self.inbox.events.clone());
        tokio::spawn(async move {
            if let Some(tun) = tun {
                routes::configure(&shell, tun.name()).await;
            }
            let _ = events.send(Event::DeviceRising).await;
        });
    }

    /// Starts tinc-up; [`Event::DeviceUp`] reports its end. If the script process runs all later scripts, the daemon
    /// drops its rights now.
    pub(crate) fn device_rising(&mut self, now: Instant) -> anyhow::Result<()> {
        let mut script = DeviceUp::begin(&self.hooks.scripts);
        self.device.tinc_up = script.as_ref().and_then(DeviceUp::group);
        let events = self.inbox.events.clone();
        tokio::spawn(async move {
            let ended = match &mut script {
                Some(script) => script.end().await,
                None => true,
            };
            let _ = events.send(Event::DeviceUp(ended)).await;
        });
        match self.config.shell.sandbox {
            Sandbox::Normal => {
                let monitor = self.begin_outside()?.context("no process runs scripts")?;
                self.hooks.runner = Runner::Monitor(monitor);
                self.give_up_rights(now)
            }
            Sandbox::Off | Sandbox::High => Ok(()),
        }
    }

    /// Fixes the parameters of the processes outside of the sandbox, and uses them from now on. Returns the script
    /// process.
    fn begin_outside(&mut self) -> anyhow::Result<Option<Monitor>> {
        let Some(prepared) = self.device.prepared.take() else {
            return Ok(None);
        };
        let confined = self.config.shell.sandbox == Sandbox::High;
        let mut scripts = self.hooks.scripts.clone();
        if confined {
            scripts.run = Some(Vec::new());
        }
        let begin = Begin {
            scripts,
            user: self.device.dropping.user.clone(),
            chroot: self.device.dropping.chroot.is_some(),
            nice: self.config.shell.nice,
            rising: self.device.tinc_up,
            own: Own {
                log: self.log.file().map(Path::to_owned),
                running: self.device.own.clone(),
            },
            confined,
        };
        let monitor = Monitor::over(prepared.scripts, &begin, self.inbox.events.clone());
        let monitor = monitor.context("cannot reach the script process")?;
        self.device.keeper = Some(monitor.clone());
        let services = prepared.services.begin(self.inbox.events.clone());
        self.vitals.services = services.context("cannot reach the service process")?;
        Ok(Some(monitor))
    }

    /// The interface is up, or tinc-up reached its time limit: drops the remaining rights, starts the workers, and
    /// starts to listen.
    pub(crate) fn device_up(&mut self, ended: bool, now: Instant) -> anyhow::Result<()> {
        match ended {
            true => self.device.tinc_up = None,
            false => self.kill_tinc_up(),
        }
        match &self.hooks.runner {
            // The daemon dropped its rights when tinc-up started; the script process kept its own to kill tinc-up.
            Runner::Monitor(monitor) => monitor.give_up(),
            Runner::Here | Runner::Nobody => {
                if let Some(monitor) = self.begin_outside()? {
                    self.hooks.runner = Runner::Nobody;
                    monitor.give_up();
                }
                self.give_up_rights(now)?;
            }
        }
        if self.device.dropping.chroot.is_some() {
            self.hooks.scripts.base = PathBuf::from("/");
        }
        self.check_sockets(now)?;
        self.start_workers()?;
        let Offloads { have, lack } = self.offloads();
        let (threads, offloads, missing) = (self.net.queues.len(), have.join(" "), lack.join(" "));
        tracing::info!(threads, offloads, missing, "packet threads run");
        for listener in std::mem::take(&mut self.net.listeners) {
            conn::accept(listener, self.links.open(), self.inbox.events.clone());
        }
        let neighbours = std::mem::take(&mut self.device.note.last.neighbours);
        if !neighbours.is_empty() {
            tracing::info!(
                count = neighbours.len(),
                "dialling the neighbours from before the restart"
            );
            self.inbox.inputs.push(Input::Redial(neighbours));
        }
        tracing::info!("ready");
        self.report_ready();
        if self.vitals.watchdog.is_due(Vec::new(), now) {
            self.vitals.services.notify(Note::Watchdog);
        }
        // Files may have changed since the start read them.
        self.begin_reload();
        Ok(())
    }

    /// Ends tinc-up and its processes, if it still runs.
    pub(crate) fn kill_tinc_up(&mut self) {
        if let Some(group) = self.device.tinc_up.take() {
            self.hooks.runner.kill(group);
        }
    }

    /// Drops rights that only scripts still need.
    fn give_up_rights(&mut self, now: Instant) -> anyhow::Result<()> {
        if let Some(tun) = self
            .net
            .tun
            .as_ref()
            .filter(|_| self.config.shell.interface_routes.auto)
        {
            let me = &self.config.settings.name;
            let follower = RouteFollower::start(tun.name(), &self.device.note.last.routes, me);
            self.device.routes = Some(follower.context("cannot follow subnets with routes")?);
            self.device.routes_settle = Some(now + ROUTES_SETTLE);
        }
        if let Some(nice) = self.config.shell.nice {
            privileges::set_nice(nice)?;
        }
        privileges::drop_to(&self.device.dropping)?;
        if self.device.dropping.chroot.is_some() {
            self.config.source.base = PathBuf::from("/");
            self.links.keys.rebase(self.config.source.clone());
        }
        self.lock_in()?;
        self.log.start_writer(&self.vitals.services);
        Ok(())
    }

    /// Drops rights that only scripts need. No other thread runs yet.
    fn lock_in(&self) -> anyhow::Result<()> {
        if self.config.shell.sandbox == Sandbox::Off {
            return Ok(());
        }
        let files = self.files();
        privileges::drop_capabilities(self.device.dropping.keep.of_root(&files.write))?;
        match sandbox::confine(Who::Daemon, &files) {
            Ok(true) => {}
            Ok(false) => tracing::info!(
                "this kernel has no Landlock or an old version, so the sandbox does not protect all files"
            ),
            Err(error) => {
                tracing::warn!(%error, "the daemon runs without this part of the sandbox; set Sandbox = off to silence this")
            }
        }
        if let Err(error) = sandbox::forbid(Who::Daemon) {
            tracing::warn!(%error, "the daemon runs without this part of the sandbox; set Sandbox = off to silence this");
        }
        Ok(())
    }

    /// Returns the files that we read and write from now on.
    fn files(&self) -> sandbox::Files {
        let base = &self.config.source.base;
        let mut files = sandbox::Files::default();
        files.read.push(base.clone());
        files.read.extend(meshd_config::files::places());
        match meshd_config::cache::make_dir(base) {
            Ok(cache) => files.write.push(cache),
            Err(error) => tracing::debug!(%error, "cannot make the directory of the address cache"),
        }
        if self.config.settings.learn_keys {
            files.write.push(base.join("hosts"));
        }
        files
    }
}
