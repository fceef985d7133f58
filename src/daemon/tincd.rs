//! Behaves as tincd when called by that name: background, signals by `-k`, tincd's paths.
//!
//! The foreground process reads the configuration, starts the background process and waits until that has opened
//! everything. So the terminal shows errors, with exit code 1, where tincd has already returned 0. It does not wait for
//! tinc-up, which may itself wait for us (ifupdown). Source: config/tinc.md sections 4.1 to 4.3.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use rustix::{
    process::{Pid, Signal, kill_process, setsid, test_kill_process},
    stdio,
};

use meshd_config::{
    find::net_name,
    keys,
    options::{Called, DETACHED, Options},
};
use meshd_crypto::{Rng, rsa::RsaPrivate};
use meshd_os::random;

/// Returns `tinc.NET`, or `tinc` without a net: the name in files and log lines.
#[must_use]
pub(super) fn ident(net: Option<&str>) -> String {
    net.map_or_else(|| "tinc".to_owned(), |net| format!("tinc.{net}"))
}

/// Returns the net: `-n`, else NETNAME. The search for the directory refuses a bad name.
fn net(options: &Options) -> Option<String> {
    let name = options.net.clone().or_else(|| env::var("NETNAME").ok());
    net_name(&name.unwrap_or_default()).ok()?.0
}

/// Returns the path of its pid file.
#[must_use]
pub(super) fn pid_path(options: &Options) -> PathBuf {
    let by_net = || Path::new("/run").join(format!("{}.pid", ident(net(options).as_deref())));
    options.pidfile.clone().unwrap_or_else(by_net)
}

/// Sends a signal to the daemon that the pid file names.
pub(super) fn kill(options: &Options, signal: Signal) -> ExitCode {
    let path = pid_path(options);
    let of_net = net(options).map_or(String::new(), |net| format!(" for net `{net}'"));
    let Some(pid) = pid_in(&path) else {
        eprintln!("No other tincd is running{of_net}.");
        return ExitCode::FAILURE;
    };
    match kill_process(pid, signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(rustix::io::Errno::SRCH) => {
            eprintln!("The tincd{of_net} is no longer running. Removing stale lock file.");
            let _ = fs::remove_file(path);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tincd: cannot send a signal to process {pid}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes an RSA key in the files of tinc 1.0. Called as tincd it comments out older keys, as tinc does; called as meshd
/// it refuses if one exists. It never prompts.
pub(super) fn generate_keys(options: &Options, bits: u32) -> ExitCode {
    match try_generate_keys(options, bits) {
        Ok(words) => {
            eprintln!("{words}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tincd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_generate_keys(options: &Options, bits: u32) -> anyhow::Result<String> {
    let (source, _) = super::source(options)?;
    let seed = random::seed().context("cannot get random numbers from the system")?;
    let key = RsaPrivate::generate(bits, &mut Rng::new(seed))
        .with_context(|| format!("cannot make an RSA key of {bits} bits; use 1024 to 8192"))?;
    let private = source.base.join("rsa_key.priv");
    if options.called != Called::Tincd && keys::has_rsa(&private) {
        bail!(
            "{} holds a key already, so nothing was written; move that file away to make another key",
            private.display()
        );
    }
    let public = match meshd_config::own_name(&source) {
        Ok(name) => source.base.join(meshd_config::host_path(&source, &name)),
        Err(_) => source.base.join("rsa_key.pub"),
    };
    if let Some(dir) = public.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let disabled = keys::write_rsa(&private, &public, &key).with_context(|| {
        format!(
            "cannot write {} and {}",
            private.display(),
            public.display()
        )
    })?;
    let old = match disabled {
        true => "; the old key is commented out: copy the new one to all nodes",
        false => "",
    };
    Ok(format!(
        "RSA key of {bits} bits: {}, public key in {}{old}",
        private.display(),
        public.display()
    ))
}

/// Returns the first word of a pid file.
fn pid_in(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    let number = text.split_whitespace().next()?.parse().ok()?;
    (number > 0).then(|| Pid::from_raw(number)).flatten()
}

/// Returns an error if the pid file names a running tincd of any implementation.
pub(super) fn refuse_second(path: &Path) -> anyhow::Result<()> {
    let Some(pid) = pid_in(path).filter(|pid| test_kill_process(*pid).is_ok()) else {
        return Ok(());
    };
    // The number may belong to another program now.
    let pid = pid.as_raw_pid();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "tincd" | "meshd" => bail!("A tincd is already running with pid {pid}: stop it first"),
        _ => Ok(()),
    }
}

/// True if this process must start another one and exit.
#[must_use]
pub(super) fn detaches(options: &Options) -> bool {
    let activated = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    options.called == Called::Tincd && !options.no_detach && !options.detached && !activated
}

/// Starts the background process and waits until it has opened everything or has failed.
pub(super) fn detach() -> anyhow::Result<ExitCode> {
    let program = env::current_exe().context("cannot find our own program")?;
    let mut child = Command::new(program)
        .arg0(Called::Tincd.name())
        .args(env::args_os().skip(1))
        .arg(format!("--{DETACHED}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon in the background")?;
    let mut answer = [0];
    let mut stdout = child
        .stdout
        .take()
        .context("the background process has no standard output")?;
    match stdout.read(&mut answer) {
        Ok(1) => Ok(ExitCode::SUCCESS),
        // The background process has reported the reason.
        _ => {
            child.wait().context("the daemon in the background")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Leaves the session of the foreground process.
pub(super) fn leave_session() {
    // It fails if we lead a session already, which is equally good.
    let _ = setsid();
}

/// Tells the foreground process that everything is open, and leaves its terminal.
pub(super) fn opened() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(b"\n")?;
    out.flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    stdio::dup2_stdout(&null)?;
    stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_counts_while_a_tincd_has_that_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        assert!(refuse_second(&path).is_ok(), "no file");
        for stale in ["", "x\n", "-4\n", "999999999\n"] {
            fs::write(&path, stale).unwrap();
            assert!(refuse_second(&path).is_ok(), "{stale:?}");
        }
        // Our process is not a tincd: the number belongs to another program.
        fs::write(&path, format!("{} COOKIE\n", std::process::id())).unwrap();
        assert!(refuse_second(&path).is_ok());
        assert_eq!(pid_in(&path).unwrap(), rustix::process::getpid());
    }

    #[test]
    fn places_are_tincs() {
        let options = |net: Option<&str>, pidfile: Option<&str>| Options {
            net: net.map(Into::into),
            pidfile: pidfile.map(Into::into),
            ..Options::default()
        };
        let path = |net, pidfile| pid_path(&options(net, pidfile));
        assert_eq!(path(Some("priv"), None), Path::new("/run/tinc.priv.pid"));
        assert_eq!(path(None, None), Path::new("/run/tinc.pid"));
        assert_eq!(path(Some("."), None), Path::new("/run/tinc.pid"));
        assert_eq!(path(Some("priv"), Some("/x")), Path::new("/x"));
    }
}
