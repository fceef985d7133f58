//! Packet keys of the legacy protocol: which node makes a key, how it sends the key in ANS_KEY, and
//! when the key expires.
//!
//! A node makes one key for each sender, for the packets that it receives. A neighbour gets its key
//! at once, any other node when it asks (REQ_KEY). Old keys stay valid for some seconds, for
//! packets on the way. Source: wire/tinc-1.0.md sections 1.8 and 3.6, T02, T05, T06 of
//! proto/threat-model.md.

mod stale;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_crypto::compress::MAX_LEGACY;
use meshd_wire::{EdgeAddress, KeyAnswer, KeyRequest, NodeName, Options, Request, SuiteNumbers};

use crate::{
    link::Dialect,
    mesh::{
        Mesh,
        gossip::law::{Ends, KEY_CHANGES},
        limits::Bucket,
        sessions::{keys::RETRY, lifetime::Lifetime},
        topology::{
            graph,
            node::{Node, Nodes, Reachability},
        },
    },
    route::NodeIdx,
    tunnel::{
        RxKey, TxKey,
        legacy::{MIN_MAC, Suite, SuiteError},
    },
};

/// Receiving keys of one node that are tried: the newest, and those for packets on the way.
const MAX_RX: usize = 3;
/// Time for a new neighbour to send its key unasked. A REQ_KEY in this time would make it change
/// the key again.
const UNASKED: Duration = Duration::from_secs(3);
/// Keys that a node may request at once; then one in two seconds.
const BURST: usize = 4;
/// Packets with a wrong MAC within [`FORGERIES_WITHIN`] after which a key is changed (T06 of
/// proto/threat-model.md).
const FORGERIES: u64 = 1 << 16;
const FORGERIES_WITHIN: Duration = Duration::from_secs(60);
/// Shortest time between two log lines about one node.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Datagrams a second from unknown addresses that are tried with keys: of nodes at the same host,
/// and of all nodes.
const TRY_NEAR: u32 = 500;
const TRY_ALL: u32 = 10;

/// Legacy keys with one node.
#[derive(Default)]
pub(in crate::mesh) struct Legacy {
    /// Key for packets to the node.
    pub(in crate::mesh) tx: Option<Arc<TxKey>>,
    /// Keys for packets from the node, newest first.
    pub(in crate::mesh) rx: VecDeque<Arc<RxKey>>,
    /// Time at which all receiving keys but the newest expire.
    expire_at: Option<Instant>,
    /// Time of our last REQ_KEY to the node.
    asked: Option<Instant>,
    /// Time of the last ANS_KEY from the node that we use.
    got: Option<Instant>,
    /// Budget of keys that the node may request.
    answers: Option<Bucket>,
    /// Budget of KEY_CHANGED lines by hearsay, and true if one waits for it.
    changes: Option<Bucket>,
    changed: bool,
    /// Suite that the node requested and that we do not support, if so. Packets go over links then.
    pub(in crate::mesh) refused: Option<String>,
    logged: Option<Instant>,
    /// Packets that do not open.
    failures: Failures,
}

/// Packets of one node that do not open, or of ours that the node cannot open.
#[derive(Default)]
struct Failures {
    /// Time at which the node's key was last in doubt.
    doubted: Option<Instant>,
    /// Time at which the node last got a key because its packets did not open.
    mended: Option<Instant>,
    /// Number of wrong MACs at the start of the count, and the start time.
    forgeries: Option<(u64, Instant)>,
}

/// Legacy state that belongs to no single node.
pub(in crate::mesh) struct Common {
    /// Time at which our keys are changed.
    expire_at: Instant,
    near: Bucket,
    all: Bucket,
    /// Budget of keys sent because packets do not open.
    mend: Bucket,
}

impl Common {
    pub(in crate::mesh) fn new(key_expire: Duration, now: Instant) -> Self {
        Self {
            expire_at: now + Lifetime::of(Dialect::Legacy, key_expire).renew,
            near: Bucket::new(TRY_NEAR as usize, now),
            all: Bucket::new(TRY_ALL as usize, now),
            mend: Bucket::new(stale::TELL_RATE as usize, now),
        }
    }
}

impl Reachability {
    fn uses_legacy(&self) -> bool {
        self.dialect == Dialect::Legacy
    }
}

impl Mesh {
    /// Returns true if we speak legacy with a node at this place. The node's host file must allow
    /// legacy. Either the node's own link speaks legacy only, or the path does and the node has
    /// shown no better dialect (T24 of proto/threat-model.md).
    pub(in crate::mesh) fn speaks_only_legacy(
        &self,
        idx: NodeIdx,
        reachability: &Reachability,
    ) -> bool {
        let node = &self.nodes[idx];
        let dialect = |of: NodeIdx| {
            let link = self.nodes[of].link.and_then(|link| self.active(link));
            link.map(|peer| peer.hello.dialect)
        };
        let behind = || dialect(reachability.nexthop) == Some(Dialect::Legacy);
        let allowed = self.cx.settings.allows_legacy(node.name())
            || self.cx.settings.allows_hearsay(node.name()) && behind();
        match dialect(idx) {
            _ if !allowed || idx == Nodes::ME => false,
            Some(dialect) => dialect == Dialect::Legacy,
            None => {
                // Two meshds whose keys are made but not exchanged yet can speak only legacy. A
                // tincd 1.1 must not be asked this way: it exits.
                let host = self.cx.settings.hosts.get(node.name());
                let unknown = host.is_none_or(|host| host.key.is_none());
                let meshd = unknown && reachability.options.has(Options::NATIVE);
                let says_so = reachability.options.minor() < 2 || meshd;
                !self.cx.settings.sptps || says_so && !self.peers.dialects(idx).more_than_legacy()
            }
        }
    }

    /// Finds, after a graph pass, the nodes that may hand us packets of each node whose packets are
    /// not sealed end to end. Each node on the path opens and seals such a packet again, in the
    /// dialect of the next hop. Returns false if there were none and are none.
    pub(in crate::mesh) fn find_carriers(&mut self) -> bool {
        let any = |is: fn(&Node) -> bool| self.nodes.iter().any(|(_, node)| is(node));
        let opened = any(|node| !node.reachability.dialect.caps().end_to_end);
        if !opened && !any(|node| !node.carriers.is_empty()) {
            return false;
        }
        let mut between = match opened {
            true => graph::between(&self.nodes),
            false => BTreeMap::new(),
        };
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            let carriers = between.remove(&idx).unwrap_or_default();
            self.nodes[idx].carriers = carriers.into_iter().map(NodeIdx::slot).collect();
        }
        true
    }

    /// Returns true if we speak legacy with a node.
    pub(in crate::mesh) fn uses_legacy(&self, idx: NodeIdx) -> bool {
        self.nodes[idx].reachability.uses_legacy()
    }

    /// Requests the key of a legacy node, if we have none.
    pub(in crate::mesh) fn want_legacy_key(&mut self, idx: NodeIdx, now: Instant) {
        if self.sessions[idx].legacy.tx.is_none() {
            self.ask_legacy_key(idx, now);
        }
    }

    /// Requests a new key of a legacy node, if the interval allows it. The key in use stays valid
    /// for a while.
    pub(in crate::mesh) fn ask_legacy_key(&mut self, idx: NodeIdx, now: Instant) {
        let node = &self.nodes[idx];
        let recent = |at: Instant| now.saturating_duration_since(at) < RETRY;
        let link = node.link.and_then(|link| self.active(link));
        let young = link.is_some_and(|peer| now.saturating_duration_since(peer.up) < UNASKED);
        if young
            || self.sessions[idx].legacy.asked.is_some_and(recent)
            || !node.reachability.reachable
        {
            return;
        }
        let line = Request::ReqKey {
            from: self.cx.settings.name.clone(),
            to: node.name().clone(),
            payload: KeyRequest::Legacy,
        };
        self.sessions[idx].legacy.asked = Some(now);
        self.send_towards(idx, line.line(0).into());
    }

    /// Handles the key request of a legacy node.
    pub(in crate::mesh) fn legacy_asked(&mut self, from: NodeIdx, now: Instant) {
        let node = &self.nodes[from];
        if !node.reachability.uses_legacy() || !node.reachability.reachable {
            tracing::debug!(node = %node.name(), "ignored a request for a legacy key");
            return;
        }
        let answers = &mut self.sessions[from].legacy.answers;
        let answers = answers.get_or_insert_with(|| Bucket::new(BURST, now));
        if answers.take_slowly(2, BURST, now) {
            self.send_legacy_key(from, now);
        }
    }

    /// Makes a new key for packets from a node and sends the key to that node.
    pub(in crate::mesh) fn send_legacy_key(&mut self, idx: NodeIdx, now: Instant) {
        let suite = self.legacy_suite(self.nodes[idx].name());
        let (rx, key) = suite.receive(self.cx.settings.replay_window, &mut self.cx.rng);
        let line = Request::AnsKey {
            from: self.cx.settings.name.clone(),
            to: self.nodes[idx].name().clone(),
            payload: KeyAnswer::Legacy {
                key,
                suite: suite.to_wire(),
            },
            address: None,
        };
        let legacy = &mut self.sessions[idx].legacy;
        legacy.rx.push_front(rx);
        // Without a MAC one key cannot be told from another.
        let most = if suite.mac == 0 { 1 } else { MAX_RX };
        legacy.rx.truncate(most);
        legacy.expire_at = Some(now + self.cx.lifetime(Dialect::Legacy).linger);
        legacy.failures.forgeries = None;
        self.update_state(idx);
        self.send_towards(idx, line.line(0).into());
    }

    /// Returns the suite of packets from a node to us. A suite without cipher or MAC needs the
    /// consent of the node's host file.
    fn legacy_suite(&self, node: &NodeName) -> Suite {
        let mut suite = self.cx.settings.suite;
        if suite.compression > MAX_LEGACY {
            suite.compression = 0;
        }
        let host = self.cx.settings.hosts.get(node);
        let usual = Suite::default_of_tinc();
        if suite.cipher.is_none() && !host.is_some_and(|host| host.null_cipher) {
            suite.cipher = usual.cipher;
        }
        if suite.mac == 0 && !host.is_some_and(|host| host.null_digest) {
            (suite.digest, suite.mac) = (usual.digest, usual.mac);
        }
        suite
    }

    /// Handles an ANS_KEY of a legacy node: the key for packets to it.
    pub(in crate::mesh) fn legacy_answered(
        &mut self,
        from: NodeIdx,
        (key, suite): (&[u8], SuiteNumbers),
        address: Option<&EdgeAddress>,
        now: Instant,
    ) {
        let made = self
            .accept_suite(from, suite)
            .and_then(|suite| suite.send(key));
        let legacy = &mut self.sessions[from].legacy;
        match made {
            Ok(tx) => {
                let fresh = legacy.tx.replace(tx).is_none();
                legacy.refused = None;
                legacy.got = Some(now);
                if fresh {
                    tracing::info!(node = %self.nodes[from].name(), "tunnel established (legacy)");
                }
            }
            Err(why) => {
                legacy.tx = None;
                legacy.refused = Some(why.to_string());
                let lately = |at: Instant| now.saturating_duration_since(at) < SAY_EVERY;
                if !legacy.logged.is_some_and(lately) {
                    legacy.logged = Some(now);
                    tracing::warn!(node = %self.nodes[from].name(), "{why}; its packets go over TCP");
                }
            }
        }
        self.update_state(from);
        if let Some(addr) = address.and_then(EdgeAddress::known)
            && self.may_probe(addr)
        {
            self.suggest_address(from, addr, now);
        }
        self.after_handshake(from, now);
    }

    fn accept_suite(&self, from: NodeIdx, numbers: SuiteNumbers) -> Result<Suite, SuiteError> {
        let suite = Suite::from_wire(numbers)?;
        let ours = &self.cx.settings.suite;
        let host = self.cx.settings.hosts.get(self.nodes[from].name());
        let [no_cipher, no_mac] =
            host.map_or([false; 2], |host| [host.null_cipher, host.null_digest]);
        if suite.cipher.is_none() && !(no_cipher && ours.cipher.is_none())
            || suite.mac == 0 && !(no_mac && ours.mac == 0)
        {
            return Err(SuiteError::Null);
        }
        match suite.mac {
            1..MIN_MAC => Err(SuiteError::Mac(numbers.mac_length)),
            _ => Ok(suite),
        }
    }

    /// Handles a KEY_CHANGED of a node. Packets go over links until the new key arrives. A line that
    /// comes too soon waits.
    pub(in crate::mesh) fn legacy_key_changed(
        &mut self,
        origin: NodeIdx,
        ends: Ends,
        now: Instant,
    ) {
        let node = &self.nodes[origin];
        if !node.reachability.uses_legacy() {
            return;
        }
        let legacy = &mut self.sessions[origin].legacy;
        let fine = match ends {
            Ends::Paced(burst, every) => legacy
                .changes
                .get_or_insert_with(|| Bucket::new(burst, now))
                .take_slowly(every, burst, now),
            ends => ends == Ends::AtOnce,
        };
        legacy.changed = !fine;
        if fine {
            legacy.tx = None;
            legacy.asked = None;
            self.update_state(origin);
        }
    }

    /// Renews keys that are old, worn out or under attack, once a second.
    pub(in crate::mesh) fn legacy_tick(&mut self, now: Instant) {
        if now >= self.sessions.legacy.expire_at {
            self.renew_legacy_keys(now);
        }
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            if !self.sessions.has_keys(idx) {
                continue;
            }
            if self.sessions[idx].legacy.changed {
                let (burst, every) = KEY_CHANGES;
                self.legacy_key_changed(idx, Ends::Paced(burst, every), now);
            }
            let node = &self.nodes[idx];
            let legacy = &mut self.sessions[idx].legacy;
            if legacy.rx.is_empty() && legacy.tx.is_none() {
                continue;
            }
            let gone = legacy.expire_at.take_if(|at| now >= *at).is_some() && legacy.rx.len() > 1;
            if gone {
                legacy.rx.truncate(1);
            }
            let wrong = node.shared.counters.bad_tag.load(Ordering::Relaxed);
            let (before, since) = *legacy.failures.forgeries.get_or_insert((wrong, now));
            let forged = wrong - before >= FORGERIES;
            if now.saturating_duration_since(since) >= FORGERIES_WITHIN {
                legacy.failures.forgeries = Some((wrong, now));
            }
            let worn = legacy.rx.front().is_some_and(|key| key.wants_renewal());
            let spent = legacy.tx.as_ref().is_some_and(|tx| tx.wants_rekey());
            if gone {
                self.update_state(idx);
            }
            if forged {
                tracing::warn!(node = %self.nodes[idx].name(), "many packets with a wrong MAC in its name: its key is changed");
            }
            if forged || worn {
                self.send_legacy_key(idx, now);
            }
            if spent {
                self.ask_legacy_key(idx, now);
            }
        }
    }

    /// Renews all keys after KeyExpire or a change of the suite. A node that is no neighbour
    /// requests its new key when it needs it.
    pub(in crate::mesh) fn renew_legacy_keys(&mut self, now: Instant) {
        self.sessions.legacy.expire_at = now + self.cx.lifetime(Dialect::Legacy).renew;
        let keyed = |node: &Node| {
            node.reachability.uses_legacy() && !self.sessions[node.shared.idx].legacy.rx.is_empty()
        };
        let all = self.nodes.iter().filter(|(_, node)| keyed(node));
        let all: Vec<NodeIdx> = all.map(|(idx, _)| idx).collect();
        if all.is_empty() {
            return;
        }
        let origin = self.cx.settings.name.clone();
        self.flood(&Request::KeyChanged { origin }, None);
        for idx in all {
            let node = &self.nodes[idx];
            if node.link.is_some() && node.reachability.reachable {
                self.send_legacy_key(idx, now);
            }
        }
    }

    /// Finds the legacy node that sent a datagram from an unknown address. Only the MAC identifies
    /// the node.
    pub(in crate::mesh) fn legacy_sender(
        &mut self,
        from: SocketAddr,
        datagram: &Bytes,
        now: Instant,
    ) -> Option<NodeIdx> {
        let keyed = self
            .nodes
            .iter()
            .filter(|(_, node)| node.reachability.uses_legacy());
        let (near, far): (Vec<_>, Vec<_>) = keyed
            .map(|(idx, _)| idx)
            .partition(|idx| self.is_at(*idx, from));
        if !near.is_empty()
            && self
                .sessions
                .legacy
                .near
                .take(TRY_NEAR, TRY_NEAR as usize, now)
            && let Some(idx) = self.first_that_fits(near, from, datagram)
        {
            return Some(idx);
        }
        let all = !far.is_empty()
            && self
                .sessions
                .legacy
                .all
                .take(TRY_ALL, TRY_ALL as usize, now);
        all.then(|| self.first_that_fits(far, from, datagram))
            .flatten()
    }

    /// Returns the first node with a key that the MAC of a datagram fits. Without a MAC only the
    /// address identifies the node.
    fn first_that_fits(
        &self,
        nodes: Vec<NodeIdx>,
        from: SocketAddr,
        datagram: &Bytes,
    ) -> Option<NodeIdx> {
        nodes.into_iter().find(|idx| {
            let here = self.paths[*idx].addr == Some(from);
            let mut keys = self.sessions[*idx].legacy.rx.iter();
            keys.any(|key| key.fits(datagram).unwrap_or(here))
        })
    }

    /// Returns true if a node has been seen at the host of this address.
    fn is_at(&self, idx: NodeIdx, addr: SocketAddr) -> bool {
        let node = &self.nodes[idx];
        let mut back = node
            .edges
            .values()
            .filter_map(|edge| self.nodes.edge(edge.to, idx));
        let here = |seen: SocketAddr| seen.ip() == addr.ip();
        self.paths[idx].addr.is_some_and(here)
            || back.any(|edge| edge.address.known().is_some_and(here))
    }
}

#[cfg(test)]
pub(in crate::mesh) mod tests;
