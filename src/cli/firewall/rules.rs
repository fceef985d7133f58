//! Makes rules that admit only our peers at our port: text for each tool, without IO.

use std::{collections::BTreeSet, net::IpAddr};

use super::{inner::Inner, name};
use crate::args::Tool;

/// Input of the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Net name, or the node's name without a net.
    pub(super) name: String,
    pub(super) port: u16,
    /// The interface to all peers, if it is the same for all.
    pub(super) interface: Option<String>,
    /// Numeric addresses of the peers.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Rules from Allow, if Allow lines exist.
    pub(super) inner: Option<Inner>,
}

impl Plan {
    fn of_family(&self, v4: bool) -> Vec<String> {
        let those = self.addresses.iter().filter(|at| at.is_ipv4() == v4);
        those.map(ToString::to_string).collect()
    }

    pub(super) fn text(&self, tool: Tool) -> String {
        match tool {
            Tool::Nft => self.nft(),
            Tool::Ufw => {
                let inner = self.inner.as_ref();
                let inner = inner.map(|inner| inner.ufw(&self.mark()));
                self.forget_ufw()
                    + &self.each(|from, protocol| self.ufw(from, protocol))
                    + &inner.unwrap_or_default()
            }
            Tool::Firewalld => {
                let inner = self.inner.as_ref();
                let inner = inner.map(|inner| inner.firewalld(&name::zone(&self.name)));
                self.each(|from, protocol| self.firewalld(from, protocol))
                    + &inner.unwrap_or_default()
                    + "firewall-cmd --reload\n"
            }
        }
    }

    fn each(&self, line: impl Fn(&IpAddr, &str) -> String) -> String {
        let all = self
            .addresses
            .iter()
            .flat_map(|from| ["udp", "tcp"].map(|protocol| line(from, protocol)));
        all.collect()
    }

    /// Returns the end of each of our ufw rules.
    fn mark(&self) -> String {
        format!("comment '{}'", name::comment(&self.name))
    }

    /// Removes the rules of an earlier run. Otherwise rules for removed peers would stay, and new rules would follow
    /// the deny rules.
    fn forget_ufw(&self) -> String {
        format!(
            "ufw show added | grep \"{}\\$\" | sed -e 's/^ufw route /ufw --force route delete /' -e 's/^ufw \\([a-z]\\)/ufw --force delete \\1/' | sh\n",
            self.mark()
        )
    }

    fn ufw(&self, from: &IpAddr, protocol: &str) -> String {
        let on = self
            .interface
            .as_ref()
            .map_or_else(String::new, |name| format!(" on {name}"));
        format!(
            "ufw allow in{on} from {from} to any port {} proto {protocol} {}\n",
            self.port,
            self.mark()
        )
    }

    /// In firewalld a zone belongs to interfaces.
    fn firewalld(&self, from: &IpAddr, protocol: &str) -> String {
        let family = if from.is_ipv4() { "ipv4" } else { "ipv6" };
        let zone = self.interface.as_ref().map_or_else(String::new, |name| {
            format!(" --zone=\"$(firewall-cmd --get-zone-of-interface={name})\"")
        });
        format!(
            "firewall-cmd --permanent{zone} --add-rich-rule='rule family=\"{family}\" source address=\"{from}\" port port=\"{}\" protocol=\"{protocol}\" accept'\n",
            self.port
        )
    }

    /// Makes a separate table that closes our port for other sources. Other traffic is left to the other tables.
    /// Packets dropped by another table stay dropped: `--verify` shows that.
    fn nft(&self) -> String {
        let (table, port) = (name::table(&self.name), self.port);
        let mut sets = String::new();
        let mut accepts = String::new();
        let on = self
            .interface
            .as_ref()
            .map_or_else(String::new, |name| format!("iifname \"{name}\" "));
        for (v4, family, kind, set) in [
            (true, "ip", "ipv4_addr", "peers4"),
            (false, "ip6", "ipv6_addr", "peers6"),
        ] {
            let all = self.of_family(v4);
            if all.is_empty() {
                continue;
            }
            sets.push_str(&format!(
                "\tset {set} {{\n\t\ttype {kind}\n\t\telements = {{ {} }}\n\t}}\n",
                all.join(", ")
            ));
            for protocol in ["udp", "tcp"] {
                accepts.push_str(&format!(
                    "\t\t{on}{family} saddr @{set} {protocol} dport {port} accept\n"
                ));
            }
        }
        let (mut jump, mut forward) = (String::new(), String::new());
        if let Some(inner) = &self.inner {
            let mesh = &inner.interface;
            sets.push_str(&inner.nft());
            jump = format!("\t\tiifname \"{mesh}\" jump mesh\n");
            // With Forwarding = kernel the kernel forwards between other nodes. Those nodes filter such packets.
            forward = format!(
                "\tchain forward {{\n\t\ttype filter hook forward priority filter; policy accept;\n\
                 \t\tct state established,related accept\n\t\tiifname \"{mesh}\" oifname != \"{mesh}\" jump mesh\n\t}}\n"
            );
        }
        // Loading it again replaces the table, whether it exists or not.
        format!(
            "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{sets}\tchain input {{\n\
             \t\ttype filter hook input priority filter; policy accept;\n\t\tiifname \"lo\" accept\n\
             \t\tct state established,related accept\n{jump}{accepts}\t\tudp dport {port} drop\n\t\ttcp dport {port} drop\n\t}}\n{forward}}}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            name: "priv_1".into(),
            port: 655,
            interface: Some("eth1".into()),
            addresses: ["10.132.0.22", "10.132.0.21", "fd00::21"]
                .map(|at| at.parse().unwrap())
                .into(),
            inner: None,
        }
    }

    #[test]
    fn nft_gets_a_table_of_its_own() {
        let wanted = "\
table inet meshd_priv_1
delete table inet meshd_priv_1
table inet meshd_priv_1 {
\tset peers4 {
\t\ttype ipv4_addr
\t\telements = { 10.132.0.21, 10.132.0.22 }
\t}
\tset peers6 {
\t\ttype ipv6_addr
\t\telements = { fd00::21 }
\t}
\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t\tiifname \"lo\" accept
\t\tct state established,related accept
\t\tiifname \"eth1\" ip saddr @peers4 udp dport 655 accept
\t\tiifname \"eth1\" ip saddr @peers4 tcp dport 655 accept
\t\tiifname \"eth1\" ip6 saddr @peers6 udp dport 655 accept
\t\tiifname \"eth1\" ip6 saddr @peers6 tcp dport 655 accept
\t\tudp dport 655 drop
\t\ttcp dport 655 drop
\t}
}
";
        assert_eq!(plan().text(Tool::Nft), wanted);
        let plain = Plan {
            interface: None,
            ..plan()
        }
        .text(Tool::Nft);
        assert!(
            plain.contains("\t\tip saddr @peers4 udp dport 655 accept\n"),
            "{plain}"
        );
    }

    #[test]
    fn ufw_and_firewalld_get_a_command_for_each_peer_and_protocol() {
        let text = plan().text(Tool::Ufw);
        assert_eq!(text.lines().count(), 7);
        assert!(
            text.starts_with("ufw show added | grep \"comment 'meshd priv_1'\\$\" | sed "),
            "{text}"
        );
        assert!(text.contains("\nufw allow in on eth1 from 10.132.0.21 to any port 655 proto udp comment 'meshd priv_1'\n"), "{text}");
        let text = plan().text(Tool::Firewalld);
        assert_eq!(text.lines().count(), 7);
        assert!(text.contains("family=\"ipv6\" source address=\"fd00::21\" port port=\"655\" protocol=\"tcp\" accept'"), "{text}");
    }
}
