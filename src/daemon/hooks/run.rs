//! One script as a process of its own group: environment, time limit, output.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use super::{Job, Scripts};

/// Most bytes of a script's output that go to the log.
const MAX_OUTPUT: u64 = 8 << 10;
/// What a script without `#!` is run by, as the reference's shell does.
const SHELL: &str = "/bin/sh";
/// "Exec format error", linux/errno-base.h.
const ENOEXEC: i32 = 8;

/// How a script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is no such script.
    Absent,
    /// It ended with status 0.
    Done,
    /// It could not be run, failed, or took too long; the log says which.
    Failed,
}

/// Runs a script and waits for its end, at most `limit`; then its whole process group is killed. Says
/// in the log what went wrong.
pub(super) async fn run(scripts: &Scripts, job: &Job, limit: Duration) -> Outcome {
    let path = scripts.path(&job.script);
    if !path.exists() {
        return Outcome::Absent;
    }
    let script = job.script.as_str();
    tracing::debug!(script, "running");
    let mut child = match spawn(scripts, job, &path) {
        Ok(child) => child,
        Err(error) => {
            tracing::warn!(script, %error, "a script cannot be run (is it executable?)");
            return Outcome::Failed;
        }
    };
    drop(child.stdin.take());
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    // Not awaited: a process that the script leaves behind may keep the pipes for ever.
    tokio::spawn(log_output(job.script.clone(), child.stdout.take()));
    tokio::spawn(log_output(job.script.clone(), child.stderr.take()));
    let Ok(status) = timeout(limit, child.wait()).await else {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        tracing::warn!(script, "a script took longer than {limit:?} and was killed");
        return Outcome::Failed;
    };
    ended(script, status)
}

fn spawn(scripts: &Scripts, job: &Job, path: &Path) -> io::Result<Child> {
    let words: Vec<&str> = match &scripts.interpreter {
        Some(interpreter) => interpreter.split_whitespace().collect(),
        None => Vec::new(),
    };
    match start(scripts, job, &words, path) {
        Err(error) if error.raw_os_error() == Some(ENOEXEC) => start(scripts, job, &[SHELL], path),
        result => result,
    }
}

fn start(scripts: &Scripts, job: &Job, words: &[&str], path: &Path) -> io::Result<Child> {
    let mut command = match words.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(path);
            command
        }
        None => Command::new(path),
    };
    command
        .env_clear()
        .envs(scripts.environment(job))
        .current_dir(&scripts.base)
        .process_group(0)
        // Closed at once by us: /dev/null may not exist in a changed root.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Logs what a script prints, cut at [`MAX_OUTPUT`] and line by line; reads the rest so that the
/// script never waits for us.
async fn log_output(script: String, output: Option<impl AsyncRead + Unpin>) {
    let Some(mut output) = output else {
        return;
    };
    let mut text = Vec::new();
    let _ = (&mut output).take(MAX_OUTPUT).read_to_end(&mut text).await;
    for line in String::from_utf8_lossy(&text).lines() {
        tracing::info!(script, line, "output");
    }
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
}

fn ended(script: &str, status: io::Result<ExitStatus>) -> Outcome {
    let status = match status {
        Ok(status) if status.success() => return Outcome::Done,
        Ok(status) => status,
        Err(error) => {
            tracing::warn!(script, %error, "lost sight of a script");
            return Outcome::Failed;
        }
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => tracing::warn!(script, "exited with non-zero status {code}"),
        (None, Some(signal)) => tracing::warn!(script, "was killed by signal {signal}"),
        (None, None) => tracing::warn!(script, "ended abnormally"),
    }
    Outcome::Failed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::wire::NodeName;

    fn scripts(base: &Path) -> Scripts {
        Scripts {
            base: base.into(),
            net: Some("priv".into()),
            name: NodeName::new("me").unwrap(),
            device: ("/dev/net/tun".into(), "mesh0".into()),
            debug: 0,
            interpreter: None,
            extension: String::new(),
            run: None,
        }
    }

    fn write(base: &Path, content: &str, mode: u32) {
        let path = base.join("tinc-up");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    async fn outcome(scripts: &Scripts) -> Outcome {
        run(scripts, &Job::device(true), Duration::from_secs(30)).await
    }

    #[tokio::test]
    async fn a_script_sees_its_variables_and_nothing_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = scripts(dir.path());
        assert_eq!(outcome(&scripts).await, Outcome::Absent);
        write(dir.path(), "#!/bin/sh\nenv > env\npwd > dir\n", 0o755);
        assert_eq!(outcome(&scripts).await, Outcome::Done);
        let env = std::fs::read_to_string(dir.path().join("env")).unwrap();
        assert!(
            env.contains("INTERFACE=mesh0\n") && env.contains("NETNAME=priv\n"),
            "{env}"
        );
        assert!(!env.contains("CARGO") && !env.contains("HOME="), "{env}");
        let pwd = std::fs::read_to_string(dir.path().join("dir")).unwrap();
        assert_eq!(Path::new(pwd.trim()), dir.path().canonicalize().unwrap());
    }

    #[tokio::test]
    async fn scripts_without_a_first_line_run_and_failures_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut scripts = scripts(dir.path());
        write(dir.path(), "exit 0\n", 0o755);
        assert_eq!(outcome(&scripts).await, Outcome::Done);
        write(dir.path(), "exit 3\n", 0o755);
        assert_eq!(outcome(&scripts).await, Outcome::Failed);
        write(dir.path(), "exit 0\n", 0o644);
        assert_eq!(outcome(&scripts).await, Outcome::Failed, "not executable");
        scripts.interpreter = Some("/bin/sh -e".into());
        assert_eq!(
            outcome(&scripts).await,
            Outcome::Done,
            "the interpreter reads it"
        );
    }

    #[tokio::test]
    async fn a_script_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = scripts(dir.path());
        let script = "#!/bin/sh\nsleep 1000 & echo $! > child\nwait\n";
        write(dir.path(), script, 0o755);
        let limit = Duration::from_millis(500);
        let job = Job::device(true);
        assert_eq!(run(&scripts, &job, limit).await, Outcome::Failed);
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // A killed process is a zombie until init reaps it.
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            tokio::task::yield_now().await;
        }
    }
}
