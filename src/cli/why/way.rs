//! Steps of the path itself, from the first link to the firewall. Rules without IO, as in [`super::judge`].

use meshd_proto::mesh::reports::{
    path_report::{DialFailureRow, NodeReport, PathReport},
    view::{DialFault, PathKind},
};

use crate::{
    table::{age, round_trip},
    why::{
        facts::{Facts, Firewall, Kernel, Name, Step, There},
        gather::PROBES,
    },
};

/// A probe within this time shows that probes arrive; keepalives are 10 s apart.
const LATELY: f64 = 12.0;

impl Facts {
    pub(super) fn meta_path(&self) -> Step {
        let (name, node, own, net) = (Name::MetaPath, &self.node, &self.own, &self.net);
        let Some(sight) = &self.sight else {
            return Step::skipped(name, "not checked: meshd was not asked");
        };
        let missed = sight.missed.as_ref();
        let next = sight.dial.as_ref().and_then(|dial| dial.next_seconds);
        let next = next.map_or_else(String::new, |seconds| {
            format!(", next try in {}", age(seconds, true))
        });
        let cure = |missed: &DialFailureRow| match missed.fault {
            DialFault::Refused => format!(
                "On {node}: check that meshd (or tincd) runs and listens on that port: `systemctl status 'meshd@*' 'tinc@*'`, `ss -ltnp`"
            ),
            DialFault::Silent => format!(
                "On {node}: check that the machine is up and admits our TCP: `meshctl {net}firewall --verify`; here: `ip route get` the address"
            ),
            _ => format!("Run `meshctl {net}retry`; `meshctl {net}log` shows the result"),
        };
        if sight.pair.up {
            let wanted = sight.dial.is_some() && sight.peer.link.is_none();
            if let Some(missed) = missed.filter(|_| wanted) {
                let text = format!(
                    "reachable through others, but our own link to it fails: {}{next}",
                    missed.text
                );
                return Step::broken(name, text, cure(missed));
            }
            let rtt = sight
                .pair
                .rtt_seconds
                .map_or_else(String::new, |rtt| format!(", rtt {}", round_trip(rtt)));
            return Step::fine(
                name,
                match &sight.nexthop {
                    None => format!("{own} -> {node}, direct{rtt}"),
                    Some(hop) => format!("{own} -> {hop} -> … -> {node}{rtt}").replace(
                        " -> … ->",
                        match via_is(sight, hop) {
                            true => " ->",
                            false => " -> … ->",
                        },
                    ),
                },
            );
        }
        if !self.not_listening.is_empty() {
            return self.deaf(name);
        }
        match (missed, &sight.dial) {
            (Some(missed), _)
                if matches!(missed.fault, DialFault::NoAddress | DialFault::Unresolved) =>
            {
                Step::skipped(
                    name,
                    format!("down: no node reaches it, and there is no address to dial{next}"),
                )
            }
            (Some(missed), _) if missed.fault == DialFault::NoKey => {
                Step::skipped(name, "down: meshd does not dial a node without a key")
            }
            (Some(missed), _) => {
                let ago = age(missed.seconds, true);
                Step::broken(
                    name,
                    format!("down: {} ({ago} ago){next}", missed.text),
                    cure(missed),
                )
            }
            (None, Some(dial)) => {
                let to = dial
                    .now
                    .as_ref()
                    .map_or_else(String::new, |to| format!(" at {to}"));
                let cure = format!("Ask again in a moment: `meshctl {net}why {node}`");
                Step::broken(name, format!("down: it is being dialled{to}{next}"), cure)
            }
            (None, None) => {
                let cure = format!(
                    "On {node}: check that its daemon runs and has a ConnectTo; or write `ConnectTo = {node}` into {} here, then {}",
                    self.main, self.reload
                );
                Step::broken(
                    name,
                    "down: no node reaches it, and nothing here dials it",
                    cure,
                )
            }
        }
    }

    /// Returns a step for sockets that are missing on this end, with the remedy.
    fn deaf(&self, name: Name) -> Step {
        let text = format!(
            "this node does not listen on {}",
            self.not_listening.join(", ")
        );
        let cure = format!(
            "Here: find the conflict (`ip address`, `ss -lntup`), or correct ListenAddress in {}; meshd retries by itself",
            self.main
        );
        Step::broken(name, text, cure)
    }

    pub(super) fn endpoint(&self) -> Step {
        let (name, node, reload) = (Name::Endpoint, &self.node, &self.reload);
        let addresses = match &self.sight {
            Some(sight) => &sight.addresses,
            None => &self.disk.addresses,
        };
        let write = format!("Write `Address = ADDRESS` of {node} into hosts/{node}, then {reload}");
        let Some(sight) = &self.sight else {
            return match addresses.first() {
                Some(first) => Step::fine(name, format!("Address {first} in hosts/{node}")),
                None => Step::skipped(
                    name,
                    format!("no Address in hosts/{node}: it must dial, or other nodes supply one"),
                ),
            };
        };
        let udp = &sight.pair.udp;
        if let Some(at) = udp.address.as_ref().filter(|_| udp.confirmed) {
            return Step::fine(name, format!("{at} answers"));
        }
        let fault = sight.missed.as_ref().filter(|_| sight.peer.link.is_none());
        let down = !sight.pair.up;
        match fault.map(|missed| (missed.fault, &missed.text)) {
            Some((DialFault::Unresolved, text)) => {
                let cure = format!(
                    "Correct the name, or write a numeric Address into hosts/{node}; `getent hosts` shows how this machine resolves it"
                );
                return Step::broken(name, text, cure);
            }
            Some((DialFault::NoAddress, _)) if down && !addresses.is_empty() => {
                let text = format!(
                    "every Address of hosts/{node} lies inside the mesh or is invalid: {}",
                    addresses.join(", ")
                );
                return Step::broken(name, text, write);
            }
            Some((DialFault::NoAddress, _)) if down => {
                return Step::broken(
                    name,
                    format!("no Address in hosts/{node}, and no node supplies one"),
                    write,
                );
            }
            _ => {}
        }
        match (addresses.first(), sight.learned.first(), &sight.peer.link) {
            (Some(first), _, _) => Step::fine(name, format!("Address {first} in hosts/{node}")),
            (None, Some(learned), _) => {
                Step::fine(name, format!("{learned}, as seen by its neighbours"))
            }
            (None, None, Some(_)) => Step::fine(name, "by the link that it opened"),
            (None, None, None) if down => {
                Step::skipped(name, format!("no Address in hosts/{node}: it must dial"))
            }
            (None, None, None) => Step::broken(
                name,
                format!(
                    "no Address in hosts/{node}, and no node supplies one: packets go through relays"
                ),
                write,
            ),
        }
    }

    pub(super) fn udp_probe(&self) -> Step {
        let (name, node, own, net) = (Name::UdpProbe, &self.node, &self.own, &self.net);
        let Some(sight) = self.sight.as_ref().filter(|sight| sight.pair.up) else {
            return Step::skipped(name, "not tried");
        };
        let pair = &sight.pair;
        let place = self.disk.tcp_only_place.as_ref();
        let place = place.map_or_else(String::new, |place| format!(" ({place})"));
        let code = pair.reason.as_ref().map(|reason| reason.code.as_str());
        let udp = &pair.udp;
        match () {
            () if pair.tcp_only_here => {
                return Step::skipped(name, format!("TCPOnly is set here{place}: no UDP"));
            }
            () if pair.tcp_only_there => {
                return Step::skipped(name, format!("{node} sets TCPOnly{place}: no UDP"));
            }
            () if !sight.udp_discovery => {
                return Step::skipped(name, "UDPDiscovery = no: no UDP probes");
            }
            () if code == Some("legacy_cipher") => {
                let text = pair
                    .reason
                    .as_ref()
                    .map(|reason| reason.text.clone())
                    .unwrap_or_default();
                let cure = format!(
                    "On {node}: set `Cipher = aes-256-cbc` in its hosts/{node}, or give it an Ed25519 key: `meshctl {net}migrate status`"
                );
                return Step::broken(name, text, cure);
            }
            () if udp.confirmed && pair.path == PathKind::Udp => {
                let at = udp.address.as_deref().unwrap_or("-");
                let rtt = pair
                    .rtt_seconds
                    .map_or_else(String::new, |rtt| format!(", rtt {}", round_trip(rtt)));
                return Step::fine(name, format!("{at} answers{rtt}"));
            }
            () if !self.not_listening.is_empty() => return self.deaf(name),
            () if pair.indirect => {
                return Step::skipped(name, "IndirectData on the path: packets go through relays");
            }
            () if pair.protocol.is_none() => {
                return Step::skipped(name, "not tried: there is no tunnel yet");
            }
            () if udp.unanswered == 0 || udp.address.is_none() => {
                return Step::skipped(name, "not tried: no known address, or no traffic");
            }
            // The other end sends no probes for this check; its answer may still be in transit.
            () if udp.unanswered < PROBES => {
                return Step::skipped(name, "just tried: no reply yet; ask again in a second");
            }
            () if sight.key_doubted => {
                return Step::skipped(
                    name,
                    format!(
                        "no reply; meshd asks {node} for a new key, because it may have restarted; ask again in ten seconds"
                    ),
                );
            }
            () => {}
        }
        let at = udp.address.as_deref().unwrap_or("-");
        let since = self
            .silent_since
            .as_ref()
            .map_or_else(String::new, |since| format!(" since {since}"));
        let said = self.said();
        let cure = match &self.there {
            There::Says(there) if hears(there) => format!(
                "Our probes arrive, so their answers are lost: check the firewall here and on the path back. Here: `meshctl {net}firewall --verify`"
            ),
            There::Says(_) => format!(
                "Likely a firewall between {own} and {node}. On {node}: `meshctl {net}firewall --verify`, and admit UDP at its port"
            ),
            _ => format!(
                "Likely a firewall between {own} and {node}. On both ends: admit UDP at the port of each (`meshctl {net}firewall --verify` where meshd runs)"
            ),
        };
        Step::broken(
            name,
            format!("{at} no reply to {} probes{since}{said}", udp.unanswered),
            cure,
        )
    }

    fn said(&self) -> String {
        let node = &self.node;
        match &self.there {
            There::NotAsked => String::new(),
            There::CannotBeAsked => format!("; {node} does not run a meshd with native"),
            There::Silent => format!("; {node} does not answer when asked"),
            There::Says(there) if hears(there) => format!("; {node} says: our probes arrive"),
            There::Says(_) => format!("; {node} says: our packets do not arrive"),
        }
    }

    pub(super) fn path_mtu(&self) -> Step {
        let (name, node) = (Name::PathMtu, &self.node);
        let up = self
            .sight
            .as_ref()
            .filter(|sight| sight.pair.up && sight.pair.udp.confirmed);
        let Some(sight) = up else {
            return Step::skipped(name, "not tried");
        };
        let mtu = &sight.pair.mtu;
        match (mtu.proven_bytes, mtu.fixed) {
            _ if mtu.too_small => {
                let cure = format!(
                    "The path drops longer datagrams: try `ping -M do -s 1000` to the endpoint of {node}, and admit ICMP \"fragmentation needed\""
                );
                Step::broken(
                    name,
                    "not even packets of 512 bytes pass by UDP: long ones go over TCP",
                    cure,
                )
            }
            (Some(bytes), true) => Step::fine(name, format!("packets of {bytes} bytes pass")),
            (Some(bytes), false) => Step::skipped(name, format!("search runs; {bytes} bytes pass")),
            (None, _) => Step::skipped(name, "still searched"),
        }
    }

    pub(super) fn subnet_owner(&self) -> Step {
        let (name, node) = (Name::SubnetOwner, self.node.as_str());
        let Some(first) = self.subnets.first() else {
            return Step::skipped(name, format!("{node} has no accepted subnet"));
        };
        let net = &self.net;
        let owner = |owner: &Option<String>| owner.clone().unwrap_or_else(|| "(broadcast)".into());
        if self.asked.is_some() {
            let standby: Vec<String> = self
                .subnets
                .iter()
                .filter(|row| !row.active && row.reachable)
                .map(|row| format!("{} (weight {})", owner(&row.owner), row.weight))
                .collect();
            let standby = match standby.join(", ") {
                none if none.is_empty() => none,
                all => format!("; standby {all}"),
            };
            let used = self.subnets.iter().find(|row| row.active);
            return match used {
                Some(used) => Step::fine(
                    name,
                    format!(
                        "{} -> {} (weight {}){standby}",
                        used.subnet,
                        owner(&used.owner),
                        used.weight
                    ),
                ),
                None if self.sight.is_none() => Step::fine(
                    name,
                    format!(
                        "{} -> {} (weight {}), according to the host files",
                        first.subnet,
                        owner(&first.owner),
                        first.weight
                    ),
                ),
                None => Step::broken(
                    name,
                    format!("{} has no reachable owner", first.subnet),
                    format!("Start one of its owners: `meshctl {net}routes`"),
                ),
            };
        }
        let others = self
            .subnets
            .iter()
            .filter(|row| row.owner.as_deref() != Some(node));
        let served: Vec<String> = others
            .filter(|row| row.active)
            .map(|row| {
                format!(
                    "{} goes to {} (weight {})",
                    row.subnet,
                    owner(&row.owner),
                    row.weight
                )
            })
            .collect();
        let own: Vec<&str> = self
            .subnets
            .iter()
            .filter(|row| row.owner.as_deref() == Some(node))
            .map(|row| row.subnet.as_str())
            .collect();
        match served.is_empty() {
            true => Step::fine(name, format!("{} -> {node}", own.join(", "))),
            false => Step::fine(
                name,
                format!("{} -> {node}; {}", own.join(", "), served.join(", ")),
            ),
        }
    }

    pub(super) fn local_route(&self) -> Step {
        let (name, main, reload) = (Name::LocalRoute, &self.main, &self.reload);
        let cure = |address: &str, ours: &str| {
            format!(
                "`ip route replace {address} dev {ours}`; to keep it: `InterfaceRoute = auto` in {main}, then {reload}"
            )
        };
        match &self.kernel {
            Kernel::NotLooked(why) => Step::skipped(name, why),
            Kernel::To {
                address,
                interface,
                ours,
                source,
            } if interface == ours => {
                let source = source
                    .as_ref()
                    .map_or_else(String::new, |source| format!(", source {source}"));
                Step::fine(name, format!("{address} dev {interface}{source}"))
            }
            Kernel::To {
                address,
                interface,
                ours,
                ..
            } => Step::broken(
                name,
                format!("the kernel sends {address} out of {interface}, not {ours}"),
                cure(address, ours),
            ),
            Kernel::No { address, ours, why } => Step::broken(
                name,
                format!("the kernel has no route to {address}: {why}"),
                cure(address, ours),
            ),
        }
    }

    pub(super) fn firewall(&self) -> Step {
        let (name, net) = (Name::Firewall, &self.net);
        let through = self
            .sight
            .as_ref()
            .is_some_and(|sight| sight.pair.udp.confirmed);
        match &self.firewall {
            Firewall::NotLooked(why) => Step::skipped(name, format!("not checked: {why}")),
            Firewall::Open(what) => Step::fine(name, what),
            Firewall::Unsure(what) => Step::skipped(name, what),
            Firewall::Closed(rule) if through => {
                Step::skipped(name, format!("{rule}; packets still pass, as answers"))
            }
            Firewall::Closed(rule) => Step::broken(
                name,
                rule,
                format!("Admit the port: `meshctl {net}firewall --format nft` prints the rules"),
            ),
        }
    }
}

/// True if our last probes arrived there.
pub(super) fn hears(there: &PathReport) -> bool {
    there
        .udp
        .heard_seconds
        .is_some_and(|seconds| seconds < LATELY)
}

/// True if the neighbour that lines go to is the only relay.
fn via_is(sight: &NodeReport, hop: &str) -> bool {
    sight.pair.via.as_deref() == Some(hop)
}
