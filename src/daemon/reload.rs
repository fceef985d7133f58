//! A reload: reads all files off the driver's thread, compares them, updates the mesh, and answers.
//!
//! Source: proto/design.md section 2.5 (c). An unusable tree changes nothing, and all its problems are reported. tinc
//! would exit on a signal (config/tinc.md section 4.5).

pub(crate) mod queue;

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use meshd_api::proto::{ErrorCode, Planned, Reloaded, Response};
use meshd_config::{Config, Problem, diff};
use meshd_os::clock;
use meshd_wire::NodeName;

use crate::{
    Event, Reply, control,
    driver::{Driver, with_port},
    startup::open,
    systemd::Note,
};

/// Number of configurations kept for undo.
const KEPT: usize = 3;
/// A reload may disconnect one of this many live nodes without `yes`. Source: config/toml.md section 5, rule 6.
const ONE_OF: usize = 10;

/// Purpose of reading the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To apply them.
    Reload {
        /// Apply them even if nodes are disconnected.
        yes: bool,
        /// Undo the reload unless it is confirmed within this time.
        confirm: Option<Duration>,
    },
    /// To compare them.
    Plan,
}

fn texts(of: &[impl ToString]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// Earlier configurations.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Configurations; the latest is last.
    kept: VecDeque<Config>,
    /// Time at which the last configuration is restored without a confirmation.
    until: Option<Instant>,
}

impl Past {
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }
}

impl Driver {
    /// Queues a reload. It reads the files after the start and after a running reload.
    pub(super) fn reload(&mut self, purpose: Purpose, reply: Option<Reply>) {
        self.reloads.queue.ask(purpose, reply);
        self.begin_reload();
    }

    /// Starts to read the files for the next queued reload, if possible now. [`Event::Reloaded`] follows.
    pub(super) fn begin_reload(&mut self) {
        while self.is_up()
            && let Some(purpose) = self.reloads.queue.begin()
        {
            if purpose == Purpose::Plan || self.reloads.past.until.is_none() {
                return self.read_files(purpose);
            }
            let text = "the last reload waits for a confirmation: run `meshctl confirm` to keep it, or `meshctl reload --undo`";
            let refused = control::error(ErrorCode::Refused, text.into());
            if !self.reloads.queue.end(&refused) {
                tracing::warn!("reload refused: {text}");
            }
        }
    }

    fn read_files(&self, purpose: Purpose) {
        if purpose != Purpose::Plan {
            self.vitals.services.notify(Note::reloading());
        }
        let (old, events) = (self.config.clone(), self.inbox.events.clone());
        tokio::spawn(async move {
            let load = move || meshd_config::load(&old.source, Some(&old));
            let result = match tokio::task::spawn_blocking(load).await {
                Ok(result) => result,
                Err(error) => {
                    let text = format!("the reload failed: {error}");
                    Err(vec![Problem::error(Path::new("tinc.conf"), 0, text)])
                }
            };
            let event = Event::Reloaded(Box::new(result), purpose);
            let _ = events.send(event).await;
        });
    }

    /// Handles files that were read.
    pub(super) fn reloaded(
        &mut self,
        result: Result<Config, Vec<Problem>>,
        purpose: Purpose,
        now: Instant,
    ) {
        let response = match (result, purpose) {
            (Ok(new), Purpose::Plan) => Response::Plan(Box::new(self.plan(&new))),
            (Ok(new), Purpose::Reload { yes, confirm }) => self.try_reload(new, yes, confirm, now),
            (Err(problems), _) => {
                let text = format!("nothing was changed: {}", texts(&problems).join("; "));
                control::error(ErrorCode::Config, text)
            }
        };
        if purpose != Purpose::Plan {
            self.reloads.worked = matches!(response, Response::Reloaded(_));
            if let Response::Error(error) = &response {
                tracing::error!("{}", error.text);
            }
            self.report_ready();
        }
        self.reloads.queue.end(&response);
        self.begin_reload();
    }

    fn try_reload(
        &mut self,
        new: Config,
        yes: bool,
        confirm: Option<Duration>,
        now: Instant,
    ) -> Response {
        let refused = match yes {
            true => self.empties(&new),
            false => self.refuses(&new, &self.cut_by(&new)),
        };
        if let Some(why) = refused {
            return control::error(ErrorCode::Refused, format!("nothing was changed: {why}"));
        }
        let old = self.config.clone();
        let done = self.take_over(&new);
        if !done.changed.is_empty() {
            if self.reloads.past.kept.len() == KEPT {
                self.reloads.past.kept.pop_front();
            }
            self.reloads.past.kept.push_back(old);
            self.reloads.past.until = confirm.map(|within| now + within);
        }
        Response::Reloaded(done)
    }

    /// Returns the expected result of a reload.
    fn plan(&self, new: &Config) -> Planned {
        let changes = diff::diff(&self.config, new);
        let cut = self.cut_by(new);
        Planned {
            restart_needed: diff::restart_needed(&changes),
            changed: changes,
            problems: texts(&new.problems),
            live: self.mesh.live_nodes(),
            may_cut: self.may_cut(),
            refused: self.refuses(new, &cut),
            cut: texts(&cut),
        }
    }

    /// Returns the live nodes that a reload would disconnect.
    fn cut_by(&self, new: &Config) -> Vec<NodeName> {
        let new = diff::in_force(&self.config, new);
        let new = with_port(&new.settings, self.net.port);
        self.mesh.cut_by(&new.at(clock::unix()))
    }

    /// Returns the number of live nodes that a reload may disconnect without `yes`.
    fn may_cut(&self) -> usize {
        (self.mesh.live_nodes() / ONE_OF).max(1)
    }

    /// Returns the reason to refuse a reload without `yes`.
    fn refuses(&self, new: &Config, cut: &[NodeName]) -> Option<String> {
        let (count, may_cut) = (cut.len(), self.may_cut());
        self.empties(new).or_else(|| {
            let names: Vec<&str> = cut.iter().take(10).map(|name| name.as_str()).collect();
            let more = if count > names.len() { " ..." } else { "" };
            (count > may_cut).then(|| {
                format!(
                    "it would disconnect {count} of {} nodes ({}{more}), above the limit of {may_cut}; `meshctl plan` \
                     shows them, `meshctl reload --yes` reloads anyway",
                    self.mesh.live_nodes(),
                    names.join(" ")
                )
            })
        })
    }

    /// Returns the reason to refuse a reload in any case.
    fn empties(&self, new: &Config) -> Option<String> {
        let emptied = new.settings.hosts.is_empty() && !self.config.settings.hosts.is_empty();
        emptied.then(|| "hosts/ holds no usable file any more; restore the host files".to_owned())
    }

    /// Confirms the last reload.
    pub(super) fn confirm(&mut self) -> Response {
        match self.reloads.past.until.take() {
            Some(_) => Response::Done(true),
            None => {
                let text = "no reload waits for a confirmation; `meshctl status` shows the configuration in force";
                control::error(ErrorCode::Refused, text.into())
            }
        }
    }

    /// Restores the configuration before the last reload; the files stay as they are.
    pub(super) fn undo(&mut self) -> Response {
        self.reloads.past.until = None;
        match self.reloads.past.kept.pop_back() {
            Some(old) => Response::Reloaded(self.take_over(&old)),
            None => {
                let text =
                    "no reload has changed anything since the start, so there is nothing to undo";
                control::error(ErrorCode::Refused, text.into())
            }
        }
    }

    /// Undoes a reload without a confirmation in time.
    pub(super) fn expire_confirmation(&mut self, now: Instant) {
        if self.reloads.past.until.is_some_and(|until| until <= now) {
            tracing::warn!(
                "the last reload was not confirmed in time, so it is undone; the files on disk stay"
            );
            self.undo();
        }
    }

    /// Puts a new configuration in force, except for variables that wait for a restart. Those keep their old values, so
    /// the next reload reports them again.
    fn take_over(&mut self, new: &Config) -> Reloaded {
        let changed = diff::diff(&self.config, new);
        let restart_needed = diff::restart_needed(&changed);
        let in_force = diff::in_force(&self.config, new);
        let problems = texts(&new.problems);
        let settings = with_port(&in_force.settings, self.net.port);
        let running = std::mem::replace(&mut self.config, in_force);
        self.config.settings = running.settings;
        self.apply_shell();
        if !changed.is_empty() {
            self.use_settings(settings);
        }
        for problem in &problems {
            tracing::warn!("{problem}");
        }
        for change in &changed {
            tracing::info!("{change}");
        }
        match changed.len() {
            0 => tracing::debug!("configuration reloaded: nothing changed"),
            changes => tracing::info!(changes, "configuration reloaded"),
        }
        let not_taken = new.not_taken.iter().map(|file| file.display().to_string());
        let not_taken: Vec<String> = not_taken.collect();
        if !not_taken.is_empty() {
            tracing::error!(
                "not applied: {}; the log lines above give the reasons",
                not_taken.join(", ")
            );
        }
        Reloaded {
            restart_needed,
            changed,
            problems,
            not_taken,
        }
    }

    /// Applies the variables of the shell that do not wait for a restart: RunScripts. Allow needs nothing, because
    /// `meshctl firewall` reads the files itself.
    fn apply_shell(&mut self) {
        self.hooks.scripts.run = open::run_scripts(&self.config.shell);
    }
}

#[cfg(test)]
mod tests {
    use meshd_config::vars::{Reload, VARS};

    /// A live variable of the shell that `apply_shell` forgets would be reported as applied.
    #[test]
    fn every_live_variable_of_the_shell_is_applied() {
        let live = VARS
            .iter()
            .filter(|var| var.is_of_shell() && var.reload != Reload::Restart);
        let names: Vec<&str> = live.map(|var| var.name).collect();
        assert_eq!(names, ["Allow", "RunScripts"]);
    }
}
