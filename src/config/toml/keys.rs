//! The keys of meshd.toml and hosts/NAME.toml, from the rows of variables.
//!
//! Source: config/toml.md section 3.

use std::sync::LazyLock;

use Form::{Access, Duration, Endpoint, Flag, Labelled, Moment, Number, Rule, Size, Text};

use crate::vars::{self, Place, TomlKey, VARS, Var};

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its table; empty: no table.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The variable of tinc, or of meshd.
    pub var: &'static str,
    /// Form of its value.
    pub form: Form,
    /// True if the value is an array.
    pub many: bool,
}

/// Form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text in quotes.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// Text such as "90s" or "15m", whole seconds.
    Duration,
    /// Text such as "1MiB", or a number of bytes.
    Size,
    /// Text: "HOST", "HOST:PORT", `[IPV6]:PORT`.
    Endpoint,
    /// A date with time in UTC, without quotes.
    Moment,
    /// Text in quotes under any name, which is part of the value: `NAME=TEXT`.
    Labelled,
    /// A table with [`RULE`].
    Rule,
    /// One of [`ACCESS`].
    Access,
}

/// Values of `trust.legacy`, which limits legacy: the word, and its variable and value; none for the default.
pub const ACCESS: [(&str, Option<(&str, &str)>); 3] = [
    ("never", Some(("MinProtocol", "sptps"))),
    ("listed", None),
    ("always", Some(("ExperimentalProtocol", "no"))),
];

/// The keys of a rule: source and service. Its value in tinc's form joins both.
pub const RULE: [&str; 2] = ["from", "to"];

/// Tables of both files, in the order of conversions and of the man page.
const TABLES: [&str; 22] = [
    "",
    "interface",
    "listen",
    "keys",
    "connect",
    "trust",
    "limits",
    "scripts",
    "metrics",
    "switch",
    "forward",
    "legacy",
    "transport",
    "discovery",
    "liveness",
    "log",
    "process",
    "invite",
    "graph",
    "next",
    "revoked",
    "labels",
];

/// Returns the keys that the rows of variables name in one file, table by table.
fn keys_of(file: impl Fn(&Var) -> Option<TomlKey>) -> Vec<Key> {
    let keys = VARS.iter().filter_map(|var| {
        let TomlKey { table, name, form } = file(var)?;
        Some(Key {
            table,
            name,
            var: var.name,
            form,
            many: var.multiple,
        })
    });
    let mut keys: Vec<Key> = keys.collect();
    keys.sort_by_key(|key| TABLES.iter().position(|table| *table == key.table));
    keys
}

/// The variable whose empty array has a word of its own.
pub const SCRIPTS: &str = "RunScripts";
/// The word for no scripts.
pub const NO_SCRIPTS: &str = "none";
/// The key of an RSA public key as PEM in a host file. In tinc's form it is a block, not a variable.
pub const RSA_TEXT: &str = "rsa";
/// The only version of the layout, the key `schema` of meshd.toml.
pub const SCHEMA: i64 = 1;

/// Variables without a key, each with the reason.
pub const WITHOUT_KEY: [(&str, &str); 1] = [(
    "PrivateKey",
    "a secret in a file that is handed about: keys.rsa names a file",
)];

impl Key {
    /// Returns its path for messages: `connect.to`.
    #[must_use]
    pub fn path(&self) -> String {
        match self.table {
            "" => self.name.into(),
            table => format!("{table}.{}", self.name),
        }
    }

    /// Returns the required form of a value, for people.
    #[must_use]
    pub const fn wanted(&self) -> &'static str {
        match self.form {
            Text | Labelled => "text in quotes",
            Flag => "true or false, without quotes",
            Number => "a whole number, without quotes",
            Duration => "a time in whole seconds, like \"90s\" or \"15m\"",
            Size => "a size like \"64KiB\", or a number of bytes",
            Endpoint => "text like \"10.0.0.1\", \"db.example.net:655\" or \"[2001:db8::1]:655\"",
            Rule => "a table [[allow]] with `from` and `to`",
            Access => "\"never\", \"listed\" or \"always\"",
            Moment => "a date with time in UTC, like 2027-06-01T00:00:00Z, without quotes",
        }
    }
}

/// Kinds of files, by their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// meshd.toml, or one of conf.d.
    Daemon,
    /// hosts/NAME.toml.
    Host,
}

impl File {
    /// Returns its keys, table by table.
    #[must_use]
    pub fn keys(self) -> &'static [Key] {
        static DAEMON: LazyLock<Vec<Key>> = LazyLock::new(|| keys_of(|var| var.toml));
        static HOST: LazyLock<Vec<Key>> = LazyLock::new(|| keys_of(|var| var.toml_host));
        match self {
            Self::Daemon => &DAEMON,
            Self::Host => &HOST,
        }
    }

    /// Returns the key of a table.
    #[must_use]
    pub fn find(self, table: &str, name: &str) -> Option<&'static Key> {
        let mut keys = self.keys().iter();
        keys.find(|key| key.table == table && (key.name == name || key.form == Labelled))
    }

    /// Returns advice on an unknown key of a table.
    #[must_use]
    pub fn advice(self, table: &str, name: &str) -> String {
        let keys = self.keys();
        let place = |key: &Key| match key.table {
            "" => format!("`{}`", key.name),
            table => format!("`{}` in [{table}]", key.name),
        };
        // The key may be a variable name of tinc.
        if let Some(var) = vars::find(name) {
            if let Some(key) = keys.iter().find(|key| key.var == var.name) {
                return format!("it is {} here", place(key));
            }
            return match (
                WITHOUT_KEY.iter().find(|(no, _)| *no == var.name),
                var.place,
            ) {
                (Some((_, why)), _) => (*why).into(),
                (None, Place::Server) => "it belongs into meshd.toml".into(),
                (None, _) => "it belongs into a host file".into(),
            };
        }
        if let Some(key) = keys.iter().find(|key| key.name == name) {
            return format!("it is {}", place(key));
        }
        let near = |key: &&Key| vars::nearness(name, key.name).is_some();
        let here = keys.iter().filter(|key| key.table == table).find(near);
        match here.or_else(|| keys.iter().find(near)) {
            Some(key) => format!("did you mean {}?", place(key)),
            None => "remove it".into(),
        }
    }
}
