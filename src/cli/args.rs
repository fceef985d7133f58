//! The command line. Help, completions and man pages are generated from it.

mod values;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use meshd_api::proto::MAX_SNAP;
use meshd_diagnose::health;

use crate::{lab::LabArgs, top::state::View};

pub use values::{CheckedPlace, Color, Form, Format, Generate, Picture, Tool};
use values::{interval, snap};

/// Inspect and control meshd, the mesh VPN daemon.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "meshctl",
    version,
    arg_required_else_help = true,
    infer_subcommands = true,
    before_help = "Examples:\n  \
        meshctl peers                 every node, its path and its faults\n  \
        meshctl -n priv routes get 10.7.0.9\n  \
        meshctl check /etc/tinc/priv  every mistake in a configuration\n  \
        meshctl peers --json | jq '.data[] | select(.up | not) | .name'",
    after_help = "Exit codes: 0 success, 1 negative answer, 2 wrong usage, 3 daemon not running, \
        4 no such net, node or subnet, 5 permission denied, 6 timeout, 7 invalid configuration, \
        8 refused by the daemon, 9 applied, but part of it needs a restart, \
        10 work is left to do (plan, migrate status)."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Use this net; default: $MESHD_NET, $NETNAME, else the only net with a running daemon
    #[arg(short, long, global = true, value_name = "NET")]
    pub net: Option<String>,
    /// Read the configuration in DIR; give this option before the command
    #[arg(short, long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Connect to the daemon over this control socket
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Connect to the daemon that was started with this --pidfile
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    pub pidfile: Option<PathBuf>,
    /// Print output in this form
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        default_value = "table"
    )]
    pub output: Format,
    /// Print JSON; the same as --output json
    #[arg(long, global = true)]
    pub json: bool,
    /// Print tables without header lines
    #[arg(long, global = true)]
    pub no_header: bool,
    /// Use colours: auto, always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// Wait SECONDS for the daemon's answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// A command.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Show every node: path, endpoint, round trip, traffic and faults
    Peers,
    /// Show the state of the daemon on one screen
    Status,
    /// Watch rates per second: peers, meta messages, drops, packet threads
    #[command(
        before_help = "Examples:\n  \
            meshctl top                                      on the terminal, updated every two seconds\n  \
            meshctl top --batch --interval 1m >> top.log     text for a log\n  \
            meshctl top -c 1 --view drops --json             drops of two seconds, for programs",
        after_help = "Keys: Tab or 1 to 4 select a view. s and S select the sort column. p filters by path (udp, tcp, via, down, \
            all). / filters by text: Enter keeps the filter, Esc removes it. Arrow and page keys scroll. q quits. \
            Without a terminal, top prints text. An unknown rate is shown as -, for instance after a restart of the daemon."
    )]
    Top {
        /// Print frames of text, one after another, with fixed columns
        #[arg(short, long)]
        batch: bool,
        /// Print COUNT frames of text, then exit
        #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// Update every TIME, as in 500ms or 1m; at least 100ms
        #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = interval)]
        interval: Duration,
        /// Start with this view; text output shows only this view instead of all four
        #[arg(long, value_name = "VIEW")]
        view: Option<View>,
    },
    /// Build a mesh in temporary namespaces on this machine and check it step by step
    Lab(LabArgs),
    /// Show all subnets and the node that receives packets for each
    Routes {
        /// Show the route of one address
        #[command(subcommand)]
        get: Option<RoutesCommand>,
    },
    /// Draw the mesh: nodes, links and the paths of packets from this node
    #[command(before_help = "Examples:\n  \
        meshctl graph                                   a tree for the terminal\n  \
        meshctl graph --format png --out mesh.png       an image file\n  \
        meshctl graph --format svg --traffic --out mesh.svg\n  \
        meshctl -c /etc/tinc/priv graph                 ConnectTo lines of one node, without a daemon")]
    Graph {
        /// Draw in this form; --json is the same as `--format json`
        #[arg(long, value_name = "FORM", default_value = "ascii")]
        format: Picture,
        /// Show the traffic between this node and each other node
        #[arg(long)]
        traffic: bool,
        /// Write the drawing to FILE
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print a table in the text form of tinc 1.1
    Dump {
        /// Print this table; `reachable nodes` omits unreachable nodes
        #[arg(value_name = "[reachable] nodes|edges|subnets|connections|graph|digraph",
              required = true, num_args = 1..=2,
              value_parser = ["nodes", "edges", "subnets", "connections", "graph", "digraph", "reachable"])]
        what: Vec<String>,
    },
    /// Follow the daemon's log until interrupted, or show past log lines
    Log {
        /// Follow new lines; the default without --since
        #[arg(short, long)]
        follow: bool,
        /// Show past lines, as in 10m, from the daemon's memory: it keeps the last 4096 lines, without lines about
        /// single packets
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        since: Option<Duration>,
        /// Show only lines about this node
        #[arg(long, value_name = "NODE")]
        peer: Option<String>,
        /// Show lines up to this debug level of tinc, 0 to 10; default: the daemon's level
        #[arg(short, long, value_parser = clap::value_parser!(u8).range(0..=10))]
        level: Option<u8>,
    },
    /// Show packets of the mesh live, or write them to a file for Wireshark and tcpdump; needs root
    #[command(
        before_help = "Examples:\n  \
            meshctl capture db_01                             packets to and from db_01, one line each\n  \
            meshctl capture --inner --outer -w mesh.pcapng    both sides of the tunnels, until Ctrl-C\n  \
            meshctl capture --meta --seconds 60               request lines of links, without keys\n  \
            meshctl capture -w - | tcpdump -n -r -            decoded by tcpdump",
        after_help = "In a file, names of nodes are comments of the packets. Inner packets are not encrypted. Keys are never shown: a \
            request line has KEY in place of each. meshctl adds IP and UDP headers to outer packets, and TCP headers to request \
            lines, from their addresses. Packets that travel between daemons over TCP are not outer packets. \
            Packets that arrive faster than meshctl reads are dropped and counted; the daemon never waits. Only one capture runs \
            at a time."
    )]
    Capture {
        /// Show only packets of this node
        #[arg(value_name = "PEER")]
        peer: Option<String>,
        /// Capture packets that enter or leave tunnels; the default
        #[arg(long)]
        inner: bool,
        /// Capture sealed datagrams between daemons
        #[arg(long)]
        outer: bool,
        /// Capture request lines of links
        #[arg(long)]
        meta: bool,
        /// Write a pcapng file that only root can read; - is standard output
        #[arg(short, long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// Stop after N packets
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Stop after N seconds
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
        /// Capture at most BYTES of each packet, 1 to 262144
        #[arg(long, value_name = "BYTES", default_value_t = MAX_SNAP, value_parser = snap)]
        snap: usize,
    },
    /// Reload the configuration; refuse an invalid one, or one that disconnects many nodes
    Reload {
        /// Reload even if more than a tenth of the nodes are disconnected
        #[arg(long)]
        yes: bool,
        /// Undo the reload unless `meshctl confirm` runs within TIME, as in 5m; protects your own access
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        confirm: Option<Duration>,
        /// Restore the configuration before the last reload; the files stay as they are
        #[arg(long, conflicts_with_all = ["yes", "confirm"])]
        undo: bool,
    },
    /// Confirm the changes of `reload --confirm`
    Confirm,
    /// Show the changes that a reload would make and the nodes it would disconnect
    Plan,
    /// Stop the daemon
    Stop,
    /// Dial all missing links now
    Retry,
    /// Migrate from tinc 1.0 to the native protocol
    Migrate {
        /// The subcommand.
        #[command(subcommand)]
        what: MigrateCommand,
    },
    /// Check a configuration and show every mistake with file and line
    Check {
        /// Check this directory; default: that of --config or --net; with --as, check this file
        #[arg(value_name = "DIR|FILE")]
        path: Option<PathBuf>,
        /// Check FILE as if it stood in the directory: as `host:NAME`, as `daemon`, or as a path such as `hosts/web_01.toml`
        #[arg(long = "as", value_name = "PLACE", requires = "path")]
        place: Option<CheckedPlace>,
        /// Exit with 1 if the configuration has warnings
        #[arg(long)]
        strict: bool,
    },
    /// Convert a configuration to TOML or to tinc's form, into another directory
    Convert {
        /// Write this form
        #[arg(long, value_name = "FORM")]
        to: Form,
        /// Write into DIR; DIR may hold keys and scripts, but none of the files to write
        #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
        out: Option<PathBuf>,
        /// Print the files instead of writing them
        #[arg(long)]
        dry_run: bool,
        /// Read this directory; default: that of --config or --net
        dir: Option<PathBuf>,
    },
    /// Make a key pair if none exists
    #[command(
        after_help = "If a private key exists, keygen exits with 8 and writes nothing. With --keep it prints the public key and exits \
            with 0. With --replace it makes a new key and keeps the old one as comment lines. If keygen is killed, the next run \
            completes its work."
    )]
    Keygen {
        /// Write into DIR; default: that of --config or --net
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print the line for host files
        #[arg(long)]
        print_host: bool,
        /// If a private key exists, print its public key and exit with 0
        #[arg(long, conflicts_with = "replace")]
        keep: bool,
        /// If a private key exists, make a new one and comment the old one out
        #[arg(long)]
        replace: bool,
    },
    /// Print all metrics in Prometheus text format
    Metrics {
        /// Write metrics to FILE for node_exporter's textfile collector; the name of FILE must end in .prom
        #[arg(long, value_name = "FILE")]
        textfile: Option<PathBuf>,
    },
    /// Find the first broken step from this node to another, or between two other nodes
    #[command(
        before_help = "Examples:\n  \
            meshctl why db_02                      name, key, trust, path, UDP, MTU, owner, route, firewall\n  \
            meshctl why 172.20.7.9                 the owner of that address, and the first broken step to it\n  \
            meshctl why db_01 db_02                the same between two other nodes, as both see it\n  \
            meshctl -c /etc/tinc/priv why db_02    from the files alone, without a daemon",
        after_help = "First the daemon sends probes to the node. If the node runs meshd, the daemon asks the node for its view of \
            this node. The answer travels in the native tunnel, so no node on the path can read or forge it. With two names, \
            the daemon asks both ends. A tincd gives no answer, and no end reports its kernel's routes or its firewall: why \
            reads these facts from the graph or shows them as unknown. \
            Exit codes: 0 nothing is broken, 1 a step is broken, 4 no such node or subnet, others as for every command."
    )]
    Why {
        /// A node, an address in the mesh, or a subnet
        #[arg(value_name = "NODE|ADDRESS|SUBNET")]
        what: String,
        /// The other end; default: this node
        #[arg(value_name = "NODE|ADDRESS|SUBNET")]
        to: Option<String>,
    },
    /// Measure the round trip to a node
    Ping {
        /// Ping this node
        node: String,
        /// Send N pings
        #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Show each hop of packets for a node, with its round trip
    Trace {
        /// A node, an address in the mesh, or a subnet
        #[arg(value_name = "NODE|ADDRESS|SUBNET")]
        what: String,
    },
    /// Print firewall rules that admit only peers at the daemon's port, or verify the rules in force
    #[command(
        before_help = "Examples:\n  \
        meshctl firewall | nft -c -f -            check a separate table for nftables\n  \
        meshctl firewall --format ufw | sh        add one rule for each peer\n  \
        meshctl firewall --verify                 verify the rules in force; exit 1 if they block a peer",
        after_help = "Peers are the numeric Address lines of the host files. Allow lines become rules for packets that leave the \
        mesh device; these rules drop all other packets there. meshd itself filters nothing: load the rules again whenever Allow, \
        labels or subnets change. If Allow lines exist, --verify checks each node at each port that a line names. Other tables \
        keep dropping packets: --verify checks all tables that nft shows, including those of ufw, firewalld and iptables."
    )]
    Firewall {
        /// Print rules for this tool
        #[arg(long, value_name = "TOOL", default_value = "nft")]
        format: Tool,
        /// Verify the rules in force instead of printing rules
        #[arg(long)]
        verify: bool,
    },
    /// Write a support bundle: a tar file without secrets
    Support {
        /// Write to FILE; default: meshd-NODE-TIME.tar
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Report the health of this node's part of the mesh; exit 1 if it is not healthy
    #[command(
        after_help = "With --nagios, exit codes are those of Nagios plugins: 0 OK, 1 WARNING, 2 CRITICAL (also if the daemon \
        does not run), 3 UNKNOWN. If all peers are down, health always reports critical."
    )]
    Health {
        /// Print one line with performance data and exit with 0 to 3, for Nagios and Icinga
        #[arg(long)]
        nagios: bool,
        /// The limits.
        #[command(flatten)]
        limits: LimitOptions,
    },
    /// Print man pages or shell completions
    Generate {
        /// Print man pages, or completions for this shell
        kind: Generate,
        /// Write all man pages into DIR instead of printing one
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print this man page
        #[arg(long, default_value = "meshctl", value_parser = ["meshctl", "meshd", "meshd.conf", "meshd.toml"])]
        page: String,
    },
}

/// LimitOptions of `health`.
#[derive(Debug, Clone, Default, Args)]
pub struct LimitOptions {
    /// Report a warning when at least N peers are down
    #[arg(long, value_name = "N", default_value_t = health::Limits::default().down_warning)]
    pub down_warning: usize,
    /// Report critical when at least N peers are down; default: all peers
    #[arg(long, value_name = "N")]
    pub down_critical: Option<usize>,
    /// Report a warning when at least N peers are reached over TCP or through relays
    #[arg(long, value_name = "N")]
    pub detour_warning: Option<usize>,
    /// Report critical when at least N peers are reached over TCP or through relays
    #[arg(long, value_name = "N")]
    pub detour_critical: Option<usize>,
    /// Report a warning when a round trip to any peer takes at least MS milliseconds
    #[arg(long, value_name = "MS")]
    pub rtt_warning: Option<f64>,
    /// Report critical when a round trip to any peer takes at least MS milliseconds
    #[arg(long, value_name = "MS")]
    pub rtt_critical: Option<f64>,
}

/// `routes get ADDR`.
#[derive(Debug, Clone, Subcommand)]
pub enum RoutesCommand {
    /// Show the route of one address
    Get {
        /// An IPv4 or IPv6 address
        address: IpAddr,
    },
}

/// `migrate status`.
#[derive(Debug, Clone, Subcommand)]
pub enum MigrateCommand {
    /// Show the software and protocol of each node, the obstacle to its next step, and the remedy
    #[command(
        before_help = "Examples:\n  \
            meshctl migrate status                 one line for each node, this node first\n  \
            meshctl migrate status --json | jq -r '.data[] | select(.todo) | .todo.text'",
        after_help = "The steps are: run meshd instead of tincd on every node (legacy); give every node an Ed25519 key \
            (SPTPS with tinc 1.1, native between meshds); at last set MinProtocol = native, which \
            forbids all other protocols. The table shows the view of this node: run the command on each node. \
            The software of a node is inferred from its links. A meshd that does not offer native looks like \
            tinc 1.1. For a node that is down, the table shows its last link. \
            Exit codes: 0 nothing is left to do, 10 work is left to do, others as for every command."
    )]
    Status,
}
