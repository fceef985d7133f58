//! The daemon's command line, with tincd's syntax: GNU long options (unambiguous prefixes, `--opt=value` and `--opt
//! value`), and optional values that consume the next argument.
//!
//! Source: config/tinc.md section 4.1.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use rustix::process::Signal;

/// The name by which the program was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Called {
    /// Any other name.
    #[default]
    Meshd,
    /// `tincd`: options, paths and behaviour are tincd's.
    Tincd,
}

impl Called {
    /// Returns the name in the first word of the command line.
    #[must_use]
    pub fn by(program: Option<&OsStr>) -> Self {
        match base_name(program) {
            Some(name) if name == "tincd" => Self::Tincd,
            _ => Self::Meshd,
        }
    }

    /// True if the first word of a command line names the daemon: `meshd` or `tincd`.
    #[must_use]
    pub fn is_daemon(program: Option<&OsStr>) -> bool {
        base_name(program).is_some_and(|name| name == "meshd" || name == "tincd")
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meshd => "meshd",
            Self::Tincd => "tincd",
        }
    }
}

/// The last part of a program's path.
fn base_name(program: Option<&OsStr>) -> Option<&OsStr> {
    program.map(Path::new).and_then(Path::file_name)
}

/// Action that the command line requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the daemon.
    Run(Box<Options>),
    /// tincd's `-k`: send a signal to the daemon that runs.
    Kill(Box<Options>, Signal),
    /// tincd's `-K`: make an RSA key of this many bits.
    GenerateKeys(Box<Options>, u32),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Options of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The name by which the program was called.
    pub called: Called,
    /// `-D`. It has an effect for tincd only.
    pub no_detach: bool,
    /// True for the background half of a tincd.
    pub detached: bool,
    /// `-c DIR`.
    pub config: Option<PathBuf>,
    /// `-n NET`.
    pub net: Option<String>,
    /// `-o [NODE.]KEY=VALUE`, in order.
    pub options: Vec<String>,
    /// `-d[N]`: tinc's debug level, if given.
    pub debug: Option<u8>,
    /// `--logfile[=F]`: `Some(None)` is the default file.
    pub logfile: Option<Option<PathBuf>>,
    /// `-s`: log for syslog, which reads standard error under systemd.
    pub syslog: bool,
    /// `--pidfile=F`.
    pub pidfile: Option<PathBuf>,
    /// `-L`: keep all memory in RAM.
    pub mlock: bool,
    /// `-R`: change the root directory to the configuration directory.
    pub chroot: bool,
    /// `-U USER`.
    pub user: Option<String>,
}

/// The text of `--help`.
pub const HELP: &str = "\
Usage: meshd [OPTION]...

Run a node of a mesh VPN in the foreground and log to standard error.

  -c, --config=DIR          Read the configuration from DIR.
  -n, --net=NET             Run net NET (/etc/meshd/NET, else /etc/tinc/NET).
  -o, --option=[HOST.]K=V   Set a variable, or a variable of the node HOST.
  -d, --debug[=LEVEL]       Raise the debug level, or set it (0 to 10).
  -D, --no-detach           Stay in the foreground (the default).
  -L, --mlock               Keep all memory in RAM.
      --logfile[=FILE]      Log to FILE (default /var/log/meshd.NET.log).
  -s, --syslog              Log with syslog priorities for the journal.
      --pidfile=FILE        Write the process id to FILE.
  -R, --chroot              Change the root directory to the configuration directory.
  -U, --user=USER           Switch to USER after opening devices and sockets.
      --help                Show this help.
      --version             Show the version.

To try a mesh, run `meshctl lab`. To show nodes, run `meshctl peers`.
";

/// The text of `tincd --help`.
pub const TINCD_HELP: &str = "\
Usage: tincd [OPTION]...

meshd by the name of tincd: the daemon of a mesh VPN, in the background.

  -c, --config=DIR              Read the configuration from DIR.
  -D, --no-detach               Stay in the foreground, logging to standard error.
  -d, --debug[=LEVEL]           Raise the debug level, or set it (0 to 10).
  -k, --kill[=SIGNAL]           Send SIGNAL (TERM) to the tincd that runs, and exit.
  -K, --generate-keys[=BITS]    Make an RSA key pair of BITS (2048) for tinc 1.0.
  -n, --net=NET                 Connect to net NET (/etc/tinc/NET).
  -o, --option=[HOST.]KEY=VALUE Set a variable, of the node HOST where given.
  -L, --mlock                   Keep all memory in RAM.
      --logfile[=FILE]          Log to FILE (/var/log/tinc.NET.log), not to syslog.
  -s, --syslog                  Log to syslog also with -D.
      --pidfile=FILE            Write the process id to FILE (/run/tinc.NET.pid).
  -R, --chroot                  Change the root to the configuration directory.
  -U, --user=USER               Become USER once everything is open.
      --help                    Show this help.
      --version                 Show the version.
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Config,
    Net,
    Option,
    Debug,
    NoDetach,
    Detached,
    Kill,
    GenerateKeys,
    Mlock,
    Logfile,
    Syslog,
    Pidfile,
    Chroot,
    User,
    BypassSecurity,
    Help,
    Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    Optional,
    Required,
}

/// Option that the foreground half of a tincd passes to the background half.
pub const DETACHED: &str = "detached";

type Row = (Name, Option<char>, &'static str, Value);

const TABLE: [Row; 14] = [
    (Name::Config, Some('c'), "config", Value::Required),
    (Name::Net, Some('n'), "net", Value::Required),
    (Name::Option, Some('o'), "option", Value::Required),
    (Name::Debug, Some('d'), "debug", Value::Optional),
    (Name::NoDetach, Some('D'), "no-detach", Value::None),
    (Name::Mlock, Some('L'), "mlock", Value::None),
    (Name::Logfile, None, "logfile", Value::Optional),
    (Name::Syslog, Some('s'), "syslog", Value::None),
    (Name::Pidfile, None, "pidfile", Value::Required),
    (Name::Chroot, Some('R'), "chroot", Value::None),
    (Name::User, Some('U'), "user", Value::Required),
    (Name::BypassSecurity, None, "bypass-security", Value::None),
    (Name::Help, None, "help", Value::None),
    (Name::Version, None, "version", Value::None),
];

/// Options of tincd only.
const TINCD: [Row; 3] = [
    (Name::Kill, Some('k'), "kill", Value::Optional),
    (
        Name::GenerateKeys,
        Some('K'),
        "generate-keys",
        Value::Optional,
    ),
    (Name::Detached, None, DETACHED, Value::None),
];

fn table(called: Called) -> impl Iterator<Item = &'static Row> {
    let more = match called {
        Called::Meshd => &[][..],
        Called::Tincd => &TINCD,
    };
    TABLE.iter().chain(more)
}

/// Parses the arguments after the program name. The error is one sentence for the operator.
pub fn parse(called: Called, args: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut args = args.into_iter().peekable();
    let mut options = Options {
        called,
        ..Options::default()
    };
    let mut early = None;
    while let Some(arg) = args.next() {
        if let Some(long) = arg.strip_prefix("--").filter(|long| !long.is_empty()) {
            let (name, given) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let (name, kind) = long_option(called, name)?;
            if kind == Value::None && given.is_some() {
                return Err(format!("option {arg:?} takes no value"));
            }
            let value = value_of(&arg, kind, given, &mut args)?;
            apply(name, value, &mut options, &mut early)?;
        } else if let Some(mut short) = arg.strip_prefix('-').filter(|short| !short.is_empty()) {
            if arg == "--" {
                continue;
            }
            while let Some(letter) = short.chars().next() {
                short = &short[letter.len_utf8()..];
                let row = table(called).find(|row| row.1 == Some(letter));
                let Some((name, _, _, kind)) = row else {
                    return Err(format!("unknown option -{letter}"));
                };
                let rest = (*kind != Value::None && !short.is_empty())
                    .then(|| std::mem::take(&mut short).to_owned());
                let value = value_of(&arg, *kind, rest, &mut args)?;
                apply(*name, value, &mut options, &mut early)?;
            }
        } else {
            return Err(format!("unrecognized argument {arg:?}"));
        }
    }
    Ok(match early {
        Some(Early::Help) => Command::Help,
        Some(Early::Version) => Command::Version,
        Some(Early::Kill(signal)) => Command::Kill(Box::new(options), signal),
        Some(Early::GenerateKeys(bits)) => Command::GenerateKeys(Box::new(options), bits),
        None => Command::Run(Box::new(options)),
    })
}

/// Options that end the program before it runs as a daemon; the first one given counts.
enum Early {
    Help,
    Version,
    Kill(Signal),
    GenerateKeys(u32),
}

/// Length of new RSA keys in bits, tinc 1.0's default.
const RSA_BITS: u32 = 2048;

/// Parses a signal for `-k`: a name (with or without SIG) or a number.
fn signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    Ok(match name.strip_prefix("SIG").unwrap_or(&name) {
        "HUP" => Signal::HUP,
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        "INT" => Signal::INT,
        "ALRM" => Signal::ALARM,
        "ABRT" => Signal::ABORT,
        _ => {
            let number = text.parse().ok().and_then(Signal::from_named_raw);
            return number.ok_or_else(|| {
                format!("{text:?} is not a signal: use HUP, TERM, KILL, USR1, USR2, WINCH, INT, ALRM, ABRT or a number")
            });
        }
    })
}

/// Finds a long option by its name or an unambiguous prefix.
fn long_option(called: Called, text: &str) -> Result<(Name, Value), String> {
    let begins = |row: &&Row| row.2.starts_with(text) && row.0 != Name::Detached;
    let mut rows = table(called).filter(begins);
    let exact = table(called).find(|row| row.2 == text);
    match (exact, rows.next(), rows.next()) {
        (Some(row), _, _) | (None, Some(row), None) => Ok((row.0, row.3)),
        (None, Some(_), Some(_)) => Err(format!("option --{text} is ambiguous")),
        (None, None, _) => Err(format!("unknown option --{text}")),
    }
}

fn value_of(
    arg: &str,
    kind: Value,
    given: Option<String>,
    args: &mut std::iter::Peekable<impl Iterator<Item = String>>,
) -> Result<Option<String>, String> {
    match kind {
        Value::None => Ok(None),
        Value::Optional => Ok(given.or_else(|| args.next_if(|next| !next.starts_with('-')))),
        Value::Required => match given.or_else(|| args.next()) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("option {arg} needs a value")),
        },
    }
}

fn apply(
    name: Name,
    value: Option<String>,
    options: &mut Options,
    early: &mut Option<Early>,
) -> Result<(), String> {
    match name {
        Name::Config => options.config = value.map(absolute),
        Name::Net => options.net = value,
        Name::Option => options.options.extend(value),
        Name::Debug => {
            // Parses as atoi, like tincd: a word is 0.
            let digits = |text: String| -> String {
                text.chars().take_while(char::is_ascii_digit).collect()
            };
            let raised = options.debug.unwrap_or(0).saturating_add(1);
            let level = value.map_or(raised, |text| digits(text).parse().unwrap_or(0));
            options.debug = Some(level.min(10));
        }
        Name::NoDetach => options.no_detach = true,
        Name::Detached => options.detached = true,
        Name::Kill => {
            let signal = value.map_or(Ok(Signal::TERM), |text| signal(&text))?;
            *early = early.take().or(Some(Early::Kill(signal)));
        }
        Name::GenerateKeys => {
            let bits = match value {
                None => RSA_BITS,
                Some(text) => text
                    .parse()
                    .map_err(|_| format!("{text:?} is not a key length in bits"))?,
            };
            // tincd rounds the length too.
            *early = early.take().or(Some(Early::GenerateKeys(bits / 8 * 8)));
        }
        Name::Mlock => options.mlock = true,
        Name::Logfile => {
            options.logfile = Some(value.map(absolute));
            options.syslog = false;
        }
        Name::Syslog => {
            options.syslog = true;
            options.logfile = None;
        }
        Name::Pidfile => options.pidfile = value.map(absolute),
        Name::Chroot => options.chroot = true,
        Name::User => options.user = value,
        Name::BypassSecurity => {
            return Err("meshd never runs without authentication and encryption: \
                        leave out --bypass-security"
                .into());
        }
        Name::Help => *early = early.take().or(Some(Early::Help)),
        Name::Version => *early = early.take().or(Some(Early::Version)),
    }
    Ok(())
}

/// Makes a path absolute, because the daemon may change its directory.
fn absolute(path: String) -> PathBuf {
    std::path::absolute(&path).unwrap_or_else(|_| path.into())
}

#[cfg(test)]
mod tests;
