//! The script process. It starts before the daemon enters its sandbox, so scripts keep their usual rights while the
//! daemon itself cannot start programs. It receives only script calls, by a socket from the daemon, and ends with the
//! daemon. Source: proto/threat-model.md section 4.
//!
//! It is a fork of the daemon before the daemon has read anything: starting a program anew costs a tenth of the CPU
//! time of a start. The daemon starts tinc-up itself, with all rights, and drops its own rights meanwhile. This process
//! keeps its rights until tinc-up has ended, to kill it at its time limit. Then it keeps only the rights of scripts.
//!
//! Both directions use one JSON message per line. The first line, [`Begin`], is written before the daemon enters its
//! sandbox. It fixes directory, interpreter, extension, RunScripts, names, user, and the daemon's own files. An attacker
//! in the daemon can later only send an `Ask`: a script from a fixed list, with typed values, or an order about these
//! files. All other messages are refused and logged.
//!
//! The daemon cannot write where its log, pid file and sockets are, because others have files there too. So this process
//! opens the log anew after a rotation, and removes the files at the end. With `Sandbox = high` it does nothing else, in
//! a sandbox of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    net::SocketType,
    process::{Pid, WaitOptions, getppid, waitpid},
    stdio,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::OwnedWriteHalf,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, oneshot},
};

use meshd_dataplane::io::fork::fork;

use crate::{Event, log, privileges, sandbox};

use super::{
    Call, Outcome, Scripts,
    run::{self, EventSink, ScriptEvent},
};

mod passing;

/// Name of the process. It differs from the daemon's, so that a search for daemons by name does not find it.
const TITLE: &str = "meshd-scripts";

/// Longest line of the daemon, in bytes without its end, after it entered its sandbox. A name takes at most 255.
const MAX_LINE: usize = 1024;
/// Longest first line: paths and lists of the configuration, with up to four characters for a byte.
const MAX_BEGIN: usize = 64 << 10;
/// Maximum number of running scripts, also for a daemon that ignores its own queue.
const MAX_AT_ONCE: usize = 16;
/// Maximum number of messages for a daemon that does not read; further script output is lost. Memory: at most 8 KiB
/// each.
const MAX_ANSWERS: usize = 256;

/// Parameters that are fixed before the daemon enters its sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begin {
    /// Parameters of scripts.
    pub scripts: Scripts,
    /// User of scripts after tinc-up has ended (-U).
    pub user: Option<String>,
    /// True if the configuration directory is then their root (-R).
    pub chroot: bool,
    /// Nice value of scripts after tinc-up has ended.
    pub nice: Option<i32>,
    /// The process group of tinc-up, which the daemon started and cannot kill any more.
    pub rising: Option<i32>,
    /// The daemon's own files.
    pub own: Own,
    /// True if no script runs any more: the process enters a sandbox too.
    pub confined: bool,
}

/// The daemon's files in directories that it cannot write to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Own {
    /// The log.
    pub log: Option<PathBuf>,
    /// Pid file and sockets, which disappear at the end.
    pub running: Vec<PathBuf>,
}

/// Request to the script process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Ask {
    /// Run a script; the number identifies the request.
    Run(u64, Call),
    /// Kill tinc-up.
    Kill,
    /// Forget tinc-up, and switch to the user of later scripts.
    GiveUp,
    /// Open the log anew.
    OpenLog,
    /// Remove pid file and sockets: the daemon ends.
    Leave,
}

/// Answer of the script process.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Event(u64, String, ScriptEvent),
    Ended(u64, Outcome),
    /// The log was opened: the descriptor comes with this message. Or the reason why not.
    Log(Result<(), String>),
    /// Pid file and sockets are gone.
    Left,
    /// A message was invalid, for this reason.
    Refused(String),
}

/// The script process before its first use.
#[derive(Debug)]
pub struct Prepared {
    socket: UnixStream,
    number: Pid,
}

impl Prepared {
    /// Starts it, with the rights that we have now. `quiet`: the process closes standard error, because a parent waits
    /// for its end.
    ///
    /// # Errors
    ///
    /// Those of [`fork`]: no other thread may run.
    pub fn start(quiet: bool) -> io::Result<Self> {
        let (socket, number) = fork(TITLE, SocketType::STREAM, |socket| main(socket, quiet))?;
        Ok(Self { socket, number })
    }

    /// Ends the process without using it.
    pub fn dismiss(self) {
        drop(self.socket);
        let _ = waitpid(Some(self.number), WaitOptions::empty());
    }
}

/// The daemon's end.
#[derive(Debug, Clone)]
pub struct Monitor {
    asks: mpsc::UnboundedSender<Ask>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Requests that wait for the end of a script.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    scripts: BTreeMap<u64, oneshot::Sender<Outcome>>,
    logs: VecDeque<oneshot::Sender<io::Result<File>>>,
    left: Option<oneshot::Sender<()>>,
}

impl Monitor {
    /// Lets the process run scripts with these fixed parameters. If it ends before us, [`Event::MonitorGone`] follows.
    ///
    /// # Errors
    ///
    /// Those of writing to the socket or registering it.
    pub fn over(
        mut prepared: Prepared,
        begin: &Begin,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        // Written at once, not by a task: messages after this call are not trusted.
        prepared.socket.write_all(&line(begin)?)?;
        let (answers, write) = passing::split(prepared.socket)?;
        let (asks, queue) = mpsc::unbounded_channel();
        let waiting = Arc::default();
        tokio::spawn(ask_all(queue, write, Arc::clone(&waiting)));
        let scripts = Arc::clone(&waiting);
        tokio::spawn(async move {
            read_answers(answers, &scripts).await;
            let _ = events.send(Event::MonitorGone).await;
        });
        Ok(Self { asks, waiting })
    }

    /// Makes it run a script and waits for the script's end.
    pub(super) async fn run(&self, call: Call) -> Outcome {
        self.ask(call).await.unwrap_or(Outcome::Failed)
    }

    fn ask(&self, call: Call) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        waiting.last += 1;
        let id = waiting.last;
        if self.asks.send(Ask::Run(id, call)).is_ok() {
            waiting.scripts.insert(id, done);
        }
        outcome
    }

    /// Makes it open the log anew.
    pub async fn open_log(&self) -> io::Result<File> {
        let (done, file) = oneshot::channel();
        lock(&self.waiting).logs.push_back(done);
        let _ = self.asks.send(Ask::OpenLog);
        let gone = |_| Err(io::ErrorKind::BrokenPipe.into());
        file.await.unwrap_or_else(gone)
    }

    /// Makes it remove pid file and sockets.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        lock(&self.waiting).left = Some(done);
        let _ = self.asks.send(Ask::Leave);
        let _ = left.await;
    }

    /// Makes it kill tinc-up.
    pub(super) fn kill(&self) {
        let _ = self.asks.send(Ask::Kill);
    }

    /// Makes it switch to the user, root directory and nice value of later scripts. It exits on failure.
    pub fn give_up(&self) {
        let _ = self.asks.send(Ask::GiveUp);
    }
}

async fn ask_all(
    mut queue: mpsc::UnboundedReceiver<Ask>,
    mut write: OwnedWriteHalf,
    waiting: Arc<Mutex<Waiting>>,
) {
    while let Some(ask) = queue.recv().await {
        if send(&mut write, &ask).await.is_err() {
            // From now on there are no requests and no waiters.
            drop(queue);
            lock(&waiting).end();
            return;
        }
    }
}

async fn read_answers(mut answers: passing::Receiver, waiting: &Mutex<Waiting>) {
    while let Some(answer) = answers.next().await {
        match answer {
            Answer::Event(_, script, event) => run::log(&script, event),
            Answer::Refused(why) => {
                tracing::error!(why, "the script process refused a request");
            }
            Answer::Ended(id, outcome) => {
                if let Some(done) = lock(waiting).scripts.remove(&id) {
                    let _ = done.send(outcome);
                }
            }
            Answer::Log(opened) => {
                let file = opened.map_err(io::Error::other).and_then(|()| {
                    let fd = answers.descriptor().ok_or(io::ErrorKind::InvalidData)?;
                    Ok(File::from(fd))
                });
                if let Some(done) = lock(waiting).logs.pop_front() {
                    let _ = done.send(file);
                }
            }
            Answer::Left => {
                if let Some(done) = lock(waiting).left.take() {
                    let _ = done.send(());
                }
            }
        }
    }
    lock(waiting).end();
}

impl Waiting {
    /// Waiting requests get no answer any more.
    fn end(&mut self) {
        self.scripts.clear();
        self.logs.clear();
        self.left = None;
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the script process.
fn main(socket: UnixStream, quiet: bool) -> u8 {
    let live = || {
        if quiet {
            stdio::dup2_stderr(io::stdout())?;
        }
        privileges::bound_scripts().map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(serve(socket))
    };
    match live() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("meshd: cannot run scripts: {error}");
            1
        }
    }
}

async fn serve(socket: UnixStream) -> io::Result<()> {
    // A service manager may signal all processes to stop: the daemon still has scripts to run, and ends this process by
    // ending. Operators may signal all processes of our program with signals for a daemon.
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::alarm(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    let _ignored: Vec<_> = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
    obey(socket, getppid()).await
}

/// Handles requests until the daemon closes the socket. `daemon`: the process that started tinc-up.
async fn obey(socket: UnixStream, daemon: Option<Pid>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let (read, mut write) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let mut read = BufReader::new(read);
    let (answers, mut queue) = mpsc::channel(MAX_ANSWERS);
    tokio::spawn(async move {
        while let Some(Message { answer, file }) = queue.recv().await {
            let sent = match file {
                Some(file) => passing::send_with(&mut write, &answer, file).await,
                None => send(&mut write, &answer).await,
            };
            if sent.is_err() {
                return;
            }
        }
    });
    let mut text = Vec::new();
    if next_line(&mut read, MAX_BEGIN, &mut text).await? != Some(true) {
        return Ok(());
    }
    let begin: Begin = serde_json::from_slice(&text)?;
    let mut helper = Helper {
        watched: begin
            .rising
            .and_then(|group| Watched::child(group, daemon?)),
        scripts: begin.scripts.clone(),
        begin,
        room: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        answers,
        refused: 0,
    };
    while let Some(whole) = next_line(&mut read, MAX_LINE, &mut text).await? {
        let ask = match whole {
            true => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            false => Err(format!("more than {MAX_LINE} bytes")),
        };
        match ask {
            Ok(ask) => helper.take(ask)?,
            Err(why) => helper.refuse(why),
        }
    }
    helper.kill();
    Ok(())
}

/// State of the script process.
struct Helper {
    begin: Begin,
    /// Present parameters: a new root directory changes the paths.
    scripts: Scripts,
    /// tinc-up, until it has ended.
    watched: Option<Watched>,
    room: Arc<Semaphore>,
    answers: mpsc::Sender<Message>,
    /// Number of refused requests.
    refused: u64,
}

/// An answer with its descriptor.
struct Message {
    answer: Answer,
    file: Option<OwnedFd>,
}

impl From<Answer> for Message {
    fn from(answer: Answer) -> Self {
        Self { answer, file: None }
    }
}

impl Helper {
    fn take(&mut self, ask: Ask) -> io::Result<()> {
        match ask {
            Ask::Run(_, call @ Call::Device { up: true }) => {
                self.refuse(format!("{} may run only once", call.script()));
            }
            Ask::Run(id, call) => self.run(id, &call),
            Ask::Kill => self.kill(),
            Ask::GiveUp => self.give_up()?,
            Ask::OpenLog => {
                let opened = match &self.begin.own.log {
                    Some(path) => log::open(path).map_err(|error| error.to_string()),
                    None => Err("it has no file".to_owned()),
                };
                let (answer, file) = match opened {
                    Ok(file) => (Ok(()), Some(file.into())),
                    Err(why) => (Err(why), None),
                };
                let answer = Answer::Log(answer);
                let _ = self.answers.try_send(Message { answer, file });
            }
            Ask::Leave => {
                for path in &self.begin.own.running {
                    let _ = fs::remove_file(path);
                }
                let _ = self.answers.try_send(Answer::Left.into());
            }
        }
        Ok(())
    }

    fn run(&mut self, id: u64, call: &Call) {
        let room = Arc::clone(&self.room).try_acquire_owned();
        let Some(room) = room.ok().filter(|_| self.scripts.may_run(call)) else {
            let text = format!(
                "{} may not run, or too many scripts are running",
                call.script()
            );
            self.refuse(text);
            let _ = self
                .answers
                .try_send(Answer::Ended(id, Outcome::Failed).into());
            return;
        };
        let order = self.scripts.order(call);
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let (reports, script) = (answers.clone(), order.script.clone());
            // A daemon that does not read loses script output, but never the end of a script.
            let events: EventSink = Arc::new(move |event| {
                let _ = reports.try_send(Answer::Event(id, script.clone(), event).into());
            });
            let outcome = run::run(&order, &events).await;
            let _ = answers.send(Answer::Ended(id, outcome).into()).await;
            drop(room);
        });
    }

    fn kill(&mut self) {
        self.watched.take().into_iter().for_each(Watched::kill);
    }

    /// Called once, after tinc-up has ended.
    fn give_up(&mut self) -> io::Result<()> {
        self.watched = None;
        if let Some(nice) = self.begin.nice.take() {
            privileges::set_nice(nice).map_err(io::Error::other)?;
        }
        let base = self.scripts.base.clone();
        let dropping = privileges::Drop {
            user: self.begin.user.take(),
            chroot: std::mem::take(&mut self.begin.chroot).then_some(base),
            keep: privileges::Keep::default(),
        };
        privileges::drop_to(&dropping).map_err(io::Error::other)?;
        privileges::keep_bounded().map_err(io::Error::other)?;
        if dropping.chroot.is_some() {
            self.scripts.base = "/".into();
        }
        match self.begin.confined {
            true => self.enter_sandbox(),
            false => Ok(()),
        }
    }

    /// Keeps only access to the daemon's own files.
    fn enter_sandbox(&self) -> io::Result<()> {
        let Own { log, running } = &self.begin.own;
        let places = log.iter().chain(running).filter_map(|path| path.parent());
        let files = sandbox::Files {
            read: Vec::new(),
            write: places.map(Into::into).collect(),
        };
        let keep = privileges::Keep::default().of_root(&files.write);
        privileges::drop_capabilities(keep).map_err(io::Error::other)?;
        if let Err(error) = sandbox::enter(sandbox::Who::Daemon, &files) {
            log::try_stderr(&format!("{TITLE}: runs without its sandbox: {error}\n"));
        }
        Ok(())
    }

    /// Reports a refusal to the operator, by the daemon and on standard error: the first one, then at growing
    /// intervals.
    fn refuse(&mut self, why: String) {
        self.refused += 1;
        if !self.refused.is_power_of_two() {
            return;
        }
        log::try_stderr(&format!(
            "{TITLE}: refused a request of the daemon ({} so far): {}\n",
            self.refused,
            why.escape_debug()
        ));
        let _ = self.answers.try_send(Answer::Refused(why).into());
    }
}

/// A process group that the daemon started before it entered its sandbox.
#[derive(Debug)]
struct Watched {
    leader: Pid,
    /// Start time: another process may get its number later.
    started: u64,
}

impl Watched {
    /// Returns the group with this number; `None` unless its leader is a child of `daemon`.
    fn child(group: i32, daemon: Pid) -> Option<Self> {
        let leader = (group > 1).then(|| Pid::from_raw(group))??;
        let (parent, leads, started) = stat(leader)?;
        let is_child = parent == daemon.as_raw_pid() && leads == group;
        is_child.then_some(Self { leader, started })
    }

    fn kill(self) {
        if stat(self.leader).is_some_and(|(_, _, started)| started == self.started) {
            run::kill(self.leader.as_raw_pid());
        }
    }
}

/// Returns parent, process group and start time of a process. Source: proc_pid_stat(5).
fn stat(process: Pid) -> Option<(i32, i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field may hold any text, and ends with the last `) `.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(1);
    let (parent, group) = (fields.next()?, fields.next()?);
    let started = fields.nth(16)?;
    Some((
        parent.parse().ok()?,
        group.parse().ok()?,
        started.parse().ok()?,
    ))
}

/// Reads a line into `line`, without its end. Returns true if it has at most `most` bytes; a longer line is dropped.
/// Returns `None` at the end of the stream.
async fn next_line(
    from: &mut (impl AsyncBufRead + Unpin),
    most: usize,
    line: &mut Vec<u8>,
) -> io::Result<Option<bool>> {
    line.clear();
    let mut fits = true;
    loop {
        let some = from.fill_buf().await?;
        if some.is_empty() {
            return Ok(None);
        }
        let end = some.iter().position(|byte| *byte == b'\n');
        let part = &some[..end.unwrap_or(some.len())];
        fits &= line.len() + part.len() <= most;
        match fits {
            true => line.extend_from_slice(part),
            false => line.clear(),
        }
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Ok(Some(fits));
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, message: &impl Serialize) -> io::Result<()> {
    write.write_all(&line(message)?).await
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests;
