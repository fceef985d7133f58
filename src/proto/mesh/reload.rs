//! Reload: a new configuration replaces the old one. Changes are applied live, and sessions stay.
//!
//! Configurations are compared by content, never by file times (config/toml.md section 5). A
//! session ends only if the key that authenticated it is removed or changed.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use meshd_crypto::PublicKey;
use meshd_wire::{NodeName, Request, Subnet};

use crate::{
    mesh::{
        LinkId, Mesh, Settings,
        topology::node::{Node, Nodes},
    },
    route::NodeIdx,
};

impl Mesh {
    pub(super) fn reconfigure(&mut self, settings: Arc<Settings>, now: Instant) {
        // Name and port identify this node to others, and the mode belongs to our device: they
        // change only with a restart.
        let same = settings.name == self.cx.settings.name
            && settings.port == self.cx.settings.port
            && settings.route.mode == self.cx.settings.route.mode;
        let settings = if same {
            settings
        } else {
            let mut kept = Settings::clone(&settings);
            kept.name = self.cx.settings.name.clone();
            kept.port = self.cx.settings.port;
            kept.route.mode = self.cx.settings.route.mode;
            Arc::new(kept)
        };
        let old = std::mem::replace(&mut self.cx.settings, settings);
        self.reload_host_files();
        self.keep_for_ever();
        self.vouch_for_hosts();
        self.reload_own_subnets(&old);
        if self.cx.settings.strict_subnets {
            self.load_strict_subnets(now);
        }
        self.judge_subnets(now);
        self.end_revoked(&old, now);
        let changed = |name: &&NodeName| old.hosts.get(*name) != self.cx.settings.hosts.get(*name);
        let changed: Vec<NodeName> = self
            .cx
            .settings
            .hosts
            .keys()
            .filter(changed)
            .cloned()
            .collect();
        for name in changed {
            self.dial_anew(&name, now);
        }
        self.reconcile_outgoing(now);
        // The host files decide with which nodes legacy is spoken.
        self.graph.mark_dirty();
        if old.suite != self.cx.settings.suite {
            self.renew_legacy_keys(now);
        }
        let all: Vec<_> = self.nodes.by_name().collect();
        for idx in all {
            self.update_state(idx);
        }
        self.publisher.mark_dirty();
        self.dial_due(now);
    }

    /// Announces new subnets before it withdraws old ones, so an address that moves between two
    /// lines always has an owner.
    fn reload_own_subnets(&mut self, old: &Settings) {
        let wanted: BTreeSet<Subnet> = self.cx.settings.subnets.iter().copied().collect();
        let held: BTreeSet<Subnet> = old.subnets.iter().copied().collect();
        let owner = self.cx.settings.name.clone();
        for subnet in wanted.difference(&held) {
            self.insert_subnet(Nodes::ME, *subnet);
            let owner = owner.clone();
            self.flood(
                &Request::AddSubnet {
                    owner,
                    subnet: *subnet,
                },
                None,
            );
        }
        for subnet in held.difference(&wanted) {
            let owner = owner.clone();
            self.flood(
                &Request::DelSubnet {
                    owner,
                    subnet: *subnet,
                },
                None,
            );
            self.remove_subnet(Nodes::ME, *subnet);
        }
    }

    /// StrictSubnets: makes the table equal to the host files, for nodes up or down.
    pub(super) fn load_strict_subnets(&mut self, now: Instant) {
        let hosts: Vec<(NodeName, BTreeSet<Subnet>)> = self
            .cx
            .settings
            .hosts
            .iter()
            .map(|(name, host)| (name.clone(), host.subnets.iter().copied().collect()))
            .collect();
        for (name, wanted) in hosts {
            let idx = self.nodes.add(name, now);
            let held = self.nodes[idx].subnets.clone();
            wanted
                .difference(&held)
                .for_each(|subnet| self.insert_subnet(idx, *subnet));
            held.difference(&wanted)
                .for_each(|subnet| self.remove_subnet(idx, *subnet));
        }
        let unlisted: Vec<_> = self
            .nodes
            .iter()
            .filter(|(idx, node)| {
                *idx != Nodes::ME && !self.cx.settings.hosts.contains_key(node.name())
            })
            .flat_map(|(idx, node)| node.subnets.iter().map(move |subnet| (idx, *subnet)))
            .collect();
        for (idx, subnet) in unlisted {
            self.remove_subnet(idx, subnet);
        }
    }

    /// Returns the names of reachable nodes that these settings would cut off. Nodes that only get
    /// their first key are not among them.
    #[must_use]
    pub fn cut_by(&self, settings: &Settings) -> Vec<NodeName> {
        let hosts = [&*self.cx.settings, settings].map(|settings| &settings.hosts);
        let meets = |name: &NodeName| match hosts.map(|hosts| hosts.get(name)) {
            [Some(old), Some(new)] => old.key.is_none() && new.key.is_some(),
            [None, _] => true,
            [Some(_), None] => false,
        };
        let ended = self.ended_by(&self.cx.settings, settings);
        let cut = ended
            .into_iter()
            .filter(|(idx, name)| self.nodes[*idx].reachability.reachable && !meets(name));
        cut.map(|(_, name)| name).collect()
    }

    /// Returns the number of other nodes that are reachable now.
    #[must_use]
    pub fn live_nodes(&self) -> usize {
        let others = self.nodes.iter().filter(|(idx, _)| *idx != Nodes::ME);
        others
            .filter(|(_, node)| node.reachability.reachable)
            .count()
    }

    /// Returns the nodes that may have proven a key that is removed or changed in the new settings.
    /// An additional key ends no session.
    fn ended_by(&self, old: &Settings, new: &Settings) -> Vec<(NodeIdx, NodeName)> {
        let same_key = Arc::ptr_eq(&old.key, &new.key) || old.key.public() == new.key.public();
        let revoked = |name: &NodeName| match (old.hosts.get(name), new.hosts.get(name)) {
            (None, new) => new.is_some_and(|new| new.key.is_some()),
            (Some(old), None) => old.key.is_some() || old.rsa.is_some(),
            (Some(old), Some(new)) => {
                let gone = |key: &PublicKey| new.key != Some(*key) && new.next != Some(*key);
                let natives = new.native_keys();
                old.key.is_none() && new.key.is_some()
                    || old.key.iter().chain(&old.next).any(gone)
                    || old.native_keys().iter().any(|key| !natives.contains(key))
            }
        };
        let rsa =
            |of: &Settings, name: &NodeName| of.hosts.get(name).and_then(|host| host.rsa.clone());
        let other_rsa = |name: &NodeName| {
            let before = rsa(old, name);
            before.is_some() && before != rsa(new, name)
        };
        let forbidden = |node: &Node| {
            let name = node.name();
            let allowed = new.allows_legacy(name) || new.allows_hearsay(name);
            !node.reachability.dialect.caps().handshakes && (!allowed || other_rsa(name))
        };
        self.nodes
            .iter()
            .filter(|(idx, _)| *idx != Nodes::ME)
            .filter(|(_, node)| revoked(node.name()) || !same_key || forbidden(node))
            .map(|(idx, node)| (idx, node.name().clone()))
            .collect()
    }

    fn end_revoked(&mut self, old: &Settings, now: Instant) {
        for (idx, name) in self.ended_by(old, &self.cx.settings) {
            let shut_out = self.cx.settings.hosts.get(&name);
            let why = match shut_out.and_then(|host| host.shut_out.as_ref()) {
                Some(why) => format!("its host file says {why}"),
                None => "its key in the host file changed or is gone".to_owned(),
            };
            let links: Vec<LinkId> = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.node == idx)
                .map(|(id, _)| *id)
                .collect();
            for link in links {
                self.close(link, &why, now);
            }
            self.drop_keys(idx);
            self.peers.forget_dialects(idx);
            self.paths[idx].reset(None);
            self.mark_state(idx);
            tracing::info!(node = %name, "links and tunnel ended: {why}");
        }
    }
}
