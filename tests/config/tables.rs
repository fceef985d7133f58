//! The table of variables against the specification, and values against their types.

use std::{collections::BTreeSet, time::Duration};

use meshd::{
    config::{
        self, AddressFamily, DeviceType,
        vars::{Honoured, Ignoring, VARS, Var, Version},
    },
    mesh::settings::SubnetPolicy,
    route::{Broadcast, Forwarding, Mode},
    wire::Options,
};

use crate::Tree;

/// Every variable of the manual page of 1.0.36, as its page lists them.
const MANUAL_10: &str = "Address AddressFamily BindToAddress BindToInterface Broadcast Cipher ClampMSS \
    Compression ConnectTo DecrementTTL Device DeviceType Digest DirectOnly Forwarding GraphDumpFile \
    Hostnames IffOneQueue IndirectData Interface KeyExpire LocalDiscovery MACExpire MACLength \
    MaxTimeout Mode Name PMTU PMTUDiscovery PingInterval PingTimeout Port PriorityInheritance \
    PrivateKey PrivateKeyFile ProcessPriority Proxy PublicKey PublicKeyFile ReplayWindow StrictSubnets \
    Subnet TCPOnly TunnelServer UDPRcvBuf UDPSndBuf";

/// Every variable of config/tinc.md section 2 that the page of 1.0.36 does not have.
const OTHERS: &str = "AutoConnect BroadcastSubnet DeviceStandby DisableBuggyPeers Ed25519PrivateKeyFile \
    ExperimentalProtocol FWMark InvitationExpire ListenAddress LogLevel MaxConnectionBurst \
    MaxOutputBufferSize MinTimeout MTUInfoInterval Sandbox ScriptsExtension ScriptsInterpreter \
    UDPDiscovery UDPDiscoveryInterval UDPDiscoveryKeepaliveInterval UDPDiscoveryTimeout UDPInfoInterval \
    UPnP UPnPDiscoverWait UPnPRefreshPeriod VDEGroup VDEPort Ed25519PublicKey Ed25519PublicKeyFile Weight";

#[test]
fn the_table_has_every_variable_of_tinc_and_no_other_but_our_own() {
    let tincs: BTreeSet<&str> = MANUAL_10
        .split_whitespace()
        .chain(OTHERS.split_whitespace())
        .collect();
    let table = VARS
        .iter()
        .filter(|var| var.version != Version::Meshd)
        .map(|var| var.name);
    assert_eq!(table.collect::<BTreeSet<_>>(), tincs);
}

#[test]
fn defaults_are_those_of_tinc_1_1() {
    let tree = Tree::of_three();
    let config = tree.clean();
    let (settings, shell) = (&config.settings, &config.shell);
    assert_eq!(settings.options.0, 0x0700_000c);
    assert_eq!((settings.port, shell.port), (655, 655));
    assert!(settings.auto_connect && settings.local_discovery && settings.udp_discovery);
    assert!(!settings.strict_subnets && !settings.route.tunnel_server);
    assert_eq!(settings.route, Default::default());
    let seconds = [
        settings.udp_discovery_interval,
        settings.udp_discovery_keepalive,
        settings.udp_discovery_timeout,
        settings.udp_info_interval,
        settings.mtu_info_interval,
        settings.ping_interval,
        settings.ping_timeout,
        settings.key_expire,
        settings.max_timeout,
    ];
    assert_eq!(
        seconds,
        [2, 10, 30, 5, 5, 60, 5, 3600, 900].map(Duration::from_secs)
    );
    assert_eq!(settings.replay_window, 8192, "packets; ours, tinc's is 256");
    assert_eq!((settings.weight, settings.pmtu), (None, None));
    assert_eq!(shell.interface.as_deref(), Some("priv"), "the net name");
    let buffers = (shell.udp_rcvbuf, shell.udp_sndbuf);
    assert_eq!(buffers, (4 << 20, 4 << 20), "ours, tinc's are 1 MiB");
    assert_eq!(shell.workers, 0);
    assert_eq!((shell.nice, shell.fwmark, shell.log_level), (None, 0, 0));
    assert!(shell.pmtu_discovery && shell.listen.is_empty() && shell.bind.is_empty());
}

#[test]
fn every_honoured_variable_is_read() {
    let tree = Tree::of_three();
    tree.write(
        "tinc.conf",
        "Name = me\nAddressFamily = IPv4\nAutoConnect = no\nBindToAddress = 127.0.0.1\n\
         ListenAddress = 127.0.0.2 7000\nListenAddress = 127.0.0.1\nBindToInterface = eth1\n\
         Broadcast = direct\nBroadcastSubnet = 10.255.255.255\nConnectTo = a\nDecrementTTL = yes\n\
         Device = /dev/tun9\nDeviceType = dummy\nDirectOnly = yes\nForwarding = kernel\nFWMark = 7\n\
         Interface = mesh0\nKeyExpire = 10\nLocalDiscovery = no\nLogLevel = 3\nMACExpire = 60\nMaxTimeout = 30\n\
         Mode = switch\nMTUInfoInterval = 6\nPingInterval = 20\nPingTimeout = 4\nPriorityInheritance = yes\n\
         ProcessPriority = high\nReplayWindow = 32\nScriptsExtension = .sh\n\
         ScriptsInterpreter = /bin/sh -e\nTunnelServer = yes\nUDPDiscovery = no\n\
         UDPDiscoveryInterval = 3\nUDPDiscoveryKeepaliveInterval = 4\nUDPDiscoveryTimeout = 5\n\
         UDPInfoInterval = 7\nUDPRcvBuf = 0\nUDPSndBuf = 65536\nNative = no\nInterfaceAddress = 172.20.0.11/24\n\
         InterfaceRoute = auto\nInterfaceRoute = 172.21.0.0/16\nInterfaceMTU = 1400\n",
    );
    tree.write(
        "hosts/me",
        &format!(
            "Ed25519PublicKey = {}\n\nClampMSS = no\nPMTU = 1400\nPort = 7655\n\
             Subnet = 10.9.0.0/16#5\nTCPOnly = yes\nWeight = -3\n",
            crate::key(0).public()
        ),
    );
    let config = tree.clean();
    let (settings, shell) = (&config.settings, &config.shell);
    let tcp_only = Options::TCP_ONLY | Options::INDIRECT;
    assert_eq!(
        settings.options.0,
        0x0700_0000 | tcp_only,
        "TCPOnly takes PMTUDiscovery along"
    );
    assert_eq!(settings.port, 7655);
    assert_eq!(settings.subnets, ["10.9.0.0/16#5".parse().unwrap()]);
    assert_eq!(
        settings.broadcast_subnets,
        ["10.255.255.255".parse().unwrap()]
    );
    assert_eq!(settings.connect_to, ["a".parse().unwrap()]);
    assert!(!settings.auto_connect && !settings.local_discovery && !settings.udp_discovery);
    assert!(settings.strict_subnets, "TunnelServer implies it");
    let route = &settings.route;
    assert_eq!(
        (route.forwarding, route.broadcast),
        (Forwarding::Kernel, Broadcast::Direct)
    );
    assert!(route.decrement_ttl && route.direct_only && route.priority_inheritance);
    assert!(route.tunnel_server && !settings.native);
    let seconds = [
        settings.udp_discovery_interval,
        settings.udp_discovery_keepalive,
        settings.udp_discovery_timeout,
        settings.udp_info_interval,
        settings.mtu_info_interval,
        settings.ping_interval,
        settings.ping_timeout,
        settings.key_expire,
        settings.max_timeout,
    ];
    assert_eq!(
        seconds,
        [3, 4, 5, 7, 6, 20, 4, 10, 30].map(Duration::from_secs)
    );
    assert_eq!(settings.route.mode, Mode::Switch);
    assert_eq!(settings.mac_expire, Duration::from_secs(60));
    assert_eq!(
        (settings.weight, settings.pmtu, settings.replay_window),
        (Some(-3), Some(1400), 256)
    );

    assert_eq!(shell.address_family, AddressFamily::V4);
    let listen: Vec<String> = shell.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:7655", "127.0.0.2:7000"]);
    assert_eq!(shell.bind, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(shell.bind_to_interface.as_deref(), Some("eth1"));
    assert_eq!(shell.device.as_deref(), Some("/dev/tun9".as_ref()));
    assert_eq!((shell.device_type, shell.fwmark), (DeviceType::Dummy, 7));
    assert_eq!(
        (shell.interface.as_deref(), shell.interface_mtu),
        (Some("mesh0"), Some(1400))
    );
    assert_eq!(shell.interface_addresses, [([172, 20, 0, 11].into(), 24)]);
    assert_eq!(
        shell.interface_routes.networks,
        [([172, 21, 0, 0].into(), 16)]
    );
    assert!(shell.interface_routes.auto && !shell.pmtu_discovery);
    assert_eq!((shell.udp_rcvbuf, shell.udp_sndbuf), (0, 65536));
    assert_eq!(shell.scripts_interpreter.as_deref(), Some("/bin/sh -e"));
    assert_eq!(
        (
            shell.scripts_extension.as_str(),
            shell.nice,
            shell.log_level
        ),
        (".sh", Some(-10), 3)
    );
}

#[test]
fn ping_times_are_clamped_as_tinc_clamps_them() {
    for (lines, interval, timeout) in [
        ("PingInterval = 0\n", 86_400, 5),
        ("PingInterval = -1\nPingTimeout = 90000\n", 86_400, 86_400),
        ("PingInterval = 10\nPingTimeout = 20\n", 10, 10),
        ("PingTimeout = 0\n", 60, 60),
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = me\n{lines}"));
        let settings = tree.load().unwrap().settings;
        let got = (
            settings.ping_interval.as_secs(),
            settings.ping_timeout.as_secs(),
        );
        let told = format!("PingTimeout must be 1 to PingInterval; meshd uses {timeout}");
        let said = tree.said().concat();
        assert_eq!(said.ends_with(&told), lines.contains("Timeout"), "{said}");
        assert_eq!(got, (interval, timeout), "{lines}");
    }
}

#[test]
fn the_device_is_that_of_the_mode() {
    for (lines, device) in [
        ("", DeviceType::Tun),
        ("Mode = router\n", DeviceType::Tun),
        ("DeviceType = tap\n", DeviceType::Tap),
        ("Mode = switch\n", DeviceType::Tap),
        ("Mode = hub\n", DeviceType::Tap),
        ("Mode = switch\nDeviceType = tap\n", DeviceType::Tap),
        ("Mode = hub\nDeviceType = dummy\n", DeviceType::Dummy),
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = me\n{lines}"));
        assert_eq!(tree.clean().shell.device_type, device, "{lines}");
    }
}

#[test]
fn subnet_policy_is_conflict_unless_it_is_set() {
    for (lines, policy, strict) in [
        ("", SubnetPolicy::Conflict, false),
        ("SubnetPolicy = open\n", SubnetPolicy::Open, false),
        ("SubnetPolicy = covered\n", SubnetPolicy::Covered, false),
        ("SubnetPolicy = strict\n", SubnetPolicy::Conflict, true),
        (
            "SubnetPolicy = open\nStrictSubnets = yes\n",
            SubnetPolicy::Open,
            true,
        ),
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = me\n{lines}"));
        let settings = tree.clean().settings;
        let got = (settings.subnet_policy, settings.strict_subnets);
        assert_eq!(got, (policy, strict), "{lines}");
    }
}

#[test]
fn bad_values_stop_us_where_they_stop_tinc() {
    for fatal in [
        "Mode = zzz",
        "Mode = switch\nDeviceType = tun",
        "DeviceType = toaster",
        "DeviceType = fd",
        "ExperimentalProtocol = no",
        "ProcessPriority = highest",
        "Subnet = 10.0.0.1/24",
        "Subnet = nonsense",
        "MaxTimeout = 0",
        "ReplayWindow = -1",
        "UDPRcvBuf = -1",
        "Port = 65536",
        "BindToAddress = ::1%nosuch",
        "Interface = a/b",
        "InterfaceMTU = 10",
        "InterfaceRoute = 10.0.0.1/24",
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = me\n{fatal}\n"));
        let problems = tree.load().expect_err(fatal);
        let errors: Vec<String> = problems
            .iter()
            .filter(|p| p.error)
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        let line = 1 + fatal.lines().count();
        let place = format!("tinc.conf:{line}: ");
        assert!(errors[0].starts_with(&place), "{errors:?}");
    }
    for harmless in [
        "TCPOnly = maybe",
        "Weight = heavy",
        "BroadcastSubnet = x",
        "ConnectTo = a/b",
        "KeyExpire = 10s",
        "KeyExpire = 0",
        "UDPDiscoveryInterval = -1",
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = me\n{harmless}\n"));
        let said = tree.load().expect(harmless).problems;
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(!said[0].error && said[0].line == 2, "{said:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let tree = Tree::of_three();
    tree.write(
        "tinc.conf",
        "Name = me\nMode = x\nForwarding = y\nPingIntervall = 3\n",
    );
    tree.write("hosts/a", "Subnet = 10.0.0.1/24\n");
    let said = tree.said();
    for start in [
        "tinc.conf:2: Mode must be one of router, switch, hub",
        "tinc.conf:3: Forwarding must be one of",
        "tinc.conf:4: unknown variable \"PingIntervall\", ignored; did you mean PingInterval?",
        "hosts/a:1: Subnet \"10.0.0.1/24\" has host bits set (did you mean 10.0.0.0/24?)",
    ] {
        assert!(
            said.iter().any(|line| line.starts_with(start)),
            "{start}: {said:#?}"
        );
    }
}

/// The variables that meshd does not honour, and what it means to ignore them.
fn not_honoured() -> impl Iterator<Item = (&'static Var, Ignoring)> {
    VARS.iter().filter_map(|var| match var.honoured {
        Honoured::NotYet(ignoring) => Some((var, ignoring)),
        Honoured::Yes | Honoured::NoEffect => None,
    })
}

/// Remarks on a variable that is not supported, in a file or option.
fn told(var: &Var, ignoring: Ignoring) -> String {
    let (Ignoring::Safe(instead) | Ignoring::Unsafe(instead)) = ignoring;
    format!("meshd does not support {} yet: {instead}", var.name)
}

#[test]
fn what_is_not_honoured_and_safe_to_ignore_is_said_once() {
    for (var, ignoring) in not_honoured() {
        if !matches!(ignoring, Ignoring::Safe(_)) {
            continue;
        }
        let tree = Tree::of_three();
        let line = format!("{} = 11\n", var.name.to_lowercase());
        tree.write("tinc.conf", &format!("Name = me\n{line}{line}"));
        let said = tree.load().expect(var.name).problems;
        let text = told(var, ignoring);
        let hits = said.iter().filter(|p| p.text == text && !p.error).count();
        assert_eq!(hits, 1, "{}: {said:?}", var.name);
    }
    let tree = Tree::of_three();
    tree.write(
        "tinc.conf",
        "Name = me\nProxy = None\nDeviceStandby = NO\nCompression = 0\nIffOneQueue = yes\n",
    );
    tree.clean();
}

/// In every place where tinc would honour it, at a start and at a reload; in a peer's host file it says nothing to tinc either.
#[test]
fn what_is_not_honoured_and_protects_is_refused_wherever_tinc_takes_it_from() {
    let mut names = Vec::new();
    for (var, ignoring) in not_honoured() {
        if !matches!(ignoring, Ignoring::Unsafe(_)) {
            continue;
        }
        names.push(var.name);
        let line = format!("{} = bogus\n", var.name);
        let own = format!("Ed25519PublicKey = {}\n{line}", crate::key(0).public());
        for (file, text) in [
            ("tinc.conf", format!("Name = me\n{line}")),
            ("conf.d/10-site.conf", line.clone()),
            ("hosts/me", own),
            ("command line option", line.clone()),
        ] {
            let mut tree = Tree::of_three();
            let before = tree.clean();
            if file == "command line option" {
                tree.option(line.trim());
            } else {
                tree.write(file, &text);
            }
            let number = text.lines().count();
            let wanted = format!("{file}:{number}: {}", told(var, ignoring));
            for last in [None, Some(&before)] {
                let problems = config::load(&tree.source(), last).expect_err(&wanted);
                let errors = problems.iter().filter(|problem| problem.error);
                let errors: Vec<String> = errors.map(ToString::to_string).collect();
                assert_eq!(errors, [wanted.as_str()]);
            }
        }
        let tree = Tree::of_three();
        tree.write("hosts/a", &format!("{}{line}", crate::host(1)));
        assert_eq!(
            tree.load()
                .expect("it is another node's")
                .settings
                .hosts
                .len(),
            2
        );
    }
    assert_eq!(names, ["DeviceStandby", "Proxy"]);
}

/// `true` is no `yes` in these files: what would have protected must not be lost with a warning.
#[test]
fn a_value_that_cannot_be_read_is_refused_where_the_variable_guards() {
    for (line, text) in [
        (
            "StrictSubnets = true",
            "\"yes\" or \"no\" expected for StrictSubnets",
        ),
        (
            "TunnelServer = 1",
            "\"yes\" or \"no\" expected for TunnelServer",
        ),
        (
            "DirectOnly = on",
            "\"yes\" or \"no\" expected for DirectOnly",
        ),
        ("FWMark = mark", "Integer expected for FWMark"),
        ("FWMark = 0x10", "FWMark is read as 0; remove \"x10\""),
    ] {
        let tree = Tree::of_three();
        let before = tree.clean();
        tree.write("tinc.conf", &format!("Name = me\n{line}\n"));
        for last in [None, Some(&before)] {
            let problems = config::load(&tree.source(), last).expect_err(line);
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(said, [format!("tinc.conf:2: {text}")]);
            assert!(problems[0].error);
        }
    }
}

/// A secret that a host file names is not taken from there: then links would be made without it.
#[test]
fn a_secret_in_the_own_host_file_is_refused() {
    for variable in ["PresharedKeyFile", "NativePrivateKeyFile"] {
        let tree = Tree::of_three();
        let key = crate::key(0).public();
        let text = format!("Ed25519PublicKey = {key}\n{variable} = psk\n");
        tree.write("hosts/me", &text);
        let problems = tree.load().expect_err(variable);
        let wanted = format!(
            "hosts/me:2: {variable} names a secret of this node and is ignored in a host file; move it to tinc.conf"
        );
        assert!(
            problems.iter().any(|p| p.to_string() == wanted),
            "{problems:?}"
        );
    }
}

#[test]
fn own_keys_that_do_not_match_are_told() {
    let tree = Tree::of_three();
    tree.write("hosts/me", &crate::host(3));
    let said = tree.said();
    let text = format!("it should be {}", crate::key(0).public());
    assert!(
        said.iter()
            .any(|line| line.starts_with("hosts/me: ") && line.ends_with(&text)),
        "{said:?}"
    );
    std::fs::remove_file(tree.at("ed25519_key.priv")).unwrap();
    let said = tree.said();
    assert!(
        said.iter()
            .any(|line| line.starts_with("ed25519_key.priv: no such file")),
        "{said:?}"
    );
}
