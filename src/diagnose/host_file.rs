//! Sentences about a host file on this node, for `why` and `migrate status`.

use crate::{Code, Finding, Here, Subject};

/// The file has a mistake.
pub(crate) fn bad(subject: impl Into<Subject>, problem: &str) -> Finding {
    Finding::new(Code::HostFileBad, subject, problem)
}

/// The daemon has not read the present file.
pub(crate) fn not_in_force(subject: impl Into<Subject>, node: &str, here: &Here) -> Finding {
    let text = format!("the present hosts/{node} is not in force");
    Finding::new(Code::NotReloaded, subject, text).remedy(here.reload())
}

/// Describes a missing file.
pub(crate) fn missing(node: &str) -> String {
    format!("there is no hosts/{node} here")
}

/// Returns the remedy for a missing file or key.
pub(crate) fn copy(node: &str, here: &Here) -> String {
    format!("copy hosts/{node} from {node}, then {}", here.reload())
}

/// Makes the first letter of a remedy a capital.
pub(crate) fn sentence(remedy: &str) -> String {
    let mut letters = remedy.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
