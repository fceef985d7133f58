//! Attempts to reach a node: the connections of one attempt, the key that each addresses, and the
//! exchange of Ed25519 keys (UPGRADE). Source: wire/tinc-1.1.md section 3.4.
//!
//! One attempt makes up to three connections. The later ones serve nodes where one end lacks the
//! other's Ed25519 key.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use slotmap::SlotMap;

use meshd_wire::NodeName;

use crate::link::{Credentials, Upgrade};

/// Time before a node that exchanged Ed25519 keys with us gets ours again: it may be unable to
/// store the key.
pub const UPGRADE_EVERY: Duration = Duration::from_secs(600);

slotmap::new_key_type! {
    /// One connection attempt of a [`Pool`](crate::link::Pool).
    pub struct DialId;
}

/// Connection within one attempt to reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialRound {
    First,
    /// Exchanges keys.
    Upgrade,
    /// Uses the exchanged keys.
    Last,
}

/// A connection attempt.
pub(super) struct Dial {
    pub(super) node: NodeName,
    pub(super) addr: SocketAddr,
    pub(super) round: DialRound,
    /// Credentials of the node, once they are known: then the shell connects.
    pub(super) theirs: Option<Credentials>,
}

/// All attempts, and the knowledge from earlier ones.
#[derive(Default)]
pub(super) struct Rounds {
    pub(super) dials: SlotMap<DialId, Dial>,
    /// Number of failed handshakes with a node that we dialled. The next attempt uses the node's
    /// next native key, because the node may be changing keys.
    failed: BTreeMap<NodeName, usize>,
    /// Time of the last exchange of Ed25519 keys, by node.
    upgraded: BTreeMap<NodeName, Instant>,
}

impl Rounds {
    /// Records a failed handshake with a dialled node.
    pub(super) fn note_failure(&mut self, node: &NodeName) {
        *self.failed.entry(node.clone()).or_default() += 1;
    }

    /// Records an exchange of Ed25519 keys, to delay the next one.
    pub(super) fn note_upgrade(&mut self, node: NodeName, now: Instant) {
        self.upgraded.insert(node, now);
    }

    /// Returns the credentials for a link that a node opens. There is no UPGRADE if keys were
    /// exchanged so recently that a repetition would not help.
    pub(super) fn accepting(
        &self,
        mut theirs: Credentials,
        node: &NodeName,
        now: Instant,
    ) -> Credentials {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        let last = self.upgraded.get(node);
        if last.is_some_and(|at| age(at) < UPGRADE_EVERY) {
            theirs.upgrade = Upgrade::No;
        }
        theirs
    }

    /// Returns the credentials for a connection that we opened to a node. Each failed handshake
    /// makes the next connection address another native key of the node.
    pub(super) fn dialling(
        &self,
        theirs: Credentials,
        node: &NodeName,
        round: DialRound,
        now: Instant,
    ) -> Credentials {
        let mut theirs = self.accepting(theirs, node, now);
        if theirs.upgrade == Upgrade::Possible {
            theirs.upgrade = match round {
                DialRound::First => Upgrade::Possible,
                DialRound::Upgrade => Upgrade::Due,
                DialRound::Last => Upgrade::No,
            };
        }
        let failed = self.failed.get(node).copied().unwrap_or_default();
        let keys = theirs.native.len().max(1);
        theirs.native.rotate_left(failed % keys);
        theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_crypto::{PrivateKey, Rng, noise::StaticPublic};

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    fn theirs() -> Credentials {
        let key = PrivateKey::generate(&mut Rng::new([1; 32])).public();
        Credentials {
            upgrade: Upgrade::Possible,
            ..Credentials::of(key)
        }
    }

    /// A node that got our key and connects without it does not get the key again for a while.
    #[test]
    fn keys_are_told_once_in_ten_minutes() {
        let (mut rounds, now) = (Rounds::default(), start());
        let [a, b] = ["a", "b"].map(|name| NodeName::new(name).unwrap());
        rounds.note_upgrade(a.clone(), now);
        for (after, expected) in [
            (0, Upgrade::No),
            (599, Upgrade::No),
            (600, Upgrade::Possible),
        ] {
            let later = now + Duration::from_secs(after);
            let upgrade = |name| rounds.accepting(theirs(), name, later).upgrade;
            assert_eq!(upgrade(&a), expected, "{after} s");
            assert_eq!(upgrade(&b), Upgrade::Possible);
            let dialled = rounds.dialling(theirs(), &a, DialRound::Upgrade, later);
            assert_eq!(dialled.upgrade == Upgrade::Due, after == 600);
        }
    }

    /// Each failed handshake addresses the next native key, so a node that changes keys is reached.
    #[test]
    fn a_failed_handshake_is_followed_by_one_with_the_next_key() {
        let (mut rounds, now) = (Rounds::default(), start());
        let a = NodeName::new("a").unwrap();
        let next = PrivateKey::generate(&mut Rng::new([2; 32])).public();
        let mut theirs = theirs();
        theirs.native.push(StaticPublic::of(&next));
        let keys = theirs.native.clone();
        for first in [0, 1, 0] {
            let dialled = rounds.dialling(theirs.clone(), &a, DialRound::First, now);
            assert_eq!(dialled.native[0], keys[first]);
            assert_eq!(dialled.native.len(), 2);
            rounds.note_failure(&a);
        }
    }
}
