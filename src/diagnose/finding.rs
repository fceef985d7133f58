//! One finding: a code, a severity, a subject, a text, a remedy.

use std::collections::BTreeMap;

use crate::{Code, why::Step};

/// Severity of a finding, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// In order.
    Fine,
    /// Not checked, or intended by an operator.
    Note,
    /// Something works worse than it could.
    Warning,
    /// Something does not work.
    Critical,
}

impl Severity {
    /// Returns the word of the severity, for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// True if an operator should act.
    #[must_use]
    pub fn is_fault(self) -> bool {
        self >= Self::Warning
    }
}

/// The thing that a finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A node.
    Node(String),
    /// A step from a name to a delivered packet.
    Step(Step),
    /// The daemon that was asked, or its whole mesh.
    Daemon,
}

impl From<&str> for Subject {
    fn from(node: &str) -> Self {
        Self::Node(node.to_owned())
    }
}

impl From<Step> for Subject {
    fn from(step: Step) -> Self {
        Self::Step(step)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Kind of the finding.
    pub code: Code,
    /// Severity of the finding.
    pub severity: Severity,
    /// The thing that the finding is about.
    pub subject: Subject,
    /// One sentence.
    pub text: String,
    /// The remedy, or nothing.
    pub remedy: String,
}

impl Finding {
    /// Makes a finding of the code's severity, without remedy.
    #[must_use]
    pub fn new(code: Code, subject: impl Into<Subject>, text: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            subject: subject.into(),
            text: text.into(),
            remedy: String::new(),
        }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Replaces the severity by that of the operator's limits.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

/// Counts findings by code and severity. Findings of things in order are left out.
#[must_use]
pub fn counts(findings: impl IntoIterator<Item = Finding>) -> BTreeMap<(Code, Severity), usize> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        if finding.severity > Severity::Fine {
            *counts.entry((finding.code, finding.severity)).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_by_code_and_severity_and_fine_ones_are_not() {
        let found = |code, subject: &str| Finding::new(code, subject, "text");
        let raised = Finding {
            severity: Severity::Critical,
            ..found(Code::UdpNoReply, "c")
        };
        let all = [
            found(Code::UdpNoReply, "a"),
            found(Code::UdpNoReply, "b"),
            raised,
            found(Code::NameKnown, "d"),
        ];
        let counts: Vec<_> = counts(all).into_iter().collect();
        assert_eq!(
            counts,
            [
                ((Code::UdpNoReply, Severity::Warning), 2),
                ((Code::UdpNoReply, Severity::Critical), 1),
            ]
        );
        assert_eq!(Severity::Warning.word(), "warning");
    }
}
