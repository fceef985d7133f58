//! What of the handshakes between others is passed on, and what not. A line that a real daemon ends by, or closes the link for,
//! would harm us and it for what another member said.

use std::ops::RangeInclusive;

use meshd_crypto::suite::Digest;

use crate::{mesh::Mesh, route::NodeIdx};

/// Ciphers that a tinc 1.1 takes a key for on a current system and that carry packets, by OpenSSL's numbers: for most others it
/// closes the link. We use but a few of them. Blowfish, CAST5 and other old ones need a provider that is seldom
/// there. Source: wire/tinc-1.0.md section 8.1, each tried with 1.1~pre18.
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

/// Whether a tinc 1.1 takes a legacy key with these numbers. Source: wire/tinc-1.0.md section 1.11.
fn takes([cipher, digest, mac, _]: [i32; 4]) -> bool {
    let most = match digest {
        0 => Some(0),
        nid => Digest::by_nid(nid).map(|digest| digest.size),
    };
    let known = CIPHERS.iter().any(|some| some.contains(&cipher));
    let mac = usize::try_from(mac).ok();
    known && mac.zip(most).is_some_and(|(mac, most)| mac <= most)
}

impl Mesh {
    /// Whether a REQ_KEY is passed on. One without a usable extension ends a tinc 1.1 that holds the asker for one with
    /// SPTPS, and any real daemon that does not hold it reachable.
    /// Source: wire/tinc-1.1.md section 3.6, wire/tinc-1.0.md section 9.
    pub(super) fn passes_req_key(&self, from: NodeIdx, to: NodeIdx, ext: Option<i32>) -> bool {
        let bare = ext.is_none_or(|ext| ext == 0);
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        !bare || from.place.reachable && !(from.has_sptps() && to.has_sptps())
    }

    /// Whether an ANS_KEY is passed on. A tinc 1.1 takes that of a node without SPTPS, or which it does not hold reachable,
    /// for a legacy one, and closes the link over which a bad one comes; a tinc 1.0 only ignores it.
    pub(super) fn passes_ans_key(&self, from: NodeIdx, to: NodeIdx, numbers: [i32; 4]) -> bool {
        let good = match numbers[0] {
            -1 => self.nodes[from].has_sptps(),
            _ => takes(numbers),
        };
        good || !self.nodes[to].has_sptps()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_crypto::suite;

    #[test]
    fn what_a_tinc_takes_is_passed_on() {
        for cipher in &suite::CIPHERS {
            let old = ["bf-cbc", "cast5-cbc"].contains(&cipher.name);
            assert_eq!(takes([cipher.nid, 672, 4, 0]), !old, "{}", cipher.name);
        }
        for digest in &suite::DIGESTS {
            let size = i32::try_from(digest.size).unwrap();
            assert!(takes([427, digest.nid, size, 9]), "{}", digest.name);
            assert!(!takes([427, digest.nid, size + 1, 9]), "{}", digest.name);
        }
        assert!(takes([0, 0, 0, 0]));
        for numbers in [[-1, -1, -1, 0], [0, 0, 4, 0], [427, 672, -1, 0], [9999; 4]] {
            assert!(!takes(numbers), "{numbers:?}");
        }
    }
}
