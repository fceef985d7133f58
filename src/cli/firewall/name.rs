//! Makes names of tables, zones and comments. Different nets always get different names.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Prefix of the name of a net.
const PREFIX: &str = "meshd_";
/// Longest name of a firewalld zone, in bytes. Source: the limit of `firewall-cmd --new-zone`.
const ZONE: usize = 17;
/// Longest name of a table, in bytes: nft accepts 255, but a short name is readable.
const TABLE: usize = 64;
/// Bytes of the hash in a shortened name: 8 characters.
const HASHED: usize = 5;

/// Returns the firewalld zone.
pub(super) fn zone(net: &str) -> String {
    PREFIX.to_owned() + &word(net, ZONE - PREFIX.len())
}

/// Returns the nft table.
pub(super) fn table(net: &str) -> String {
    PREFIX.to_owned() + &word(net, TABLE)
}

/// Returns the comment of ufw rules.
pub(super) fn comment(net: &str) -> String {
    format!("meshd {}", word(net, TABLE))
}

/// Returns the name of the net if it has only letters, digits and `_`, and at most `room` bytes. Otherwise returns its
/// beginning, `-` and a hash of the whole. An unchanged name has no `-`.
fn word(net: &str, room: usize) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if net.len() <= room && !net.is_empty() && net.chars().all(plain) {
        return net.into();
    }
    let hash = BASE32_NOPAD
        .encode(&Sha256::digest(net)[..HASHED])
        .to_lowercase();
    let head = net.chars().map(|c| if plain(c) { c } else { '_' });
    let head: String = head.take(room - hash.len() - 1).collect();
    format!("{head}-{hash}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Covers equal beginnings, invalid characters, and a name that looks like a shortened one.
    #[test]
    fn no_two_nets_share_a_name_and_all_fit() {
        let long = "x".repeat(300);
        let made = word("customer-a-production", ZONE - PREFIX.len());
        let nets = [
            "priv",
            "customer_a_production",
            "customer_a_staging",
            "customer_a_",
            "customer_a",
            "priv-1",
            "priv_1",
            "priv.1",
            "priv 1",
            "PRIV_1",
            "customer-a-production",
            "customer.a.production",
            "büro",
            "b_ro",
            "b__ro",
            &long,
            &long[1..],
            &made,
            "12345678901",
            "123456789012",
            "123456789013",
        ];
        for (of, most) in [
            (zone as fn(&str) -> String, ZONE),
            (table, 255),
            (comment, 255),
        ] {
            let names: BTreeSet<String> = nets.iter().map(|net| of(net)).collect();
            assert_eq!(names.len(), nets.len(), "{names:?}");
            for name in names {
                let good = |c: char| c.is_ascii_alphanumeric() || "_- ".contains(c);
                assert!(name.len() <= most && name.chars().all(good), "{name}");
            }
        }
    }

    #[test]
    fn a_name_that_fits_stays_as_it_is() {
        assert_eq!(zone("priv"), "meshd_priv");
        assert_eq!(zone("12345678901"), "meshd_12345678901");
        assert_eq!(
            table("customer_a_production"),
            "meshd_customer_a_production"
        );
        assert_eq!(comment("priv_1"), "meshd priv_1");
    }
}
