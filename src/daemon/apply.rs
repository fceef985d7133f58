//! A reload: read everything off the driver's thread, compare, tell the mesh, answer.
//!
//! Source: architecture.md section 2.5 (c). An unusable tree changes nothing, and every problem of it
//! is said; tinc would exit on a signal (tinc-config-cli.md section 4.5).

use std::sync::Arc;

use crate::{
    config::{self, Config, Problem, diff},
    control::proto::{ErrorCode, Reloaded, Response},
    daemon::{
        Event, Reply, control,
        driver::{Driver, with_port},
        systemd,
    },
};

impl Driver {
    /// Starts a reload unless one is under way. [`Event::Reloaded`] follows.
    pub(super) fn reload(&mut self, reply: Option<Reply>) {
        if self.reloading || !self.is_up() {
            if let Some(reply) = reply {
                let text = "the daemon is starting or reloading: try again".into();
                let _ = reply.send(control::error(ErrorCode::Busy, text));
            }
            return;
        }
        self.reloading = true;
        systemd::reloading();
        let (old, events) = (self.config.clone(), self.events.clone());
        tokio::spawn(async move {
            let load = move || config::load(&old.source, Some(&old));
            let result = match tokio::task::spawn_blocking(load).await {
                Ok(result) => result,
                Err(error) => Err(vec![Problem {
                    error: true,
                    file: "tinc.conf".into(),
                    line: 0,
                    column: 0,
                    text: format!("the reload was broken off: {error}"),
                }]),
            };
            let _ = events.send(Event::Reloaded(Box::new(result), reply)).await;
        });
    }

    /// The files were read.
    pub(super) fn reloaded(&mut self, result: Result<Config, Vec<Problem>>, reply: Option<Reply>) {
        self.reloading = false;
        self.reload_worked = result.is_ok();
        let response = match result {
            Ok(new) => Response::Reloaded(self.take_over(new)),
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let text = format!("nothing was changed: {}", text.join("; "));
                control::error(ErrorCode::Config, text)
            }
        };
        self.tell_ready();
        if let Some(reply) = reply {
            let _ = reply.send(response);
        }
    }

    /// Makes a new configuration the one in force, except for what waits for a restart: that part of
    /// the old one stays, so that the next reload still tells of it.
    fn take_over(&mut self, mut new: Config) -> Reloaded {
        let diff = diff::diff(&self.config, &new);
        let old = &self.config;
        let mut settings = crate::mesh::Settings::clone(&with_port(&new.settings, self.port));
        settings.name = old.settings.name.clone();
        settings.key = Arc::clone(&old.settings.key);
        settings.sptps = old.settings.sptps;
        settings.rsa = old.settings.rsa.clone();
        settings.secret = Arc::clone(&old.settings.secret);
        let mut shell = config::Shell::clone(&old.shell);
        shell.scripts_interpreter = new.shell.scripts_interpreter.clone();
        shell.scripts_extension = new.shell.scripts_extension.clone();
        self.hooks.scripts.interpreter = shell.scripts_interpreter.clone();
        self.hooks.scripts.extension = shell.scripts_extension.clone();
        let problems: Vec<String> = new.problems.iter().map(ToString::to_string).collect();
        self.config.problems = std::mem::take(&mut new.problems);
        self.config.shell = Arc::new(shell);
        self.use_settings(Arc::new(settings));

        for problem in &problems {
            tracing::warn!("{problem}");
        }
        for change in &diff.changed {
            tracing::info!("{change}");
        }
        tracing::info!(changes = diff.changed.len(), "configuration reloaded");
        Reloaded {
            changed: diff.changed,
            restart_needed: diff
                .restart_needed
                .iter()
                .map(ToString::to_string)
                .collect(),
            problems,
        }
    }
}
