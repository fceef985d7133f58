//! Filter for handshake lines between other nodes. Some lines make a real daemon exit, or close the
//! link that they arrive on. Forwarding such a line would harm us and that daemon because of
//! another member's line.

use std::ops::RangeInclusive;

use meshd_wire::{KeyAnswer, KeyRequest, SuiteNumbers};

use crate::{mesh::Mesh, route::NodeIdx};

/// Ciphers that a tinc 1.1 accepts a key for on a current system and that carry packets, by
/// OpenSSL's numbers. tinc 1.1 closes the link for most other ciphers. meshd uses only a few of
/// these ciphers. Blowfish, CAST5 and other old ones need a provider that is rarely installed.
/// Source: wire/tinc-1.0.md section 8.1, each tried with 1.1~pre18.
const CIPHERS: [RangeInclusive<i32>; 11] = [
    0..=0,
    44..=44,
    418..=429,
    653..=655,
    751..=753,
    904..=906,
    1018..=1019,
    1066..=1066,
    1071..=1071,
    1076..=1076,
    1134..=1134,
];

/// Digests that a tinc has, by OpenSSL's numbers, with their sizes in bytes. meshd uses only some of them. Source:
/// wire/tinc-1.0.md section 8.2.
const DIGESTS: [(i32, i32); 17] = [
    (0, 0),
    (4, 16),
    (64, 20),
    (117, 20),
    (672, 32),
    (673, 48),
    (674, 64),
    (675, 28),
    (1056, 64),
    (1057, 32),
    (1094, 28),
    (1095, 32),
    (1096, 28),
    (1097, 32),
    (1098, 48),
    (1099, 64),
    (1143, 32),
];

/// Returns true if a tinc 1.1 accepts a legacy key with these numbers. Source: wire/tinc-1.0.md
/// section 1.11.
fn takes(suite: SuiteNumbers) -> bool {
    let size = DIGESTS.iter().find(|(nid, _)| *nid == suite.digest);
    let known = CIPHERS.iter().any(|some| some.contains(&suite.cipher));
    known && size.is_some_and(|(_, size)| (0..=*size).contains(&suite.mac_length))
}

impl Mesh {
    /// Returns true if a REQ_KEY is forwarded. A REQ_KEY without a usable extension makes a tinc
    /// 1.1 exit if that tinc regards the asker as a node with SPTPS. Such a REQ_KEY makes any real
    /// daemon exit that regards the asker as unreachable. Source: wire/tinc-1.1.md section 3.6,
    /// wire/tinc-1.0.md section 9.
    pub(in crate::mesh) fn passes_req_key(
        &self,
        from: NodeIdx,
        to: NodeIdx,
        request: &KeyRequest,
    ) -> bool {
        let bare = request.ext().is_none_or(|ext| ext == 0);
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        !bare
            || from.reachability.reachable
                && !(from.reachability.options.has_handshake()
                    && to.reachability.options.has_handshake())
    }

    /// Returns true if an ANS_KEY is forwarded. A tinc 1.1 treats the ANS_KEY of a node without
    /// SPTPS, or of an unreachable node, as a legacy one. A tinc 1.1 closes the link that a bad
    /// ANS_KEY arrives on; a tinc 1.0 ignores a bad ANS_KEY.
    pub(in crate::mesh) fn passes_ans_key(
        &self,
        from: NodeIdx,
        to: NodeIdx,
        answer: &KeyAnswer,
    ) -> bool {
        let good = match answer.suite() {
            None => self.nodes[from].reachability.options.has_handshake(),
            Some(suite) => takes(suite),
        };
        good || !self.nodes[to].reachability.options.has_handshake()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_crypto::suite;

    #[test]
    fn what_a_tinc_takes_is_passed_on() {
        for cipher in &suite::CIPHERS {
            let old = cipher.name == "bf-cbc";
            let taken = takes([cipher.nid, 672, 4, 0].into());
            assert_eq!(taken, !old, "{}", cipher.name);
        }
        // Camellia, ARIA, SM4, CAST5: also those that meshd does not use.
        for (nid, taken) in [(751, true), (1076, true), (1134, true), (108, false)] {
            assert_eq!(takes([nid, 672, 4, 0].into()), taken, "{nid}");
        }
        // RIPEMD-160, SHA3-384, SM3.
        for (nid, size) in [(117, 20), (1098, 48), (1143, 32)] {
            assert!(
                takes([427, nid, size, 0].into()) && !takes([427, nid, size + 1, 0].into()),
                "{nid}"
            );
        }
        for digest in &suite::DIGESTS {
            let size = i32::try_from(digest.size).unwrap();
            assert!(takes([427, digest.nid, size, 9].into()), "{}", digest.name);
            assert!(
                !takes([427, digest.nid, size + 1, 9].into()),
                "{}",
                digest.name
            );
        }
        assert!(takes([0, 0, 0, 0].into()));
        for numbers in [[-1, -1, -1, 0], [0, 0, 4, 0], [427, 672, -1, 0], [9999; 4]] {
            assert!(!takes(numbers.into()), "{numbers:?}");
        }
    }
}
