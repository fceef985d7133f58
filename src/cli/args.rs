//! The command line, from which help, completions and man pages are made.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::lab::LabArgs;

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
        10 something is left to do (migrate status)."
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
    /// Build a mesh on this machine, in namespaces that vanish with it, and check it step by step
    Lab(LabArgs),
    /// Show all subnets and who gets their packets
    Routes {
        /// Show where one address leads
        #[command(subcommand)]
        get: Option<RoutesCommand>,
    },
    /// Print a table in the text form of tinc 1.1
    Dump {
        /// What to print; `reachable nodes` leaves out the others
        #[arg(value_name = "[reachable] nodes|edges|subnets|connections|graph|digraph",
              required = true, num_args = 1..=2,
              value_parser = ["nodes", "edges", "subnets", "connections", "graph", "digraph", "reachable"])]
        what: Vec<String>,
    },
    /// Show log lines as the daemon writes them, until interrupted
    Log {
        /// Follow; the daemon keeps no old lines, so it is always so
        #[arg(short, long)]
        follow: bool,
        /// tinc's debug level, 0 to 10; default: the daemon's own
        #[arg(short, long, value_parser = clap::value_parser!(u8).range(0..=10))]
        level: Option<u8>,
    },
    /// Read the configuration anew
    Reload,
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
        /// The directory; default: that of --config or --net
        dir: Option<PathBuf>,
        /// Exit with 1 if there are warnings
        #[arg(long)]
        strict: bool,
    },
    /// Make a key pair
    Keygen {
        /// The directory; default: that of --config or --net
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print the line for host files
        #[arg(long)]
        print_host: bool,
    },
    /// Measure the way to a node
    Ping {
        /// The node
        node: String,
        /// How many times
        #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Print man pages or shell completions
    Generate {
        /// What to print
        kind: Generate,
        /// Write all man pages into this directory instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Which man page to print
        #[arg(long, default_value = "meshctl", value_parser = ["meshctl", "meshd", "meshd.conf"])]
        page: String,
    },
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
