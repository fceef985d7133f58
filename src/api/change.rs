//! Changes of a reload, as `meshctl plan`, `meshctl reload` and the log show them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One change of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Kind of the change.
    pub kind: ChangeKind,
    /// The file, relative to the configuration directory; null if no line has the value.
    pub file: Option<String>,
    /// The line, from 1: of the new file, or of the old one if the line is removed; null without a line.
    pub line: Option<usize>,
    /// The variable; null if a whole file changed.
    pub key: Option<String>,
    /// The old line, as it was written; null without one, and for secrets.
    pub old: Option<String>,
    /// The new line, as it is written; null without one, and for secrets.
    pub new: Option<String>,
    /// The time at which it applies.
    pub when: When,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A line or host file is new.
    Added,
    /// A line or host file is gone.
    Removed,
    /// A line has another value.
    Changed,
    /// The lines of a list have another order.
    Order,
    /// The lines are the same, but their meaning changed: a key file, or a value that follows from another variable.
    Content,
}

/// Time at which a change applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// With the reload.
    Now,
    /// With the next link to a node.
    Reconnect,
    /// With the next start of the daemon.
    Restart,
}

impl ChangeKind {
    /// Returns the mark before the change in a list.
    #[must_use]
    pub const fn mark(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed | Self::Order | Self::Content => '~',
        }
    }
}

/// The place, the old and the new line, and the time unless it is now.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref().unwrap_or_default();
        match (&self.key, self.kind) {
            (None, ChangeKind::Added) => write!(f, "{file} is new")?,
            (None, ChangeKind::Removed) => write!(f, "{file} is gone")?,
            (None, _) => write!(f, "{file} has other content")?,
            (Some(key), _) => {
                f.write_str(file)?;
                if let Some(line) = self.line {
                    write!(f, ":{line}")?;
                }
                if self.file.is_some() {
                    f.write_str(": ")?;
                }
                match (&self.old, &self.new) {
                    (Some(old), Some(new)) => write!(f, "{old} -> {new}")?,
                    (Some(line), None) | (None, Some(line)) => f.write_str(line)?,
                    (None, None) => write!(f, "{key} has another value")?,
                }
            }
        }
        match self.when {
            When::Now => Ok(()),
            When::Reconnect => f.write_str(", for new links"),
            When::Restart => f.write_str(", after a restart"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_with_its_place() {
        let change = Change {
            kind: ChangeKind::Changed,
            file: Some("tinc.conf".into()),
            line: Some(3),
            key: Some("PingInterval".into()),
            old: Some("PingInterval = 60".into()),
            new: Some("pinginterval=20".into()),
            when: When::Now,
        };
        let text = |change: Change| change.to_string();
        assert_eq!(
            text(change.clone()),
            "tinc.conf:3: PingInterval = 60 -> pinginterval=20"
        );
        let added = Change {
            old: None,
            when: When::Restart,
            ..change.clone()
        };
        assert_eq!(text(added), "tinc.conf:3: pinginterval=20, after a restart");
        let secret = Change {
            line: None,
            old: None,
            new: None,
            ..change.clone()
        };
        assert_eq!(text(secret), "tinc.conf: PingInterval has another value");
        let host = Change {
            kind: ChangeKind::Removed,
            file: Some("hosts/a".into()),
            key: None,
            ..change
        };
        assert_eq!(text(host), "hosts/a is gone");
    }

    #[test]
    fn the_fields_of_json_are_fixed() {
        let change = Change {
            kind: ChangeKind::Order,
            file: None,
            line: None,
            key: Some("ConnectTo".into()),
            old: None,
            new: None,
            when: When::Reconnect,
        };
        assert_eq!(
            serde_json::to_string(&change).unwrap(),
            r#"{"kind":"order","file":null,"line":null,"key":"ConnectTo","old":null,"new":null,"when":"reconnect"}"#
        );
    }
}
