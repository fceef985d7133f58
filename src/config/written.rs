//! The lines in effect, as files have them: a reload shows the old line and the new one.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use meshd_wire::NodeName;

use crate::{merged::Entry, vars::Var};

/// The lines of a configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct WrittenLines {
    /// Lines of this node: tinc.conf, conf.d, its host file and the command line.
    pub(super) ours: Vec<Written>,
    /// Lines of each other host file. A reload shares those of an unchanged file.
    pub(super) hosts: BTreeMap<NodeName, Arc<[Written]>>,
}

/// One line in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Name of its variable, as in the table.
    pub(super) name: &'static str,
    /// Its value, in tinc's form; of a secret nothing.
    pub(super) value: Box<str>,
    /// The line as the file has it; of a secret only the name.
    pub(super) text: Box<str>,
    /// Relative to the configuration directory; for an option, the words "command line option".
    pub(super) file: Arc<Path>,
    /// Line from 1, or the number of the option.
    pub(super) line: usize,
}

impl Written {
    pub(super) fn new(entry: &Entry, var: &Var) -> Self {
        let (text, value) = match var.hidden {
            true => (format!("{} = (not relative)", var.name), ""),
            false => (entry.text.clone(), entry.value.as_str()),
        };
        let value: Vec<&str> = value.split_whitespace().collect();
        Self {
            name: var.name,
            value: value.join(" ").into(),
            text: text.into(),
            file: entry.file.as_path().into(),
            line: entry.line,
        }
    }
}
