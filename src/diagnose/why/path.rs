//! The steps that lead to a node: the way of its lines, and an address.

use meshd_api::report::{DialFailureRow, NodeReport};
use meshd_proto::mesh::reports::facts::DialFault;

use crate::{
    Code, Finding,
    units::{age, round_trip},
    why::{PathFacts, Step},
};

impl PathFacts {
    pub(super) fn meta_path(&self) -> Finding {
        match &self.report {
            None => {
                let text = "not checked: meshd was not asked";
                Finding::new(Code::NotChecked, Step::MetaPath, text)
            }
            Some(report) if report.pair.up => self.lines_arrive(report),
            Some(_) if !self.not_listening.is_empty() => self.deaf(Step::MetaPath),
            Some(report) => self.down(report),
        }
    }

    fn lines_arrive(&self, report: &NodeReport) -> Finding {
        let (node, own) = (self.node(), &self.here.node);
        let wanted = report.dial.is_some() && report.peer.link.is_none();
        if let Some(missed) = report.missed.as_ref().filter(|_| wanted) {
            let text = format!(
                "reachable through others, but our own link to it fails: {}{}",
                missed.text,
                next_try(report)
            );
            let step = Finding::new(Code::LinkFails, Step::MetaPath, text);
            return step.remedy(self.dial_remedy(missed));
        }
        let rtt = rtt(report);
        let text = match &report.nexthop {
            None => format!("{own} -> {node}, direct{rtt}"),
            // The neighbour that lines go to may be the only relay.
            Some(hop) if report.pair.via.as_ref() == Some(hop) => {
                format!("{own} -> {hop} -> {node}{rtt}")
            }
            Some(hop) => format!("{own} -> {hop} -> … -> {node}{rtt}"),
        };
        Finding::new(Code::LinesArrive, Step::MetaPath, text)
    }

    fn down(&self, report: &NodeReport) -> Finding {
        let (node, net) = (self.node(), self.here.option());
        let next = next_try(report);
        let found = |code, text: String| Finding::new(code, Step::MetaPath, text);
        match (&report.missed, &report.dial) {
            (Some(missed), _) => match missed.fault {
                DialFault::NoAddress | DialFault::Unresolved => found(
                    Code::NotDialled,
                    format!("down: no node reaches it, and there is no address to dial{next}"),
                ),
                DialFault::NoKey => found(
                    Code::NotDialled,
                    "down: meshd does not dial a node without a key".into(),
                ),
                DialFault::Refused | DialFault::Silent | DialFault::Handshake => {
                    let ago = age(missed.seconds, true);
                    let text = format!("down: {} ({ago} ago){next}", missed.text);
                    found(Code::CannotConnect, text).remedy(self.dial_remedy(missed))
                }
            },
            (None, Some(dial)) => {
                let to = dial.now.map_or_else(String::new, |to| format!(" at {to}"));
                let remedy = format!("Ask again in a moment: `meshctl {net}why {node}`");
                let text = format!("down: it is being dialled{to}{next}");
                found(Code::Dialling, text).remedy(remedy)
            }
            (None, None) => {
                let remedy = format!(
                    "On {node}: check that its daemon runs and has a ConnectTo; or write `ConnectTo = {node}` into {} here, then {}",
                    self.here.main,
                    self.here.reload()
                );
                let text = "down: no node reaches it, and nothing here dials it";
                found(Code::NoPath, text.into()).remedy(remedy)
            }
        }
    }

    fn dial_remedy(&self, missed: &DialFailureRow) -> String {
        let (node, net) = (self.node(), self.here.option());
        match missed.fault {
            DialFault::Refused => format!(
                "On {node}: check that meshd (or tincd) runs and listens on that port: `systemctl status 'meshd@*' 'tinc@*'`, `ss -ltnp`"
            ),
            DialFault::Silent => format!(
                "On {node}: check that the machine is up and admits our TCP: `meshctl {net}firewall --verify`; here: `ip route get` the address"
            ),
            DialFault::NoKey
            | DialFault::NoAddress
            | DialFault::Unresolved
            | DialFault::Handshake => {
                format!("Run `meshctl {net}retry`; `meshctl {net}log` shows the result")
            }
        }
    }

    /// Returns a step for sockets that are missing on this end, with the remedy.
    pub(super) fn deaf(&self, step: Step) -> Finding {
        let text = format!(
            "this node does not listen on {}",
            self.not_listening.join(", ")
        );
        let remedy = format!(
            "Here: find the conflict (`ip address`, `ss -lntup`), or correct ListenAddress in {}; meshd retries by itself",
            self.here.main
        );
        Finding::new(Code::NotListening, step, text).remedy(remedy)
    }

    pub(super) fn endpoint(&self) -> Finding {
        let node = self.node();
        let found = |code, text: String| Finding::new(code, Step::Endpoint, text);
        let Some(report) = &self.report else {
            return match self.disk.addresses.first() {
                Some(first) => found(
                    Code::AddressKnown,
                    format!("Address {first} in hosts/{node}"),
                ),
                None => found(
                    Code::AddressUnknown,
                    format!("no Address in hosts/{node}: it must dial, or other nodes supply one"),
                ),
            };
        };
        let udp = &report.pair.udp;
        if let Some(at) = udp.address.filter(|_| udp.confirmed) {
            return found(Code::UdpAnswers, format!("{at} answers"));
        }
        self.address_fault(report)
            .unwrap_or_else(|| self.address(report))
    }

    fn write_address(&self) -> String {
        let node = self.node();
        format!(
            "Write `Address = ADDRESS` of {node} into hosts/{node}, then {}",
            self.here.reload()
        )
    }

    /// Returns a step if a dial failed because of the address.
    fn address_fault(&self, report: &NodeReport) -> Option<Finding> {
        let node = self.node();
        let found = |code, text: String| Finding::new(code, Step::Endpoint, text);
        let missed = report.missed.as_ref();
        let missed = missed.filter(|_| report.peer.link.is_none())?;
        match missed.fault {
            DialFault::Unresolved => {
                let remedy = format!(
                    "Correct the name, or write a numeric Address into hosts/{node}; `getent hosts` shows how this machine resolves it"
                );
                Some(found(Code::AddressUnresolved, missed.text.clone()).remedy(remedy))
            }
            DialFault::NoAddress if report.pair.up => None,
            DialFault::NoAddress if report.addresses.is_empty() => {
                let text = format!("no Address in hosts/{node}, and no node supplies one");
                Some(found(Code::NoAddress, text).remedy(self.write_address()))
            }
            DialFault::NoAddress => {
                let text = format!(
                    "every Address of hosts/{node} lies inside the mesh or is invalid: {}",
                    report.addresses.join(", ")
                );
                Some(found(Code::AddressInside, text).remedy(self.write_address()))
            }
            DialFault::NoKey | DialFault::Refused | DialFault::Silent | DialFault::Handshake => {
                None
            }
        }
    }

    fn address(&self, report: &NodeReport) -> Finding {
        let node = self.node();
        let found = |code, text: String| Finding::new(code, Step::Endpoint, text);
        let known = |text: String| found(Code::AddressKnown, text);
        match (
            report.addresses.first(),
            report.learned.first(),
            report.peer.link,
        ) {
            (Some(first), _, _) => known(format!("Address {first} in hosts/{node}")),
            (None, Some(learned), _) => known(format!("{learned}, as seen by its neighbours")),
            (None, None, Some(_)) => known("by the link that it opened".into()),
            (None, None, None) if !report.pair.up => found(
                Code::AddressUnknown,
                format!("no Address in hosts/{node}: it must dial"),
            ),
            (None, None, None) => {
                let text = format!(
                    "no Address in hosts/{node}, and no node supplies one: packets go through relays"
                );
                found(Code::NoAddress, text).remedy(self.write_address())
            }
        }
    }
}

fn next_try(report: &NodeReport) -> String {
    let next = report.dial.as_ref().and_then(|dial| dial.next_seconds);
    next.map_or_else(String::new, |seconds| {
        format!(", next try in {}", age(seconds, true))
    })
}

/// Returns `, rtt 0.5ms`, or nothing.
pub(super) fn rtt(report: &NodeReport) -> String {
    let rtt = report.pair.rtt_seconds;
    rtt.map_or_else(String::new, |rtt| format!(", rtt {}", round_trip(rtt)))
}
