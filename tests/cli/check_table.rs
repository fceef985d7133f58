//! Mistakes in configurations, one by one: the sentence that `meshctl check` must say of each, and its exit code.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{key, run, tree};

/// Change of a good tree.
enum Edit {
    /// A file has this content.
    Is(&'static str, &'static str),
    /// A file has this line more.
    Has(&'static str, &'static str),
    /// A file is gone.
    Gone(&'static str),
    /// Everybody may read a file.
    Open(&'static str),
    /// There is a directory of this name.
    Dir(&'static str),
}

use Edit::{Dir, Gone, Has, Is, Open};

/// Edits, exit code, and a line that must be said, from its beginning; empty: nothing is said. PUB1 is our key, PUB2 that of
/// db_01.
#[rustfmt::skip]
const CASES: &[(&[Edit], i32, &str)] = &[
    (&[Is("tinc.conf", "Nome = web_01\n")], 7, "tinc.conf: error: no Name; add a line `Name = NAME`, or name another directory with -c"),
    (&[Is("tinc.conf", "Name = web-01\n")], 7, "tinc.conf:1: error: invalid name: a node name consists of A-Z, a-z, 0-9 and _ only"),
    (&[Is("tinc.conf", "Name =\n")], 7, "tinc.conf:1: error: no value for \"Name\"; give it one or delete the line (nothing after it is read)"),
    (&[Is("tinc.conf", "Name = $NOSUCH_VARIABLE\n")], 7, "tinc.conf:1: error: invalid name: environment variable NOSUCH_VARIABLE is not set"),
    (&[Gone("tinc.conf")], 7, "tinc.conf: error: no such file; write `Name = NAME` into it, or name another directory with -c"),
    (&[Is("tinc.conf", "")], 7, "tinc.conf: error: no Name; add a line `Name = NAME`, or name another directory with -c"),
    (&[Is("tinc.conf", "Name = web_01\nMode = bridge\n")], 7, "tinc.conf:2: error: Mode must be one of router, switch, hub"),
    (&[Is("tinc.conf", "Name = web_01\nConectTo = db_01\n")], 0, "tinc.conf:2: warning: unknown variable \"ConectTo\", ignored; did you mean ConnectTo?"),
    (&[Is("tinc.conf", "Name = web_01\nConnectTo = db_02\n")], 0, "tinc.conf:2: warning: there is no usable hosts/db_02; copy it from that node"),
    (&[Is("tinc.conf", "Name = web_01\nConnectTo = web_01\n")], 0, ""),
    (&[Is("tinc.conf", "Name = web_01\nConnectTo = db 01\n")], 0, "tinc.conf:2: warning: a node name consists of A-Z, a-z, 0-9 and _ only; the line is ignored"),
    (&[Is("tinc.conf", "Name = web_01\nHostnames = maybe\n")], 0, "tinc.conf:2: warning: meshd does not support Hostnames yet"),
    (&[Is("tinc.conf", "Name = web_01\nPingInterval = often\n")], 0, "tinc.conf:2: warning: Integer expected for PingInterval; the line is ignored"),
    (&[Is("tinc.conf", "Name = web_01\nPingTimeout = 0\n")], 0, "tinc.conf:2: warning: PingTimeout must be 1 to PingInterval; meshd uses 60"),
    (&[Is("tinc.conf", "Name = web_01\nAddressFamily = ipv5\n")], 7, "tinc.conf:2: error: AddressFamily must be one of ipv4, ipv6, any"),
    (&[Is("tinc.conf", "Name = web_01\nDeviceType = vde\n")], 7, "tinc.conf:2: error: meshd supports only DeviceType = tun, tap and dummy"),
    (&[Is("tinc.conf", "Name = web_01\nDeviceType = tun\nMode = switch\n")], 7, "tinc.conf:2: error: Mode = switch and hub need frames, which a tun device lacks; use DeviceType = tap"),
    (&[Is("tinc.conf", "Name = web_01\nBindToAddress = 10.0.0.300\n")], 7, "tinc.conf:2: error: cannot resolve \"10.0.0.300\": failed to lookup address information: Name or service not known"),
    (&[Is("tinc.conf", "Name = web_01\nListenAddress = 10.0.0.1 70000\n")], 7, "tinc.conf:2: error: \"70000\" is not a port; write a number from 0 to 65535"),
    (&[Is("tinc.conf", "Name = web_01\nInterface = a_name_that_is_too_long\n")], 0, "tinc.conf:2: warning: an interface name has at most 15 characters; meshd uses a_name_that_is_"),
    (&[Is("tinc.conf", "Name = web_01\nInterfaceAddress = 172.20.0.11\n")], 7, "tinc.conf:2: error: \"172.20.0.11\" is not of the form ADDRESS/LENGTH"),
    (&[Is("tinc.conf", "Name = web_01\nInterfaceRoute = 172.20.7.1/24\n")], 7, "tinc.conf:2: error: Subnet \"172.20.7.1/24\" has host bits set (did you mean 172.20.7.0/24?)"),
    (&[Is("tinc.conf", "Name = web_01\nInterfaceMTU = 100\n")], 7, "tinc.conf:2: error: InterfaceMTU must be 576 to 9000"),
    (&[Is("tinc.conf", "Name = web_01\nWorkers = 9\n")], 7, "tinc.conf:2: error: Workers must be 0 to 4"),
    (&[Is("tinc.conf", "Name = web_01\nProxy = socks9 10.0.0.1 1080\n")], 7, "tinc.conf:2: error: meshd does not support Proxy yet: nodes would be dialled directly, past the proxy; remove the line if that is right"),
    (&[Is("tinc.conf", "Name = web_01\nDeviceStandby = yes\n")], 7, "tinc.conf:2: error: meshd does not support DeviceStandby yet: the routes of tinc-up would exist while no node is reachable"),
    (&[Is("tinc.conf", "Name = web_01\nStrictSubnets = true\n")], 7, "tinc.conf:2: error: \"yes\" or \"no\" expected for StrictSubnets"),
    (&[Has("hosts/web_01", "Proxy = socks5 10.0.0.1 1080")], 7, "hosts/web_01:2: error: meshd does not support Proxy yet"),
    (&[Has("hosts/web_01", "PresharedKeyFile = psk")], 7, "hosts/web_01:2: error: PresharedKeyFile names a secret of this node and is ignored in a host file; move it to tinc.conf"),
    (&[Is("tinc.conf", "Name = web_01\nProcessPriority = urgent\n")], 7, "tinc.conf:2: error: ProcessPriority must be one of low, normal, high"),
    (&[Is("tinc.conf", "Name = web_01\nMetricsListen = 655\n")], 7, "tinc.conf:2: error: \"655\" is not one of `unix`, `unix:/PATH`, `ADDRESS:PORT` and `no`"),
    (&[Is("tinc.conf", "Name = web_01\nEd25519PrivateKeyFile = nowhere.priv\n")], 7, "nowhere.priv: error: no such file; `meshctl keygen` makes a key"),
    (&[Is("tinc.conf", "Name = web_01\nPresharedKeyFile = nowhere\n")], 7, "nowhere: error: no such file"),
    (&[Is("tinc.conf", "Name = web_01\nMinProtocol = noise\n")], 7, "tinc.conf:2: error: MinProtocol must be one of legacy, sptps, native"),
    (&[Is("tinc.conf", "Name = web_01\nSubnetPolicy = loose\n")], 7, "tinc.conf:2: error: SubnetPolicy must be one of open, conflict, covered, strict"),
    (&[Is("tinc.conf", "Name = web_01\nExperimentalProtocol = no\n")], 7, "tinc.conf:2: error: ExperimentalProtocol = no needs rsa_key.priv, which does not exist; remove the line, or restore that file"),
    (&[Is("tinc.conf", "Name = web_01\nPrivateKey = abc\n")], 7, "tinc.conf:2: error: PrivateKey needs its PublicKey in our host file"),
    (&[Is("tinc.conf", "Name = web_01\nSubnet = 10.0.0.0/8\n")], 0, ""),
    (&[Is("tinc.conf", "Name = web_01\nName = web_02\n")], 0, "tinc.conf:2: warning: Name is ignored here: tinc.conf:1 comes first"),
    (&[Is("tinc.conf", "Name web_01 and more\nPort\n")], 7, "tinc.conf:1: error: invalid name: a node name consists of A-Z, a-z, 0-9 and _ only"),
    (&[Gone("ed25519_key.priv")], 7, "ed25519_key.priv: error: no such file; `meshctl keygen` makes a key"),
    (&[Open("ed25519_key.priv")], 0, "ed25519_key.priv: warning: other users may read it (mode 644); chmod 600 it"),
    (&[Is("ed25519_key.priv", "-----BEGIN ED25519 PRIVATE KEY-----\nabcd\n")], 7, "ed25519_key.priv: error: no line \"-----END ED25519 PRIVATE KEY-----\" in it: the file is cut short; restore the file, or make a new key by `meshctl keygen --replace`"),
    (&[Is("hosts/web_01", "Subnet = 172.20.0.11/32\n")], 0, "hosts/web_01: warning: it has no Ed25519PublicKey, so other nodes cannot verify this node; it should be PUB1"),
    (&[Is("hosts/web_01", "Ed25519PublicKey = PUB2\nSubnet = 172.20.0.11/32\n")], 0, "hosts/web_01: warning: its Ed25519PublicKey does not match our private key, so other nodes refuse this node; it should be PUB1"),
    (&[Gone("hosts/web_01")], 0, "hosts/web_01: warning: it has no Ed25519PublicKey, so other nodes cannot verify this node; it should be PUB1"),
    (&[Is("hosts/web_01", "Ed25519PublicKey = PUB1\nSubnet = 172.20.0.11/24\n")], 7, "hosts/web_01:2: error: Subnet \"172.20.0.11/24\" has host bits set (did you mean 172.20.0.0/24?)"),
    (&[Is("hosts/web_01", "Ed25519PublicKey = PUB1\nPort = http-no\n")], 7, "hosts/web_01:2: error: \"http-no\" is not a port; write a number from 0 to 65535"),
    (&[Is("hosts/db_01", "")], 7, "hosts/db_01: error: the file is empty; copy it from that node again"),
    (&[Is("hosts/db_01", "Address = 10.0.0.2\n")], 0, "tinc.conf:2: warning: hosts/db_01 has no public key, so no link is possible"),
    (&[Is("hosts/db_01", "Ed25519PublicKey = tooshort\n")], 7, "hosts/db_01:1: error: Ed25519PublicKey: an Ed25519 public key has 43 characters of A-Z a-z 0-9 + /"),
    (&[Has("hosts/db_01", "Ed25519PublicKeyNext = tooshort")], 7, "hosts/db_01:3: error: Ed25519PublicKeyNext: an Ed25519 public key has 43 characters of A-Z a-z 0-9 + /"),
    (&[Has("hosts/db_01", "Subnet = 172.20.0.300/32")], 7, "hosts/db_01:3: error: malformed subnet \"172.20.0.300/32\" (expected ADDRESS[/PREFIXLENGTH][#WEIGHT])"),
    (&[Has("hosts/db_01", "Subnet = 172.20.0.0/33")], 7, "hosts/db_01:3: error: prefix length of \"172.20.0.0/33\" is out of range"),
    (&[Has("hosts/db_01", "Subnet = 172.20.0.1/24")], 7, "hosts/db_01:3: error: Subnet \"172.20.0.1/24\" has host bits set (did you mean 172.20.0.0/24?)"),
    (&[Has("hosts/web_01", "Subnet = 172.20.0.11/32"), Has("hosts/db_01", "Subnet = 172.20.0.11/32")], 0, "hosts/db_01:3: warning: Subnet 172.20.0.11 is in hosts/web_01 too; give one of them another weight"),
    (&[Has("hosts/db_01", "Address = 10.0.0.2:655")], 0, "hosts/db_01:3: warning: \"10.0.0.2:655\" is read as a host name; write `10.0.0.2 655`"),
    (&[Has("hosts/db_01", "Address = db;01")], 7, "hosts/db_01:3: error: ';' cannot be part of an address; write HOST [PORT]"),
    (&[Has("hosts/db_01", "Address = 10.0.0.2 99999")], 7, "hosts/db_01:3: error: \"99999\" is not a port; write a number from 0 to 65535"),
    (&[Has("hosts/db_01", "Ed25519PublicKeyFile = nowhere")], 0, ""),
    (&[Has("hosts/db_01", "Adress = 10.0.0.3")], 0, "hosts/db_01:3: warning: unknown variable \"Adress\", ignored; did you mean Address?"),
    (&[Has("hosts/db_01", "ConnectTo = web_01")], 0, "hosts/db_01:3: warning: ConnectTo has no effect here; it belongs into tinc.conf"),
    (&[Has("hosts/db_01", "TCPOnly = 1")], 0, "hosts/db_01:3: warning: \"yes\" or \"no\" expected for TCPOnly; the line is ignored"),
    (&[Has("hosts/db_01", "PMTU = big")], 0, "hosts/db_01:3: warning: Integer expected for PMTU; the line is ignored"),
    (&[Has("hosts/db_01", "MinProtocol = new")], 7, "hosts/db_01:3: error: MinProtocol must be one of legacy, sptps, native"),
    (&[Has("hosts/db_01", "Cipher = rot13")], 0, ""),
    (&[Has("hosts/db_01", "NativePublicKey = x")], 7, "hosts/db_01:3: error: NativePublicKey is not an X25519 key of 43 characters from A-Z a-z 0-9 + /"),
    (&[Is("hosts/db_02", "Ed25519PublicKey = PUB2\n")], 0, "hosts/db_02: warning: the key is also in hosts/db_01; give each node its own"),
    (&[Is("hosts/db-03", "Ed25519PublicKey = PUB2\n")], 0, "hosts/db-03: warning: the name is not a node name, because it has a `-`; write `_` instead, in Name too"),
    (&[Dir("hosts/db_04")], 7, "hosts/db_04: error: is a directory, not a regular file; replace it or move it away"),
    (&[Is("hosts/db_05", "-----BEGIN RSA PUBLIC KEY-----\nabcd\n")], 7, "hosts/db_05:1: error: this -----BEGIN line has no -----END line, so nothing after it is read"),
    (&[Is("hosts/db_01.toml", "ed25519 = \"PUB2\"\n")], 7, "hosts/db_01: error: hosts/db_01.toml exists too; remove one of the two"),
    (&[Is("meshd.toml", "name = \"web_01\"\n")], 7, "tinc.conf: error: meshd.toml exists too; remove one of the two"),
    (&[Is("conf.d/10-site.conf", "PingIntervall = 10\n")], 0, "conf.d/10-site.conf:1: warning: unknown variable \"PingIntervall\", ignored; did you mean PingInterval?"),
    (&[Is("psk.d/db_01", "short\n")], 7, "psk.d/db_01: error: other users may read it (mode 644); chmod 600 it, and make a new one"),
    (&[Has("tinc.conf", "Allow = db_01 tcp/3306")], 0, ""),
    (&[Has("tinc.conf", "Allow = db_01")], 7, "tinc.conf:3: error: \"db_01\" is not a rule; write FROM TO, like `role=web tcp/3306`"),
    (&[Has("hosts/web_01", "Allow = * tcp/0")], 7, "hosts/web_01:2: error: \"tcp/0\" is not a service; write tcp/PORT, udp/PORT, tcp/FIRST-LAST, udp/FIRST-LAST, icmp or `*`"),
    (&[Has("hosts/db_01", "Allow = * tcp/9-5")], 7, "hosts/db_01:3: error: \"tcp/9-5\" ends before it begins; write tcp/5-9"),
    (&[Has("tinc.conf", "Allow = db_07 icmp")], 0, "tinc.conf:3: warning: there is no usable hosts/db_07, so this rule has no effect"),
    (&[Has("tinc.conf", "Allow = role=web icmp")], 0, "tinc.conf:3: warning: no host file has the label role=web, so this rule has no effect"),
    (&[Has("tinc.conf", "Allow = web_01 icmp")], 0, "tinc.conf:3: warning: this rule names our own node; remove it"),
    (&[Has("tinc.conf", "Mode = switch\nAllow = * *")], 7, "tinc.conf:4: error: Allow needs Mode = router, because addresses in frames have no owner; remove it"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[[allow]]\nfrom = \"db_01\"\nto = \"tcp/mysql\"\n")], 7, "meshd.toml:4:6: error: \"tcp/mysql\" is not a service"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[[allow]]\nfrom = \"db-01\"\nto = \"*\"\n")], 7, "meshd.toml:3:8: error: \"db-01\" is not a node name, a label NAME=VALUE or `*`"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[[allow]]\nfrom = \"db_01\"\nport = 3306\n")], 7, "meshd.toml:4:1: error: unknown key `port` in [[allow]]; there are `from` and `to`"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[[allow]]\nfrom = \"db_01\"\nto = 3306\n")], 7, "meshd.toml:4:6: error: `to` must be text in quotes"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[[allow]]\nfrom = \"db_01\"\n")], 7, "meshd.toml:2:1: error: `allow` must be a table [[allow]] with `from` and `to`"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\nallow = [\"db_01 icmp\"]\n")], 7, "meshd.toml:2:10: error: `allow` must be a table [[allow]] with `from` and `to`, not \"db_01 icmp\""),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\nallow = \"x\"\n")], 7, "meshd.toml:2:9: error: `allow` must be an array [...] of a table [[allow]] with `from` and `to`"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[trust]\nstrict_subnet = true\n")], 7, "meshd.toml:3:1: error: unknown key `strict_subnet` in [trust]; did you mean `strict_subnets` in [trust]?"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[connect]\nto = \"db_01\"\n")], 7, "meshd.toml:3:6: error: `connect.to` must be an array [...] of text in quotes"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\n")], 7, "meshd.toml:1:15: error: invalid basic string, expected `\"`"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\n[liveness]\nping_interval = 10\n")], 7, "meshd.toml:3:17: error: `liveness.ping_interval` must be a time in whole seconds, like \"90s\" or \"15m\", not 10"),
    (&[Gone("tinc.conf"), Is("meshd.toml", "name = \"web_01\"\nschema = 3\n")], 7, "meshd.toml:2:10: error: this version of meshd supports only schema 1"),
    (&[Gone("tinc.conf"), Gone("hosts/db_01"), Is("meshd.toml", "name = \"web_01\"\n"), Is("hosts/db_01.toml", "ed25519 = \"PUB2\"\nsubnets = [\"10.0.0.1/24\"]\n")], 7, "hosts/db_01.toml:2:12: error: Subnet \"10.0.0.1/24\" has host bits set (did you mean 10.0.0.0/24?)"),
    (&[Gone("tinc.conf"), Gone("hosts/db_01"), Is("meshd.toml", "name = \"web_01\"\n"), Is("hosts/db_01.toml", "ed25519 = \"PUB2\"\nendpoints = [\"10.0.0.1 655\"]\n")], 7, "hosts/db_01.toml:2:14: error: `endpoints` must be \"HOST\", \"HOST:PORT\", \"IPV6\" or \"[IPV6]:PORT\", not \"10.0.0.1 655\""),
];

#[test]
fn every_mistake_has_its_sentence_and_its_exit_code() {
    assert!(CASES.len() >= 60);
    let mut failed = Vec::new();
    for (edits, expected, told) in CASES {
        let tree = tree();
        let at = |path: &str| tree.path().join(path);
        let keys = [1, 2].map(|seed| key(seed).public().to_string());
        let filled = |text: &str| text.replace("PUB1", &keys[0]).replace("PUB2", &keys[1]);
        for edit in *edits {
            match edit {
                Is(path, text) => {
                    fs::create_dir_all(at(path).parent().unwrap()).unwrap();
                    fs::write(at(path), filled(text)).unwrap();
                }
                Has(path, line) => {
                    let old = fs::read_to_string(at(path)).unwrap();
                    fs::write(at(path), format!("{old}{}\n", filled(line))).unwrap();
                }
                Gone(path) => fs::remove_file(at(path)).unwrap(),
                Open(path) => {
                    fs::set_permissions(at(path), fs::Permissions::from_mode(0o644)).unwrap()
                }
                Dir(path) => fs::create_dir(at(path)).unwrap(),
            }
        }
        let (code, _, err) = run(&["check", tree.path().to_str().unwrap()]);
        let told = filled(told);
        let said = match told.is_empty() {
            true => err.is_empty(),
            false => err.lines().any(|line| line.starts_with(&told)),
        };
        if code != *expected || !said {
            failed.push(format!("wanted {expected} {told:?}, got {code} {err:?}"));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        CASES.len(),
        failed.join("\n")
    );
}
