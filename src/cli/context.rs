//! Selects the daemon, the configuration directory and the form of the output.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use meshd_api::{
    call::Call,
    client::{Client, ClientError},
    proto::Answer,
};
use meshd_config::{
    Config, Source,
    find::{self, FoundDirectory},
};

use crate::{
    Exit, Failure,
    args::{Color, Format, Global},
    output,
};

/// Values that the global options decide.
#[derive(Debug, Clone)]
pub(super) struct Context {
    global: Global,
    net: Option<String>,
    /// Form of the output.
    pub(super) format: Format,
    /// True if header lines stand above a table.
    pub(super) header: bool,
    /// True if standard output gets colours.
    pub(super) color: bool,
    /// True if the locale is UTF-8.
    pub(super) utf8: bool,
}

/// Loads a configuration, or fails if the configuration is unusable.
pub(super) fn load(source: &Source) -> Result<Config, Failure> {
    meshd_config::load(source, None).map_err(|problems| {
        let first = problems.iter().find(|problem| problem.error);
        let text = first.map(ToString::to_string).unwrap_or_default();
        Failure::new(
            Exit::Config,
            format!("{text}; `meshctl check` shows every mistake"),
        )
    })
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Self, Failure> {
        let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = global
            .net
            .clone()
            .or_else(|| env("MESHD_NET"))
            .or_else(|| env("NETNAME"));
        let (net, note) = find::net_name(&named.clone().unwrap_or_default())?;
        note.iter().for_each(|note| output::complain(note));
        // The name "." means no net. Without any name, the net of the only running daemon counts.
        let guess = named.is_none() && global.config.is_none();
        let net = if guess {
            the_only_net(Path::new(meshd_api::RUN_DIR))
        } else {
            net
        };
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto_color(env),
        };
        let utf8 = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(env)
            .is_some_and(|locale| {
                let locale = locale.to_ascii_lowercase();
                locale.contains("utf-8") || locale.contains("utf8")
            });
        Ok(Self {
            format: if global.json {
                Format::Json
            } else {
                global.output
            },
            header: !global.no_header,
            net,
            color,
            utf8,
            global,
        })
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.global.timeout)
    }

    /// True if the command reads files only, without a daemon: `--config DIR` without a socket.
    pub(super) fn offline(&self) -> bool {
        let Global {
            config,
            socket,
            pidfile,
            ..
        } = &self.global;
        config.is_some() && socket.is_none() && pidfile.is_none()
    }

    /// Connects to the daemon.
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        let socket = self.socket();
        Client::connect(&socket, self.timeout()).map_err(|error| {
            let by_name = self.global.socket.is_none() && self.global.pidfile.is_none();
            match (&error, &self.net) {
                (ClientError::NotRunning(_), Some(net)) if by_name => self.not_running(net, error),
                _ => error.into(),
            }
        })
    }

    /// Sends one request to the daemon.
    pub(super) fn ask<C: Call>(&self, call: C) -> Result<Answer<C::Answer>, Failure> {
        Ok(self.connect()?.ask(call)?)
    }

    /// Returns the configuration directory that the options name, or `dir`.
    pub(super) fn source(&self, dir: Option<PathBuf>) -> Result<Source, Failure> {
        let dir = dir.or_else(|| self.global.config.clone());
        let net = if dir.is_some() {
            None
        } else {
            self.net.as_deref()
        };
        let FoundDirectory { base, .. } = find::find(dir.as_deref(), net, None)?;
        Ok(Source {
            base,
            net: self.net.clone(),
            ..Source::default()
        })
    }

    /// Returns the control socket if the options name one.
    pub(super) fn named_socket(&self) -> Option<PathBuf> {
        let named = self.global.socket.is_some() || self.global.pidfile.is_some();
        (named || self.net.is_some()).then(|| self.socket())
    }

    fn socket(&self) -> PathBuf {
        let by_rule =
            || meshd_api::socket_path(self.net.as_deref(), self.global.pidfile.as_deref());
        self.global.socket.clone().unwrap_or_else(by_rule)
    }

    /// The socket is missing: either the daemon does not run, or the net does not exist.
    fn not_running(&self, net: &str, error: ClientError) -> Failure {
        match find::find(None, Some(net), None) {
            Err(unknown) if self.global.config.is_none() => Failure::from(unknown),
            _ => {
                let text = format!(
                    "{error}; start it with `meshd -n {net}` or `systemctl start meshd@{net}`"
                );
                Failure::new(Exit::NotRunning, text)
            }
        }
    }
}

/// Returns the net of the only socket in the directory. `None` also stands for a daemon without a net name.
fn the_only_net(dir: &Path) -> Option<String> {
    let mut sockets = std::fs::read_dir(dir).ok()?.flatten().filter_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_suffix(".sock")
            .map(str::to_owned)
    });
    let first = sockets.next().filter(|_| sockets.next().is_none());
    first.filter(|net| net != "meshd")
}

/// Follows the conventions of <https://no-color.org> and CLICOLOR_FORCE.
fn auto_color(env: impl Fn(&'static str) -> Option<String>) -> bool {
    if env("NO_COLOR").is_some() || env("TERM").as_deref() == Some("dumb") {
        return false;
    }
    std::io::stdout().is_terminal() || env("CLICOLOR_FORCE").is_some_and(|force| force != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_running_net_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(the_only_net(&dir.path().join("none")), None);
        std::fs::write(dir.path().join("priv.pid"), "").unwrap();
        std::fs::write(dir.path().join("priv.sock"), "").unwrap();
        assert_eq!(the_only_net(dir.path()).as_deref(), Some("priv"));
        std::fs::write(dir.path().join("other.sock"), "").unwrap();
        assert_eq!(the_only_net(dir.path()), None);
    }

    #[test]
    fn colours_can_be_refused_and_forced() {
        let with = |name: &'static str, value: &str| {
            let value = value.to_owned();
            move |asked| (asked == name).then(|| value.clone())
        };
        assert!(auto_color(with("CLICOLOR_FORCE", "1")));
        assert!(!auto_color(with("TERM", "dumb")));
        assert!(!auto_color(with("NO_COLOR", "1")));
    }
}
