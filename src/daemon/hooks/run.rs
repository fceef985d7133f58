//! Runs one script in its own process group: environment, time limit, output.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

/// Maximum bytes of a script's output in the log.
const MAX_OUTPUT: u64 = 8 << 10;
/// Wait for the last output of a script that has ended. A process that the script leaves behind may keep the output
/// open forever.
const LAST_LINES: Duration = Duration::from_millis(100);
/// Interpreter of a script without `#!`, as with tinc's shell.
const SHELL: &str = "/bin/sh";
/// "Exec format error", linux/errno-base.h.
const ENOEXEC: i32 = 8;

/// Result of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The script does not exist.
    Absent,
    /// The script ended with status 0.
    Done,
    /// The script could not run, failed, or exceeded its time limit; the log has the reason.
    Failed,
}

/// One script to run, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Its name in the log.
    pub(super) script: String,
    /// The file.
    pub(super) path: PathBuf,
    /// Its working directory.
    pub(super) dir: PathBuf,
    /// Interpreter and its arguments, if set.
    pub(super) words: Vec<String>,
    /// The whole environment.
    pub(super) env: Vec<(String, String)>,
    /// Its time limit.
    pub(super) limit: Duration,
}

/// Events of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ScriptEvent {
    /// It starts.
    Running,
    /// It cannot start, for this reason.
    CannotRun(String),
    /// One line of output.
    Output(String),
    /// It was killed at this time limit.
    TookLonger(Duration),
    /// It ended with an error.
    Ended(String),
}

/// Receiver of the events.
pub(super) type EventSink = Arc<dyn Fn(ScriptEvent) + Send + Sync>;

/// Writes an event to the log.
pub(super) fn log(script: &str, event: ScriptEvent) {
    match event {
        ScriptEvent::Running => tracing::debug!(script, "running"),
        ScriptEvent::CannotRun(error) => {
            tracing::warn!(
                script,
                error,
                "cannot run a script; check that the file is executable"
            );
        }
        ScriptEvent::Output(line) => tracing::info!(script, line, "output"),
        ScriptEvent::TookLonger(limit) => {
            tracing::warn!(script, "a script took longer than {limit:?} and was killed");
        }
        ScriptEvent::Ended(how) => tracing::warn!(script, "{how}"),
    }
}

/// A running script, the leader of its own process group.
pub(super) struct Running {
    child: Child,
    /// Tasks that read its output.
    readers: Vec<JoinHandle<()>>,
    limit: Duration,
    events: EventSink,
}

impl Running {
    /// Returns its process group, as a process number.
    pub(super) fn group(&self) -> Option<i32> {
        self.child.id().map(u32::cast_signed)
    }

    /// Waits for its end, at most for its limit; `None` if its group must be killed.
    pub(super) async fn wait(&mut self) -> Option<io::Result<ExitStatus>> {
        let status = timeout(self.limit, self.child.wait()).await.ok();
        if status.is_none() {
            (self.events)(ScriptEvent::TookLonger(self.limit));
        }
        status
    }

    /// Waits a moment for its last output.
    async fn rest(&mut self) {
        let readers = std::mem::take(&mut self.readers);
        let all = async {
            for reader in readers {
                let _ = reader.await;
            }
        };
        let _ = timeout(LAST_LINES, all).await;
    }

    /// Returns the result of its exit status, and reports a failure.
    pub(super) fn judge(&self, status: io::Result<ExitStatus>) -> Outcome {
        match status {
            Ok(status) if status.success() => Outcome::Done,
            other => {
                (self.events)(ScriptEvent::Ended(ended(other)));
                Outcome::Failed
            }
        }
    }
}

/// Kills all processes of a process group.
pub(super) fn kill(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Runs a script and waits for its end, at most for its limit; then kills its whole process group.
pub(super) async fn run(order: &Order, events: &EventSink) -> Outcome {
    let mut running = match begin(order, events, true) {
        Ok(running) => running,
        Err(outcome) => return outcome,
    };
    let group = running.group();
    match running.wait().await {
        Some(status) => {
            running.rest().await;
            running.judge(status)
        }
        None => {
            group.into_iter().for_each(kill);
            Outcome::Failed
        }
    }
}

/// Starts a script; an error is its result. `tied`: the script is killed when the value is dropped.
pub(super) fn begin(order: &Order, events: &EventSink, tied: bool) -> Result<Running, Outcome> {
    if !order.path.exists() {
        return Err(Outcome::Absent);
    }
    events(ScriptEvent::Running);
    let mut child = spawn(order, tied).map_err(|error| {
        events(ScriptEvent::CannotRun(error.to_string()));
        Outcome::Failed
    })?;
    drop(child.stdin.take());
    let outputs = [
        child
            .stdout
            .take()
            .map(|output| tokio::spawn(report_output(output, Arc::clone(events)))),
        child
            .stderr
            .take()
            .map(|output| tokio::spawn(report_output(output, Arc::clone(events)))),
    ];
    Ok(Running {
        child,
        readers: outputs.into_iter().flatten().collect(),
        limit: order.limit,
        events: Arc::clone(events),
    })
}

fn spawn(order: &Order, tied: bool) -> io::Result<Child> {
    match start(order, &order.words, tied) {
        Err(error) if error.raw_os_error() == Some(ENOEXEC) => {
            start(order, &[SHELL.to_owned()], tied)
        }
        result => result,
    }
}

fn start(order: &Order, words: &[String], tied: bool) -> io::Result<Child> {
    let path: &Path = &order.path;
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
        .envs(order.env.iter().map(|(key, value)| (key, value)))
        .current_dir(&order.dir)
        .process_group(0)
        // We close it at once: /dev/null may be missing in a new root directory.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(tied)
        .spawn()
}

/// Reports a script's output line by line, cut at [`MAX_OUTPUT`]; reads the rest, so that the script never blocks on
/// us.
async fn report_output(mut output: impl AsyncRead + Unpin, events: EventSink) {
    let mut lines = BufReader::new((&mut output).take(MAX_OUTPUT));
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .await
        .is_ok_and(|length| length > 0)
    {
        events(ScriptEvent::Output(
            String::from_utf8_lossy(line.trim_ascii_end()).into_owned(),
        ));
        line.clear();
    }
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Ok((Some(code), _)) => format!("exited with non-zero status {code}"),
        Ok((None, Some(signal))) => format!("was killed by signal {signal}"),
        Ok((None, None)) => "ended abnormally".to_owned(),
        Err(error) => format!("cannot wait for a script: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::hooks::{Call, Scripts};
    use meshd_wire::NodeName;

    const UP: Call = Call::Device { up: true };

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

    async fn within(scripts: &Scripts, limit: Duration) -> Outcome {
        let order = Order {
            limit,
            ..scripts.order(&UP)
        };
        run(
            &order,
            &(Arc::new(|event| log("tinc-up", event)) as EventSink),
        )
        .await
    }

    async fn outcome(scripts: &Scripts) -> Outcome {
        within(scripts, Duration::from_secs(30)).await
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
        assert_eq!(within(&scripts, limit).await, Outcome::Failed);
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // A killed process is a zombie until init reaps it.
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn all_that_it_printed_is_told_before_its_end_and_what_it_left_behind_is_not_waited_for()
    {
        let dir = tempfile::tempdir().unwrap();
        let order = scripts(dir.path()).order(&UP);
        for left in ["", "sleep 1000 & echo $! >child\n"] {
            write(
                dir.path(),
                &format!("#!/bin/sh\n{left}echo one\necho two >&2\nprintf last\nexit 3\n"),
                0o755,
            );
            let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
            let events: EventSink = Arc::new(move |event| sender.send(event).unwrap_or_default());
            assert_eq!(run(&order, &events).await, Outcome::Failed);
            let mut lines = Vec::new();
            let end = loop {
                match received.recv().await.unwrap() {
                    ScriptEvent::Running => {}
                    ScriptEvent::Output(line) => lines.push(line),
                    other => break other,
                }
            };
            lines.sort();
            let last: &[&str] = if left.is_empty() {
                &["last", "one", "two"]
            } else {
                &["one", "two"]
            };
            assert_eq!(lines, last, "{left}");
            assert_eq!(
                end,
                ScriptEvent::Ended("exited with non-zero status 3".into())
            );
        }
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let child = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(child, Signal::KILL).expect("it was left alone");
    }
}
