//! The programs that are compared, each as two daemons that reach each other over one wire.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use crate::{
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, bring_up, on_one_wire,
    },
    traffic::try_ping,
    world::{Host, World, output, run, wait_until},
};

/// The protocol that carries the traffic.
pub(crate) struct Program {
    pub(crate) name: String,
    daemon: Daemon,
}

enum Daemon {
    /// Nodes of this kind, with these lines in tinc.conf.
    Node(Kind, String),
    /// wireguard-go at this path, configured by `wg`.
    WireguardGo(PathBuf),
}

impl Program {
    fn node(name: &str, kind: Kind, lines: &str) -> Self {
        Self {
            name: name.to_owned(),
            daemon: Daemon::Node(kind, lines.to_owned()),
        }
    }

    /// Ours, as it speaks to itself and to tinc 1.1; tinc; and what else is installed: wireguard-go with `wg`.
    pub(crate) fn installed() -> Vec<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| {
            let mut places = env::split_paths(&path).map(|dir| dir.join(name));
            places.find(|file| file.is_file())
        };
        let mut all = vec![
            Self::node("meshd", Meshd, ""),
            Self::node("meshd, SPTPS", Meshd, "Native = no\n"),
            Self::node("tinc 1.1", Tinc11, ""),
        ];
        if let (Some(program), Some(_)) = (find("wireguard-go"), find("wg")) {
            all.push(Self {
                name: "wireguard-go".to_owned(),
                daemon: Daemon::WireguardGo(program),
            });
        }
        all
    }

    /// Those that carry frames, in mode switch or hub, and meshd with packets beside them.
    pub(crate) fn in_mode(mode: &str) -> Vec<Self> {
        let line = format!("Mode = {mode}\n");
        vec![
            Self::node(&format!("meshd, {mode}"), Meshd, &line),
            Self::node(&format!("tinc 1.1, {mode}"), Tinc11, &line),
            Self::node("meshd, router", Meshd, ""),
        ]
    }
}

/// Two daemons of one kind that run.
pub(crate) struct Pair {
    daemons: Daemons,
    pub(crate) hosts: [Host; 2],
    /// Addresses inside the tunnel.
    pub(crate) addresses: [String; 2],
}

enum Daemons {
    Nodes(Box<[Node; 2]>),
    Children([Child; 2]),
}

impl Pair {
    pub(crate) fn start(program: &Program, world: &World) -> Self {
        let pair = match &program.daemon {
            Daemon::Node(kind, lines) => Self::nodes(*kind, lines, world),
            Daemon::WireguardGo(path) => Self::wireguard_go(path, world),
        };
        for host in &pair.hosts {
            // As a network card that segments would do it.
            host.exec("ethtool -K eth1 gso on tso on tx-udp-segmentation on");
        }
        // The path MTU of tincds is known some seconds later.
        thread::sleep(Duration::from_secs(4));
        wait_until("a long ping", Duration::from_secs(10), || {
            try_ping(&pair.hosts[0], &pair.addresses[1], 1_400, &[])
        });
        // As Debian's kernels do. Where another one is the default, iperf3's -C comes too late: once BBR has begun, its timers
        // go on pacing, one super-packet at a time.
        for host in &pair.hosts {
            for route in host.exec("ip -4 route show").lines() {
                host.ip(&format!("route change {route} congctl cubic"));
            }
        }
        pair
    }

    fn nodes(kind: Kind, lines: &str, world: &World) -> Self {
        let wire = world.wire();
        let [mut a, mut b] = on_one_wire(world, &wire, [kind, kind]);
        for node in [&a, &b] {
            let file = node.dir().join("tinc.conf");
            let text = fs::read_to_string(&file).unwrap();
            fs::write(file, format!("{lines}{text}")).unwrap();
        }
        bring_up(&mut a, &mut b);
        Self {
            hosts: [a.host.clone(), b.host.clone()],
            addresses: [a.v4(), b.v4()],
            daemons: Daemons::Nodes(Box::new([a, b])),
        }
    }

    /// Source: wireguard-go's and wg's manuals.
    fn wireguard_go(program: &Path, world: &World) -> Self {
        let wire = world.wire();
        let hosts = ["a", "b"].map(|name| world.host(name, &[&wire]));
        let ends = hosts.each_ref().map(|host| {
            let key = world.dir().join(format!("{}.key", host.name));
            let make = format!("umask 077; wg genkey > {0}; wg pubkey < {0}", key.display());
            let public = run(std::process::Command::new("sh").args(["-c", &make]));
            // Its control sockets are in one directory for all namespaces.
            let device = format!("wg{}{}", std::process::id(), host.name);
            (host, key, public.trim().to_owned(), device)
        });
        let addresses = hosts
            .each_ref()
            .map(|host| format!("10.20.0.{}", host.index));
        let children = [0, 1].map(|at| {
            let (host, key, _, device) = &ends[at];
            let (other, _, public, _) = &ends[1 - at];
            let control = format!("/var/run/wireguard/{device}.sock");
            // Of a daemon that was killed in an earlier round.
            let _ = fs::remove_file(&control);
            let child = host
                .command(program)
                .args(["-f", device])
                .env("WG_PROCESS_FOREGROUND", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait_until(&control, Duration::from_secs(10), || {
                let there = Path::new(&control).exists();
                there.then_some(()).ok_or_else(|| "not there".to_owned())
            });
            output(&format!(
                "wg set {device} listen-port 655 private-key {} peer {public} endpoint {}:655 allowed-ips {}/32",
                key.display(),
                other.v4()[0],
                addresses[1 - at]
            ));
            host.ip(&format!("addr add {}/24 dev {device}", addresses[at]));
            host.ip(&format!("link set {device} mtu 1420 up"));
            child
        });
        Self {
            hosts,
            addresses,
            daemons: Daemons::Children(children),
        }
    }

    /// Process ids of both.
    pub(crate) fn pids(&self) -> [u32; 2] {
        match &self.daemons {
            Daemons::Nodes(nodes) => nodes.each_ref().map(Node::pid),
            Daemons::Children(children) => children.each_ref().map(Child::id),
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Daemons::Children(children) = &mut self.daemons {
            for child in children {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
