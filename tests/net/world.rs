//! Hosts in network namespaces, the wires between them, and the faults of those wires.
//!
//! Nothing here touches the network of the machine itself: even the wires live in a namespace.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::{
        Once, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Worlds that measure rates have the machine to themselves.
static QUIET: RwLock<()> = RwLock::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A set of hosts and wires; gone when the last handle on it is dropped.
#[derive(Clone)]
pub(crate) struct World(Rc<Inner>);

struct Inner {
    prefix: String,
    dir: PathBuf,
    wires: Cell<u8>,
    hosts: RefCell<Vec<String>>,
    _share: Box<dyn Any>,
}

impl World {
    /// A world that runs beside others.
    pub(crate) fn new() -> Self {
        Self::build(QUIET.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// A world that has the machine to itself, for scenarios that fill it with traffic.
    pub(crate) fn alone() -> Self {
        Self::build(QUIET.write().unwrap_or_else(|e| e.into_inner()))
    }

    fn build(share: impl Any) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let prefix = format!(
            "mt{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        // Short: the paths of control sockets are limited to 107 bytes.
        let dir = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&dir).unwrap();
        let world = Self(Rc::new(Inner {
            prefix,
            dir,
            wires: Cell::new(0),
            hosts: RefCell::default(),
            _share: Box::new(share),
        }));
        world.add_namespace("wire");
        world
    }

    fn add_namespace(&self, name: &str) {
        ip(&format!("netns add {}", self.namespace(name)));
        self.0.hosts.borrow_mut().push(name.to_owned());
        ip(&format!("-n {} link set lo up", self.namespace(name)));
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.0.prefix)
    }

    /// Where this world keeps its files.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// A new wire: a bridge that joins every host on it.
    pub(crate) fn wire(&self) -> Wire {
        let number = self.0.wires.get() + 1;
        self.0.wires.set(number);
        let ns = self.namespace("wire");
        ip(&format!("-n {ns} link add br{number} type bridge"));
        ip(&format!("-n {ns} link set br{number} up"));
        nft(
            &ns,
            &format!(
                "table bridge w{number} {{
                    chain forward {{
                        type filter hook forward priority 0; policy accept;
                    }}
                }}"
            ),
        );
        Wire {
            world: self.clone(),
            number,
        }
    }

    /// A new host on `wires`, with an IPv4 and an IPv6 address on each.
    pub(crate) fn host(&self, name: &str, wires: &[&Wire]) -> Host {
        let index = u8::try_from(self.0.hosts.borrow().len()).unwrap();
        self.add_namespace(name);
        let host = Host {
            world: self.clone(),
            name: name.to_owned(),
            index,
            wires: wires.iter().map(|wire| wire.number).collect(),
        };
        host.exec(
            "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 \
             net.ipv4.conf.all.promote_secondaries=1",
        );
        for wire in wires {
            let number = wire.number;
            let (ns, port) = (self.namespace("wire"), wire.port(name));
            ip(&format!(
                "link add eth{number} netns {} type veth peer name {port} netns {ns}",
                host.namespace()
            ));
            ip(&format!("-n {ns} link set {port} master br{number} up"));
            // Segments are cut before the wire, as on a real one: its MTU means something then.
            host.exec(&format!(
                "ethtool -K eth{number} gso off tso off tx-udp-segmentation off"
            ));
            host.ip(&format!("link set eth{number} up"));
            host.add_address(wire, index);
        }
        host
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for name in self.hosts.borrow().iter() {
            let ns = format!("{}-{name}", self.prefix);
            let _ = Command::new("ip").args(["netns", "delete", &ns]).output();
        }
        if thread::panicking() {
            keep(&self.dir);
        } else if std::env::var_os("MESHD_NET_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Moves the files of a failed world to where a person finds them.
fn keep(dir: &Path) {
    let name = thread::current()
        .name()
        .unwrap_or("test")
        .replace("::", "-");
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("net-{name}"));
    let _ = fs::remove_dir_all(&kept);
    let moved = Command::new("mv").arg(dir).arg(&kept).status();
    if moved.is_ok_and(|status| status.success()) {
        eprintln!("configuration and logs: {}", kept.display());
    }
}

/// Removes namespaces, and the processes in them, that an aborted run of these tests left behind.
fn sweep() {
    for line in output("ip netns list").lines() {
        let Some(ns) = line.split_whitespace().next() else {
            continue;
        };
        let Some((pid, _)) = ns.strip_prefix("mt").and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if pid.parse::<u32>().is_err() || Path::new("/proc").join(pid).exists() {
            continue;
        }
        for orphan in output(&format!("ip netns pids {ns}")).lines() {
            let _ = Command::new("kill").args(["-9", orphan]).output();
        }
        let _ = Command::new("ip").args(["netns", "delete", ns]).output();
    }
}

/// One network segment.
#[derive(Clone)]
pub(crate) struct Wire {
    world: World,
    number: u8,
}

impl Wire {
    /// A counter of the packets that all hosts have sent so far, on this wire and all others of its world.
    pub(crate) fn counter(&self) -> impl Fn() -> u64 + Send + 'static {
        let read = format!(
            "ip netns exec {} cat /proc/net/dev",
            self.world.namespace("wire")
        );
        move || {
            let table = output(&read);
            let ports = table.lines().map(str::trim_start);
            let ports = ports.filter(|line| line.starts_with('p'));
            let sent = ports.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
            sent.sum()
        }
    }

    /// IPv4 address of the host of this index.
    pub(crate) fn v4(&self, index: u8) -> String {
        format!("10.77.{}.{index}", self.number)
    }

    /// IPv6 address of the host of this index.
    pub(crate) fn v6(&self, index: u8) -> String {
        format!("fd77:{}::{index}", self.number)
    }

    /// Name of a host's port of this wire.
    pub(crate) fn port(&self, host: &str) -> String {
        format!("p{}-{host}", self.number)
    }

    /// Loses what matches this rule of nft.
    pub(crate) fn rule(&self, comment: &str, rule: &str) {
        let number = self.number;
        nft(
            &self.world.namespace("wire"),
            &format!(
                "add rule bridge w{number} forward iifname \"p{number}-*\" {rule} counter drop comment \"{comment}\""
            ),
        );
    }

    /// Takes back every rule of this comment; panics if there is none.
    pub(crate) fn unrule(&self, comment: &str) {
        let ns = self.world.namespace("wire");
        let chain = format!("bridge w{} forward", self.number);
        let listing = output(&format!("ip netns exec {ns} nft -a list chain {chain}"));
        let wanted = format!("comment \"{comment}\"");
        let handles: Vec<_> = listing
            .lines()
            .filter(|line| line.contains(&wanted))
            .filter_map(|line| line.rsplit_once("# handle "))
            .collect();
        assert!(!handles.is_empty(), "no rule {comment:?} in:\n{listing}");
        for (_, handle) in handles {
            nft(&ns, &format!("delete rule {chain} handle {handle}"));
        }
    }

    /// Drops UDP between two hosts, both ways, IPv4 and IPv6.
    pub(crate) fn block_udp(&self, a: &Host, b: &Host) {
        self.block(a, b, "udp");
    }

    /// Drops TCP between two hosts likewise.
    pub(crate) fn block_tcp(&self, a: &Host, b: &Host) {
        self.block(a, b, "tcp");
    }

    fn block(&self, a: &Host, b: &Host, protocol: &str) {
        for (from, to) in [(a, b), (b, a)] {
            let comment = format!("{protocol} {} {}", a.name, b.name);
            for (family, source, target) in [
                ("ip", self.v4(from.index), self.v4(to.index)),
                ("ip6", self.v6(from.index), self.v6(to.index)),
            ] {
                self.rule(
                    &comment,
                    &format!(
                        "{family} saddr {source} {family} daddr {target} meta l4proto {protocol}"
                    ),
                );
            }
        }
    }

    /// Ends [`Self::block_udp`].
    pub(crate) fn unblock_udp(&self, a: &Host, b: &Host) {
        self.unrule(&format!("udp {} {}", a.name, b.name));
    }

    /// Ends [`Self::block_tcp`].
    pub(crate) fn unblock_tcp(&self, a: &Host, b: &Host) {
        self.unrule(&format!("tcp {} {}", a.name, b.name));
    }

    /// Loses everything to and from a host, without a sign of it at the host.
    pub(crate) fn cut(&self, host: &Host) {
        let port = self.port(&host.name);
        for direction in ["iifname", "oifname"] {
            self.rule(
                &format!("cut {}", host.name),
                &format!("{direction} \"{port}\""),
            );
        }
    }

    /// Ends [`Self::cut`].
    pub(crate) fn mend(&self, host: &Host) {
        self.unrule(&format!("cut {}", host.name));
    }

    /// Loses this share of all IP packets at random.
    pub(crate) fn lose(&self, percent: u8) {
        self.rule("lose", &format!("numgen random mod 100 < {percent}"));
    }

    /// Ends [`Self::lose`].
    pub(crate) fn lose_nothing(&self) {
        self.unrule("lose");
    }

    /// Loses every UDP packet longer than this, without an ICMP error: a black hole. TCP is let
    /// through, because the kernels at its ends would not get over such a hole either.
    pub(crate) fn swallow_udp_longer_than(&self, mtu: u16) {
        for family in ["ip", "ip6"] {
            self.rule(
                "long",
                &format!("ether type {family} meta l4proto udp meta length > {mtu}"),
            );
        }
    }
}

/// One machine.
#[derive(Clone)]
pub(crate) struct Host {
    world: World,
    /// Its name, also that of the node on it.
    pub(crate) name: String,
    /// Last byte of its addresses.
    pub(crate) index: u8,
    wires: Vec<u8>,
}

impl Host {
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    pub(crate) fn namespace(&self) -> String {
        self.world.namespace(&self.name)
    }

    /// IPv4 addresses, one a wire.
    pub(crate) fn v4(&self) -> Vec<String> {
        self.wires
            .iter()
            .map(|wire| format!("10.77.{wire}.{}", self.index))
            .collect()
    }

    /// `ip` with these arguments in this host.
    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.namespace()));
    }

    /// Runs a command in this host; panics if it fails.
    pub(crate) fn exec(&self, command: &str) -> String {
        output(&format!("ip netns exec {} {command}", self.namespace()))
    }

    /// A command that will run in this host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace()])
            .arg(program);
        command
    }

    /// Loads nftables rules in this host.
    pub(crate) fn nft(&self, rules: &str) {
        nft(&self.namespace(), rules);
    }

    /// Gives the host another pair of addresses on a wire.
    pub(crate) fn add_address(&self, wire: &Wire, index: u8) {
        self.change_address(wire, index, "add");
    }

    /// Takes a pair of addresses away.
    pub(crate) fn remove_address(&self, wire: &Wire, index: u8) {
        self.change_address(wire, index, "del");
    }

    fn change_address(&self, wire: &Wire, index: u8, how: &str) {
        let number = wire.number;
        self.ip(&format!(
            "address {how} {}/24 dev eth{number}",
            wire.v4(index)
        ));
        self.ip(&format!(
            "-6 address {how} {}/64 dev eth{number}",
            wire.v6(index)
        ));
    }

    /// Makes this host forward what is not for it.
    pub(crate) fn forward(&self) {
        self.exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    }

    /// Sends what is for other wires to `router`, which is on this wire too.
    pub(crate) fn route_by(&self, router: &Self, wire: &Wire) {
        self.ip(&format!("route add default via {}", wire.v4(router.index)));
        self.ip(&format!(
            "-6 route add default via {}",
            wire.v6(router.index)
        ));
    }

    /// Sets the MTU of the interface on a wire.
    pub(crate) fn set_mtu(&self, wire: &Wire, mtu: u16) {
        self.ip(&format!("link set eth{} mtu {mtu}", wire.number));
    }

    /// Runs `work` on a thread that lives in this host: its sockets are the host's.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = fs::File::open(Path::new("/run/netns").join(self.namespace())).unwrap();
        thread::Builder::new()
            .name(format!("in {}", self.name))
            .spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                work()
            })
            .unwrap()
    }
}

fn ip(arguments: &str) {
    output(&format!("ip {arguments}"));
}

fn nft(ns: &str, rules: &str) {
    run(Command::new("ip").args(["netns", "exec", ns, "nft", rules]));
}

/// Runs a command line (split at spaces) and returns what it printed; panics if it fails.
pub(crate) fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    run(Command::new(words.next().unwrap()).args(words))
}

/// Runs a command and returns what it printed; panics if it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let result = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    assert!(
        result.status.success(),
        "{command:?}: {}\n{text}{}",
        result.status,
        String::from_utf8_lossy(&result.stderr)
    );
    text
}

/// Polls until `look` finds what it looks for; its last error is the panic's message.
pub(crate) fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if start.elapsed() > limit => {
                panic!("not within {limit:?}: {what}\nlast look: {last}");
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
