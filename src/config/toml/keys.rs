//! Every key of meshd.toml and hosts/NAME.toml, with its variable.
//!
//! Source: config/toml.md section 3.

use Form::{Access, Duration, Endpoint, Flag, Labelled, Moment, Number, Rule, Size, Text};

use crate::vars::{self, Place};

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its table; empty: no table.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The variable of tinc, or of meshd.
    pub var: &'static str,
    /// Form of its value.
    pub form: Form,
    /// True if the value is an array.
    pub many: bool,
}

/// Form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text in quotes.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// Text such as "90s" or "15m", whole seconds.
    Duration,
    /// Text such as "1MiB", or a number of bytes.
    Size,
    /// Text: "HOST", "HOST:PORT", "[IPV6]:PORT".
    Endpoint,
    /// A date with time in UTC, without quotes.
    Moment,
    /// Text in quotes under any name, which is part of the value: `NAME=TEXT`.
    Labelled,
    /// A table with [`RULE`].
    Rule,
    /// One of [`ACCESS`].
    Access,
}

/// Values of `trust.legacy`, which limits legacy: the word, and its variable and value; none for the default.
pub const ACCESS: [(&str, Option<(&str, &str)>); 3] = [
    ("never", Some(("MinProtocol", "sptps"))),
    ("listed", None),
    ("always", Some(("ExperimentalProtocol", "no"))),
];

/// The keys of a rule: source and service. Its value in tinc's form joins both.
pub const RULE: [&str; 2] = ["from", "to"];

const fn one(table: &'static str, name: &'static str, var: &'static str, form: Form) -> Key {
    let many = false;
    Key {
        table,
        name,
        var,
        form,
        many,
    }
}

const fn many(table: &'static str, name: &'static str, var: &'static str, form: Form) -> Key {
    let many = true;
    Key {
        many,
        ..one(table, name, var, form)
    }
}

/// The keys of meshd.toml, table by table.
#[rustfmt::skip]
pub const DAEMON: &[Key] = &[
    one("", "name", "Name", Text),
    one("", "mode", "Mode", Text),
    many("", "allow", "Allow", Rule),
    one("interface", "name", "Interface", Text),
    one("interface", "type", "DeviceType", Text),
    one("interface", "device", "Device", Text),
    one("interface", "standby", "DeviceStandby", Flag),
    one("interface", "one_queue", "IffOneQueue", Flag),
    one("interface", "vde_port", "VDEPort", Number),
    one("interface", "vde_group", "VDEGroup", Text),
    many("interface", "addresses", "InterfaceAddress", Text),
    many("interface", "routes", "InterfaceRoute", Text),
    one("interface", "mtu", "InterfaceMTU", Number),
    one("listen", "port", "Port", Number),
    many("listen", "addresses", "BindToAddress", Endpoint),
    many("listen", "extra_addresses", "ListenAddress", Endpoint),
    one("listen", "interface", "BindToInterface", Text),
    one("listen", "family", "AddressFamily", Text),
    one("listen", "fwmark", "FWMark", Number),
    one("keys", "ed25519", "Ed25519PrivateKeyFile", Text),
    one("keys", "ed25519_public", "Ed25519PublicKeyFile", Text),
    one("keys", "rsa", "PrivateKeyFile", Text),
    one("keys", "rsa_public", "PublicKeyFile", Text),
    one("keys", "native", "NativePrivateKeyFile", Text),
    one("keys", "preshared", "PresharedKeyFile", Text),
    many("connect", "to", "ConnectTo", Text),
    one("connect", "auto", "AutoConnect", Flag),
    one("connect", "max_backoff", "MaxTimeout", Duration),
    one("connect", "min_backoff", "MinTimeout", Duration),
    one("connect", "proxy", "Proxy", Text),
    one("trust", "strict_subnets", "StrictSubnets", Flag),
    one("trust", "subnet_policy", "SubnetPolicy", Text),
    one("trust", "tunnel_server", "TunnelServer", Flag),
    one("trust", "learn_keys", "LearnKeys", Flag),
    one("trust", "legacy", "ExperimentalProtocol", Access),
    one("trust", "native", "Native", Flag),
    one("trust", "min_protocol", "MinProtocol", Text),
    one("trust", "source_check", "SourceCheck", Text),
    one("trust", "disable_buggy_peers", "DisableBuggyPeers", Flag),
    one("limits", "connection_burst", "MaxConnectionBurst", Number),
    one("limits", "meta_buffer", "MaxOutputBufferSize", Size),
    one("limits", "meta_rate", "MetaRate", Number),
    one("scripts", "interpreter", "ScriptsInterpreter", Text),
    one("scripts", "extension", "ScriptsExtension", Text),
    many("scripts", "run", "RunScripts", Text),
    one("metrics", "listen", "MetricsListen", Text),
    one("switch", "broadcast", "Broadcast", Text),
    many("switch", "broadcast_subnets", "BroadcastSubnet", Text),
    one("switch", "mac_expire", "MACExpire", Duration),
    one("forward", "mode", "Forwarding", Text),
    one("forward", "decrement_ttl", "DecrementTTL", Flag),
    one("forward", "direct_only", "DirectOnly", Flag),
    one("legacy", "cipher", "Cipher", Text),
    one("legacy", "digest", "Digest", Text),
    one("legacy", "mac_length", "MACLength", Number),
    one("legacy", "compression", "Compression", Number),
    one("transport", "workers", "Workers", Number),
    one("transport", "key_expire", "KeyExpire", Duration),
    one("transport", "replay_window", "ReplayWindow", Size),
    one("transport", "priority_inheritance", "PriorityInheritance", Flag),
    one("transport", "udp_rcvbuf", "UDPRcvBuf", Size),
    one("transport", "udp_sndbuf", "UDPSndBuf", Size),
    one("transport", "pmtu", "PMTU", Number),
    one("transport", "pmtu_discovery", "PMTUDiscovery", Flag),
    one("transport", "clamp_mss", "ClampMSS", Flag),
    one("transport", "tcp_only", "TCPOnly", Flag),
    one("transport", "indirect", "IndirectData", Flag),
    one("discovery", "local", "LocalDiscovery", Flag),
    one("discovery", "udp", "UDPDiscovery", Flag),
    one("discovery", "udp_interval", "UDPDiscoveryInterval", Duration),
    one("discovery", "udp_keepalive", "UDPDiscoveryKeepaliveInterval", Duration),
    one("discovery", "udp_timeout", "UDPDiscoveryTimeout", Duration),
    one("discovery", "udp_info_interval", "UDPInfoInterval", Duration),
    one("discovery", "mtu_info_interval", "MTUInfoInterval", Duration),
    one("discovery", "upnp", "UPnP", Text),
    one("discovery", "upnp_wait", "UPnPDiscoverWait", Duration),
    one("discovery", "upnp_refresh", "UPnPRefreshPeriod", Duration),
    one("liveness", "ping_interval", "PingInterval", Duration),
    one("liveness", "ping_timeout", "PingTimeout", Duration),
    one("log", "level", "LogLevel", Number),
    one("log", "hostnames", "Hostnames", Flag),
    one("process", "priority", "ProcessPriority", Text),
    one("process", "sandbox", "Sandbox", Text),
    one("invite", "expire", "InvitationExpire", Duration),
    one("graph", "dump_file", "GraphDumpFile", Text),
];

/// The keys of hosts/NAME.toml.
#[rustfmt::skip]
pub const HOST: &[Key] = &[
    one("", "ed25519", "Ed25519PublicKey", Text),
    one("", "ed25519_file", "Ed25519PublicKeyFile", Text),
    one("", "native", "NativePublicKey", Text),
    one("", "rsa_file", "PublicKeyFile", Text),
    one("", "rsa_number", "PublicKey", Text),
    one("", "min_protocol", "MinProtocol", Text),
    one("", "source_check", "SourceCheck", Text),
    one("", "expires", "Expires", Moment),
    many("", "endpoints", "Address", Endpoint),
    many("", "subnets", "Subnet", Text),
    many("", "allow", "Allow", Rule),
    one("", "port", "Port", Number),
    one("", "weight", "Weight", Number),
    one("", "tcp_only", "TCPOnly", Flag),
    one("", "indirect", "IndirectData", Flag),
    one("", "clamp_mss", "ClampMSS", Flag),
    one("", "pmtu", "PMTU", Number),
    one("", "pmtu_discovery", "PMTUDiscovery", Flag),
    one("", "cipher", "Cipher", Text),
    one("", "digest", "Digest", Text),
    one("", "mac_length", "MACLength", Number),
    one("", "compression", "Compression", Number),
    one("next", "ed25519", "Ed25519PublicKeyNext", Text),
    one("next", "from", "Ed25519PublicKeyNextFrom", Moment),
    one("revoked", "since", "Revoked", Moment),
    one("revoked", "reason", "RevokedReason", Text),
    many("labels", "NAME", "Label", Labelled),
];

/// The variable whose empty array has a word of its own.
pub const SCRIPTS: &str = "RunScripts";
/// The word for no scripts.
pub const NO_SCRIPTS: &str = "none";
/// The key of an RSA public key as PEM in a host file. In tinc's form it is a block, not a variable.
pub const RSA_TEXT: &str = "rsa";
/// The only version of the layout, the key `schema` of meshd.toml.
pub const SCHEMA: i64 = 1;

/// Variables without a key, each with the reason.
pub const WITHOUT_KEY: [(&str, &str); 1] = [(
    "PrivateKey",
    "a secret in a file that is handed about: keys.rsa names a file",
)];

impl Key {
    /// Returns its path for messages: `connect.to`.
    #[must_use]
    pub fn path(&self) -> String {
        match self.table {
            "" => self.name.into(),
            table => format!("{table}.{}", self.name),
        }
    }

    /// Returns the required form of a value, for people.
    #[must_use]
    pub const fn wanted(&self) -> &'static str {
        match self.form {
            Text | Labelled => "text in quotes",
            Flag => "true or false, without quotes",
            Number => "a whole number, without quotes",
            Duration => "a time in whole seconds, like \"90s\" or \"15m\"",
            Size => "a size like \"64KiB\", or a number of bytes",
            Endpoint => "text like \"10.0.0.1\", \"db.example.net:655\" or \"[2001:db8::1]:655\"",
            Rule => "a table [[allow]] with `from` and `to`",
            Access => "\"never\", \"listed\" or \"always\"",
            Moment => "a date with time in UTC, like 2027-06-01T00:00:00Z, without quotes",
        }
    }
}

/// Kinds of files, by their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// meshd.toml, or one of conf.d.
    Daemon,
    /// hosts/NAME.toml.
    Host,
}

impl File {
    /// Returns its keys.
    #[must_use]
    pub const fn keys(self) -> &'static [Key] {
        match self {
            Self::Daemon => DAEMON,
            Self::Host => HOST,
        }
    }

    /// Returns the key of a table.
    #[must_use]
    pub fn find(self, table: &str, name: &str) -> Option<&'static Key> {
        let mut keys = self.keys().iter();
        keys.find(|key| key.table == table && (key.name == name || key.form == Labelled))
    }

    /// Returns advice on an unknown key of a table.
    #[must_use]
    pub fn advice(self, table: &str, name: &str) -> String {
        let keys = self.keys();
        let place = |key: &Key| match key.table {
            "" => format!("`{}`", key.name),
            table => format!("`{}` in [{table}]", key.name),
        };
        // The key may be a variable name of tinc.
        if let Some(var) = vars::find(name) {
            if let Some(key) = keys.iter().find(|key| key.var == var.name) {
                return format!("it is {} here", place(key));
            }
            return match (
                WITHOUT_KEY.iter().find(|(no, _)| *no == var.name),
                var.place,
            ) {
                (Some((_, why)), _) => (*why).into(),
                (None, Place::Server) => "it belongs into meshd.toml".into(),
                (None, _) => "it belongs into a host file".into(),
            };
        }
        if let Some(key) = keys.iter().find(|key| key.name == name) {
            return format!("it is {}", place(key));
        }
        let near = |key: &&Key| vars::nearness(name, key.name).is_some();
        let here = keys.iter().filter(|key| key.table == table).find(near);
        match here.or_else(|| keys.iter().find(near)) {
            Some(key) => format!("did you mean {}?", place(key)),
            None => "remove it".into(),
        }
    }
}
