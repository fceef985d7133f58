//! Changes of a running configuration, one by one: what `meshctl plan` says of each, what `meshctl reload` does, and their
//! exit codes. Against three daemons on loopback; they have no device, so nothing here needs privileges.

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use meshd::config::{
    keys,
    vars::{Honoured, Place, Reload, VARS, Var},
};
use serde_json::Value;

use crate::{ended, key, meshctl};

/// Change of a file.
enum Edit {
    /// It has this content.
    Is(&'static str, &'static str),
    /// It has this line more.
    Has(&'static str, &'static str),
    /// This part of it is another.
    Not(&'static str, &'static str, &'static str),
    /// It is gone.
    Gone(&'static str),
}

use Edit::{Gone, Has, Is, Not};

/// An exit code and how a line begins.
type Said = (i32, &'static str);

/// Edits; exit code and a line of the plan; exit code and a line of the reload. PORT0 is our port, PORT1 that of db_01, KEY2 the key of
/// db_02, FREE a key that nobody has.
#[rustfmt::skip]
const CASES: &[(&[Edit], Said, Said)] = &[
    (&[Has("tinc.conf", "# a comment")], (0, "= restart needed: no; disconnected: none (limit without --yes: 1 of 2 nodes)"), (0, "nothing changed")),
    (&[Not("tinc.conf", "ConnectTo = db_01\nConnectTo = db_02", "ConnectTo = db_02\nConnectTo = db_01")], (10, "~ tinc.conf:5: ConnectTo = db_01, ConnectTo = db_02 -> ConnectTo = db_02, ConnectTo = db_01"), (0, "~ tinc.conf:5: ConnectTo = db_01, ConnectTo = db_02 -> ConnectTo = db_02, ConnectTo = db_01")),
    (&[Is("conf.d/site.conf", "# nothing\n")], (0, "= restart needed: no; disconnected: none (limit without --yes: 1 of 2 nodes)"), (0, "nothing changed")),
    (&[Has("tinc.conf", "PingInterval = 60")], (0, "= restart needed: no; disconnected: none (limit without --yes: 1 of 2 nodes)"), (0, "nothing changed")),
    (&[Has("tinc.conf", "PingInterval = 20")], (10, "+ tinc.conf:7: PingInterval = 20"), (0, "+ tinc.conf:7: PingInterval = 20")),
    (&[Has("tinc.conf", "PingTimeout = 3")], (10, "+ tinc.conf:7: PingTimeout = 3"), (0, "+ tinc.conf:7: PingTimeout = 3")),
    (&[Has("tinc.conf", "KeyExpire = 600")], (10, "+ tinc.conf:7: KeyExpire = 600"), (0, "+ tinc.conf:7: KeyExpire = 600")),
    (&[Has("tinc.conf", "MaxTimeout = 60")], (10, "+ tinc.conf:7: MaxTimeout = 60"), (0, "+ tinc.conf:7: MaxTimeout = 60")),
    (&[Has("tinc.conf", "AutoConnect = no")], (10, "+ tinc.conf:7: AutoConnect = no"), (0, "+ tinc.conf:7: AutoConnect = no")),
    (&[Has("tinc.conf", "ConnectTo = spare")], (10, "+ tinc.conf:7: ConnectTo = spare"), (0, "+ tinc.conf:7: ConnectTo = spare")),
    (&[Not("tinc.conf", "ConnectTo = db_02", "# none")], (10, "- tinc.conf:6: ConnectTo = db_02"), (0, "- tinc.conf:6: ConnectTo = db_02")),
    (&[Has("tinc.conf", "StrictSubnets = yes")], (10, "+ tinc.conf:7: StrictSubnets = yes"), (0, "+ tinc.conf:7: StrictSubnets = yes")),
    (&[Has("tinc.conf", "TunnelServer = yes")], (10, "+ tinc.conf:7: TunnelServer = yes"), (0, "+ tinc.conf:7: TunnelServer = yes")),
    (&[Has("tinc.conf", "SubnetPolicy = open")], (10, "+ tinc.conf:7: SubnetPolicy = open"), (0, "+ tinc.conf:7: SubnetPolicy = open")),
    (&[Has("tinc.conf", "SourceCheck = strict")], (10, "+ tinc.conf:7: SourceCheck = strict"), (0, "+ tinc.conf:7: SourceCheck = strict")),
    (&[Has("tinc.conf", "Forwarding = off")], (10, "+ tinc.conf:7: Forwarding = off"), (0, "+ tinc.conf:7: Forwarding = off")),
    (&[Has("tinc.conf", "Broadcast = no")], (10, "+ tinc.conf:7: Broadcast = no"), (0, "+ tinc.conf:7: Broadcast = no")),
    (&[Has("tinc.conf", "DecrementTTL = yes")], (10, "+ tinc.conf:7: DecrementTTL = yes"), (0, "+ tinc.conf:7: DecrementTTL = yes")),
    (&[Has("tinc.conf", "DirectOnly = yes")], (10, "+ tinc.conf:7: DirectOnly = yes"), (0, "+ tinc.conf:7: DirectOnly = yes")),
    (&[Has("tinc.conf", "PriorityInheritance = yes")], (10, "+ tinc.conf:7: PriorityInheritance = yes"), (0, "+ tinc.conf:7: PriorityInheritance = yes")),
    (&[Has("tinc.conf", "UDPDiscovery = no")], (10, "+ tinc.conf:7: UDPDiscovery = no"), (0, "+ tinc.conf:7: UDPDiscovery = no")),
    (&[Has("tinc.conf", "UDPDiscoveryInterval = 3")], (10, "+ tinc.conf:7: UDPDiscoveryInterval = 3"), (0, "+ tinc.conf:7: UDPDiscoveryInterval = 3")),
    (&[Has("tinc.conf", "UDPDiscoveryTimeout = 20")], (10, "+ tinc.conf:7: UDPDiscoveryTimeout = 20"), (0, "+ tinc.conf:7: UDPDiscoveryTimeout = 20")),
    (&[Has("tinc.conf", "LocalDiscovery = no")], (10, "+ tinc.conf:7: LocalDiscovery = no"), (0, "+ tinc.conf:7: LocalDiscovery = no")),
    (&[Has("tinc.conf", "MTUInfoInterval = 9")], (10, "+ tinc.conf:7: MTUInfoInterval = 9"), (0, "+ tinc.conf:7: MTUInfoInterval = 9")),
    (&[Has("tinc.conf", "UDPInfoInterval = 9")], (10, "+ tinc.conf:7: UDPInfoInterval = 9"), (0, "+ tinc.conf:7: UDPInfoInterval = 9")),
    (&[Has("tinc.conf", "ReplayWindow = 64")], (10, "+ tinc.conf:7: ReplayWindow = 64"), (0, "+ tinc.conf:7: ReplayWindow = 64")),
    (&[Has("tinc.conf", "LearnKeys = yes")], (10, "+ tinc.conf:7: LearnKeys = yes"), (0, "+ tinc.conf:7: LearnKeys = yes")),
    (&[Has("tinc.conf", "MetaRate = 1000")], (10, "+ tinc.conf:7: MetaRate = 1000"), (0, "+ tinc.conf:7: MetaRate = 1000")),
    (&[Has("tinc.conf", "RunScripts = none")], (10, "+ tinc.conf:7: RunScripts = none"), (0, "+ tinc.conf:7: RunScripts = none")),
    (&[Has("tinc.conf", "Allow = db_01 tcp/3306")], (10, "+ tinc.conf:7: Allow = db_01 tcp/3306"), (0, "Allow: load the rules of `meshctl firewall`")),
    (&[Has("hosts/web_01", "Allow = role=web tcp/1-3")], (10, "+ hosts/web_01:4: Allow = role=web tcp/1-3"), (0, "+ hosts/web_01:4: Allow = role=web tcp/1-3")),
    (&[Has("hosts/db_01", "Allow = web_01 tcp/3306")], (0, "= restart needed: no"), (0, "nothing changed")),
    (&[Has("tinc.conf", "ScriptsInterpreter = /bin/sh")], (10, "+ tinc.conf:7: ScriptsInterpreter = /bin/sh, after a restart"), (9, "+ tinc.conf:7: ScriptsInterpreter = /bin/sh, after a restart")),
    (&[Has("tinc.conf", "MACExpire = 60")], (10, "+ tinc.conf:7: MACExpire = 60"), (0, "+ tinc.conf:7: MACExpire = 60")),
    (&[Has("tinc.conf", "TCPOnly = yes")], (10, "+ tinc.conf:7: TCPOnly = yes, for new links"), (9, "+ tinc.conf:7: TCPOnly = yes, for new links")),
    (&[Has("tinc.conf", "ClampMSS = no")], (10, "+ tinc.conf:7: ClampMSS = no, for new links"), (0, "+ tinc.conf:7: ClampMSS = no, for new links")),
    (&[Has("tinc.conf", "IndirectData = yes")], (10, "+ tinc.conf:7: IndirectData = yes, for new links"), (0, "+ tinc.conf:7: IndirectData = yes, for new links")),
    (&[Has("tinc.conf", "BroadcastSubnet = 172.20.0.255")], (10, "+ tinc.conf:7: BroadcastSubnet = 172.20.0.255"), (0, "+ tinc.conf:7: BroadcastSubnet = 172.20.0.255")),
    (&[Has("tinc.conf", "Native = no")], (10, "+ tinc.conf:7: Native = no, for new links"), (0, "+ tinc.conf:7: Native = no, for new links")),
    (&[Has("tinc.conf", "MinProtocol = native")], (10, "+ tinc.conf:7: MinProtocol = native, for new links"), (0, "+ tinc.conf:7: MinProtocol = native, for new links")),
    (&[Has("tinc.conf", "Interface = mesh9")], (10, "+ tinc.conf:7: Interface = mesh9, after a restart"), (9, "+ tinc.conf:7: Interface = mesh9, after a restart")),
    (&[Has("tinc.conf", "Workers = 1")], (10, "+ tinc.conf:7: Workers = 1, after a restart"), (9, "+ tinc.conf:7: Workers = 1, after a restart")),
    (&[Has("tinc.conf", "UDPRcvBuf = 65536")], (10, "+ tinc.conf:7: UDPRcvBuf = 65536, after a restart"), (9, "+ tinc.conf:7: UDPRcvBuf = 65536, after a restart")),
    (&[Has("tinc.conf", "InterfaceMTU = 1400")], (10, "+ tinc.conf:7: InterfaceMTU = 1400, after a restart"), (9, "+ tinc.conf:7: InterfaceMTU = 1400, after a restart")),
    (&[Has("tinc.conf", "LogLevel = 3")], (10, "+ tinc.conf:7: LogLevel = 3, after a restart"), (9, "+ tinc.conf:7: LogLevel = 3, after a restart")),
    (&[Has("tinc.conf", "ProcessPriority = low")], (10, "+ tinc.conf:7: ProcessPriority = low, after a restart"), (9, "+ tinc.conf:7: ProcessPriority = low, after a restart")),
    (&[Has("tinc.conf", "AddressFamily = ipv4")], (10, "+ tinc.conf:7: AddressFamily = ipv4, after a restart"), (9, "+ tinc.conf:7: AddressFamily = ipv4, after a restart")),
    (&[Has("tinc.conf", "FWMark = 7")], (10, "+ tinc.conf:7: FWMark = 7, after a restart"), (9, "+ tinc.conf:7: FWMark = 7, after a restart")),
    (&[Not("tinc.conf", "127.0.0.1 PORT0", "127.0.0.1 7811")], (10, "~ tinc.conf:3: BindToAddress = 127.0.0.1 PORT0 -> BindToAddress = 127.0.0.1 7811, after a restart"), (9, "~ tinc.conf:3: BindToAddress = 127.0.0.1 PORT0 -> BindToAddress = 127.0.0.1 7811, after a restart")),
    (&[Not("tinc.conf", "DeviceType = dummy", "DeviceType = dummy\nMode = switch")], (10, "+ tinc.conf:3: Mode = switch, after a restart"), (9, "+ tinc.conf:3: Mode = switch, after a restart")),
    (&[Not("tinc.conf", "MetricsListen = no", "MetricsListen = 127.0.0.1:9655")], (10, "~ tinc.conf:4: MetricsListen = no -> MetricsListen = 127.0.0.1:9655, after a restart"), (9, "~ tinc.conf:4: MetricsListen = no -> MetricsListen = 127.0.0.1:9655, after a restart")),
    (&[Not("tinc.conf", "Name = web_01", "Name = web_02")], (7, "meshctl: nothing was changed: hosts/web_02: no such file"), (7, "meshctl: nothing was changed: hosts/web_02: no such file")),
    (&[Not("tinc.conf", "Name = web_01", "Nome = web_01")], (7, "meshctl: nothing was changed: tinc.conf: no Name"), (7, "meshctl: nothing was changed: tinc.conf: no Name")),
    (&[Has("tinc.conf", "Mode = bridge")], (7, "meshctl: nothing was changed: tinc.conf:7: Mode must be one of router, switch, hub"), (7, "meshctl: nothing was changed: tinc.conf:7: Mode must be one of router, switch, hub")),
    (&[Gone("tinc.conf")], (7, "meshctl: nothing was changed: tinc.conf: no such file"), (7, "meshctl: nothing was changed: tinc.conf: no such file")),
    (&[Is("ed25519_key.priv", "torn\n")], (7, "meshctl: nothing was changed: ed25519_key.priv: no line \"-----BEGIN ED25519 PRIVATE KEY-----\" in it"), (7, "meshctl: nothing was changed: ed25519_key.priv: no line \"-----BEGIN ED25519 PRIVATE KEY-----\" in it")),
    (&[Gone("ed25519_key.priv")], (7, "meshctl: nothing was changed: ed25519_key.priv: no such file"), (7, "meshctl: nothing was changed: ed25519_key.priv: no such file")),
    (&[Has("hosts/web_01", "Subnet = 172.20.7.0/24")], (10, "+ hosts/web_01:4: Subnet = 172.20.7.0/24"), (0, "+ hosts/web_01:4: Subnet = 172.20.7.0/24")),
    (&[Not("hosts/web_01", "Subnet = 172.20.0.1/32", "Subnet = 172.20.0.1/32#20")], (10, "~ hosts/web_01:1: Subnet = 172.20.0.1/32 -> Subnet = 172.20.0.1/32#20"), (0, "~ hosts/web_01:1: Subnet = 172.20.0.1/32 -> Subnet = 172.20.0.1/32#20")),
    (&[Has("hosts/web_01", "Subnet = 172.20.7.1/24")], (7, "meshctl: nothing was changed: hosts/web_01:4: Subnet \"172.20.7.1/24\" has host bits set (did you mean 172.20.7.0/24?)"), (7, "meshctl: nothing was changed: hosts/web_01:4: Subnet \"172.20.7.1/24\" has host bits set (did you mean 172.20.7.0/24?)")),
    (&[Not("hosts/web_01", "Subnet = 172.20.0.1/32", "# none")], (10, "- hosts/web_01:1: Subnet = 172.20.0.1/32"), (0, "- hosts/web_01:1: Subnet = 172.20.0.1/32")),
    (&[Has("hosts/db_01", "Subnet = 172.20.8.0/24")], (10, "+ hosts/db_01:5: Subnet = 172.20.8.0/24"), (0, "+ hosts/db_01:5: Subnet = 172.20.8.0/24")),
    (&[Not("hosts/db_01", "127.0.0.1 PORT1", "127.0.0.1 7899")], (10, "~ hosts/db_01:1: Address = 127.0.0.1 PORT1 -> Address = 127.0.0.1 7899"), (0, "~ hosts/db_01:1: Address = 127.0.0.1 PORT1 -> Address = 127.0.0.1 7899")),
    (&[Has("hosts/db_01", "Address = 10.0.0.2")], (10, "+ hosts/db_01:5: Address = 10.0.0.2"), (0, "+ hosts/db_01:5: Address = 10.0.0.2")),
    (&[Has("hosts/db_01", "Weight = 50")], (10, "+ hosts/db_01:5: Weight = 50, for new links"), (0, "+ hosts/db_01:5: Weight = 50, for new links")),
    (&[Has("hosts/db_01", "TCPOnly = yes")], (10, "+ hosts/db_01:5: TCPOnly = yes, for new links"), (0, "+ hosts/db_01:5: TCPOnly = yes, for new links")),
    (&[Has("hosts/db_01", "Label = role=mysql")], (10, "+ hosts/db_01:5: Label = role=mysql"), (0, "+ hosts/db_01:5: Label = role=mysql")),
    (&[Has("hosts/db_01", "Ed25519PublicKeyNext = KEY2")], (10, "+ hosts/db_01:5: Ed25519PublicKeyNext = KEY2"), (0, "+ hosts/db_01:5: Ed25519PublicKeyNext = KEY2")),
    (&[Has("hosts/db_01", "Expires = 2100-01-01T00:00:00Z")], (10, "+ hosts/db_01:5: Expires = 2100-01-01T00:00:00Z"), (0, "+ hosts/db_01:5: Expires = 2100-01-01T00:00:00Z")),
    (&[Has("hosts/db_01", "Expires = 2020-01-01T00:00:00Z")], (10, "+ hosts/db_01:5: Expires = 2020-01-01T00:00:00Z"), (0, "+ hosts/db_01:5: Expires = 2020-01-01T00:00:00Z")),
    (&[Has("hosts/db_01", "Revoked = 2020-01-01T00:00:00Z")], (10, "+ hosts/db_01:5: Revoked = 2020-01-01T00:00:00Z"), (0, "+ hosts/db_01:5: Revoked = 2020-01-01T00:00:00Z")),
    (&[Has("hosts/db_01", "MinProtocol = native")], (10, "+ hosts/db_01:5: MinProtocol = native, for new links"), (0, "+ hosts/db_01:5: MinProtocol = native, for new links")),
    (&[Has("hosts/db_01", "Subnet = nonsense")], (0, "meshctl: hosts/db_01:5: "), (0, "nothing changed")),
    (&[Has("hosts/db_01", "Subnet = nonsense\nWeight = 50")], (10, "+ hosts/db_01:6: Weight = 50, for new links"), (0, "+ hosts/db_01:6: Weight = 50, for new links")),
    (&[Has("hosts/db_01", "Port =")], (0, "meshctl: hosts/db_01: the last good version of this file stays in force"), (7, "not applied: hosts/db_01")),
    (&[Is("hosts/db_01", "")], (0, "meshctl: hosts/db_01: the file is empty; copy it from that node again"), (7, "not applied: hosts/db_01")),
    (&[Is("hosts/db_03", "Ed25519PublicKey = FREE\nAddress = 127.0.0.1 7904\n")], (10, "+ hosts/db_03 is new"), (0, "+ hosts/db_03 is new")),
    (&[Gone("hosts/spare")], (10, "- hosts/spare is gone"), (0, "- hosts/spare is gone")),
    (&[Gone("hosts/db_01")], (10, "- hosts/db_01 is gone"), (0, "- hosts/db_01 is gone")),
    (&[Gone("hosts/db_01"), Gone("hosts/db_02")], (8, "- hosts/db_01 is gone"), (8, "meshctl: nothing was changed: it would disconnect 2 of 2 nodes (db_01 db_02), above the limit of 1")),
    (&[Gone("hosts/db_01"), Gone("hosts/db_02"), Gone("hosts/spare")], (8, "- hosts/db_01 is gone"), (8, "meshctl: nothing was changed: hosts/ holds no usable file any more")),
    (&[Has("hosts/db_01", "Revoked = 2020-01-01T00:00:00Z"), Has("hosts/db_02", "Expires = 2020-01-01T00:00:00Z")], (8, "+ hosts/db_01:5: Revoked = 2020-01-01T00:00:00Z"), (8, "meshctl: nothing was changed: it would disconnect 2 of 2 nodes (db_01 db_02), above the limit of 1")),
    (&[Is("hosts/db_01.toml", "ed25519 = \"x\"\n")], (0, "meshctl: hosts/db_01: hosts/db_01.toml exists too; remove one of the two"), (7, "not applied: hosts/db_01")),
    (&[Is("meshd.toml", "name = \"web_01\"\n")], (7, "meshctl: nothing was changed: tinc.conf: meshd.toml exists too"), (7, "meshctl: nothing was changed: tinc.conf: meshd.toml exists too")),
    (&[Is("hosts/db_03", "Subnet = 10.1.1.1/8\n")], (10, "+ hosts/db_03 is new"), (0, "+ hosts/db_03 is new")),
    (&[Has("hosts/db_01", "NativePublicKey = FREE")], (10, "+ hosts/db_01:5: NativePublicKey = FREE"), (0, "+ hosts/db_01:5: NativePublicKey = FREE")),
];

/// Rows whose example is no case, each with the reason.
const APART: [(&str, &str); 13] = [
    ("Name", "refused: a case above"),
    ("DeviceType", "the tree has one"),
    ("Port", "our host file has one: tests/config/reload.rs"),
    ("ExperimentalProtocol", "needs an RSA key"),
    ("PrivateKey", "needs its public half"),
    ("PublicKey", "needs a number"),
    ("Ed25519PublicKey", "each host file has one"),
    ("Ed25519PrivateKeyFile", "needs a file"),
    ("Ed25519PublicKeyFile", "needs a file"),
    ("PrivateKeyFile", "needs a file"),
    ("PublicKeyFile", "needs a file"),
    ("NativePrivateKeyFile", "needs a file"),
    ("PresharedKeyFile", "needs a file"),
];

/// A case for each row of the table of variables that has none above: the line of its example is added.
fn cases_of_rows() -> Vec<(&'static [Edit], Said, Said)> {
    let lines = |edit: &Edit| match edit {
        Is(_, text) | Has(_, text) => *text,
        Not(_, _, new) => *new,
        Gone(_) => "",
    };
    let has_case = |var: &&Var| {
        let mut edits = CASES.iter().flat_map(|(edits, _, _)| *edits);
        let begins = |line: &str| line.split(' ').next() == Some(var.name);
        edits.any(|edit| lines(edit).lines().any(begins))
    };
    let rows = VARS
        .iter()
        .filter(|var| var.honoured == Honoured::Yes && !has_case(var))
        .filter(|var| !APART.iter().any(|(name, _)| *name == var.name));
    rows.map(|var| {
        let (file, number) = match var.place {
            Place::Host => ("hosts/db_01", 5),
            Place::Server | Place::Both => ("tinc.conf", 7),
        };
        let (suffix, code) = match var.reload {
            Reload::Live | Reload::LiveIfNarrower => ("", 0),
            Reload::NewLinks => (", for new links", 0),
            Reload::Restart => (", after a restart", 9),
        };
        let line: &str = format!("{} = {}", var.name, var.example).leak();
        let said: &str = format!("+ {file}:{number}: {line}{suffix}").leak();
        let edits: &[Edit] = vec![Has(file, line)].leak();
        (edits, (10, said), (code, said))
    })
    .collect()
}

const NAMES: [&str; 3] = ["web_01", "db_01", "db_02"];

/// web_01 and its two neighbours.
struct Mesh {
    dir: tempfile::TempDir,
    daemons: Vec<Child>,
    ports: Vec<u16>,
}

impl Mesh {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago, and not given away again so soon.
        let sockets: Vec<_> = NAMES
            .iter()
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        drop(sockets);
        let mut mesh = Self {
            dir,
            ports,
            daemons: Vec::new(),
        };
        for (number, name) in NAMES.iter().enumerate() {
            let at = |file: &str| mesh.at(name).join(file);
            fs::create_dir_all(at("hosts")).unwrap();
            let links = if number == 0 {
                "ConnectTo = db_01\nConnectTo = db_02\n"
            } else {
                "AutoConnect = no\n"
            };
            let port = mesh.ports[number];
            fs::write(
                at("tinc.conf"),
                format!(
                    "Name = {name}\nDeviceType = dummy\nBindToAddress = 127.0.0.1 {port}\nMetricsListen = no\n{links}"
                ),
            )
            .unwrap();
            keys::write_private(&at("ed25519_key.priv"), &key(number as u8)).unwrap();
            for (other, port) in mesh.ports.iter().enumerate() {
                let address = match other == number {
                    true => String::new(),
                    false => format!("Address = 127.0.0.1 {port}\n"),
                };
                let host = format!(
                    "{address}Subnet = 172.20.0.{}/32\nPort = {port}\nEd25519PublicKey = {}\n",
                    other + 1,
                    key(other as u8).public()
                );
                fs::write(at("hosts").join(NAMES[other]), host).unwrap();
            }
        }
        let spare = format!(
            "Subnet = 172.20.9.0/24\nEd25519PublicKey = {}\n",
            key(8).public()
        );
        fs::write(mesh.at("web_01/hosts/spare"), spare).unwrap();
        for name in NAMES.iter().rev() {
            let base = mesh.at(name);
            let log = fs::File::create(base.join("log")).unwrap();
            let daemon = Command::new(env!("CARGO_BIN_EXE_meshd"))
                .arg("-c")
                .arg(&base)
                .arg("-D")
                .env("MESHD_SANDBOX", "kill")
                .arg(format!("--pidfile={}", base.join("pid").display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn();
            mesh.daemons.push(daemon.unwrap());
        }
        mesh
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A command to the daemon of web_01: exit code, and all that it says.
    fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let (base, pid) = (self.at("web_01"), self.at("web_01/pid"));
        let files = [
            "-c",
            base.to_str().unwrap(),
            "--pidfile",
            pid.to_str().unwrap(),
        ];
        let (code, out, err) = ended(meshctl(&[&files, arguments].concat()).output().unwrap());
        (code, out + &err)
    }

    /// Waits until both neighbours are there.
    fn wait_live(&self) {
        let start = Instant::now();
        loop {
            let (_, said) = self.ask(&["peers", "--json"]);
            let peers: Value = serde_json::from_str(&said).unwrap_or_default();
            let up = peers["data"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|row| row["up"] == true);
            if up.count() == 2 {
                return;
            }
            let log = || fs::read_to_string(self.at("web_01/log")).unwrap();
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "not both live: {said}\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn filled(&self, text: &str) -> String {
        text.replace("PORT0", &self.ports[0].to_string())
            .replace("PORT1", &self.ports[1].to_string())
            .replace("KEY2", &key(2).public().to_string())
            .replace("FREE", &key(9).public().to_string())
    }

    fn edit(&self, edit: &Edit) {
        let at = |path: &str| self.at("web_01").join(path);
        let read = |path: &str| fs::read_to_string(at(path)).unwrap();
        match edit {
            Is(path, text) => {
                fs::create_dir_all(at(path).parent().unwrap()).unwrap();
                fs::write(at(path), self.filled(text)).unwrap();
            }
            Has(path, line) => {
                fs::write(at(path), format!("{}{}\n", read(path), self.filled(line))).unwrap()
            }
            Not(path, old, new) => {
                let (text, old) = (read(path), self.filled(old));
                assert!(text.contains(&old), "{old:?} is not in {path}");
                fs::write(at(path), text.replace(&old, new)).unwrap();
            }
            Gone(path) => fs::remove_file(at(path)).unwrap(),
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Copies what a reload reads.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to.join("hosts"));
    let _ = fs::remove_dir_all(to.join("conf.d"));
    let _ = fs::remove_file(to.join("meshd.toml"));
    fs::create_dir_all(to.join("hosts")).unwrap();
    for entry in fs::read_dir(from.join("hosts")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join("hosts").join(entry.file_name())).unwrap();
    }
    for file in ["tinc.conf", "ed25519_key.priv"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[test]
fn every_change_is_foretold_and_done() {
    assert!(CASES.len() >= 60);
    let mesh = Mesh::start();
    mesh.wait_live();
    let (live, good) = (mesh.at("web_01"), mesh.at("good"));
    copy(&live, &good);
    let mut failed = Vec::new();
    let rows = cases_of_rows();
    assert!(rows.len() >= 15, "{}", rows.len());
    for (edits, plan, reload) in CASES.iter().chain(&rows) {
        edits.iter().for_each(|edit| mesh.edit(edit));
        let mut compare = |command: &str, (code, told): &(i32, &str)| {
            let (got, said) = mesh.ask(&[command]);
            let told = mesh.filled(told);
            if got != *code || !said.lines().any(|line| line.starts_with(&told)) {
                failed.push(format!(
                    "{command}: wanted {code} {told:?}, got {got} {said:?}"
                ));
            }
        };
        compare("plan", plan);
        compare("reload", reload);
        // What was taken over is not foretold again; what was refused, or waits for a restart, is.
        let again = match reload.0 {
            0 => 0,
            9 => 10,
            _ => plan.0,
        };
        compare("plan", &(again, ""));
        copy(&good, &live);
        let (code, said) = mesh.ask(&["reload", "--yes"]);
        assert_eq!(code, 0, "back: {said}");
        mesh.wait_live();
    }
    assert!(
        failed.is_empty(),
        "of {} cases:\n{}",
        CASES.len(),
        failed.join("\n")
    );
}

/// The flight recorder: what went before, though nobody followed and the log itself holds less.
#[test]
fn the_past_is_told() {
    let mesh = Mesh::start();
    mesh.wait_live();
    let (code, plain) = mesh.ask(&["log", "--since", "10m"]);
    assert_eq!(code, 0, "{plain}");
    let (_, fine) = mesh.ask(&["log", "--since", "10m", "--level", "4"]);
    let (_, one) = mesh.ask(&["log", "--since", "10m", "--level", "4", "--peer", "db_02"]);
    let log = fs::read_to_string(mesh.at("web_01/log")).unwrap();
    let texts = |said: &str| {
        said.lines()
            .filter(|line| line.contains("got ADD_EDGE"))
            .count()
    };
    assert!(
        plain.contains("meshd starting") && texts(&plain) == 0 && texts(&log) == 0,
        "{plain}"
    );
    assert!(texts(&fine) > 0, "{fine}");
    assert!(
        one.contains("node=db_02") && !one.contains("node=db_01"),
        "{one}"
    );
    let (code, said) = mesh.ask(&["log", "--since", "soon"]);
    assert_eq!(code, 2, "{said}");
}
