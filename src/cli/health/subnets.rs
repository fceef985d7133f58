//! Reports announced subnets that are refused.

use std::collections::BTreeMap;

use super::{Finding, Level};
use meshd_proto::mesh::{
    limits::{MAX_ASIDE, MAX_ASIDE_PER_NODE},
    reports::path_report::{RefusedRow, Rule},
};

/// Maximum number of named nodes.
const NAMED: usize = 5;

/// Reports the number of refused subnets for each node. Refusals by StrictSubnets are intended; all others are a
/// warning.
pub(super) fn finding(rows: &[RefusedRow]) -> Option<Finding> {
    let first = rows.first()?;
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *owners.entry(&row.owner).or_default() += 1;
    }
    let most = |count: usize| count == MAX_ASIDE_PER_NODE || rows.len() == MAX_ASIDE;
    let least = |count: usize| if most(count) { "at least " } else { "" };
    let named = owners.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(owner, count)| format!("{}{count} of {owner}", least(*count)))
        .collect();
    let strict = rows.iter().all(|row| row.rule == Rule::StrictSubnets);
    let owner = rows.iter().find(|row| row.rule != Rule::StrictSubnets);
    Some(Finding {
        level: if strict { Level::Ok } else { Level::Warning },
        text: format!(
            "refused announced subnets: {}; see `meshctl why {}`",
            named.join(", "),
            owner.unwrap_or(first).owner
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owner: &str, at: usize, rule: Rule) -> RefusedRow {
        RefusedRow {
            owner: owner.into(),
            subnet: format!("10.{}.{}.0/24", at / 256, at % 256),
            why: "x".into(),
            rule,
        }
    }

    #[test]
    fn whose_subnets_are_not_believed_is_said() {
        assert_eq!(finding(&[]), None);
        let strict = finding(&[row("a", 0, Rule::StrictSubnets)]).unwrap();
        assert_eq!(strict.level, Level::Ok);
        let many = (0..3).map(|at| row("b", at, Rule::Bound));
        let rows: Vec<RefusedRow> = [row("a", 0, Rule::StrictSubnets)]
            .into_iter()
            .chain(many)
            .collect();
        let found = finding(&rows).unwrap();
        assert_eq!(found.level, Level::Warning);
        assert!(
            found.text.contains("1 of a, 3 of b; see `meshctl why b`"),
            "{found:?}"
        );
        let rows: Vec<RefusedRow> = (0..MAX_ASIDE_PER_NODE)
            .map(|at| row("b", at, Rule::Bound))
            .collect();
        assert!(finding(&rows).unwrap().text.contains("at least 8192 of b"));
    }
}
