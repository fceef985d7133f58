//! meshctl: one file for each command. A command asks the daemon and shows the answer.
//!
//! Source: cli/meshctl.md section 4.

pub mod args;
mod capture;
mod check;
mod columns;
mod context;
mod convert;
mod dump;
mod escape;
mod firewall;
mod generate;
mod graph;
mod health;
mod keygen;
pub mod lab;
mod log;
mod metrics;
mod migrate;
mod orders;
mod output;
mod peers;
mod ping;
mod plan;
mod routes;
mod running_key;
mod status;
mod support;
mod table;
pub mod top;
mod trace;
mod why;

use std::{io, process::ExitCode, time::Duration};

use clap::Parser;

use args::{Cli, Command, MigrateCommand};
use context::Context;

use meshd_api::{
    call,
    client::ClientError,
    proto::{ControlError, ErrorCode, PacketKind},
};
use meshd_config::find::FindError;

/// Exit code of a command. Source: cli/meshctl.md section 4.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success.
    Fine = 0,
    /// A negative answer: a node is unreachable, or `--strict` finds warnings.
    Negative = 1,
    /// Wrong usage.
    Usage = 2,
    /// The daemon does not run.
    NotRunning = 3,
    /// No such net, node or subnet.
    Unknown = 4,
    /// No permission.
    Permission = 5,
    /// No answer in time.
    Timeout = 6,
    /// The configuration is invalid.
    Config = 7,
    /// The daemon refused.
    Refused = 8,
    /// Applied, but part of it needs a restart.
    NeedsRestart = 9,
    /// Work is left to do.
    Left = 10,
}

/// A command that failed.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// One or two sentences; the last one names the next command.
    text: String,
}

type Outcome = Result<Exit, Failure>;

/// Entry point of the program. `meshd`: the place of the daemon that a lab runs.
#[must_use]
pub fn main(meshd: lab::Meshd) -> ExitCode {
    let cli = Cli::parse();
    // A lab needs no daemon: it starts its own.
    if let Command::Lab(args) = &cli.command {
        return lab::run(args, meshd);
    }
    // A plugin has its own output and exit codes.
    if let Command::Health {
        nagios: true,
        limits,
    } = &cli.command
    {
        return health::plugin(cli.global, limits);
    }
    match Context::new(cli.global).and_then(|context| run(&context, cli.command)) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            output::complain(&failure.text);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Lab(_) => unreachable!("it was run without a context"),
        Command::Peers => peers::run(context),
        Command::Status => status::run(context),
        Command::Routes { get: None } => routes::all(context),
        Command::Routes { get: Some(get) } => routes::get(context, get),
        Command::Dump { what } => dump::run(context, &what),
        Command::Log {
            follow,
            since,
            peer,
            level,
        } => log::run(context, follow, since, peer.as_deref(), level),
        Command::Reload { undo: true, .. } => orders::reload(context, call::Undo {}),
        Command::Reload { yes, confirm, .. } => {
            let confirm_seconds = confirm.map(|within| within.as_secs());
            let call = call::Reload {
                yes,
                confirm_seconds,
            };
            orders::reload(context, call)
        }
        Command::Confirm => orders::confirm(context),
        Command::Plan => plan::run(context),
        Command::Stop => orders::stop(context),
        Command::Retry => orders::retry(context),
        Command::Check {
            path,
            place,
            strict,
        } => check::run(context, path, place, strict),
        Command::Convert {
            to,
            out,
            dry_run: _,
            dir,
        } => convert::run(context, to, out, dir),
        Command::Migrate { what } => match what {
            MigrateCommand::Status => migrate::status(context),
        },
        Command::Keygen {
            out,
            print_host,
            keep,
            replace,
        } => {
            let there = match (keep, replace) {
                (true, _) => keygen::ExistingKey::Keep,
                (_, true) => keygen::ExistingKey::Replace,
                _ => keygen::ExistingKey::Refuse,
            };
            keygen::run(context, out, print_host, there)
        }
        Command::Metrics { textfile } => metrics::run(context, textfile),
        Command::Graph {
            format,
            traffic,
            out,
        } => graph::run(context, format, traffic, out),
        Command::Firewall { format, verify } => firewall::run(context, format, verify),
        Command::Support { out } => support::run(context, out),
        Command::Trace { what } => trace::run(context, &what),
        Command::Health { limits, .. } => health::run(context, &limits),
        Command::Why { what, to } => why::run(context, &what, to.as_deref()),
        Command::Top {
            batch,
            count,
            interval,
            view,
        } => {
            let wanted = top::TopOptions {
                batch,
                count,
                interval,
                view,
            };
            top::run(context, &wanted)
        }
        Command::Capture {
            peer,
            inner,
            outer,
            meta,
            write,
            count,
            seconds,
            snap,
        } => {
            // The default is inner packets.
            let asked = [inner || !(outer || meta), outer, meta];
            let kinds = PacketKind::ALL.into_iter().zip(asked);
            let wanted = capture::CaptureOptions {
                peer,
                kinds: kinds
                    .filter(|(_, asked)| *asked)
                    .map(|(kind, _)| kind)
                    .collect(),
                write,
                count,
                time: seconds.map(Duration::from_secs),
                snap,
            };
            capture::run(context, &wanted)
        }
        Command::Ping { node, count } => ping::run(context, &node, count),
        Command::Generate { kind, out, page } => generate::run(context, kind, out, &page),
    }
}

impl Failure {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { exit, text }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (exit, hint) = match &error {
            ClientError::NotRunning(_) => (
                Exit::NotRunning,
                "start it with `meshd -n NET` or `systemctl start meshd@NET`, or name its socket with \
                 --socket; `meshctl check` looks at its configuration",
            ),
            ClientError::Permission(_) => (Exit::Permission, "try it with `sudo`"),
            ClientError::Timeout => (
                Exit::Timeout,
                "give it more with `--timeout 60`, or look at `meshctl log`",
            ),
            ClientError::Io(_) | ClientError::Closed => (
                Exit::NotRunning,
                "check whether the daemon still runs: `meshctl status`",
            ),
            ClientError::Codec(_) | ClientError::Type | ClientError::Version(_) => (
                Exit::Refused,
                "restart meshd so that its version is that of `meshctl --version`",
            ),
            ClientError::Refused(refused) => return refused.into(),
        };
        Self::new(exit, format!("{error}; {hint}"))
    }
}

impl From<&ControlError> for Failure {
    fn from(error: &ControlError) -> Self {
        let (exit, hint) = match error.code {
            ErrorCode::Permission => (Exit::Permission, "try it with `sudo`"),
            ErrorCode::Unknown => (
                Exit::Unknown,
                "`meshctl peers` and `meshctl routes` list all",
            ),
            ErrorCode::Config => (Exit::Config, "`meshctl check` shows every mistake"),
            ErrorCode::Refused => return Self::new(Exit::Refused, &error.text),
            ErrorCode::Busy => (Exit::Refused, "try again in a moment: `meshctl status`"),
            ErrorCode::Version | ErrorCode::Malformed => (
                Exit::Refused,
                "restart meshd so that its version is that of `meshctl --version`",
            ),
        };
        Self::new(exit, format!("{}; {hint}", error.text))
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let exit = match &error {
            FindError::BadNet(_) => Exit::Usage,
            FindError::NoNet(_) | FindError::Directory(..) => Exit::Unknown,
        };
        Self::new(
            exit,
            format!("{error} (`ls /etc/meshd /etc/tinc` shows the nets here)"),
        )
    }
}

/// A closed standard output is not a failure: its reader has stopped on purpose.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Fine, ""),
            _ => Self::new(
                Exit::Negative,
                format!("cannot write the output: {error}; check free space with `df`"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_failure_names_a_next_command() {
        let refused = |code| {
            ClientError::Refused(ControlError {
                code,
                text: "no".into(),
            })
        };
        for (error, exit) in [
            (ClientError::NotRunning("/s".into()), Exit::NotRunning),
            (ClientError::Permission("/s".into()), Exit::Permission),
            (ClientError::Timeout, Exit::Timeout),
            (ClientError::Closed, Exit::NotRunning),
            (ClientError::Version(2), Exit::Refused),
            (ClientError::Type, Exit::Refused),
            (refused(ErrorCode::Permission), Exit::Permission),
            (refused(ErrorCode::Unknown), Exit::Unknown),
            (refused(ErrorCode::Config), Exit::Config),
            (refused(ErrorCode::Busy), Exit::Refused),
            (refused(ErrorCode::Malformed), Exit::Refused),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.exit, exit);
            assert!(failure.text.contains('`'), "{}", failure.text);
        }
    }
}
