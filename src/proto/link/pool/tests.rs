//! Pools against each other, in steps.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::link::{
    Upgrade,
    tests::{
        credentials, identity, key,
        legacy::{known, speaker},
        name, now,
    },
};

const LIMIT: Duration = Duration::from_secs(5);

/// A pool with its host files, and what it has put out.
struct Node {
    pool: Pool,
    hosts: BTreeMap<NodeName, Credentials>,
    reports: Vec<LinkReport>,
    /// Links whose socket is open here.
    open: BTreeSet<LinkId>,
    muted: BTreeSet<LinkId>,
    connects: Vec<(DialId, SocketAddr)>,
    listens: bool,
    sent: Vec<(LinkId, Bytes)>,
    stored: usize,
}

impl Node {
    fn new(identity: Arc<Identity>, hosts: &[(&str, Credentials)], now: Instant) -> Self {
        let seed = [identity.name.as_str().as_bytes()[0]; 32];
        Self {
            pool: Pool::new(settings(identity, &[]), Rng::new(seed), now),
            hosts: hosts.iter().map(|(of, c)| (name(of), c.clone())).collect(),
            reports: Vec::new(),
            open: BTreeSet::new(),
            muted: BTreeSet::new(),
            connects: Vec::new(),
            listens: false,
            sent: Vec::new(),
            stored: 0,
        }
    }

    fn accept(&mut self, from: &str, now: Instant) -> Option<LinkId> {
        let link = self.pool.accept(from.parse().unwrap(), addr(), now)?;
        self.open.insert(link);
        Some(link)
    }

    /// Carries the outputs out, as a shell does.
    fn serve(&mut self, now: Instant) {
        while let Some(output) = self.pool.poll_output(now) {
            match output {
                PoolOutput::Connect { dial, addr, .. } => self.connects.push((dial, addr)),
                PoolOutput::Abort { dial } => self.connects.retain(|(id, _)| *id != dial),
                PoolOutput::Send { link, bytes } => {
                    self.pool.written(link, bytes.len());
                    self.sent.push((link, bytes));
                }
                PoolOutput::Listen(listens) => {
                    assert_ne!(self.listens, listens, "it is no change");
                    self.listens = listens;
                }
                PoolOutput::Mute { link } => {
                    self.muted.insert(link);
                }
                PoolOutput::Close { link, .. } => {
                    self.open.remove(&link);
                }
                PoolOutput::NeedCredentials(name) => {
                    let theirs = self.hosts.get(&name).cloned();
                    self.pool.handle_credentials(&name, theirs.as_ref(), now);
                }
                PoolOutput::StoreKey { node, key } => {
                    let host = self.hosts.get_mut(&node).unwrap();
                    (host.key, host.native) = (Some(key), Credentials::of(key).native);
                    self.stored += 1;
                }
                PoolOutput::Report(report) => self.reports.push(report),
                PoolOutput::Log(_) => {}
            }
        }
    }

    fn dialects(&self) -> Vec<&'static str> {
        let dialect = |report: &LinkReport| match report {
            LinkReport::Up { hello, .. } => Some(hello.dialect.name()),
            _ => None,
        };
        self.reports.iter().filter_map(dialect).collect()
    }

    fn failures(&self) -> Vec<(DialFault, &str)> {
        let failure = |report: &'_ LinkReport| match report {
            LinkReport::DialFailed { fault, why, .. } => Some((*fault, why.clone())),
            _ => None,
        };
        let failures = self.reports.iter().filter_map(failure);
        failures
            .map(|(fault, why)| (fault, &*Box::leak(why.into_boxed_str())))
            .collect()
    }
}

fn settings(identity: Arc<Identity>, known: &[IpAddr]) -> PoolSettings {
    PoolSettings {
        identity,
        limit: LIMIT,
        known: known.iter().copied().collect(),
    }
}

fn addr() -> SocketAddr {
    "192.0.2.1:655".parse().unwrap()
}

/// Connections between two nodes, by the links of both ends.
#[derive(Default)]
struct Wires(Vec<[LinkId; 2]>);

impl Wires {
    /// Carries everything between a dialling and an accepting node until both are silent. Returns
    /// the number of connections so far.
    fn carry(&mut self, [a, b]: [&mut Node; 2], now: Instant) -> usize {
        loop {
            a.serve(now);
            b.serve(now);
            for (dial, _) in std::mem::take(&mut a.connects) {
                let (near, far) = (
                    a.pool.connected(dial, addr(), now),
                    b.accept("192.0.2.9:1", now),
                );
                let ends = [near.unwrap(), far.unwrap()];
                a.open.insert(ends[0]);
                self.0.push(ends);
            }
            a.serve(now);
            let sent = [std::mem::take(&mut a.sent), std::mem::take(&mut b.sent)];
            if sent.iter().all(Vec::is_empty) && !self.close([a, b]) {
                return self.0.len();
            }
            for (side, sent) in sent.into_iter().enumerate() {
                let to = [&mut *b, &mut *a].into_iter().nth(side).unwrap();
                for (link, bytes) in sent {
                    let ends = self.0.iter().find(|ends| ends[side] == link).unwrap();
                    to.pool.received(ends[1 - side], &bytes, now);
                }
            }
        }
    }

    /// Tells each node which connections the other one has closed. Returns true if there were any.
    fn close(&self, [a, b]: [&mut Node; 2]) -> bool {
        let mut any = false;
        for ends in &self.0 {
            if !b.open.contains(&ends[1]) && a.open.contains(&ends[0]) {
                a.pool.closed(ends[0], "closed");
                any = true;
            }
            if !a.open.contains(&ends[0]) && b.open.contains(&ends[1]) {
                b.pool.closed(ends[1], "closed");
                any = true;
            }
        }
        any
    }
}

#[test]
fn a_dial_needs_credentials_and_brings_a_link_up_at_both_ends() {
    let now = now();
    let mut a = Node::new(identity("alice"), &[("bob", credentials("bob"))], now);
    let mut b = Node::new(identity("bob"), &[("alice", credentials("alice"))], now);
    a.pool.dial(name("bob"), addr());
    assert_eq!(
        a.pool.poll_output(now),
        Some(PoolOutput::NeedCredentials(name("bob")))
    );
    let next = a.pool.poll_output(now);
    assert_eq!(
        next,
        Some(PoolOutput::Listen(true)),
        "no connection without a key"
    );
    a.listens = true;
    let theirs = credentials("bob");
    a.pool.handle_credentials(&name("bob"), Some(&theirs), now);
    Wires::default().carry([&mut a, &mut b], now);
    assert_eq!((a.dialects(), b.dialects()), (vec!["sptps"], vec!["sptps"]));

    a.pool.dial(name("carol"), addr());
    a.serve(now);
    assert_eq!(a.failures()[0].0, DialFault::NoKey);
    assert!(a.connects.is_empty());
}

/// A host file that changes while a handshake runs, or before the connection is made, counts.
#[test]
fn a_key_that_is_withdrawn_during_the_handshake_brings_no_link_up() {
    for (after, withdrawn) in [(0, true), (1, true), (1, false)] {
        let now = now();
        let mut a = Node::new(identity("alice"), &[("bob", credentials("bob"))], now);
        let mut b = Node::new(identity("bob"), &[("alice", credentials("alice"))], now);
        a.pool.dial(name("bob"), addr());
        a.serve(now);
        let (dial, _) = a.connects[0];
        let far = b.accept("192.0.2.9:1", now).unwrap();
        let change = |b: &mut Node| {
            if withdrawn {
                b.hosts.clear();
            } else if let Some(host) = b.hosts.get_mut(&name("alice")) {
                // A second key ends nothing.
                host.next = Some(key("carol").public());
            }
            b.pool.configure(settings(identity("bob"), &[]));
            b.serve(now);
        };
        let near = a.pool.connected(dial, addr(), now).unwrap();
        for round in 0..4 {
            if round == after {
                change(&mut b);
            }
            a.serve(now);
            for (_, bytes) in std::mem::take(&mut a.sent) {
                b.pool.received(far, &bytes, now);
            }
            b.serve(now);
            for (_, bytes) in std::mem::take(&mut b.sent) {
                a.pool.received(near, &bytes, now);
            }
        }
        assert_eq!(b.dialects().is_empty(), withdrawn, "after {after}");
    }

    let now = now();
    let mut a = Node::new(identity("alice"), &[("bob", credentials("bob"))], now);
    a.pool.dial(name("bob"), addr());
    a.serve(now);
    let (dial, _) = a.connects[0];
    a.hosts.clear();
    a.pool.configure(settings(identity("alice"), &[]));
    a.serve(now);
    assert!(a.connects.is_empty(), "the attempt is given up");
    assert_eq!(a.pool.connected(dial, addr(), now), None);
    assert_eq!(a.failures()[0].0, DialFault::NoKey);
}

#[test]
fn a_stranger_that_misbehaves_is_held_silently_and_then_closed() {
    let start = now();
    let mut b = Node::new(identity("bob"), &[("alice", credentials("alice"))], start);
    let link = b.accept("198.51.100.1:7", start).unwrap();
    b.pool.received(link, b"0 alice 16.0\n", start);
    b.serve(start);
    assert!(b.open.contains(&link) && b.muted.contains(&link) && b.sent.is_empty());
    assert!(
        matches!(&b.reports[..], [LinkReport::Unproven { node, .. }] if *node == name("alice"))
    );
    let due = b.pool.poll_timeout().unwrap();
    assert_eq!(due, start + admission::MAX_AGE);
    b.pool.handle_timeout(due);
    b.serve(due);
    assert!(b.open.is_empty() && b.pool.strangers() == 0);
    assert_eq!(b.reports.len(), 1);
}

/// Strangers that have named a node hold all places. Addresses of host files, and of host names, have
/// places of their own.
#[test]
fn the_shell_stops_accepting_while_nobody_can_be_evicted() {
    let start = now();
    let mut b = Node::new(identity("bob"), &[("alice", credentials("alice"))], start);
    let known: IpAddr = [203, 0, 113, 1].into();
    b.pool.configure(settings(identity("bob"), &[known]));
    let named = "203.0.113.2:655".parse().unwrap();
    let addrs = b.pool.resolved("alice.example", 655, vec![named]);
    assert_eq!(addrs, [named]);
    b.serve(start);
    assert!(b.listens);
    let come = |b: &mut Node, from: &str| {
        let link = b.accept(&format!("{from}:7"), start);
        if let Some(link) = link {
            b.pool.received(link, b"0 alice 17.7\n", start);
        }
        b.serve(start);
        link.is_some()
    };
    for n in 0..admission::MAX_STRANGERS - admission::KEPT_FOR_KNOWN {
        assert!(come(&mut b, &format!("198.51.100.{n}")));
    }
    assert!(!come(&mut b, "198.51.100.99") && b.listens);
    for n in 0..admission::KEPT_FOR_KNOWN {
        assert!(b.listens, "{n}");
        assert!(come(&mut b, ["203.0.113.1", "203.0.113.2"][n % 2]), "{n}");
    }
    assert!(!b.listens);
    let due = start + admission::MAX_AGE;
    b.pool.handle_timeout(due);
    b.serve(due);
    assert!(b.listens && b.open.is_empty());
}

/// A node that has no Ed25519 key of ours and may store one is dialled twice: UPGRADE, then SPTPS.
#[test]
fn keys_are_exchanged_and_then_used() {
    for learn in [true, false] {
        let now = now();
        let theirs = |of, ed25519| Credentials {
            upgrade: Upgrade::Possible,
            learn,
            ..known(of, ed25519, true)
        };
        let mut a = Node::new(speaker("alice", true), &[("bob", theirs("bob", true))], now);
        let mut b = Node::new(
            speaker("bob", true),
            &[("alice", theirs("alice", false))],
            now,
        );
        a.pool.dial(name("bob"), addr());
        let mut wires = Wires::default();
        let connections = wires.carry([&mut a, &mut b], now);
        let expected = match learn {
            true => (2, vec!["sptps"], 1),
            // Bob may not store her key, so he reports it and does not tell his.
            false => (1, vec![], 0),
        };
        assert_eq!((connections, a.dialects(), b.stored), expected);
        assert_eq!(a.dialects(), b.dialects());
        let is_received = |report: &LinkReport| matches!(report, LinkReport::KeyReceived { .. });
        assert_eq!(b.reports.iter().any(is_received), !learn);
    }
}
