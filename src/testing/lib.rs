//! The one way in which a test says that it cannot run on this machine.

use std::{env, io, io::Write as _};

/// Says that a test does not run, because the machine lacks `what`: one word, such as `vlan`. The test returns afterwards.
///
/// # Panics
///
/// With `CI=true` a skip is a failure, unless `MESHD_CI_LACKS` lists `what` (words with commas between them).
#[track_caller]
pub fn skip(what: &str, reason: &str) {
    let value = |variable| env::var(variable).unwrap_or_default();
    assert!(
        may_skip(&value("CI"), &value("MESHD_CI_LACKS"), what),
        "a skip is a failure under CI=true: no {what}: {reason}"
    );
    // The harness shows no output of macros where a test passes.
    let _ = writeln!(io::stderr(), "SKIPPED: no {what}: {reason}");
}

fn may_skip(ci: &str, lacks: &str, what: &str) -> bool {
    ci != "true" || lacks.split(',').any(|word| word == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_skips_only_what_it_is_known_to_lack() {
        assert!(may_skip("", "", "vlan"));
        assert!(!may_skip("true", "", "vlan"));
        assert!(!may_skip("true", "uso,vlans", "vlan"));
        assert!(may_skip("true", "uso,vlan", "vlan"));
    }
}
