//! Our device's addresses and routes: once at the start, and with the subnets of reachable nodes
//! where InterfaceRoute = auto.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::sync::mpsc;

use crate::{
    config::Shell,
    io::netlink::{Interface, NetlinkError},
    mesh::HookEvent,
    wire::{NodeName, Prefix},
};

/// Makes the settings of the configuration; what fails is said, and the rest still made.
pub(super) async fn configure(shell: &Shell, interface: &str) {
    let asked = !shell.interface_addresses.is_empty()
        || !shell.interface_routes.is_empty()
        || shell.interface_mtu.is_some()
        || shell.interface_routes_auto;
    if !asked {
        return;
    }
    let device = match Interface::open(interface) {
        Ok(device) => device,
        Err(error) => return tracing::error!(interface, %error, "cannot be configured"),
    };
    let said = |what: String, done: Result<(), NetlinkError>| {
        if let Err(error) = done {
            tracing::error!(interface, %error, "cannot set {what}");
        }
    };
    said("it up".into(), device.set_up(shell.interface_mtu).await);
    for (addr, len) in &shell.interface_addresses {
        let done = device.add_address(*addr, *len).await;
        said(format!("the address {addr}/{len}"), done);
    }
    for (net, len) in &shell.interface_routes {
        let done = device.add_route(*net, *len).await;
        said(format!("the route {net}/{len}"), done);
    }
}

/// Keeps a route into the device for every prefix that a reachable node owns.
#[derive(Debug)]
pub(super) struct Follower {
    changes: mpsc::UnboundedSender<(bool, IpAddr, u8)>,
    owners: BTreeMap<Prefix, Vec<NodeName>>,
}

impl Follower {
    /// Follows subnets on this device; its task does the work, in order.
    pub(super) fn start(interface: &str) -> Result<Self, NetlinkError> {
        let device = Interface::open(interface)?;
        // At most two messages a change of a prefix whose number the mesh bounds.
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
        Ok(Self {
            changes,
            owners: BTreeMap::new(),
        })
    }

    /// Takes a subnet's coming or going.
    pub(super) fn follow(&mut self, event: &HookEvent, me: &NodeName) {
        if let Some(change) = change(&mut self.owners, event, me) {
            let _ = self.changes.send(change);
        }
    }
}

/// The route to add or remove, if the first owner came or the last one went.
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
    let (net, len): (IpAddr, u8) = match prefix {
        Prefix::V4(net, len) => (net.into(), len),
        Prefix::V6(net, len) => (net.into(), len),
        Prefix::Mac(_) => return None,
    };
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
}
