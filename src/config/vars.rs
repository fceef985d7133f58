//! Every variable of tinc 1.0.36 and 1.1, and meshd's own: the one table from which the reader, help,
//! `meshctl check`, the man page and the tests are made.
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
    /// Which file it belongs into. The daemon takes it from either, as tinc does.
    pub place: Place,
    /// Who knows it.
    pub version: Version,
    /// Type and unit of its value.
    pub kind: Kind,
    /// The value if it is absent, as it would be written; empty: none, or see the help.
    pub default: &'static str,
    /// Whether it may stand several times.
    pub multiple: bool,
    /// What a reload does with a new value, in meshd.
    pub reload: Reload,
    /// Whether an invitation may set it.
    pub safe: bool,
    /// Whether meshd does what it says, and what it means if not.
    pub honoured: Honoured,
    /// One line for people.
    pub help: &'static str,
}

/// Where a variable belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// tinc.conf.
    Server,
    /// hosts/NAME.
    Host,
    /// Either.
    Both,
}

/// Who knows a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// tinc 1.0 and 1.1.
    All,
    /// tinc 1.0 only.
    V10,
    /// tinc 1.1, every pre-release in use.
    V11,
    /// The head of tinc's branch 1.1 only.
    Head,
    /// meshd only; tinc ignores it silently.
    Meshd,
}

/// Type and unit of a value (config/tinc.md section 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`, any case.
    Bool,
    /// Decimal number; what follows it is ignored.
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
    /// `FROM TO`: who may reach what.
    Rule,
    /// Anything.
    Text,
}

/// What a reload does with a new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// It counts at once.
    Live,
    /// It counts for links that are made from then on.
    NewLinks,
    /// It waits for a restart.
    Restart,
}

/// Whether meshd does what a variable says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honoured {
    /// It does.
    Yes,
    /// Not yet: a value other than the default is a warning, or refused.
    NotYet(Ignoring),
    /// There is nothing to do on the systems that we run on.
    NoEffect,
}

/// What it means that meshd does not do what a variable says. A new variable that is not honoured has to
/// decide. Each text completes the sentence "meshd does not honour it yet: ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignoring {
    /// It protects nothing and sends no packet another way: a warning, and meshd starts. What happens instead.
    Safe(&'static str),
    /// It protects, or says which way packets go: the start is refused, and so is a reload. What would happen
    /// instead, and what to do.
    Unsafe(&'static str),
}

impl Kind {
    /// How the value is written, for help and man page.
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
    /// Whether its value may name a program to run: never taken from a host file, which others
    /// may have written (T44 of proto/threat-model.md).
    #[must_use]
    pub fn runs_programs(&self) -> bool {
        matches!(
            self.name,
            "Proxy" | "ScriptsInterpreter" | "ScriptsExtension" | "GraphDumpFile"
        )
    }

    /// Whether it protects, or says which way packets go, so that a value that cannot be read is refused. Other
    /// numbers and switches fall back to their default with a warning, as in tinc.
    #[must_use]
    pub fn guards(&self) -> bool {
        matches!(
            self.name,
            "StrictSubnets" | "TunnelServer" | "DirectOnly" | "FWMark"
        )
    }

    /// Whether its value names a secret of ours: never taken from a host file either.
    #[must_use]
    pub fn names_secret(&self) -> bool {
        matches!(self.name, "PresharedKeyFile" | "NativePrivateKeyFile")
    }
}

/// The variable of that name, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Var> {
    VARS.iter().find(|var| var.name.eq_ignore_ascii_case(name))
}

/// The known name nearest to an unknown one, if one is near.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let near = VARS
        .iter()
        .filter_map(|var| Some((nearness(name, var.name)?, var.name)));
    near.min().map(|(_, name)| name)
}

/// How many edits lead from one name to another, whatever the case, if they are few: at most 2, and fewer than half
/// of the letters.
#[must_use]
pub fn nearness(name: &str, other: &str) -> Option<usize> {
    let letters = name.chars().count();
    if letters > 64 {
        return None;
    }
    let edits = distance(&name.to_ascii_lowercase(), &other.to_ascii_lowercase());
    (edits <= 2 && edits * 2 < letters).then_some(edits)
}

/// Edit distance: insertions, deletions, replacements, and swaps of neighbours.
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
        "Address family of the listening sockets and of the addresses that are dialled."),
    var("AutoConnect", Server, V11, Bool, "yes", ONE, Live, SAFE, Yes,
        "Keep about three links by dialling nodes that have an Address, on our own choice."),
    var("BindToAddress", Server, All, Listen, "", MANY, Restart, UNSAFE, Yes,
        "Listen on `ADDRESS [PORT]` and dial from it; `*` is the wildcard."),
    var("BindToInterface", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "Bind all TCP and UDP sockets to this network interface."),
    var("Broadcast", Server, All, Word(&["no", "mst", "yes", "direct"]), "mst", ONE, Live, SAFE, Yes,
        "Whom broadcast and multicast packets reach: nobody, all along the tree, all directly."),
    var("BroadcastSubnet", Server, V11, Subnet, "", MANY, Live, SAFE, Yes,
        "A further subnet that is spread to all nodes."),
    var("ConnectTo", Server, All, Node, "", MANY, Live, SAFE, Yes,
        "Keep a link to this node."),
    var("DecrementTTL", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Count the TTL of forwarded packets down, so that we appear in traceroute."),
    var("Device", Server, All, Path, "/dev/net/tun", ONE, Restart, UNSAFE, Yes,
        "The device file that TUN and TAP devices are made with."),
    var("DeviceStandby", Server, V11, Bool, "no", ONE, Restart, UNSAFE,
        NotYet(Unsafe("routes that tinc-up sets would stand while no node is reachable, and packets be lost that should go another way; remove the line to run tinc-up at the start")),
        "Run tinc-up only while another node is reachable."),
    var("DeviceType", Server, All, Word(&["tun", "tap", "dummy", "raw_socket", "multicast", "fd", "uml", "vde"]), "", ONE, Restart, UNSAFE, Yes,
        "Kind of device; meshd knows tun (usual in router mode), tap (usual in switch and hub mode) and dummy (none at all, for relays)."),
    var("DirectOnly", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Send packets to nodes that we reach directly only."),
    var("DisableBuggyPeers", Server, V11, Bool, "no", ONE, Live, UNSAFE, NoEffect,
        "Accepted; it chased away nodes older than any that meshd talks to."),
    var("Ed25519PrivateKeyFile", Server, V11, Path, "ed25519_key.priv", ONE, Restart, UNSAFE, Yes,
        "Our private key."),
    var("ExperimentalProtocol", Server, V11, Bool, "yes", ONE, Restart, UNSAFE, Yes,
        "Speak tinc 1.1's protocol (SPTPS); `no` leaves only the legacy one. Without our Ed25519 key it is `no` too."),
    var("Forwarding", Server, All, Word(&["off", "internal", "kernel"]), "internal", ONE, Live, UNSAFE, Yes,
        "Who forwards packets between other nodes: nobody, meshd, or our kernel."),
    var("FWMark", Server, V11, Int, "0", ONE, Restart, UNSAFE, Yes,
        "Firewall mark of our own packets (SO_MARK); 0 is none."),
    var("GraphDumpFile", Server, V10, Path, "", ONE, Live, UNSAFE,
        NotYet(Safe("no such file is written; `meshctl dump digraph` prints the graph")),
        "Write the graph to this file; use `meshctl dump digraph`."),
    var("Hostnames", Server, All, Bool, "no", ONE, Live, UNSAFE,
        NotYet(Safe("the log shows addresses as numbers")),
        "Look up names of addresses for the log; meshd logs numbers."),
    var("IffOneQueue", Server, All, Bool, "no", ONE, Restart, UNSAFE, NoEffect,
        "Accepted; current kernels ignore it."),
    var("Interface", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "Name of the TUN or TAP device, at most 15 bytes; default is the net name, else the kernel chooses."),
    var("InvitationExpire", Server, V11, Seconds, "604800", ONE, Live, UNSAFE,
        NotYet(Safe("meshd accepts no invitation at all")),
        "How long an invitation is good."),
    var("KeyExpire", Server, All, Seconds, "3600", ONE, Live, SAFE, Yes,
        "Age at which the keys of packets are renewed."),
    var("ListenAddress", Server, V11, Listen, "", MANY, Restart, UNSAFE, Yes,
        "Listen on `ADDRESS [PORT]` without dialling from it."),
    var("LocalDiscovery", Server, All, Bool, "yes", ONE, Live, SAFE, Yes,
        "Probe the address that a node has in its own network, to meet it there."),
    var("LogLevel", Server, V11, Int, "0", ONE, Restart, UNSAFE, Yes,
        "How much is logged, 0 to 10, when no `-d` says more."),
    var("MACExpire", Server, All, Seconds, "600", ONE, Live, SAFE, Yes,
        "Silence after which an Ethernet address behind our device is forgotten (switch mode)."),
    var("MaxConnectionBurst", Server, V11, Int, "10", ONE, Restart, SAFE,
        NotYet(Safe("the bounds for connections of strangers are fixed")),
        "How many connections at once are accepted before one a second."),
    var("MaxOutputBufferSize", Server, All, Bytes, "15180", ONE, Restart, SAFE,
        NotYet(Safe("the bound for what waits on a link is fixed")),
        "How much may wait on one link."),
    var("MaxTimeout", Server, All, Seconds, "900", ONE, Live, SAFE, Yes,
        "Longest pause between two attempts to dial a node."),
    var("MinTimeout", Server, V10, Seconds, "0", ONE, Live, UNSAFE,
        NotYet(Safe("the first attempt to dial again comes sooner")),
        "Shortest pause between two attempts (tinc 1.0 only)."),
    var("Mode", Server, All, Word(&["router", "switch", "hub"]), "router", ONE, Restart, SAFE, Yes,
        "What is carried: IP packets to whoever has the subnet (router), or Ethernet frames to whoever has the address (switch), or to all (hub). The same on all nodes."),
    var("MTUInfoInterval", Server, V11, Seconds, "5", ONE, Live, SAFE, Yes,
        "Pace of the hints about the MTU over relays."),
    var("Name", Server, All, Node, "", ONE, Restart, UNSAFE, Yes,
        "Our name; `$HOST` is the host name, `$VAR` an environment variable. Required."),
    var("PingInterval", Server, All, Seconds, "60", ONE, Live, SAFE, Yes,
        "Silence on a link after which it is pinged."),
    var("PingTimeout", Server, All, Seconds, "5", ONE, Live, SAFE, Yes,
        "How long an answer, or an authentication, may take."),
    var("PriorityInheritance", Server, All, Bool, "no", ONE, Live, UNSAFE, Yes,
        "Give outer packets the type of service of the inner one."),
    var("PrivateKey", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "An RSA private key as a number (obsolete, legacy protocol)."),
    var("PrivateKeyFile", Server, All, Path, "rsa_key.priv", ONE, Restart, UNSAFE, Yes,
        "Our RSA private key (legacy protocol); without one nobody is spoken to in legacy."),
    var("ProcessPriority", Server, All, Word(&["low", "normal", "high"]), "", ONE, Restart, UNSAFE, Yes,
        "Scheduling priority of the daemon."),
    var("Proxy", Server, All, Text, "none", ONE, Live, UNSAFE,
        NotYet(Unsafe("nodes would be dialled directly, past the proxy; remove the line if that is right, or keep tinc on this node")),
        "Dial through a proxy: none, socks4, socks5, http or exec."),
    var("ReplayWindow", Server, All, Bytes, "1024", ONE, Live, SAFE, Yes,
        "Packets that may overtake each other, in bytes of 8 packets; 0 turns the check off."),
    var("Sandbox", Server, Head, Word(&["off", "normal", "high"]), "normal", ONE, Restart, UNSAFE, Yes,
        "How far the daemon locks itself in; `high` runs no script but tinc-up."),
    var("ScriptsExtension", Server, V11, Text, "", ONE, Restart, UNSAFE, Yes,
        "Appended to the name of every script."),
    var("ScriptsInterpreter", Server, All, Text, "", ONE, Restart, UNSAFE, Yes,
        "Program that scripts are run with, and its arguments."),
    var("StrictSubnets", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Believe only subnets that our own host files list."),
    var("TunnelServer", Server, All, Bool, "no", ONE, Live, SAFE, Yes,
        "Tell nodes nothing about each other; implies StrictSubnets."),
    var("UDPDiscovery", Server, V11, Bool, "yes", ONE, Live, SAFE, Yes,
        "Probe whether UDP gets through; `no` takes it for granted."),
    var("UDPDiscoveryInterval", Server, V11, Seconds, "2", ONE, Live, SAFE, Yes,
        "Pace of probes until UDP is confirmed."),
    var("UDPDiscoveryKeepaliveInterval", Server, V11, Seconds, "10", ONE, Live, SAFE, Yes,
        "Pace of probes once UDP is confirmed."),
    var("UDPDiscoveryTimeout", Server, V11, Seconds, "30", ONE, Live, SAFE, Yes,
        "Silence after which UDP is given up."),
    var("UDPInfoInterval", Server, V11, Seconds, "5", ONE, Live, SAFE, Yes,
        "Pace of the hints about UDP addresses."),
    var("UDPRcvBuf", Server, All, Bytes, "4194304", ONE, Restart, UNSAFE, Yes,
        "Receive buffer of UDP sockets; 0 leaves the system's."),
    var("UDPSndBuf", Server, All, Bytes, "4194304", ONE, Restart, UNSAFE, Yes,
        "Send buffer of UDP sockets; 0 leaves the system's."),
    var("UPnP", Server, V11, Word(&["yes", "udponly", "no"]), "no", ONE, Restart, UNSAFE,
        NotYet(Safe("no router is asked; forward our port there by hand")),
        "Ask a home router to map our port."),
    var("UPnPDiscoverWait", Server, V11, Seconds, "5", ONE, Restart, UNSAFE,
        NotYet(Safe("no router is asked")),
        "How long to look for that router."),
    var("UPnPRefreshPeriod", Server, V11, Seconds, "60", ONE, Restart, UNSAFE,
        NotYet(Safe("no router is asked")),
        "How often the mapping is renewed."),
    var("VDEGroup", Server, All, Text, "", ONE, Restart, UNSAFE,
        NotYet(Safe("DeviceType = vde, which it belongs to, is refused")),
        "Group of a VDE device."),
    var("VDEPort", Server, All, Int, "0", ONE, Restart, UNSAFE,
        NotYet(Safe("DeviceType = vde, which it belongs to, is refused")),
        "Port of a VDE device."),
    var("InterfaceAddress", Server, Meshd, Prefix, "", MANY, Restart, UNSAFE, Yes,
        "`ADDRESS/LENGTH` that meshd gives the device, instead of a tinc-up script."),
    var("InterfaceRoute", Server, Meshd, Prefix, "", MANY, Restart, UNSAFE, Yes,
        "A network that meshd routes into the device; `auto` is every subnet of a reachable node."),
    var("InterfaceMTU", Server, Meshd, Bytes, "", ONE, Restart, UNSAFE, Yes,
        "MTU that meshd gives the device, 576 to 9000."),
    var("MetricsListen", Server, Meshd, Text, "unix", ONE, Restart, UNSAFE, Yes,
        "Where Prometheus asks: `unix` is a socket beside the control socket, else `unix:PATH`, `ADDRESS:PORT` or `no`."),
    var("Workers", Server, Meshd, Int, "0", ONE, Restart, UNSAFE, Yes,
        "Packet threads, 1 to 4; 0 is one for each processor."),
    var("Native", Server, Meshd, Bool, "yes", ONE, NewLinks, SAFE, Yes,
        "Offer meshd's own protocol to nodes that offer it too; tinc sees nothing of it."),
    var("NativePrivateKeyFile", Server, Meshd, Path, "", ONE, Restart, UNSAFE, Yes,
        "32 bytes in base64 or hex: our native key, if it is not to be made from the Ed25519 key."),
    var("PresharedKeyFile", Server, Meshd, Path, "", ONE, NewLinks, UNSAFE, Yes,
        "32 bytes in base64 or hex that all native nodes share besides their keys; psk.d/NODE is for one node."),
    var("SourceCheck", Both, Meshd, Word(&["no", "native", "strict"]), "native", ONE, Live, UNSAFE, Yes,
        "Which nodes may send from their own subnets only: none, native ones and those whose host file lists a Subnet, all."),
    var("SubnetPolicy", Server, Meshd, Word(&["open", "conflict", "covered", "strict"]), "conflict", ONE, Live, UNSAFE, Yes,
        "What nodes may announce: all; nothing that host files give to others; only what theirs give them; StrictSubnets."),
    var("MinProtocol", Both, Meshd, Word(&["legacy", "sptps", "native"]), "", ONE, NewLinks, UNSAFE, Yes,
        "What a node must speak at least: legacy, sptps or native; default is legacy for nodes with an RSA key only."),
    var("LearnKeys", Server, Meshd, Bool, "no", ONE, Live, UNSAFE, Yes,
        "Writes an Ed25519PublicKey that a node tells over a link which its RSA key authenticates into hosts/NODE."),
    var("Ed25519PublicKeyNext", Host, Meshd, Key, "", ONE, Live, UNSAFE, Yes,
        "The public key that this node is about to change to: accepted like its Ed25519PublicKey."),
    var("Ed25519PublicKeyNextFrom", Host, Meshd, Moment, "", ONE, Live, UNSAFE, Yes,
        "From when on Ed25519PublicKeyNext is accepted; at once if absent."),
    var("NativePublicKey", Host, Meshd, Key, "", ONE, Live, UNSAFE, Yes,
        "This node's native key, if it is not made from its Ed25519PublicKey."),
    var("Expires", Host, Meshd, Moment, "", ONE, Live, UNSAFE, Yes,
        "From when on this node is not spoken to any more; warnings begin 30 days before."),
    var("Revoked", Host, Meshd, Moment, "", ONE, Live, UNSAFE, Yes,
        "Since when this node is not spoken to any more, whatever key it has or anybody tells of it."),
    var("RevokedReason", Host, Meshd, Text, "", ONE, Live, UNSAFE, Yes,
        "Why, for `meshctl peers`."),
    var("Label", Host, Meshd, Text, "", MANY, Live, UNSAFE, Yes,
        "`NAME=VALUE`: what this node is, for `meshctl peers --json`."),
    var("Allow", Both, Meshd, Rule, "", MANY, Live, UNSAFE, Yes,
        "Who of the mesh may reach what of this node; with any such line nobody else reaches anything. Not meshd filters by it but the firewall: load what `meshctl firewall` prints, again after each change."),
    var("MetaRate", Server, Meshd, Int, "200", ONE, Live, UNSAFE, Yes,
        "News a second that a neighbour may tell of itself for long; more ends the link."),
    var("RunScripts", Server, Meshd, Text, "", MANY, Live, UNSAFE, Yes,
        "Which scripts run: tinc-up, tinc-down, host-up, host-down, subnet-up, subnet-down; `none` is none, absent is all. A reload takes fewer at once; more of them wait for a restart."),
    var("Address", Host, All, Address, "", MANY, Live, UNSAFE, Yes,
        "`HOST [PORT]` where this node is dialled; tried in order."),
    var("Cipher", Both, All, Text, "aes-256-cbc", ONE, Live, UNSAFE, Yes,
        "Cipher of packets to us (legacy protocol), by OpenSSL's name, or `none`."),
    var("ClampMSS", Both, All, Bool, "yes", ONE, NewLinks, SAFE, Yes,
        "Lower the segment size of TCP connections to what fits the path."),
    var("Compression", Both, All, Int, "0", ONE, Live, SAFE, Yes,
        "Compression of packets to us, not of native ones: 0 none, 1 to 9 zlib, 10 and 11 LZO, 12 LZ4 (tinc 1.1 only)."),
    var("Digest", Both, All, Text, "sha256", ONE, Live, UNSAFE, Yes,
        "Digest of packets to us (legacy protocol), by OpenSSL's name, or `none`."),
    var("Ed25519PublicKey", Host, V11, Key, "", ONE, Live, UNSAFE, Yes,
        "This node's public key: 43 characters, `meshctl keygen` prints it."),
    var("Ed25519PublicKeyFile", Both, V11, Path, "", ONE, Live, UNSAFE, Yes,
        "File with this node's public key, if it does not stand in the host file."),
    var("IndirectData", Both, All, Bool, "no", ONE, NewLinks, SAFE, Yes,
        "Only nodes with a link to this node send it packets directly."),
    var("MACLength", Both, All, Int, "16", ONE, Live, UNSAFE, Yes,
        "Bytes of authentication of a packet to us (legacy protocol); tinc's default is 4."),
    var("PMTU", Both, All, Bytes, "", ONE, Live, UNSAFE, Yes,
        "Path MTU to start from, with 14 bytes of Ethernet header."),
    var("PMTUDiscovery", Both, All, Bool, "yes", ONE, Restart, UNSAFE, Yes,
        "Find out the path MTU; default is `no` with TCPOnly."),
    var("Port", Host, All, Port, "655", ONE, Restart, UNSAFE, Yes,
        "Where this node listens, TCP and UDP; 0 lets the kernel choose."),
    var("PublicKey", Host, All, Text, "", ONE, Live, UNSAFE, Yes,
        "An RSA public key as a number (obsolete, legacy protocol)."),
    var("PublicKeyFile", Both, All, Path, "", ONE, Live, UNSAFE, Yes,
        "File with this node's RSA public key (legacy protocol)."),
    var("Subnet", Host, All, Subnet, "", MANY, Live, SAFE, Yes,
        "`ADDRESS[/LENGTH][#WEIGHT]` that this node owns."),
    var("TCPOnly", Both, All, Bool, "no", ONE, NewLinks, SAFE, Yes,
        "Packets of this node go over its links only; implies IndirectData."),
    var("Weight", Host, All, Int, "", ONE, NewLinks, SAFE, Yes,
        "Our half of the weight of an edge to this node; measured if absent."),
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
