//! The command line, from which help, completions and man pages are made.

use std::{
    net::IpAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use meshd_api::proto::MAX_SNAP;
use meshd_wire::NodeName;

use crate::{lab::LabArgs, top::state::View};

/// Look at and steer meshd, the mesh VPN daemon.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "meshctl",
    version,
    arg_required_else_help = true,
    infer_subcommands = true,
    before_help = "Examples:\n  \
        meshctl peers                 every node, its path and what is wrong with it\n  \
        meshctl -n priv routes get 10.7.0.9\n  \
        meshctl check /etc/tinc/priv  all mistakes of a configuration at once\n  \
        meshctl peers --json | jq '.data[] | select(.up | not) | .name'",
    after_help = "Exit codes: 0 fine, 1 negative answer, 2 usage, 3 daemon not running, \
        4 no such net, node or subnet, 5 permission, 6 timeout, 7 configuration invalid, \
        8 refused by the daemon, 9 applied but part of it needs a restart, \
        10 something is left to do (plan, migrate status)."
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The net; default: $MESHD_NET, $NETNAME, else the only one that runs
    #[arg(short, long, global = true, value_name = "NET")]
    pub net: Option<String>,
    /// The configuration directory, for commands that read it; stands before the command
    #[arg(short, long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The control socket of the daemon
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The daemon that was started with this --pidfile
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    pub pidfile: Option<PathBuf>,
    /// Form of the output
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        default_value = "table"
    )]
    pub output: Format,
    /// The same as --output json
    #[arg(long, global = true)]
    pub json: bool,
    /// Leave out the lines above a table
    #[arg(long, global = true)]
    pub no_header: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// How long the daemon may take to answer, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned text for people.
    Table,
    /// One JSON object with schema, net, node, time and data.
    Json,
    /// Tab-separated values with a line of names, for scripts.
    Tsv,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A command.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Show every node: path, endpoint, round trip, traffic, and what is wrong
    Peers,
    /// Show the daemon in one screen
    Status,
    /// Watch rates by the second: peers, meta messages, drops, packet threads
    #[command(
        before_help = "Examples:\n  \
            meshctl top                                      on the terminal, every two seconds\n  \
            meshctl top --batch --interval 1m >> top.log     text for a log\n  \
            meshctl top -c 1 --view drops --json             what was dropped in the last two seconds, for programs",
        after_help = "Keys: Tab or 1 to 4 another view, s and S another column to sort by, p only nodes with this path (udp, \
            tcp, via, down, all), / only rows with this text (Enter keeps it, Esc drops it), arrows and pages scroll, q quits. \
            Without a terminal it prints text. A rate that cannot be known, as after a restart of the daemon, is shown as -."
    )]
    Top {
        /// Print text, a frame after the other, with the same columns always
        #[arg(short, long)]
        batch: bool,
        /// Print so many frames of text and end
        #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// Time between two looks, as in 500ms or 1m, at least 100ms
        #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = interval)]
        interval: Duration,
        /// What to begin with; of text the only view, which has all four otherwise
        #[arg(long, value_name = "VIEW")]
        view: Option<View>,
    },
    /// Build a mesh on this machine, in namespaces that vanish with it, and check it step by step
    Lab(LabArgs),
    /// Show all subnets and who gets their packets
    Routes {
        /// Show where one address leads
        #[command(subcommand)]
        get: Option<RoutesCommand>,
    },
    /// Draw the mesh: nodes, links, and how packets go from here
    #[command(before_help = "Examples:\n  \
        meshctl graph                                   a tree for the terminal\n  \
        meshctl graph --format png --out mesh.png       a picture, drawn here\n  \
        meshctl graph --format svg --traffic --out mesh.svg\n  \
        meshctl -c /etc/tinc/priv graph                 ConnectTo of one node, without a daemon")]
    Graph {
        /// The form; --json is the same as `--format json`
        #[arg(long, value_name = "FORM", default_value = "ascii")]
        format: Picture,
        /// With what has gone between us and each node
        #[arg(long)]
        traffic: bool,
        /// Write into this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print a table in the text form of tinc 1.1
    Dump {
        /// What to print; `reachable nodes` leaves out the others
        #[arg(value_name = "[reachable] nodes|edges|subnets|connections|graph|digraph",
              required = true, num_args = 1..=2,
              value_parser = ["nodes", "edges", "subnets", "connections", "graph", "digraph", "reachable"])]
        what: Vec<String>,
    },
    /// Show log lines as the daemon writes them, until interrupted, or those of the past
    Log {
        /// Go on with those to come; without --since it is always so
        #[arg(short, long)]
        follow: bool,
        /// The lines of this time that the daemon still has in memory, as in 10m: the last 4096, single packets not
        /// among them
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        since: Option<Duration>,
        /// Only lines about this node
        #[arg(long, value_name = "NODE")]
        peer: Option<String>,
        /// tinc's debug level, 0 to 10; default: the daemon's own
        #[arg(short, long, value_parser = clap::value_parser!(u8).range(0..=10))]
        level: Option<u8>,
    },
    /// Show packets of the mesh as they go, or write them into a file for Wireshark and tcpdump; for root
    #[command(
        before_help = "Examples:\n  \
            meshctl capture db_01                             what goes to and comes from db_01, a line a packet\n  \
            meshctl capture --inner --outer -w mesh.pcapng    both sides of the tunnels, until Ctrl-C\n  \
            meshctl capture --meta --seconds 60               what links say to each other, without keys\n  \
            meshctl capture -w - | tcpdump -n -r -            tcpdump's words for it",
        after_help = "Names of nodes are comments of the packets. Inner packets are not encrypted. Keys are never shown: what \
            holds one in a request line is KEY. Outer packets have IP and UDP headers made up from their addresses, request lines TCP \
            headers. What goes between daemons over TCP is no outer packet. \
            What comes faster than it is read is dropped and counted; the daemon never waits. One capture at a time."
    )]
    Capture {
        /// Only of this node
        #[arg(value_name = "PEER")]
        peer: Option<String>,
        /// What goes into tunnels and comes out of them; so it is if nothing else is asked for
        #[arg(long)]
        inner: bool,
        /// Sealed datagrams between daemons
        #[arg(long)]
        outer: bool,
        /// Request lines of links
        #[arg(long)]
        meta: bool,
        /// Write a file of pcapng, for root only; - is standard output
        #[arg(short, long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// End after so many packets
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// End after so many seconds
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
        /// So many bytes of each packet, 1 to 262144
        #[arg(long, value_name = "BYTES", default_value_t = MAX_SNAP, value_parser = snap)]
        snap: usize,
    },
    /// Read the configuration anew; what is running stays as it is if the new one is bad, or cuts many nodes
    Reload {
        /// Also where more than a tenth of the nodes would be cut
        #[arg(long)]
        yes: bool,
        /// Go back by itself unless `meshctl confirm` comes within this time, as in 5m: in case it cuts you off
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        confirm: Option<Duration>,
        /// Go back to what was in force before the last reload; the files stay as they are
        #[arg(long, conflicts_with_all = ["yes", "confirm"])]
        undo: bool,
    },
    /// Keep what `reload --confirm` has changed
    Confirm,
    /// Show what a reload would change and whom it would cut, without doing it
    Plan,
    /// Stop the daemon
    Stop,
    /// Dial all missing links now
    Retry,
    /// The way from tinc 1.0 to native
    Migrate {
        /// What about it
        #[command(subcommand)]
        what: MigrateCommand,
    },
    /// Read a configuration and show every mistake with file and line
    Check {
        /// The directory, default: that of --config or --net; with --as the file
        #[arg(value_name = "DIR|FILE")]
        path: Option<PathBuf>,
        /// Judge FILE as if it stood in the directory: as `host:NAME`, as `daemon`, or there, as in `hosts/web_01.toml`
        #[arg(long = "as", value_name = "PLACE", requires = "path")]
        place: Option<Place>,
        /// Exit with 1 if there are warnings
        #[arg(long)]
        strict: bool,
    },
    /// Write a configuration in its other form into another directory: TOML, or tinc's
    Convert {
        /// The form to write
        #[arg(long, value_name = "FORM")]
        to: Form,
        /// The directory to write into; it may hold keys and scripts, but no file that would be written
        #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
        out: Option<PathBuf>,
        /// Print what would be written instead
        #[arg(long)]
        dry_run: bool,
        /// The directory to read; default: that of --config or --net
        dir: Option<PathBuf>,
    },
    /// Make a key pair, where there is none
    #[command(
        after_help = "A second run ends with 8 and writes nothing: --keep says what the key is and ends with 0, --replace makes \
            another one and keeps the old one as comment lines. A run that was killed is completed by the next one."
    )]
    Keygen {
        /// The directory; default: that of --config or --net
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print the line for host files
        #[arg(long)]
        print_host: bool,
        /// If there is a private key, say what its public half is, and end with 0
        #[arg(long, conflicts_with = "replace")]
        keep: bool,
        /// If there is a private key, make another one and comment the old one out
        #[arg(long)]
        replace: bool,
    },
    /// Print all metrics in the text format of Prometheus
    Metrics {
        /// Write them to this file instead, for node_exporter's textfile collector (its name must end in .prom)
        #[arg(long, value_name = "FILE")]
        textfile: Option<PathBuf>,
    },
    /// Find the first broken step between us and a node, or between two others
    #[command(
        before_help = "Examples:\n  \
            meshctl why db_02                      name, key, trust, path, UDP, MTU, owner, route, firewall\n  \
            meshctl why 172.20.7.9                 who owns that address, and what keeps us from it\n  \
            meshctl why db_01 db_02                the same between two others, as both of them see it\n  \
            meshctl -c /etc/tinc/priv why db_02    from the files alone, without a daemon",
        after_help = "The daemon sends some probes to the node first. A meshd there is asked what it sees of us: over the \
            native tunnel, so nobody between can read or forge it. With two names both ends are asked so; what an end \
            does not tell (its kernel's routes, its firewall, and all of a tincd) is read from the graph or said to be \
            unknown. \
            Exit codes: 0 nothing is broken, 1 something is, 4 no such node or subnet, others as for every command."
    )]
    Why {
        /// A node, an address in the mesh, or a subnet
        #[arg(value_name = "NODE|ADDRESS|SUBNET")]
        what: String,
        /// The other end, if it is not our own node
        #[arg(value_name = "NODE|ADDRESS|SUBNET")]
        to: Option<String>,
    },
    /// Measure the way to a node
    Ping {
        /// The node
        node: String,
        /// How many times
        #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Show through whom packets for a node go, and how long each hop takes
    Trace {
        /// A node, an address in the mesh, or a subnet
        #[arg(value_name = "NODE|ADDRESS|SUBNET")]
        what: String,
    },
    /// Print rules that let the peers in at our port and nobody else, or see whether the firewall lets them in
    #[command(
        before_help = "Examples:\n  \
        meshctl firewall | nft -c -f -            a table of its own for nftables, checked\n  \
        meshctl firewall --format ufw | sh        a rule for each peer\n  \
        meshctl firewall --verify                 what the rules in force do with each peer; exit 1 if one is kept out",
        after_help = "Peers are the numeric Address lines of the host files. Allow lines become rules for what comes out of the \
            device of the mesh, which drop all else there; meshd itself filters nothing, so load them anew when Allow, labels or \
            subnets change. With them, --verify looks for each node at each port that a line names. What stands in other tables and drops \
            packets goes on dropping them: --verify looks at all of them, ufw's, firewalld's and iptables' too, as nft shows them."
    )]
    Firewall {
        /// Whose language
        #[arg(long, value_name = "TOOL", default_value = "nft")]
        format: Tool,
        /// Look at the rules in force instead
        #[arg(long)]
        verify: bool,
    },
    /// Collect what somebody needs who is to help, in a tar file without secrets
    Support {
        /// The file; default: meshd-NODE-TIME.tar
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Say whether this node's part of the mesh is well; exit 1 if not
    #[command(
        after_help = "With --nagios, exit codes are those of plugins: 0 OK, 1 WARNING, 2 CRITICAL (also: the daemon \
        does not run), 3 UNKNOWN. All peers down is critical, whatever the limits."
    )]
    Health {
        /// One line with performance data, and exit codes 0 to 3, for Nagios, Icinga and the like
        #[arg(long)]
        nagios: bool,
        /// What is too much
        #[command(flatten)]
        limits: Limits,
    },
    /// Print man pages or shell completions
    Generate {
        /// What to print
        kind: Generate,
        /// Write all man pages into this directory instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Which man page to print
        #[arg(long, default_value = "meshctl", value_parser = ["meshctl", "meshd", "meshd.conf", "meshd.toml"])]
        page: String,
    },
}

fn snap(text: &str) -> Result<usize, String> {
    let snap = text
        .parse()
        .ok()
        .filter(|snap| (1..=MAX_SNAP).contains(snap));
    snap.ok_or_else(|| format!("is no number of 1 to {MAX_SNAP}"))
}

/// Shortest time between two looks of `top`: the daemon has other work.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval >= MIN_INTERVAL => Ok(interval),
        Ok(_) => Err("is shorter than 100ms".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whose rules `firewall` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// A file for `nft -f`.
    Nft,
    /// Commands.
    Ufw,
    /// Commands.
    Firewalld,
}

/// Limits of `health`.
#[derive(Debug, Clone, Default, Args)]
pub struct Limits {
    /// So many peers down are a warning
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub down_warning: usize,
    /// So many are critical; default: all
    #[arg(long, value_name = "N")]
    pub down_critical: Option<usize>,
    /// So many peers over TCP or through relays are a warning
    #[arg(long, value_name = "N")]
    pub detour_warning: Option<usize>,
    /// So many are critical
    #[arg(long, value_name = "N")]
    pub detour_critical: Option<usize>,
    /// A round trip to any peer of so many milliseconds is a warning
    #[arg(long, value_name = "MS")]
    pub rtt_warning: Option<f64>,
    /// One of so many is critical
    #[arg(long, value_name = "MS")]
    pub rtt_critical: Option<f64>,
}

/// Where a file will stand that is judged before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The main file, in the form that the directory has.
    Daemon,
    /// The host file of a node, likewise.
    Host(NodeName),
    /// Here, relative to the directory.
    Path(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "daemon" {
            return Ok(Self::Daemon);
        }
        if let Some(name) = text.strip_prefix("host:") {
            return match NodeName::new(name) {
                Ok(name) => Ok(Self::Host(name)),
                Err(error) => Err(format!("{error}; write host:NAME")),
            };
        }
        let path = Path::new(text);
        let inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let place = match path.parent().and_then(Path::to_str) {
            Some("") => matches!(text, "tinc.conf" | "meshd.toml"),
            Some("hosts" | "conf.d") => true,
            _ => false,
        };
        match inside && place {
            true => Ok(Self::Path(path.into())),
            false => Err(
                "is none of host:NAME, daemon, tinc.conf, meshd.toml, conf.d/FILE and hosts/FILE"
                    .into(),
            ),
        }
    }
}

/// `routes get ADDR`.
#[derive(Debug, Clone, Subcommand)]
pub enum RoutesCommand {
    /// Show where one address leads
    Get {
        /// IPv4 or IPv6
        address: IpAddr,
    },
}

/// Forms of a drawn mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// A tree for terminals.
    Ascii,
    /// For Graphviz.
    Dot,
    /// For Mermaid.
    Mermaid,
    /// A drawing for browsers.
    Svg,
    /// A picture.
    Png,
    /// Nodes and links for programs.
    Json,
}

/// The forms that a configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// meshd.toml and hosts/NAME.toml.
    Toml,
    /// tinc.conf and hosts/NAME.
    Tinc,
}

/// `migrate status`.
#[derive(Debug, Clone, Subcommand)]
pub enum MigrateCommand {
    /// Show what each node runs and speaks, what blocks its next step, and what to do about it
    #[command(
        before_help = "Examples:\n  \
            meshctl migrate status                 one line a node, our own first\n  \
            meshctl migrate status --json | jq -r '.data[] | select(.todo) | .todo.text'",
        after_help = "The steps are: meshd instead of tincd on every node (legacy), Ed25519 keys \
            (SPTPS with tinc 1.1, native between meshds), and at last MinProtocol = native, which \
            forbids everything else. It is the view of this node: run it on each. \
            What a node runs is told by what it says: a meshd that offers no native cannot be told \
            from tinc 1.1, and of a node that is down only what it said last is known. \
            Exit codes: 0 nothing is left to do, 10 something is, others as for every command."
    )]
    Status,
}

/// What `generate` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// Man pages.
    Man,
    /// Completions for bash.
    Bash,
    /// Completions for zsh.
    Zsh,
    /// Completions for fish.
    Fish,
}
