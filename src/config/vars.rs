//! Every variable of tinc 1.0.36 and 1.1, and of meshd. The reader, `meshctl check`, the man page and the tests
//! use this one table.
//!
//! Source: config/tinc.md section 2.

use Honoured::{NoEffect, NotYet, Yes};
use Ignoring::{Safe, Unsafe};
use Kind::{
    Address, Bool, Bytes, Int, Key, Listen, Moment, Node, Path, Port, Prefix, Rule, Seconds,
    Subnet, Text, Word,
};
use Place::{Both, Host, Server};
use Reload::{Live, NewLinks, Restart};
use Version::{All, Head, Meshd, V10, V11};

/// One variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var {
    /// Canonical spelling; compared without regard to case.
    pub name: &'static str,
    /// The file that it belongs into. The daemon accepts it in either, as tinc does.
    pub place: Place,
    /// Programs that know it.
    pub version: Version,
    /// Type and unit of its value.
    pub kind: Kind,
    /// The default, as written in a file; empty: none, or see the help.
    pub default: &'static str,
    /// True if it may appear several times.
    pub multiple: bool,
    /// Effect of a reload on a new value, in meshd.
    pub reload: Reload,
    /// True if an invitation may set it.
    pub safe: bool,
    /// Support by meshd, and the consequence of none.
    pub honoured: Honoured,
    /// One line for people.
    pub help: &'static str,
}

/// The file that a variable belongs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// tinc.conf.
    Server,
    /// hosts/NAME.
    Host,
    /// Either.
    Both,
}

/// Programs that know a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// tinc 1.0 and 1.1.
    All,
    /// tinc 1.0 only.
    V10,
    /// tinc 1.1, every pre-release in use.
    V11,
    /// Only the head of tinc's branch 1.1.
    Head,
    /// meshd only; tinc ignores it silently.
    Meshd,
}

/// Type and unit of a value (config/tinc.md section 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`, any case.
    Bool,
    /// Decimal number; text after it is ignored.
    Int,
    /// Whole seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// One of these words, any case.
    Word(&'static [&'static str]),
    /// `ADDR[/LEN][#WEIGHT]`.
    Subnet,
    /// `ADDR/LEN`, or a word of its own.
    Prefix,
    /// `HOST [PORT]`.
    Address,
    /// `HOST|* [PORT]`.
    Listen,
    /// Number or service name.
    Port,
    /// Node name.
    Node,
    /// File name; relative ones start at the configuration directory.
    Path,
    /// A public key: 43 characters of tinc's base64.
    Key,
    /// A time in UTC, RFC 3339.
    Moment,
    /// `FROM TO`: nodes, and the service that they may reach.
    Rule,
    /// Anything.
    Text,
}

/// Effect of a reload on a new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// It applies at once.
    Live,
    /// It applies to new links.
    NewLinks,
    /// It waits for a restart.
    Restart,
}

/// Support of a variable by meshd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honoured {
    /// Supported.
    Yes,
    /// Not supported yet: a value other than the default causes a warning or an error.
    NotYet(Ignoring),
    /// No effect on supported systems.
    NoEffect,
}

/// Consequence of an unsupported variable. Each unsupported variable must choose one. Each text completes the
/// sentence "meshd does not support it yet: ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignoring {
    /// It protects nothing and changes no path: meshd warns and starts. The text says what happens instead.
    Safe(&'static str),
    /// It protects, or selects the path of packets: meshd refuses to start or reload. The text says what would
    /// happen instead, and the remedy.
    Unsafe(&'static str),
}

impl Kind {
    /// Returns the form of the value, for help and man page.
    #[must_use]
    pub fn form(&self) -> String {
        match self {
            Bool => "yes|no".into(),
            Int => "NUMBER".into(),
            Seconds => "SECONDS".into(),
            Bytes => "BYTES".into(),
            Word(words) => words.join("|"),
            Subnet => "ADDRESS[/LENGTH][#WEIGHT]".into(),
            Prefix => "ADDRESS/LENGTH".into(),
            Address => "HOST [PORT]".into(),
            Listen => "HOST|* [PORT]".into(),
            Port => "PORT".into(),
            Node => "NAME".into(),
            Path => "FILE".into(),
            Key => "KEY".into(),
            Moment => "YYYY-MM-DDTHH:MM:SSZ".into(),
            Rule => "NODE|LABEL=VALUE|* tcp/PORT[-PORT]|udp/PORT[-PORT]|icmp|*".into(),
            Text => "TEXT".into(),
        }
    }
}

impl Var {
    /// True if its value may name a program to run. meshd ignores it in a host file, because other nodes may have
    /// written the file (T44 of proto/threat-model.md).
    #[must_use]
    pub fn runs_programs(&self) -> bool {
        matches!(
            self.name,
            "Proxy" | "ScriptsInterpreter" | "ScriptsExtension" | "GraphDumpFile"
        )
    }

    /// True if it protects or selects the path of packets, so an invalid value is an error. Other numbers and
    /// switches fall back to their default with a warning, as in tinc.
    #[must_use]
    pub fn guards(&self) -> bool {
        matches!(
            self.name,
            "StrictSubnets" | "TunnelServer" | "DirectOnly" | "FWMark"
        )
    }

    /// True if its value names a secret of this node. meshd ignores it in a host file too.
    #[must_use]
    pub fn names_secret(&self) -> bool {
        matches!(self.name, "PresharedKeyFile" | "NativePrivateKeyFile")
    }
}

/// Returns the variable of that name, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Var> {
    VARS.iter().find(|var| var.name.eq_ignore_ascii_case(name))
}

/// Returns the known name nearest to an unknown one, if one is near.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let near = VARS
        .iter()
        .filter_map(|var| Some((nearness(name, var.name)?, var.name)));
    near.min().map(|(_, name)| name)
}

/// Returns the number of edits between two names, without regard to case. `None` if more than 2, or half of the
/// letters or more.
#[must_use]
pub fn nearness(name: &str, other: &str) -> Option<usize> {
    let letters = name.chars().count();
    if letters > 64 {
        return None;
    }
    let edits = distance(&name.to_ascii_lowercase(), &other.to_ascii_lowercase());
    (edits <= 2 && edits * 2 < letters).then_some(edits)
}

/// Returns the edit distance: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[expect(
    clippy::too_many_arguments,
    reason = "one argument a column of the table"
)]
const fn var(
    name: &'static str,
    place: Place,
    version: Version,
    kind: Kind,
    default: &'static str,
    multiple: bool,
    reload: Reload,
    safe: bool,
    honoured: Honoured,
    help: &'static str,
) -> Var {
    Var {
        name,
        place,
        version,
        kind,
        default,
        multiple,
        reload,
        safe,
        honoured,
        help,
    }
}

const ONE: bool = false;
const MANY: bool = true;
const SAFE: bool = true;
const UNSAFE: bool = false;

/// The table: server variables, meshd's own, host variables; each part by name.
#[rustfmt::skip]
pub const VARS: &[Var] = &[
    var("AddressFamily", Server, All, Word(&["ipv4", "ipv6", "any"]), "any", ONE, Restart, SAFE, Yes,
        "Use this address family for listening sockets and for dialled addresses."),
    var("AutoConnect", Server, V11, Bool, "yes", ONE, Live, SAFE, Yes,
        "Keep about three links: dial nodes with an Address, chosen by meshd."),
    var("BindToAddress", Server, All, Listen, "", MANY, Restart, UNSAFE, Yes,
        "Listen on `ADDRESS [PORT]` and dial from it; `*` is the wildcard."),
    var("BindToInterface", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "Bind all TCP and UDP sockets to this network interface."),
    var("Broadcast", Server, All, Word(&["no", "mst", "yes", "direct"]), "mst", ONE, Live, SAFE, Yes,
        "Send broadcast and multicast packets to no node (no), along the spanning tree (mst), or to each node directly (direct)."),
    var("BroadcastSubnet", Server, V11, Subnet, "", MANY, Live, SAFE, Yes,
        "Send packets for this subnet to all nodes."),
    var("ConnectTo", Server, All, Node, "", MANY, Live, SAFE, Yes,
        "Keep a link to this node."),
    var("DecrementTTL", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Decrement the TTL of forwarded packets, so that this node appears in traceroute."),
    var("Device", Server, All, Path, "/dev/net/tun", ONE, Restart, UNSAFE, Yes,
        "Make TUN and TAP devices with this device file."),
    var("DeviceStandby", Server, V11, Bool, "no", ONE, Restart, UNSAFE,
        NotYet(Unsafe("the routes of tinc-up would exist while no node is reachable, and packets would be lost; remove the line to run tinc-up at the start")),
        "Run tinc-up only while another node is reachable."),
    var("DeviceType", Server, All, Word(&["tun", "tap", "dummy", "raw_socket", "multicast", "fd", "uml", "vde"]), "", ONE, Restart, UNSAFE, Yes,
        "Kind of device; meshd supports tun (default in router mode), tap (default in switch and hub mode) and dummy (no device, for relays)."),
    var("DirectOnly", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Send packets only to nodes that are reached directly, not through relays."),
    var("DisableBuggyPeers", Server, V11, Bool, "no", ONE, Live, UNSAFE, NoEffect,
        "Accepted without effect; tinc uses it against nodes that are older than any meshd supports."),
    var("Ed25519PrivateKeyFile", Server, V11, Path, "ed25519_key.priv", ONE, Restart, UNSAFE, Yes,
        "File with this node's Ed25519 private key."),
    var("ExperimentalProtocol", Server, V11, Bool, "yes", ONE, Restart, UNSAFE, Yes,
        "Use tinc 1.1's protocol (SPTPS); `no` allows legacy only. Without an Ed25519 key of this node it is `no`."),
    var("Forwarding", Server, All, Word(&["off", "internal", "kernel"]), "internal", ONE, Live, UNSAFE, Yes,
        "Forward packets between other nodes: not at all (off), by meshd (internal), or by this host's kernel (kernel)."),
    var("FWMark", Server, V11, Int, "0", ONE, Restart, UNSAFE, Yes,
        "Firewall mark of meshd's own packets (SO_MARK); 0 is none."),
    var("GraphDumpFile", Server, V10, Path, "", ONE, Live, UNSAFE,
        NotYet(Safe("no such file is written; `meshctl dump digraph` prints the graph")),
        "Write the graph to this file; use `meshctl dump digraph`."),
    var("Hostnames", Server, All, Bool, "no", ONE, Live, UNSAFE,
        NotYet(Safe("the log shows addresses as numbers")),
        "Log names of addresses; meshd logs numbers."),
    var("IffOneQueue", Server, All, Bool, "no", ONE, Restart, UNSAFE, NoEffect,
        "Accepted without effect; current kernels ignore it."),
    var("Interface", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "Name of the TUN or TAP device, at most 15 bytes; default is the net name, else a name from the kernel."),
    var("InvitationExpire", Server, V11, Seconds, "604800", ONE, Live, UNSAFE,
        NotYet(Safe("meshd accepts no invitation at all")),
        "Lifetime of an invitation."),
    var("KeyExpire", Server, All, Seconds, "3600", ONE, Live, SAFE, Yes,
        "Renew packet keys at this age."),
    var("ListenAddress", Server, V11, Listen, "", MANY, Restart, UNSAFE, Yes,
        "Listen on `ADDRESS [PORT]` without dialling from it."),
    var("LocalDiscovery", Server, All, Bool, "yes", ONE, Live, SAFE, Yes,
        "Probe the local addresses of nodes, to reach nodes in the same network directly."),
    var("LogLevel", Server, V11, Int, "0", ONE, Restart, UNSAFE, Yes,
        "Debug level of the log, 0 to 10; `-d` overrides it."),
    var("MACExpire", Server, All, Seconds, "600", ONE, Live, SAFE, Yes,
        "Forget an Ethernet address behind this node's device after this silence (switch mode)."),
    var("MaxConnectionBurst", Server, V11, Int, "10", ONE, Restart, SAFE,
        NotYet(Safe("the limits for unauthenticated connections are fixed")),
        "Accept this many connections at once, then one per second."),
    var("MaxOutputBufferSize", Server, All, Bytes, "15180", ONE, Restart, SAFE,
        NotYet(Safe("the limit for the output queue of a link is fixed")),
        "Limit the output queue of a link."),
    var("MaxTimeout", Server, All, Seconds, "900", ONE, Live, SAFE, Yes,
        "Longest pause between two attempts to dial a node."),
    var("MinTimeout", Server, V10, Seconds, "0", ONE, Live, UNSAFE,
        NotYet(Safe("the first attempt to dial again comes sooner")),
        "Shortest pause between two attempts (tinc 1.0 only)."),
    var("Mode", Server, All, Word(&["router", "switch", "hub"]), "router", ONE, Restart, SAFE, Yes,
        "Forward IP packets by subnet (router), Ethernet frames by MAC address (switch), or Ethernet frames to all nodes (hub). All nodes must use the same mode."),
    var("MTUInfoInterval", Server, V11, Seconds, "5", ONE, Live, SAFE, Yes,
        "Interval of MTU hints over relays."),
    var("Name", Server, All, Node, "", ONE, Restart, UNSAFE, Yes,
        "Name of this node; `$HOST` is the host name, `$VAR` an environment variable. Required."),
    var("PingInterval", Server, All, Seconds, "60", ONE, Live, SAFE, Yes,
        "Ping a link after this silence."),
    var("PingTimeout", Server, All, Seconds, "5", ONE, Live, SAFE, Yes,
        "Longest wait for an answer to PING, and for authentication."),
    var("PriorityInheritance", Server, All, Bool, "no", ONE, Live, UNSAFE, Yes,
        "Copy the type of service of inner packets to outer packets."),
    var("PrivateKey", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "An RSA private key as a number (obsolete, legacy protocol)."),
    var("PrivateKeyFile", Server, All, Path, "rsa_key.priv", ONE, Restart, UNSAFE, Yes,
        "File with this node's RSA private key; without the key this node does not use the legacy protocol."),
    var("ProcessPriority", Server, All, Word(&["low", "normal", "high"]), "", ONE, Restart, UNSAFE, Yes,
        "Scheduling priority of the daemon."),
    var("Proxy", Server, All, Text, "none", ONE, Live, UNSAFE,
        NotYet(Unsafe("nodes would be dialled directly, past the proxy; remove the line if that is right, or keep tinc on this node")),
        "Dial through a proxy: none, socks4, socks5, http or exec."),
    var("ReplayWindow", Server, All, Bytes, "1024", ONE, Live, SAFE, Yes,
        "Size of the replay window in bytes, 8 packets per byte; 0 disables the check."),
    var("Sandbox", Server, Head, Word(&["off", "normal", "high"]), "normal", ONE, Restart, UNSAFE, Yes,
        "Level of the daemon's sandbox; `high` runs no script but tinc-up."),
    var("ScriptsExtension", Server, V11, Text, "", ONE, Restart, UNSAFE, Yes,
        "Suffix of the name of every script."),
    var("ScriptsInterpreter", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "Run scripts with this program and its arguments."),
    var("StrictSubnets", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Accept only subnets that this node's host files list."),
    var("TunnelServer", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Do not announce nodes to each other; implies StrictSubnets."),
    var("UDPDiscovery", Server, V11, Bool, "yes", ONE, Live, SAFE, Yes,
        "Probe whether UDP packets arrive; `no` assumes that they do."),
    var("UDPDiscoveryInterval", Server, V11, Seconds, "2", ONE, Live, SAFE, Yes,
        "Interval of probes until UDP is confirmed."),
    var("UDPDiscoveryKeepaliveInterval", Server, V11, Seconds, "10", ONE, Live, SAFE, Yes,
        "Interval of probes once UDP is confirmed."),
    var("UDPDiscoveryTimeout", Server, V11, Seconds, "30", ONE, Live, SAFE, Yes,
        "Stop using UDP to a node after this silence."),
    var("UDPInfoInterval", Server, V11, Seconds, "5", ONE, Live, SAFE, Yes,
        "Interval of hints about UDP addresses."),
    var("UDPRcvBuf", Server, All, Bytes, "4194304", ONE, Restart, UNSAFE, Yes,
        "Receive buffer of UDP sockets; 0 leaves the system's."),
    var("UDPSndBuf", Server, All, Bytes, "4194304", ONE, Restart, UNSAFE, Yes,
        "Send buffer of UDP sockets; 0 leaves the system's."),
    var("UPnP", Server, V11, Word(&["yes", "udponly", "no"]), "no", ONE, Restart, UNSAFE,
        NotYet(Safe("meshd asks no router; forward the port there by hand")),
        "Ask a home router to map this node's port."),
    var("UPnPDiscoverWait", Server, V11, Seconds, "5", ONE, Restart, UNSAFE,
        NotYet(Safe("meshd asks no router")),
        "Search for a router for this time."),
    var("UPnPRefreshPeriod", Server, V11, Seconds, "60", ONE, Restart, UNSAFE,
        NotYet(Safe("meshd asks no router")),
        "Renew the mapping at this interval."),
    var("VDEGroup", Server, All, Text, "", ONE, Restart, UNSAFE,
        NotYet(Safe("meshd refuses DeviceType = vde")),
        "Group of a VDE device."),
    var("VDEPort", Server, All, Int, "0", ONE, Restart, UNSAFE,
        NotYet(Safe("meshd refuses DeviceType = vde")),
        "Port of a VDE device."),
    var("InterfaceAddress", Server, Meshd, Prefix, "", MANY, Restart, UNSAFE, Yes,
        "Give the device `ADDRESS/LENGTH`, without a tinc-up script."),
    var("InterfaceRoute", Server, Meshd, Prefix, "", MANY, Restart, UNSAFE, Yes,
        "Route this network into the device; `auto` routes every subnet of a reachable node."),
    var("InterfaceMTU", Server, Meshd, Bytes, "", ONE, Restart, UNSAFE, Yes,
        "Give the device this MTU, 576 to 9000."),
    var("MetricsListen", Server, Meshd, Text, "unix", ONE, Restart, UNSAFE, Yes,
        "Serve metrics here: `unix` is a socket beside the control socket; others are `unix:PATH`, `ADDRESS:PORT` and `no`."),
    var("Workers", Server, Meshd, Int, "0", ONE, Restart, UNSAFE, Yes,
        "Number of packet threads, 1 to 4; 0 is one for each processor."),
    var("Native", Server, Meshd, Bool, "yes", ONE, NewLinks, SAFE, Yes,
        "Offer meshd's native protocol to nodes that offer it too; tinc nodes do not see the offer."),
    var("NativePrivateKeyFile", Server, Meshd, Path, "", ONE, Restart, UNSAFE, Yes,
        "File with this node's native key, 32 bytes in base64 or hex; default is a key derived from the Ed25519 key."),
    var("PresharedKeyFile", Server, Meshd, Path, "", ONE, NewLinks, UNSAFE, Yes,
        "File with a secret that all native nodes share, 32 bytes in base64 or hex; psk.d/NODE holds the secret of one node."),
    var("SourceCheck", Both, Meshd, Word(&["no", "native", "strict"]), "native", ONE, Live, UNSAFE, Yes,
        "Check the source address of packets: from no node (no), from native nodes and nodes with a Subnet in their host file (native), or from all nodes (strict)."),
    var("SubnetPolicy", Server, Meshd, Word(&["open", "conflict", "covered", "strict"]), "conflict", ONE, Live, UNSAFE, Yes,
        "Accept announced subnets: all (open), unless a host file lists them for another node (conflict), only if the node's host file covers them (covered), or as StrictSubnets (strict)."),
    var("MinProtocol", Both, Meshd, Word(&["legacy", "sptps", "native"]), "", ONE, NewLinks, UNSAFE, Yes,
        "Lowest accepted protocol: legacy, sptps or native; default is legacy for nodes that have only an RSA key."),
    var("LearnKeys", Server, Meshd, Bool, "no", ONE, Live, UNSAFE, Yes,
        "Write the Ed25519PublicKey that a node sends over an RSA-authenticated link into hosts/NODE."),
    var("Ed25519PublicKeyNext", Host, Meshd, Key, "", ONE, Live, UNSAFE, Yes,
        "The next public key of this node: accepted like its Ed25519PublicKey."),
    var("Ed25519PublicKeyNextFrom", Host, Meshd, Moment, "", ONE, Live, UNSAFE, Yes,
        "Accept Ed25519PublicKeyNext from this time on; default is at once."),
    var("NativePublicKey", Host, Meshd, Key, "", ONE, Live, UNSAFE, Yes,
        "This node's native key; default is derived from its Ed25519PublicKey."),
    var("Expires", Host, Meshd, Moment, "", ONE, Live, UNSAFE, Yes,
        "Refuse this node from this time on; warnings begin 30 days earlier."),
    var("Revoked", Host, Meshd, Moment, "", ONE, Live, UNSAFE, Yes,
        "Refuse this node since this time, with any key and despite any announcement."),
    var("RevokedReason", Host, Meshd, Text, "", ONE, Live, UNSAFE, Yes,
        "Reason of Revoked, for `meshctl peers`."),
    var("Label", Host, Meshd, Text, "", MANY, Live, UNSAFE, Yes,
        "`NAME=VALUE`: a label of this node, for Allow and `meshctl peers --json`."),
    var("Allow", Both, Meshd, Rule, "", MANY, Live, UNSAFE, Yes,
        "Allow these nodes to reach this service of this node. If one such line exists, all other traffic from the mesh is dropped. The firewall enforces it, not meshd: load the rules of `meshctl firewall`, again after each change."),
    var("MetaRate", Server, Meshd, Int, "200", ONE, Live, UNSAFE, Yes,
        "Longest sustained rate of a neighbour's messages about itself, per second; a higher rate ends the link."),
    var("RunScripts", Server, Meshd, Text, "", MANY, Live, UNSAFE, Yes,
        "Run only these scripts: tinc-up, tinc-down, host-up, host-down, subnet-up, subnet-down; `none` runs none; default is all. A reload removes scripts at once; added scripts need a restart."),
    var("Address", Host, All, Address, "", MANY, Live, UNSAFE, Yes,
        "Dial this node at `HOST [PORT]`; several addresses are tried in order."),
    var("Cipher", Both, All, Text, "aes-256-cbc", ONE, Live, UNSAFE, Yes,
        "Cipher of packets to this node (legacy protocol), by OpenSSL's name, or `none`."),
    var("ClampMSS", Both, All, Bool, "yes", ONE, NewLinks, SAFE, Yes,
        "Lower the segment size of TCP connections to fit the path."),
    var("Compression", Both, All, Int, "0", ONE, Live, SAFE, Yes,
        "Compression of packets to this node, except in native tunnels: 0 none, 1 to 9 zlib, 10 and 11 LZO, 12 LZ4 (tinc 1.1 only)."),
    var("Digest", Both, All, Text, "sha256", ONE, Live, UNSAFE, Yes,
        "Digest of packets to this node (legacy protocol), by OpenSSL's name, or `none`."),
    var("Ed25519PublicKey", Host, V11, Key, "", ONE, Live, UNSAFE, Yes,
        "This node's public key: 43 characters, `meshctl keygen` prints it."),
    var("Ed25519PublicKeyFile", Both, V11, Path, "", ONE, Live, UNSAFE, Yes,
        "File with this node's public key, if the host file does not hold it."),
    var("IndirectData", Both, All, Bool, "no", ONE, NewLinks, SAFE, Yes,
        "Accept direct packets only from nodes with a link to this node."),
    var("MACLength", Both, All, Int, "16", ONE, Live, UNSAFE, Yes,
        "Bytes of the MAC of a packet to this node (legacy protocol); tinc's default is 4."),
    var("PMTU", Both, All, Bytes, "", ONE, Live, UNSAFE, Yes,
        "Initial path MTU, including 14 bytes of Ethernet header."),
    var("PMTUDiscovery", Both, All, Bool, "yes", ONE, Restart, UNSAFE, Yes,
        "Discover the path MTU; default is `no` with TCPOnly."),
    var("Port", Host, All, Port, "655", ONE, Restart, UNSAFE, Yes,
        "Port of this node, TCP and UDP; 0 lets the kernel choose."),
    var("PublicKey", Host, All, Text, "", ONE, Live, UNSAFE, Yes,
        "An RSA public key as a number (obsolete, legacy protocol)."),
    var("PublicKeyFile", Both, All, Path, "", ONE, Live, UNSAFE, Yes,
        "File with this node's RSA public key (legacy protocol)."),
    var("Subnet", Host, All, Subnet, "", MANY, Live, SAFE, Yes,
        "`ADDRESS[/LENGTH][#WEIGHT]` that this node owns."),
    var("TCPOnly", Both, All, Bool, "no", ONE, NewLinks, SAFE, Yes,
        "Send packets of this node over its links only; implies IndirectData."),
    var("Weight", Host, All, Int, "", ONE, NewLinks, SAFE, Yes,
        "This side's half of the weight of an edge to this node; default is measured."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_in_any_case() {
        for var in VARS {
            assert_eq!(find(&var.name.to_uppercase()), Some(var));
        }
        assert_eq!(find("PinInterval"), None);
    }

    #[test]
    fn defaults_are_values_of_their_kind() {
        for var in VARS.iter().filter(|var| !var.default.is_empty()) {
            match var.kind {
                Word(words) => assert!(words.contains(&var.default), "{}", var.name),
                Bool => assert!(matches!(var.default, "yes" | "no"), "{}", var.name),
                Int | Seconds | Bytes | Port => {
                    assert!(var.default.parse::<u32>().is_ok(), "{}", var.name)
                }
                Subnet | Prefix | Address | Listen | Node | Key | Moment | Rule => {
                    panic!("{} has no default", var.name)
                }
                Path | Text => {}
            }
        }
    }

    #[test]
    fn the_nearest_name_is_near() {
        for (typo, meant) in [
            ("StrictSubnet", Some("StrictSubnets")),
            ("PingIntreval", Some("PingInterval")),
            ("conectto", Some("ConnectTo")),
            ("Subnets", Some("Subnet")),
            ("Modus", Some("Mode")),
            ("Ed25519Pubkey", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typo), meant, "{typo}");
        }
    }
}
