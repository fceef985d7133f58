//! Compares two configurations by the rows of variables: the changes that `meshctl plan` shows and a reload makes, and
//! the settings in force afterwards.
//!
//! Compares values: order, comments, spelling and file times do not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use meshd_api::change::{Change, ChangeKind, When};
use meshd_proto::mesh::{Settings, settings::Host};
use meshd_wire::{NodeName, Options};

use crate::{
    Config, Problem, Shell,
    vars::{Field, Kind, Reload, VARS, Var},
    written::{Written, WrittenLines},
};

/// Returns the changes from `old` to `new`: our own first, then those of host files by name.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    for var in VARS {
        let lines = Lines {
            var,
            file: None,
            when: when(var, &old.shell, &new.shell),
            old: lines_of(&old.written.ours, var),
            new: lines_of(&new.written.ours, var),
        };
        let (before, after) = (&*old.settings, &*new.settings);
        changes.extend(
            var.mesh
                .into_iter()
                .flat_map(|field| lines.changes(field, before, after)),
        );
        let (before, after) = (&*old.shell, &*new.shell);
        changes.extend(
            var.shell
                .into_iter()
                .flat_map(|field| lines.changes(field, before, after)),
        );
    }
    changes.extend(host_changes(old, new));
    changes
}

/// Returns the variables that wait for a restart, each once.
#[must_use]
pub fn restart_needed(changes: &[Change]) -> Vec<String> {
    let waiting = changes.iter().filter(|change| change.when == When::Restart);
    let mut names: Vec<String> = waiting.filter_map(|change| change.key.clone()).collect();
    names.dedup();
    names
}

/// Returns the configuration that a reload puts in force: `new`, but with the old values and lines of variables that
/// wait for a restart.
#[must_use]
pub fn in_force(old: &Config, new: &Config) -> Config {
    let mut settings = Settings::clone(&new.settings);
    let mut shell = Shell::clone(&new.shell);
    let waits = |var: &&Var| when(var, &old.shell, &new.shell) == When::Restart;
    for var in VARS.iter().filter(waits) {
        if let Some(field) = var.mesh {
            (field.copy)(&old.settings, &mut settings);
        }
        if let Some(field) = var.shell {
            (field.copy)(&old.shell, &mut shell);
        }
    }
    // The sockets keep their DF, so other nodes are told the same.
    settings.options.0 &= !Options::PMTU_DISCOVERY;
    if shell.pmtu_discovery {
        settings.options.0 |= Options::PMTU_DISCOVERY;
    }
    shell.scripts_at_start = old.shell.scripts_at_start.clone();
    shell.key_made = old.shell.key_made;
    let is_waiting = |line: &&Written| VARS.iter().any(|var| var.name == line.name && waits(&var));
    let kept = old.written.ours.iter().filter(is_waiting);
    let others = new.written.ours.iter().filter(|line| !is_waiting(line));
    Config {
        source: old.source.clone(),
        settings: Arc::new(settings),
        shell: Arc::new(shell),
        written: WrittenLines {
            ours: kept.chain(others).cloned().collect(),
            hosts: new.written.hosts.clone(),
        },
        ..new.clone()
    }
}

/// Returns the number of files that differ from the running configuration, or that are unusable. All files but host
/// files count as one.
#[must_use]
pub fn drifted(running: &Config, read: &Result<Config, Vec<Problem>>) -> usize {
    let changes = read
        .as_ref()
        .map_or_else(|_| Vec::new(), |new| diff(running, new));
    let changed = changes
        .into_iter()
        .map(|change| PathBuf::from(change.file.unwrap_or_default()));
    // A partly applied file is in force.
    let broken: Vec<PathBuf> = match read {
        Ok(new) => new.not_taken.clone(),
        Err(problems) => {
            let broken = problems.iter().filter(|problem| problem.error);
            broken.map(|problem| problem.file.clone()).collect()
        }
    };
    let node = |file: PathBuf| match file
        .strip_prefix("hosts")
        .or_else(|_| file.strip_prefix("psk.d"))
    {
        Ok(name) => name.with_extension(""),
        Err(_) => PathBuf::new(),
    };
    changed
        .chain(broken)
        .map(node)
        .collect::<BTreeSet<_>>()
        .len()
}

/// Returns the time at which a new value of ours applies.
fn when(var: &Var, old: &Shell, new: &Shell) -> When {
    match var.reload {
        Reload::Live => When::Now,
        Reload::NewLinks => When::Reconnect,
        Reload::Restart => When::Restart,
        Reload::LiveIfNarrower if runs_more(old, new) => When::Restart,
        Reload::LiveIfNarrower => When::Now,
    }
}

/// True if the new RunScripts adds a script that the script process did not start with.
fn runs_more(old: &Shell, new: &Shell) -> bool {
    match (&old.scripts_at_start, &new.run_scripts) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(old), Some(new)) => new.iter().any(|script| !old.contains(script)),
    }
}

fn lines_of<'a>(lines: &'a [Written], var: &Var) -> Vec<&'a Written> {
    lines.iter().filter(|line| line.name == var.name).collect()
}

/// The lines of one variable, before and after.
struct Lines<'a> {
    var: &'static Var,
    /// The host file, if it is one.
    file: Option<&'a Path>,
    when: When,
    old: Vec<&'a Written>,
    new: Vec<&'a Written>,
}

impl Lines<'_> {
    /// Returns the changes of a field; none if its value is the same.
    fn changes<T>(&self, field: Field<T>, old: &T, new: &T) -> Vec<Change> {
        if (field.same)(old, new) {
            return Vec::new();
        }
        let is_in = |line: &Written, lines: &[&Written]| {
            lines.iter().any(|other| other.value == line.value)
        };
        let gone: Vec<_> = self
            .old
            .iter()
            .filter(|line| !is_in(line, &self.new))
            .collect();
        let come: Vec<_> = self
            .new
            .iter()
            .filter(|line| !is_in(line, &self.old))
            .collect();
        let edited = |old: &Written, new: &Written| {
            let same_place = (&old.file, old.line) == (&new.file, new.line);
            same_place || !self.var.multiple
        };
        match (&gone[..], &come[..]) {
            ([old], [new]) if edited(old, new) => {
                vec![self.change(ChangeKind::Changed, Some(old), Some(new))]
            }
            ([], []) if self.old.len() > 1 && self.values(&self.old) != self.values(&self.new) => {
                vec![self.reordered()]
            }
            ([], []) => vec![self.content(field, old, new)],
            (gone, come) => {
                let gone = gone
                    .iter()
                    .map(|line| self.change(ChangeKind::Removed, Some(line), None));
                let come = come
                    .iter()
                    .map(|line| self.change(ChangeKind::Added, None, Some(line)));
                gone.chain(come).collect()
            }
        }
    }

    fn values<'b>(&self, lines: &[&'b Written]) -> Vec<&'b str> {
        lines.iter().map(|line| &*line.value).collect()
    }

    fn change(&self, kind: ChangeKind, old: Option<&Written>, new: Option<&Written>) -> Change {
        let place = new.or(old);
        let text = |line: &Written| line.text.to_string();
        Change {
            kind,
            file: place.map(|line| text_of(&line.file)),
            line: place.map(|line| line.line),
            key: Some(self.var.name.to_owned()),
            old: old.map(text),
            new: new.map(text),
            when: self.when,
        }
    }

    fn reordered(&self) -> Change {
        let joined = |lines: &[&Written]| {
            let texts: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
            Some(texts.join(", "))
        };
        Change {
            old: joined(&self.old),
            new: joined(&self.new),
            ..self.change(ChangeKind::Order, None, self.new.first().copied())
        }
    }

    /// Returns a change without a changed line. A key file is named itself.
    fn content<T>(&self, field: Field<T>, old: &T, new: &T) -> Change {
        let line = self.new.first();
        let key_file = match self.var.kind {
            Kind::Path => line.map(|line| &*line.value).or(Some(self.var.default)),
            _ => None,
        };
        let file = match (key_file, line) {
            (Some(file), _) => Some(file.to_owned()),
            (None, Some(line)) => Some(text_of(&line.file)),
            (None, None) => self.file.map(text_of),
        };
        let text = |value: &T| {
            let values = (field.print)(value);
            (!values.is_empty()).then(|| format!("{} = {}", self.var.name, values.join(", ")))
        };
        let (old, new) = (text(old), text(new));
        let hidden = old == new;
        Change {
            kind: ChangeKind::Content,
            file,
            line: line.filter(|_| key_file.is_none()).map(|line| line.line),
            key: Some(self.var.name.to_owned()),
            old: old.filter(|_| !hidden),
            new: new.filter(|_| !hidden),
            when: self.when,
        }
    }
}

fn text_of(file: &Path) -> String {
    file.display().to_string()
}

type Hosts = BTreeMap<NodeName, Arc<Host>>;

fn host_changes(old: &Config, new: &Config) -> Vec<Change> {
    let whole = |kind, name: &NodeName| Change {
        kind,
        file: Some(format!("hosts/{name}")),
        line: None,
        key: None,
        old: None,
        new: None,
        when: When::Now,
    };
    let (before, after): (&Hosts, &Hosts) = (&old.settings.hosts, &new.settings.hosts);
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let mut changes: Vec<Change> = gone.map(|name| whole(ChangeKind::Removed, name)).collect();
    for (name, host) in after {
        match before.get(name) {
            None => changes.push(whole(ChangeKind::Added, name)),
            Some(known) if known == host => {}
            Some(known) => {
                changes.extend(changes_of(name, (old, known), (new, host)));
                if known.psk != host.psk {
                    changes.push(Change {
                        file: Some(format!("psk.d/{name}")),
                        ..whole(ChangeKind::Content, name)
                    });
                }
            }
        }
    }
    changes
}

fn changes_of(name: &NodeName, old: (&Config, &Host), new: (&Config, &Host)) -> Vec<Change> {
    let written = |config: &'_ Config| config.written.hosts.get(name).cloned().unwrap_or_default();
    let (before, after) = (written(old.0), written(new.0));
    let file = after.first().map(|line| line.file.to_path_buf());
    let file = file.unwrap_or_else(|| Path::new("hosts").join(name.as_str()));
    let mut changes = Vec::new();
    for var in VARS {
        let Some(field) = var.host else { continue };
        let lines = Lines {
            var,
            file: Some(&file),
            // Our own sockets wait for a restart, but not addresses of other nodes.
            when: match var.reload {
                Reload::NewLinks => When::Reconnect,
                _ => When::Now,
            },
            old: lines_of(&before, var),
            new: lines_of(&after, var),
        };
        changes.extend(lines.changes(field, old.1, new.1));
    }
    changes
}
