//! Values of options: names that the command line accepts, and their parsers.

use std::{
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;

use meshd_api::proto::MAX_SNAP;
use meshd_wire::NodeName;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned text for people.
    Table,
    /// One JSON object with schema, net, node, time and data.
    Json,
    /// Tab-separated values with a line of names, for scripts.
    Tsv,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

pub(super) fn snap(text: &str) -> Result<usize, String> {
    let snap = text
        .parse()
        .ok()
        .filter(|snap| (1..=MAX_SNAP).contains(snap));
    snap.ok_or_else(|| format!("is not a number from 1 to {MAX_SNAP}"))
}

/// Shortest time between two updates of `top`. It bounds the work of the daemon.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval >= MIN_INTERVAL => Ok(interval),
        Ok(_) => Err("is shorter than 100ms".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Tools that `firewall` prints rules for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// A file for `nft -f`.
    Nft,
    /// Commands of ufw.
    Ufw,
    /// Commands of firewalld.
    Firewalld,
}

/// The place of a file that `check --as` checks before it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedPlace {
    /// The main file, in the form of the directory.
    Daemon,
    /// The host file of a node, in the form of the directory.
    Host(NodeName),
    /// A path relative to the directory.
    Path(PathBuf),
}

impl FromStr for CheckedPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "daemon" {
            return Ok(Self::Daemon);
        }
        if let Some(name) = text.strip_prefix("host:") {
            return match NodeName::new(name) {
                Ok(name) => Ok(Self::Host(name)),
                Err(error) => Err(format!("{error}; write host:NAME")),
            };
        }
        let path = Path::new(text);
        let inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let place = match path.parent().and_then(Path::to_str) {
            Some("") => matches!(text, "tinc.conf" | "meshd.toml"),
            Some("hosts" | "conf.d") => true,
            _ => false,
        };
        match inside && place {
            true => Ok(Self::Path(path.into())),
            false => Err(
                "is not one of host:NAME, daemon, tinc.conf, meshd.toml, conf.d/FILE and hosts/FILE"
                    .into(),
            ),
        }
    }
}

/// Forms of a drawn mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// A tree for terminals.
    Ascii,
    /// A graph for Graphviz.
    Dot,
    /// A graph for Mermaid.
    Mermaid,
    /// A drawing for browsers.
    Svg,
    /// An image.
    Png,
    /// Nodes and links for programs.
    Json,
}

/// The forms of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// meshd.toml and hosts/NAME.toml.
    Toml,
    /// tinc.conf and hosts/NAME.
    Tinc,
}

/// Outputs of `generate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// Man pages.
    Man,
    /// Completions for bash.
    Bash,
    /// Completions for zsh.
    Zsh,
    /// Completions for fish.
    Fish,
}
