//! The log: writes lines to standard error, a file or syslog, and to followers (`meshctl log -f`).
//!
//! Sources: config/tinc.md section 4.3 (levels, reopening), T41 of proto/threat-model.md (at most 20 lines per second
//! of a class, remote text escaped and cut).

mod limit;
mod recorder;
mod text;
mod writer;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::sync::broadcast;
use tracing::{Event, Level, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry,
};

use meshd_api::proto::LogLine;
use meshd_os::clock;

use crate::{
    hooks::monitor::Monitor,
    services::{Ask, Services},
};

use limit::{Limiter, Passes};
use recorder::LogRecorder;
use writer::Writer;

/// Maximum number of lines that a slow follower may lag before it loses some. Memory: at most 1 MiB.
const FOLLOW: usize = 512;
/// Longest wait for the reader of the last lines at the daemon's end.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The log of the whole process.
static INSTALLED: OnceLock<Log> = OnceLock::new();
/// Highest debug level of tinc.
const MAX_LEVEL: u8 = 10;

/// LogTarget of lines, besides followers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, each line with its time.
    Stderr,
    /// Standard error without time, with a syslog priority in front: the journal keeps the time.
    Journal,
    /// A file, reopened after it was moved.
    File(PathBuf),
    /// syslog's socket, as facility daemon, under this name. Lines are lost without a listener.
    Syslog(String),
}

/// Path of syslog's socket. Source: syslog(3).
const SYSLOG: &str = "/dev/log";
/// syslog's facility for daemons. Source: RFC 3164 section 4.1.1.
const DAEMON: u8 = 3 << 3;

impl LogTarget {
    /// Returns standard error in the form for its reader: systemd names the journal's stream.
    #[must_use]
    pub fn stderr() -> Self {
        if std::env::var_os("JOURNAL_STREAM").is_some() {
            Self::Journal
        } else {
            Self::Stderr
        }
    }

    /// Formats a line for the target.
    fn whole(&self, level: Level, time: &str, text: &str) -> Vec<u8> {
        match self {
            Self::Journal => format!("<{}>{text}\n", priority(level)).into_bytes(),
            Self::Syslog(_) => {
                let ask = Ask::Log(DAEMON | priority(level), text.to_owned());
                serde_json::to_vec(&ask).unwrap_or_default()
            }
            _ => format!("{time} {level:<5} {text}\n").into_bytes(),
        }
    }
}

/// The daemon's log. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    target: LogTarget,
    /// tinc's debug level for the target.
    level: AtomicU8,
    /// The level raised to the highest level of a follower.
    wanted: AtomicU8,
    followed: Mutex<Vec<u8>>,
    writer: Arc<Writer>,
    /// syslog's socket, until the service process writes to it.
    syslog: Mutex<Option<UnixDatagram>>,
    limiter: Mutex<Limiter<&'static Metadata<'static>>>,
    lines: broadcast::Sender<(Level, LogLine)>,
    /// Locked while a line also goes to followers, so that a new follower with recorded lines misses none.
    recorder: Mutex<LogRecorder>,
}

/// A follower; dropping it lowers the level again.
pub struct LogFollower {
    inner: Arc<Inner>,
    level: u8,
    lines: broadcast::Receiver<(Level, LogLine)>,
}

/// Returns the least severe level that a debug level of tinc admits. 0 to 2: changes. 3 and 4: decisions. 5 and above:
/// each packet, in debug builds.
#[must_use]
pub fn severity(level: u8) -> Level {
    match level {
        0..=2 => Level::INFO,
        3..=4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

impl Log {
    /// Makes a log that is not installed yet. A file that cannot be opened is an error.
    pub fn new(target: LogTarget, level: u8) -> io::Result<Self> {
        let file = match &target {
            LogTarget::File(path) => Some(open(path)?),
            LogTarget::Stderr | LogTarget::Journal | LogTarget::Syslog(_) => None,
        };
        // Not bound to a name; connected now, because a chroot may hide its path.
        let syslog = match &target {
            LogTarget::Syslog(_) => UnixDatagram::unbound().ok(),
            _ => None,
        };
        if let Some(socket) = &syslog {
            let _ = socket
                .connect(SYSLOG)
                .and_then(|()| socket.set_nonblocking(true));
        }
        let level = level.min(MAX_LEVEL);
        let form = target.clone();
        let notice = move |lost| {
            let text =
                format!("{lost} log lines were lost because the reader of the log was too slow");
            form.whole(Level::WARN, &clock::rfc3339(clock::wall()), &text)
        };
        Ok(Self(Arc::new(Inner {
            target,
            level: AtomicU8::new(level),
            wanted: AtomicU8::new(level.max(recorder::LEVEL)),
            followed: Mutex::default(),
            writer: Arc::new(Writer::new(file, Box::new(notice))),
            syslog: Mutex::new(syslog),
            limiter: Mutex::default(),
            lines: broadcast::channel(FOLLOW).0,
            recorder: Mutex::default(),
        })))
    }

    /// Installs it as the log of the whole process. Only the first call has an effect.
    pub fn install(&self) {
        let layer = LogLayer(Arc::clone(&self.0));
        let _ = tracing::subscriber::set_global_default(registry().with(layer));
        let _ = INSTALLED.set(self.clone());
    }

    /// Starts a thread that writes from now on, so that a blocked reader delays no other thread. The thread has the
    /// caller's rights. Lines to syslog go through the service process, if there is one.
    pub fn start_writer(&self, services: &Services) {
        if let (LogTarget::Syslog(_), Services::Process(remote)) = (&self.0.target, services) {
            match remote.for_log() {
                Ok(socket) => {
                    self.0.writer.reopen(socket.into());
                    *lock(&self.0.syslog) = None;
                }
                Err(error) => tracing::warn!(%error, "cannot pass the log on"),
            }
        }
        if let Err(error) = self.0.writer.start() {
            tracing::warn!(%error, "cannot start the log thread, so a blocked reader delays the daemon");
        }
    }

    /// Returns the number of lines lost because the reader was too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.writer.lost()
    }

    /// Returns tinc's debug level in force.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.0.level.load(Ordering::Relaxed)
    }

    /// Changes the debug level.
    pub fn set_level(&self, level: u8) {
        self.0.level.store(level.min(MAX_LEVEL), Ordering::Relaxed);
        self.0.reckon();
    }

    /// Returns the log file, if the target is a file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.0.target {
            LogTarget::File(path) => Some(path),
            LogTarget::Stderr | LogTarget::Journal | LogTarget::Syslog(_) => None,
        }
    }

    /// Reopens the log file after it was moved, in this process or by the script process. On an error the old file
    /// stays open.
    pub(crate) async fn reopen(&self, monitor: Option<Monitor>) -> io::Result<()> {
        if let LogTarget::File(path) = &self.0.target {
            let file = match monitor {
                Some(monitor) => monitor.open_log().await?,
                None => open(path)?,
            };
            self.0.writer.reopen(file);
        }
        Ok(())
    }

    /// Returns the recorded lines not older than `age`, and a follower of later lines, at debug level `level` (default:
    /// the daemon's).
    #[must_use]
    pub fn follow(&self, age: Duration, level: Option<u8>) -> (Vec<LogLine>, LogFollower) {
        let level = level.unwrap_or_else(|| self.level()).min(MAX_LEVEL);
        lock(&self.0.followed).push(level);
        self.0.reckon();
        let recorder = lock(&self.0.recorder);
        let lines = match age {
            Duration::ZERO => Vec::new(),
            age => recorder.since(age, severity(level), clock::now()),
        };
        let follower = LogFollower {
            inner: Arc::clone(&self.0),
            level,
            lines: self.0.lines.subscribe(),
        };
        (lines, follower)
    }

    /// Reports the number of suppressed lines of classes that are silent now. The caller must call it regularly.
    pub fn flush(&self) {
        let held = lock(&self.0.limiter).expire(clock::now());
        for (metadata, count) in held {
            let text = format!("{count} more lines like the last of {}", metadata.target());
            self.0.print(*metadata.level(), text);
        }
    }

    /// Writes lines that an operator requested, without a rate limit.
    pub fn dump(&self, lines: impl IntoIterator<Item = String>) {
        lines
            .into_iter()
            .for_each(|line| self.0.print(Level::INFO, line));
    }
}

impl LogFollower {
    /// Returns the next line; `None` when the daemon ends. Lines that came too fast are skipped.
    pub async fn next(&mut self) -> Option<LogLine> {
        loop {
            match self.lines.recv().await {
                Ok((level, line)) if level <= severity(self.level) => return Some(line),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        let mut followed = lock(&self.inner.followed);
        if let Some(at) = followed.iter().position(|level| *level == self.level) {
            followed.swap_remove(at);
        }
        drop(followed);
        self.inner.reckon();
    }
}

impl Inner {
    fn reckon(&self) {
        let own = self.level.load(Ordering::Relaxed);
        let followed = lock(&self.followed).iter().copied().max().unwrap_or(0);
        let wanted = own.max(followed).max(recorder::LEVEL);
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// True if lines of this kind have a receiver. Of other crates only warnings are logged.
    fn lets(&self, metadata: &Metadata<'_>, level: u8) -> bool {
        let ours = metadata.target().starts_with("meshd");
        *metadata.level() <= if ours { severity(level) } else { Level::WARN }
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let passes = lock(&self.limiter).pass(metadata, clock::now());
        match passes {
            Passes::Yes => self.print(*metadata.level(), text::of(event)),
            Passes::After(held) => {
                let text = format!("{} ({held} more before it)", text::of(event));
                self.print(*metadata.level(), text);
            }
            Passes::No => {}
        }
    }

    fn print(&self, level: Level, text: String) {
        let line = LogLine {
            time: clock::rfc3339(clock::wall()),
            level: level.as_str().to_lowercase(),
            text,
        };
        if level <= severity(self.level.load(Ordering::Relaxed)) {
            self.write(level, &line);
        }
        let mut recorder = lock(&self.recorder);
        if level <= severity(recorder::LEVEL) {
            recorder.push(clock::now(), level, &line);
        }
        let _ = self.lines.send((level, line));
    }

    /// Errors are ignored: a line that cannot be written has no other target.
    fn write(&self, level: Level, line: &LogLine) {
        let LogLine { time, text, .. } = line;
        let syslog = lock(&self.syslog);
        if let (LogTarget::Syslog(name), Some(socket)) = (&self.target, &*syslog) {
            let (priority, pid) = (DAEMON | priority(level), std::process::id());
            let whole = format!("<{priority}>{name}[{pid}]: {text}");
            if socket.send(whole.as_bytes()).is_err() {
                // syslog has restarted.
                let _ = socket.send_to(whole.as_bytes(), SYSLOG);
                let _ = socket.connect(SYSLOG);
            }
            return;
        }
        drop(syslog);
        self.writer.push(self.target.whole(level, time, text));
    }
}

/// Writes a short line to standard error outside of the log, unless its reader blocks.
pub(super) fn try_stderr(line: &str) {
    writer::try_stderr(line.as_bytes());
}

/// Waits a moment until the last lines of the log are written.
pub fn drain() {
    if let Some(log) = INSTALLED.get() {
        log.0.writer.drain(LAST_LINES);
    }
}

/// Returns syslog's priority of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Opens a log file to append to it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

/// A panic while a line was written leaves no harmful state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct LogLayer(Arc<Inner>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.lets(metadata, self.0.wanted.load(Ordering::Relaxed))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(level: u8, act: impl FnOnce(&Log)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(LogTarget::File(path.clone()), level).unwrap();
        let layer = LogLayer(Arc::clone(&log.0));
        tracing::subscriber::with_default(registry().with(layer), || act(&log));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(Into::into).collect()
    }

    #[test]
    fn a_flood_of_one_class_is_counted_and_others_still_show() {
        let lines = lines(0, |log| {
            for i in 0..1000 {
                tracing::info!(i, "flood");
            }
            tracing::warn!(node = "berlin", "something else");
            log.flush();
        });
        let floods = lines
            .iter()
            .filter(|line| line.contains("flood i="))
            .count();
        // The loop may cross one boundary of a second.
        assert!(
            (limit::MAX_LINES..=2 * limit::MAX_LINES).contains(&floods),
            "{floods}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.contains("something else node=berlin"))
        );
    }

    #[test]
    fn remote_text_is_escaped_and_cut() {
        let hostile = format!("x\n2026-01-01 ERROR forged\u{1b}[31m{}", "y".repeat(500));
        let lines = lines(
            0,
            |_| tracing::info!(name = hostile, shown = %hostile, "hello"),
        );
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains("\\n") && !lines[0].contains('\u{1b}'),
            "{}",
            lines[0]
        );
        assert!(lines[0].len() < 400, "{}", lines[0].len());
    }

    #[test]
    fn a_follower_raises_the_level_for_itself_only() {
        let lines = lines(0, |log| {
            tracing::debug!("early");
            let mut follower = log.follow(Duration::ZERO, Some(4)).1;
            tracing::debug!("heard");
            assert_eq!(follower.lines.try_recv().unwrap().1.text, "heard");
            drop(follower);
            assert_eq!(log.0.wanted.load(Ordering::Relaxed), recorder::LEVEL);
            let recorded = log.follow(Duration::MAX, Some(3)).0;
            let texts: Vec<_> = recorded.iter().map(|line| line.text.as_str()).collect();
            assert_eq!(texts, ["early", "heard"]);
            assert_eq!(log.follow(Duration::MAX, None).0.len(), 0);
        });
        assert!(lines.is_empty(), "{lines:?}");
    }

    #[tokio::test]
    async fn reopening_starts_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(LogTarget::File(path.clone()), 0).unwrap();
        let layer = LogLayer(Arc::clone(&log.0));
        let _guard = tracing::subscriber::set_default(registry().with(layer));
        tracing::info!("one");
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.reopen(None).await.unwrap();
        tracing::info!("two");
        let new = std::fs::read_to_string(&path).unwrap();
        assert!(new.contains("two") && !new.contains("one"));
    }
}
