//! Addresses and routes of our device: set once at the start, and with InterfaceRoute = auto updated with the subnets
//! of reachable nodes.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::sync::mpsc;

use meshd_config::Shell;
use meshd_os::netlink::{Interface, NetlinkError};
use meshd_proto::mesh::HookEvent;
use meshd_wire::{NodeName, Prefix};

/// Applies the configuration; logs failures and continues.
pub(super) async fn configure(shell: &Shell, interface: &str) {
    let asked = !shell.interface_addresses.is_empty()
        || !shell.interface_routes.networks.is_empty()
        || shell.interface_mtu.is_some()
        || shell.interface_routes.auto;
    if !asked {
        return;
    }
    let device = match Interface::open(interface) {
        Ok(device) => device,
        Err(error) => return tracing::error!(interface, %error, "cannot configure the interface"),
    };
    let report = |what: String, done: Result<(), NetlinkError>| {
        if let Err(error) = done {
            tracing::error!(interface, %error, "cannot set {what}");
        }
    };
    report("it up".into(), device.set_up(shell.interface_mtu).await);
    for (addr, len) in &shell.interface_addresses {
        let done = device.add_address(*addr, *len).await;
        report(format!("the address {addr}/{len}"), done);
    }
    for (net, len) in &shell.interface_routes.networks {
        let done = device.add_route(*net, *len).await;
        report(format!("the route {net}/{len}"), done);
    }
}

/// Keeps a route into the device for every prefix of a reachable node.
#[derive(Debug)]
pub(super) struct RouteFollower {
    changes: mpsc::UnboundedSender<(bool, IpAddr, u8)>,
    owners: BTreeMap<Prefix, Vec<NodeName>>,
}

impl RouteFollower {
    /// Follows subnets on this device; its task works in order. Existing routes from before a restart count as ours
    /// (`me`) until [`Self::settle`].
    pub(super) fn start(
        interface: &str,
        kept: &[(IpAddr, u8)],
        me: &NodeName,
    ) -> Result<Self, NetlinkError> {
        let device = Interface::open(interface)?;
        // At most two messages for each change of a prefix, and the mesh limits the number of prefixes.
        let (changes, mut queue) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((up, net, len)) = queue.recv().await {
                let done = match up {
                    true => device.add_route(net, len).await,
                    false => device.remove_route(net, len).await,
                };
                if let Err(error) = done {
                    tracing::warn!(%net, len, %error, "cannot change a route");
                }
            }
        });
        let prefixes = kept.iter().map(|(net, len)| Prefix::network(*net, *len));
        Ok(Self {
            changes,
            owners: prefixes.map(|prefix| (prefix, vec![me.clone()])).collect(),
        })
    }

    /// Removes kept routes that no node has claimed.
    pub(super) fn settle(&mut self, me: &NodeName) {
        for change in settle(&mut self.owners, me) {
            let _ = self.changes.send(change);
        }
    }

    /// Returns the present routes.
    pub(super) fn routes(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.owners.keys().filter_map(network)
    }

    /// Handles a subnet that appears or disappears.
    pub(super) fn follow(&mut self, event: &HookEvent, me: &NodeName) {
        if let Some(change) = change(&mut self.owners, event, me) {
            let _ = self.changes.send(change);
        }
    }
}

fn network(prefix: &Prefix) -> Option<(IpAddr, u8)> {
    match *prefix {
        Prefix::V4(net, len) => Some((net.into(), len)),
        Prefix::V6(net, len) => Some((net.into(), len)),
        Prefix::Mac(_) => None,
    }
}

/// Returns the routes to remove, whose only owner is our node.
fn settle(owners: &mut BTreeMap<Prefix, Vec<NodeName>>, me: &NodeName) -> Vec<(bool, IpAddr, u8)> {
    let mut unclaimed = Vec::new();
    owners.retain(|prefix, of| {
        of.retain(|owner| owner != me);
        if of.is_empty() {
            unclaimed.extend(network(prefix).map(|(net, len)| (false, net, len)));
        }
        !of.is_empty()
    });
    unclaimed
}

/// Returns the route to add or remove, after the first owner came or the last one left.
fn change(
    owners: &mut BTreeMap<Prefix, Vec<NodeName>>,
    event: &HookEvent,
    me: &NodeName,
) -> Option<(bool, IpAddr, u8)> {
    let HookEvent::Subnet {
        up, node, subnet, ..
    } = event
    else {
        return None;
    };
    let prefix = subnet.prefix.masked();
    let (net, len) = network(&prefix)?;
    if node == me {
        return None;
    }
    let of = owners.entry(prefix).or_default();
    let before = of.is_empty();
    of.retain(|owner| owner != node);
    if *up {
        of.push(node.clone());
    }
    let after = of.is_empty();
    if after {
        owners.remove(&prefix);
    }
    (before != after).then_some((*up, net, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_lives_from_its_first_owner_to_its_last() {
        let name = |text| NodeName::new(text).unwrap();
        let mut owners = BTreeMap::new();
        let mut event = |up, node, subnet: &str| {
            let event = HookEvent::Subnet {
                up,
                node: name(node),
                subnet: subnet.parse().unwrap(),
                address: None,
            };
            change(&mut owners, &event, &name("me"))
        };
        let net: IpAddr = [10, 1, 0, 0].into();
        assert_eq!(event(true, "me", "10.1.0.0/16"), None);
        assert_eq!(event(true, "a", "10.1.0.0/16"), Some((true, net, 16)));
        assert_eq!(event(true, "b", "10.1.0.0/16#5"), None);
        assert_eq!(event(false, "a", "10.1.0.0/16"), None);
        assert_eq!(event(false, "b", "10.1.0.0/16#5"), Some((false, net, 16)));
        assert_eq!(event(false, "b", "10.1.0.0/16#5"), None);
        assert_eq!(event(true, "a", "0:0:0:0:0:1"), None);
    }

    #[test]
    fn kept_routes_stay_where_a_node_has_claimed_them() {
        let name = |text| NodeName::new(text).unwrap();
        let nets: [IpAddr; 2] = [[10, 1, 0, 0].into(), [10, 2, 0, 0].into()];
        let kept = nets.map(|net| (Prefix::network(net, 16), vec![name("me")]));
        let mut owners = BTreeMap::from(kept);
        let event = HookEvent::Subnet {
            up: true,
            node: name("a"),
            subnet: "10.1.0.0/16".parse().unwrap(),
            address: None,
        };
        assert_eq!(change(&mut owners, &event, &name("me")), None);
        let unclaimed = settle(&mut owners, &name("me"));
        assert_eq!(unclaimed, [(false, nets[1], 16)]);
        assert_eq!(owners.len(), 1);
    }
}
