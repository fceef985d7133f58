//! The steps on this machine: the owner of the subnet, the kernel's route, the firewall.

use meshd_api::proto::SubnetRow;

use crate::{
    Code, Finding,
    why::{Firewall, Kernel, PathFacts, Step},
};

impl PathFacts {
    pub(super) fn subnet_owner(&self) -> Finding {
        let node = self.node();
        let found = |code, text: String| Finding::new(code, Step::SubnetOwner, text);
        let subnets = &self.target.subnets;
        let Some(first) = subnets.first() else {
            return found(
                Code::SubnetMissing,
                format!("{node} has no accepted subnet"),
            );
        };
        if self.target.asked.is_some() {
            return self.owner_of(first);
        }
        let of_node = |row: &&SubnetRow| row.owner.as_deref() == Some(node);
        let own: Vec<String> = subnets
            .iter()
            .filter(of_node)
            .map(|row| row.subnet.to_string())
            .collect();
        let others = subnets.iter().filter(|row| !of_node(row) && row.active);
        let served: Vec<String> = others
            .map(|row| format!("{} goes to {}", row.subnet, owner(row)))
            .collect();
        let text = format!("{} -> {node}", own.join(", "));
        let text = match served.is_empty() {
            true => text,
            false => format!("{text}; {}", served.join(", ")),
        };
        found(Code::OwnerKnown, text)
    }

    /// Returns the step for a request by address; `first` is the best subnet that holds it.
    fn owner_of(&self, first: &SubnetRow) -> Finding {
        let found = |code, text: String| Finding::new(code, Step::SubnetOwner, text);
        let mut subnets = self.target.subnets.iter();
        let standby = subnets.clone().filter(|row| !row.active && row.reachable);
        let standby: Vec<String> = standby.map(owner).collect();
        let standby = match standby.join(", ") {
            none if none.is_empty() => none,
            all => format!("; standby {all}"),
        };
        match subnets.find(|row| row.active) {
            Some(used) => {
                let text = format!("{} -> {}{standby}", used.subnet, owner(used));
                found(Code::OwnerKnown, text)
            }
            None if self.report.is_none() => {
                let (subnet, owner) = (first.subnet, owner(first));
                let text = format!("{subnet} -> {owner}, according to the host files");
                found(Code::OwnerKnown, text)
            }
            None => {
                let net = self.here.option();
                let remedy = format!("Start one of its owners: `meshctl {net}routes`");
                let text = format!("{} has no reachable owner", first.subnet);
                found(Code::OwnerDown, text).remedy(remedy)
            }
        }
    }

    pub(super) fn local_route(&self) -> Finding {
        let found = |code, text: String| Finding::new(code, Step::LocalRoute, text);
        let remedy = |address: &str, ours: &str| {
            let (main, reload) = (&self.here.main, self.here.reload());
            format!(
                "`ip route replace {address} dev {ours}`; to keep it: `InterfaceRoute = auto` in {main}, then {reload}"
            )
        };
        match &self.kernel {
            Kernel::Unchecked(why) => found(Code::NotChecked, format!("not checked: {why}")),
            Kernel::NotSeen(why) => found(Code::NotSeen, format!("not known from here: {why}")),
            Kernel::To {
                address,
                interface,
                ours,
                source,
            } if interface == ours => {
                let source = source.as_ref();
                let source = source.map_or_else(String::new, |source| format!(", source {source}"));
                found(
                    Code::RouteKnown,
                    format!("{address} dev {interface}{source}"),
                )
            }
            Kernel::To {
                address,
                interface,
                ours,
                ..
            } => {
                let text = format!("the kernel sends {address} out of {interface}, not {ours}");
                found(Code::RouteElsewhere, text).remedy(remedy(address, ours))
            }
            Kernel::No { address, ours, why } => {
                let text = format!("the kernel has no route to {address}: {why}");
                found(Code::RouteMissing, text).remedy(remedy(address, ours))
            }
        }
    }

    pub(super) fn firewall(&self) -> Finding {
        let found = |code, text: String| Finding::new(code, Step::Firewall, text);
        let report = self.report.as_ref();
        let through = report.is_some_and(|report| report.pair.udp.confirmed);
        match &self.firewall {
            Firewall::Unchecked(why) => found(Code::NotChecked, format!("not checked: {why}")),
            Firewall::Open(what) => found(Code::FirewallOpen, what.clone()),
            Firewall::ProbesArrive(from) => {
                found(Code::FirewallOpen, format!("probes of {from} arrive"))
            }
            Firewall::Unsure(what) => found(Code::FirewallUnsure, what.clone()),
            Firewall::Closed(rule) if through => {
                let text = format!("{rule}; packets still pass, as answers");
                found(Code::FirewallAnswers, text)
            }
            Firewall::Closed(rule) => {
                let net = self.here.option();
                let remedy = format!(
                    "Admit the port: `meshctl {net}firewall --format nft` prints the rules"
                );
                found(Code::FirewallClosed, rule.clone()).remedy(remedy)
            }
        }
    }
}

/// Returns `db_02 (weight 10)`.
fn owner(row: &SubnetRow) -> String {
    let owner = row.owner.as_deref().unwrap_or("(broadcast)");
    format!("{owner} (weight {})", row.weight)
}
