//! Names of variables: lookup, and the nearest known name to a wrong one.

use super::{VARS, Var};

/// Returns the variable of that name, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Var> {
    VARS.iter().find(|var| var.name.eq_ignore_ascii_case(name))
}

/// Returns the known name nearest to an unknown one, if one is near.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let near = VARS
        .iter()
        .filter_map(|var| Some((nearness(name, var.name)?, var.name)));
    near.min().map(|(_, name)| name)
}

/// Returns the number of edits between two names, without regard to case. `None` if more than 2, or half of the
/// letters or more.
#[must_use]
pub fn nearness(name: &str, other: &str) -> Option<usize> {
    let letters = name.chars().count();
    if letters > 64 {
        return None;
    }
    let edits = distance(&name.to_ascii_lowercase(), &other.to_ascii_lowercase());
    (edits <= 2 && edits * 2 < letters).then_some(edits)
}

/// Returns the edit distance: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_in_any_case() {
        for var in VARS {
            assert_eq!(
                find(&var.name.to_uppercase()).map(|var| var.name),
                Some(var.name)
            );
        }
        assert!(find("PinInterval").is_none());
    }

    #[test]
    fn the_nearest_name_is_near() {
        for (typo, meant) in [
            ("StrictSubnet", Some("StrictSubnets")),
            ("PingIntreval", Some("PingInterval")),
            ("conectto", Some("ConnectTo")),
            ("Subnets", Some("Subnet")),
            ("Modus", Some("Mode")),
            ("Ed25519Pubkey", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typo), meant, "{typo}");
        }
    }
}
