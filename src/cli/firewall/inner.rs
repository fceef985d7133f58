//! Makes rules from Allow for traffic that leaves the mesh device: text for each tool, without IO. If one Allow line
//! exists, all other traffic is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
    sync::Arc,
};

use meshd_config::{
    Config,
    allow::{Allow, What, Whom},
};
use meshd_proto::mesh::settings::Host;
use meshd_wire::{NodeName, Prefix};

type Hosts = BTreeMap<NodeName, Arc<Host>>;

/// The Allow lines of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inner {
    /// The device.
    pub(super) interface: String,
    pub(super) rules: Vec<Rule>,
}

/// One Allow line with the nodes that match it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) line: Allow,
    /// Subnets of those nodes; `None`: all.
    pub(super) from: Option<BTreeSet<Prefix>>,
}

/// A packet that the rules must accept or drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) node: NodeName,
    pub(super) address: IpAddr,
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    pub(super) wanted: bool,
}

impl Inner {
    /// Returns `None` if there is no Allow line. `hosts` holds the host-file statements in force now.
    pub(super) fn new(config: &Config, hosts: &Hosts, interface: &str) -> Option<Self> {
        let lines = config.shell.allow.iter();
        let rules: Vec<Rule> = lines.map(|line| rule_of(hosts, line)).collect();
        (!rules.is_empty()).then(|| Self {
            interface: interface.to_owned(),
            rules,
        })
    }

    /// Returns lines for an nftables table: sets, and a chain `mesh` that accepts or drops.
    pub(super) fn nft(&self) -> String {
        let (mut sets, mut accepts) = (String::new(), String::new());
        for (number, rule) in self.rules.iter().enumerate() {
            let what = match rule.line.to {
                What::All => String::new(),
                What::Icmp => "meta l4proto { icmp, ipv6-icmp } ".into(),
                What::Ports {
                    protocol,
                    first,
                    last,
                } => format!("{protocol} dport {} ", span(first, last, '-')),
            };
            let Some(from) = &rule.from else {
                put(&mut accepts, format_args!("\t\t{what}accept\n"));
                continue;
            };
            for (v4, family, kind) in [(true, "ip", "ipv4_addr"), (false, "ip6", "ipv6_addr")] {
                let all = of_family(from, v4);
                if all.is_empty() {
                    continue;
                }
                let set = format!("allow{number}_{family}");
                put(
                    &mut sets,
                    format_args!(
                        "\tset {set} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge\n\t\telements = {{ {} }}\n\t}}\n",
                        all.join(", ")
                    ),
                );
                put(
                    &mut accepts,
                    format_args!("\t\t{family} saddr @{set} {what}accept\n"),
                );
            }
        }
        // conntrack has no flow for neighbour discovery on a TAP device.
        format!(
            "{sets}\tchain mesh {{\n\t\ticmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n{accepts}\t\tdrop\n\t}}\n"
        )
    }

    /// Makes each rule for each subnet and service, by `line`. The subnet is `None` for any source.
    fn each(&self, line: impl Fn(Option<&Prefix>, What) -> String) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            match &rule.from {
                None => text.push_str(&line(None, rule.line.to)),
                Some(from) => from
                    .iter()
                    .for_each(|from| text.push_str(&line(Some(from), rule.line.to))),
            }
        }
        text
    }

    /// Returns commands of ufw, for this machine and for forwarded traffic. `comment` marks the rules.
    pub(super) fn ufw(&self, comment: &str) -> String {
        let on = &self.interface;
        let mut text = self.each(|from, to| {
            let from = from.map_or_else(|| "any".into(), ToString::to_string);
            let what = match to {
                What::All => " to any".into(),
                What::Icmp => {
                    return format!(
                        "# icmp from {from}: /etc/ufw/before.rules admits ICMP from every source\n"
                    );
                }
                What::Ports {
                    protocol,
                    first,
                    last,
                } => format!(" to any port {} proto {protocol}", span(first, last, ':')),
            };
            ["", "route "]
                .map(|route| format!("ufw {route}allow in on {on} from {from}{what} {comment}\n"))
                .concat()
        });
        // ufw would treat it as a change of a rule that admits all.
        let open = |rule: &Rule| rule.from.is_none() && rule.line.to == What::All;
        if self.rules.iter().any(open) {
            return text;
        }
        for route in ["", "route "] {
            put(
                &mut text,
                format_args!("ufw {route}deny in on {on} {comment}\n"),
            );
        }
        text
    }

    /// Returns commands of firewalld: a zone of its own for the device, which drops all other traffic. `zone` is its
    /// name.
    pub(super) fn firewalld(&self, zone: &str) -> String {
        let cmd = |rest: &str| format!("firewall-cmd --permanent {rest}\n");
        let of_zone = |rest: &str| cmd(&format!("--zone={zone} {rest}"));
        let device = &self.interface;
        // A device is in one zone only, and an earlier release may have used another name.
        let mut text = format!(
            "case \"$(firewall-cmd --permanent --get-zone-of-interface={device} 2>/dev/null)\" in meshd_*) \
             firewall-cmd --permanent --remove-interface={device} \
             --zone=\"$(firewall-cmd --permanent --get-zone-of-interface={device})\" ;; esac\n\
             firewall-cmd --permanent --delete-zone={zone} 2>/dev/null || true\n"
        );
        text.push_str(&cmd(&format!("--new-zone={zone}")));
        text.push_str(&of_zone("--set-target=DROP"));
        text.push_str(&of_zone(&format!("--add-interface={device}")));
        text.push_str(&self.each(|from, to| {
            let families = match from {
                None => vec![("ipv4", "icmp"), ("ipv6", "ipv6-icmp")],
                Some(Prefix::V6(..)) => vec![("ipv6", "ipv6-icmp")],
                Some(_) => vec![("ipv4", "icmp")],
            };
            let rules = families.into_iter().map(|(family, icmp)| {
                let from = match (from, family) {
                    (Some(from), _) => from.to_string(),
                    (None, "ipv4") => "0.0.0.0/0".into(),
                    (None, _) => "::/0".into(),
                };
                let what = match to {
                    What::All => String::new(),
                    What::Icmp => format!(" protocol value=\"{icmp}\""),
                    What::Ports {
                        protocol,
                        first,
                        last,
                    } => format!(" port port=\"{}\" protocol=\"{protocol}\"", span(first, last, '-')),
                };
                of_zone(&format!(
                    "--add-rich-rule='rule family=\"{family}\" source address=\"{from}\"{what} accept'"
                ))
            });
            rules.collect()
        }));
        text
    }

    /// Returns test packets: the first address of each node, at each service in a line and at one other. ICMP is not
    /// checked.
    pub(super) fn cases(&self, hosts: &Hosts) -> Vec<Case> {
        let mut services: BTreeSet<(&'static str, u16)> = BTreeSet::new();
        for rule in &self.rules {
            if let What::Ports {
                protocol, first, ..
            } = rule.line.to
            {
                services.insert((protocol, first));
            }
        }
        let named = |port| {
            let mut lines = self.rules.iter().map(|rule| rule.line.to);
            lines.any(|to| to != What::All && reaches(to, "tcp", port))
        };
        let unnamed = (1..=u16::MAX).find(|port| !named(*port));
        services.extend(unnamed.map(|port| ("tcp", port)));
        let mut cases = Vec::new();
        for (node, host) in hosts {
            let first = host.subnets.iter().find_map(|subnet| match subnet.prefix {
                Prefix::V4(net, 32) => Some(IpAddr::from(net)),
                Prefix::V6(net, 128) => Some(net.into()),
                Prefix::V4(net, _) => Some(std::net::Ipv4Addr::from_bits(net.to_bits() | 1).into()),
                Prefix::V6(net, _) => Some(std::net::Ipv6Addr::from_bits(net.to_bits() | 1).into()),
                Prefix::Mac(_) => None,
            });
            let Some(address) = first else { continue };
            let lets = |rule: &Rule, protocol: &str, port: u16| {
                let from = rule.from.as_ref();
                let meant =
                    from.is_none_or(|from| from.iter().any(|prefix| prefix.contains(address)));
                meant && reaches(rule.line.to, protocol, port)
            };
            cases.extend(services.iter().map(|(protocol, port)| Case {
                node: node.clone(),
                address,
                protocol,
                port: *port,
                wanted: self.rules.iter().any(|rule| lets(rule, protocol, *port)),
            }));
        }
        cases
    }
}

/// Returns the nodes that a line matches.
fn rule_of(hosts: &Hosts, line: &Allow) -> Rule {
    let meant = hosts
        .iter()
        .filter(|(name, host)| line.from.means(name, host));
    let subnets = meant
        .flat_map(|(_, host)| &host.subnets)
        .map(|subnet| subnet.prefix);
    Rule {
        line: line.clone(),
        from: (line.from != Whom::All).then(|| subnets.filter(is_ip).collect()),
    }
}

/// True if the service includes the port.
fn reaches(what: What, wanted: &str, port: u16) -> bool {
    match what {
        What::All => true,
        What::Icmp => false,
        What::Ports {
            protocol,
            first,
            last,
        } => protocol == wanted && (first..=last).contains(&port),
    }
}

fn is_ip(prefix: &Prefix) -> bool {
    !matches!(prefix, Prefix::Mac(_))
}

fn of_family(all: &BTreeSet<Prefix>, v4: bool) -> Vec<String> {
    let those = all
        .iter()
        .filter(|prefix| matches!(prefix, Prefix::V4(..)) == v4);
    those.map(ToString::to_string).collect()
}

/// Formats one port, or a range of ports.
fn span(first: u16, last: u16, between: char) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}{between}{last}"),
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what)
        .expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests;
