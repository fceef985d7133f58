//! Reads the configuration of tinc and meshd.
//!
//! Source: config/tinc.md sections 1 and 2.

pub mod allow;
pub mod cache;
pub mod convert;
mod cross_check;
pub mod diff;
pub mod files;
pub mod find;
mod host;
mod host_files;
pub mod keys;
mod legacy;
mod load;
pub mod options;
mod reader;
mod resolve;
mod secrets;
mod shell;
#[doc = include_str!("tinc.md")]
pub mod tinc {}
mod merged;
pub mod on_disk;
pub mod tincconf;
pub mod toml;
mod values;
pub mod vars;
mod written;

#[doc = include_str!("toml.md")]
pub mod toml_keys {}

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

pub use host::{host_path, load_host};
pub use load::{expand_name, load, main_file, own_name, own_public, place_of, private_path};

use meshd_proto::mesh::Settings;

/// Origin of a configuration: the options `-c`, `-n` and `-o` of the daemon.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The directory (tinc's CONFBASE), already resolved.
    pub base: PathBuf,
    /// The net name, if given.
    pub net: Option<String>,
    /// `-o [NODE.]KEY=VALUE`, in order.
    pub options: Vec<String>,
    /// A file to check as if it stood in the directory: its place, and its real path.
    pub instead: Option<(PathBuf, PathBuf)>,
}

impl Source {
    /// Returns the path from which a file of the directory is read.
    #[must_use]
    pub fn path(&self, relative: &Path) -> PathBuf {
        match &self.instead {
            Some((place, file)) if place == relative => file.clone(),
            _ => self.base.join(relative),
        }
    }

    /// Returns the names in one of its directories, sorted, as [`files::names`].
    fn names(&self, dir: &Path) -> Result<Vec<String>, files::FileError> {
        let mut names = files::names(&self.base.join(dir))?;
        if let Some((place, _)) = &self.instead
            && place.parent() == Some(dir)
        {
            names.extend(place.file_name().map(|name| name.to_string_lossy().into()));
            names.sort();
            names.dedup();
        }
        Ok(names)
    }

    fn has(&self, relative: &Path) -> bool {
        self.path(relative).exists()
    }
}

/// An error or warning about the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// True if it stops meshd (or, in a host file, disables that node).
    pub error: bool,
    /// The file, relative to the configuration directory if it is inside.
    pub file: PathBuf,
    /// Line, from 1; 0 = the whole file.
    pub line: usize,
    /// Column in characters from 1; 0 = the whole line.
    pub column: usize,
    /// The problem and the remedy: one sentence without the place.
    pub text: String,
}

impl Problem {
    /// Makes an error.
    pub fn error(file: &Path, line: usize, text: impl Into<String>) -> Self {
        let (file, text) = (file.into(), text.into());
        Self {
            error: true,
            file,
            line,
            column: 0,
            text,
        }
    }

    /// Makes a warning.
    pub fn warning(file: &Path, line: usize, text: impl Into<String>) -> Self {
        let problem = Self::error(file, line, text);
        Self {
            error: false,
            ..problem
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// A completely read configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its origin.
    pub source: Source,
    /// Settings of the mesh.
    pub settings: Arc<Settings>,
    /// Settings of the daemon around the mesh.
    pub shell: Arc<Shell>,
    /// Warnings, and errors that affect only one node or one line.
    pub problems: Vec<Problem>,
    /// Host files that were not applied, relative to the directory. On a reload, their last good version stays in
    /// force.
    pub not_taken: Vec<PathBuf>,
    /// The lines in effect.
    written: written::WrittenLines,
}

impl Config {
    /// Returns a note that meshd does not enforce Allow, if an Allow line exists.
    #[must_use]
    pub fn not_filtered(&self) -> Option<String> {
        let net = self.source.net.as_ref();
        let net = net.map_or_else(String::new, |net| format!("-n {net} "));
        match self.shell.allow.len() {
            0 => None,
            lines => Some(format!(
                "Allow ({lines} lines): meshd itself filters nothing; load the rules of `meshctl {net}firewall`, and \
                 check them with `meshctl {net}firewall --verify`"
            )),
        }
    }
}

/// Address family of sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    #[default]
    Any,
}

/// Kind of our device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceType {
    /// A TUN device.
    #[default]
    Tun,
    /// A TAP device.
    Tap,
    /// No device: for relays.
    Dummy,
}

/// MetricsListen (meshd only): where the daemon serves metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MetricsListen {
    /// A socket beside the control socket: `unix`.
    #[default]
    Beside,
    /// `no`.
    Nowhere,
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `ADDRESS:PORT`.
    Tcp(SocketAddr),
}

/// InterfaceRoute (meshd only): routes into the device, set by netlink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// `auto`: a route for every subnet of a reachable node.
    pub auto: bool,
    /// Networks.
    pub networks: Vec<(std::net::IpAddr, u8)>,
}

/// Level of the sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// No sandbox.
    Off,
    /// The daemon can start no program and make only listed system calls; another process runs scripts.
    #[default]
    Normal,
    /// As `Normal`, and no script runs but tinc-up.
    High,
}

/// Settings of the daemon around the mesh. Fields are named after their variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shell {
    /// Interface, else the net name, else the kernel's choice.
    pub interface: Option<String>,
    /// Device: path of the clone device.
    pub device: Option<PathBuf>,
    /// DeviceType.
    pub device_type: DeviceType,
    /// InterfaceAddress (meshd only): addresses with prefix length, set by netlink.
    pub interface_addresses: Vec<(std::net::IpAddr, u8)>,
    /// InterfaceRoute (meshd only).
    pub interface_routes: Routes,
    /// InterfaceMTU (meshd only), in bytes.
    pub interface_mtu: Option<u32>,
    /// Port; 0 = the kernel chooses one for all sockets.
    pub port: u16,
    /// BindToAddress and ListenAddress, resolved; empty = wildcard of every family.
    pub listen: Vec<SocketAddr>,
    /// The addresses of BindToAddress, resolved; `listen` has them too.
    pub bound: Vec<SocketAddr>,
    /// Source addresses of outgoing TCP: BindToAddress, if one of the family exists.
    pub bind: Vec<SocketAddr>,
    /// BindToInterface.
    pub bind_to_interface: Option<String>,
    /// AddressFamily.
    pub address_family: AddressFamily,
    /// FWMark; 0 = none.
    pub fwmark: u32,
    /// MetricsListen.
    pub metrics_listen: MetricsListen,
    /// Time of our private key, from its file.
    pub key_made: Option<SystemTime>,
    /// Workers; 0 = one for each processor.
    pub workers: usize,
    /// Simd: our own AVX-512 code of ciphers, if the processor has AVX-512.
    pub simd: bool,
    /// UDPRcvBuf in bytes; 0 = the system's.
    pub udp_rcvbuf: usize,
    /// UDPSndBuf in bytes; 0 = the system's.
    pub udp_sndbuf: usize,
    /// ScriptsInterpreter: command and arguments.
    pub scripts_interpreter: Option<String>,
    /// ScriptsExtension.
    pub scripts_extension: String,
    /// RunScripts, without `none`; `None`: all scripts.
    pub run_scripts: Option<Vec<&'static str>>,
    /// RunScripts at the start of the script process: a reload cannot add scripts.
    pub scripts_at_start: Option<Vec<&'static str>>,
    /// Allow (meshd only), sorted: for `meshctl firewall`, not for the daemon.
    pub allow: Vec<allow::Allow>,
    /// Sandbox.
    pub sandbox: Sandbox,
    /// ProcessPriority as a nice value.
    pub nice: Option<i32>,
    /// LogLevel: tinc's debug level, used when no `-d` raised it.
    pub log_level: u8,
    /// True if UDP sockets set DF (PMTUDiscovery).
    pub pmtu_discovery: bool,
}
