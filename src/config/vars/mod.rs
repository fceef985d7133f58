//! One row for each variable of tinc 1.0.36 and 1.1, and of meshd. Its columns are name, type, default, files, reload
//! behaviour, TOML keys, help, and the field that it is read into. Readers, both forms of files, `meshctl check`, `plan`, the man
//! pages and the tests use these rows.
//!
//! Source: config/tinc.md section 2.

mod field;
mod forms;
mod names;
mod print;
mod rows;
mod special;

use std::fmt;

use meshd_proto::mesh::{Settings, settings::Host};

pub(crate) use field::Field;
pub use names::{find, nearest, nearness};
pub use rows::VARS;

use crate::{Shell, toml::keys::Form};

/// One variable.
#[derive(Clone, Copy)]
pub struct Var {
    /// Canonical spelling; compared without regard to case.
    pub name: &'static str,
    /// The file that it belongs into. The daemon accepts it in either, as tinc does.
    pub place: Place,
    /// Programs that know it.
    pub version: Version,
    /// Type and unit of its value.
    pub kind: Kind,
    /// The default, as written in a file; empty: none, or see the help.
    pub default: &'static str,
    /// A valid value other than the default, for tests of every row.
    pub example: &'static str,
    /// True if it may appear several times.
    pub multiple: bool,
    /// Effect of a reload on a new value, in meshd.
    pub reload: Reload,
    /// True if an invitation may set it.
    pub safe: bool,
    /// True if it protects or selects the path of packets, so an invalid value is an error. Other numbers and switches
    /// fall back to their default with a warning, as in tinc.
    pub guards: bool,
    /// True if an invalid value disables the node of the host file: without it, the node would be trusted more than
    /// the file says.
    pub restricts: bool,
    /// Treatment of a line in a host file.
    pub in_hosts: InHosts,
    /// True if its value is a secret, which no output shows.
    pub hidden: bool,
    /// Support by meshd, and the consequence of none.
    pub honoured: Honoured,
    /// One line for people.
    pub help: &'static str,
    /// Its key in meshd.toml.
    pub toml: Option<TomlKey>,
    /// Its key in hosts/NAME.toml.
    pub toml_host: Option<TomlKey>,
    /// Its field in the settings of the mesh.
    pub(crate) mesh: Option<Field<Settings>>,
    /// Its field in the settings of the daemon around the mesh.
    pub(crate) shell: Option<Field<Shell>>,
    /// Its field in the host file of another node.
    pub(crate) host: Option<Field<Host>>,
}

/// A key of the TOML form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TomlKey {
    /// Its table; empty: no table.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Form of its value.
    pub form: Form,
}

/// The file that a variable belongs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// tinc.conf.
    Server,
    /// hosts/NAME.
    Host,
    /// Either.
    Both,
}

/// Treatment of a variable in a host file, which other nodes may have written (T44 of proto/threat-model.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InHosts {
    /// It is read.
    Read,
    /// It is ignored, because its value may name a program to run.
    RunsPrograms,
    /// It is ignored, because its value names a secret of this node.
    NamesSecret,
}

/// Programs that know a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// tinc 1.0 and 1.1.
    All,
    /// tinc 1.0 only.
    V10,
    /// tinc 1.1, every pre-release in use.
    V11,
    /// Only the head of tinc's branch 1.1.
    Head,
    /// meshd only; tinc ignores it silently.
    Meshd,
}

/// Type and unit of a value (config/tinc.md section 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`, any case.
    Bool,
    /// Decimal number; text after it is ignored.
    Int,
    /// A duration, written as whole seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// One of these words, any case.
    Word(&'static [&'static str]),
    /// `ADDR[/LEN][#WEIGHT]`.
    Subnet,
    /// `ADDR/LEN`, or a word of its own.
    Prefix,
    /// `HOST [PORT]`.
    Address,
    /// `HOST|* [PORT]`.
    Listen,
    /// Number or service name.
    Port,
    /// Node name.
    Node,
    /// File name; relative ones start at the configuration directory.
    Path,
    /// A public key: 43 characters of tinc's base64.
    Key,
    /// A time in UTC, RFC 3339.
    Moment,
    /// `FROM TO`: nodes, and the service that they may reach.
    Rule,
    /// Anything.
    Text,
}

/// Effect of a reload on a new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// It applies at once.
    Live,
    /// It applies to new links.
    NewLinks,
    /// It applies at once if it removes something, and waits for a restart if it adds something.
    LiveIfNarrower,
    /// It waits for a restart.
    Restart,
}

/// Support of a variable by meshd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honoured {
    /// Supported.
    Yes,
    /// Not supported yet: a value other than the default causes a warning or an error.
    NotYet(Ignoring),
    /// No effect on supported systems.
    NoEffect,
}

/// Consequence of an unsupported variable. Each unsupported variable must choose one. Each text completes the
/// sentence "meshd does not support it yet: ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignoring {
    /// It protects nothing and changes no path: meshd warns and starts. The text says what happens instead.
    Safe(&'static str),
    /// It protects, or selects the path of packets: meshd refuses to start or reload. The text says what would
    /// happen instead, and the remedy.
    Unsafe(&'static str),
}

impl Kind {
    /// Returns the form of the value, for help and man page.
    #[must_use]
    pub fn form(&self) -> String {
        match self {
            Self::Bool => "yes|no".into(),
            Self::Int => "NUMBER".into(),
            Self::Seconds => "SECONDS".into(),
            Self::Bytes => "BYTES".into(),
            Self::Word(words) => words.join("|"),
            Self::Subnet => "ADDRESS[/LENGTH][#WEIGHT]".into(),
            Self::Prefix => "ADDRESS/LENGTH".into(),
            Self::Address => "HOST [PORT]".into(),
            Self::Listen => "HOST|* [PORT]".into(),
            Self::Port => "PORT".into(),
            Self::Node => "NAME".into(),
            Self::Path => "FILE".into(),
            Self::Key => "KEY".into(),
            Self::Moment => "YYYY-MM-DDTHH:MM:SSZ".into(),
            Self::Rule => "NODE|LABEL=VALUE|* tcp/PORT[-PORT]|udp/PORT[-PORT]|icmp|*".into(),
            Self::Text => "TEXT".into(),
        }
    }
}

impl Var {
    /// True if it sets the daemon around the mesh, so the daemon itself must apply a live change.
    #[must_use]
    pub const fn is_of_shell(&self) -> bool {
        self.shell.is_some()
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "variable {}", self.name)
    }
}

#[cfg(test)]
mod tests;
