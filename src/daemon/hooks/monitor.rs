//! The process that runs scripts: started before the daemon locks itself in, so that scripts have the rights that they always
//! had while the daemon itself can start no program any more. It hears of nothing but scripts, by a socket from the daemon,
//! and ends with it. Source: proto/threat-model.md section 4.
//!
//! It is the daemon's copy from before that has read anything: a program started anew is a tenth of all that a start computes.
//! The daemon itself starts tinc-up, with all rights, and gives up its own meanwhile. This process keeps them until tinc-up has
//! ended, to kill it where it takes too long, and then has those that the user gave scripts.
//!
//! Both ways a line of JSON a message. The first line, [`Begin`], is written before the daemon locks itself in. It fixes all that
//! could make a script another one: directory, interpreter, extension, RunScripts, names, user. Whoever takes over the daemon
//! later can only send an [`Ask`]: a script by its name in a fixed list, with typed values. Everything else is refused and logged.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    process::{Pid, WaitOptions, getppid, waitpid},
    stdio,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, oneshot},
};

use meshd_dataplane::io::fork::fork;

use crate::{Event, log, privileges};

use super::{
    Call, Outcome, Scripts,
    run::{self, Said, Say},
};

/// What others see of it: whoever looks for daemons by name must not find it.
const TITLE: &str = "meshd-scripts";

/// Longest line of the daemon, in bytes without its end, once it is locked in. A name takes 255 of it.
const MAX_LINE: usize = 1024;
/// Longest first line: paths and lists of the configuration, with a byte as up to four characters.
const MAX_BEGIN: usize = 64 << 10;
/// Scripts that run at the same time for a daemon that asks for more than its own queue would.
const MAX_AT_ONCE: usize = 16;
/// Messages to a daemon that does not read; what scripts print is lost beyond. Memory: at most 8 KiB each.
const MAX_ANSWERS: usize = 256;

/// All that is fixed before the daemon locks itself in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begin {
    /// What scripts are told, and how they are run.
    pub scripts: Scripts,
    /// Who scripts run as once tinc-up has ended (-U).
    pub user: Option<String>,
    /// Whether the configuration directory is their root then (-R).
    pub chroot: bool,
    /// Their nice value then.
    pub nice: Option<i32>,
    /// The process group of tinc-up, which the daemon has started and may not kill any more.
    pub rising: Option<i32>,
}

/// What it is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Ask {
    /// A script to run, and who asks.
    Run(u64, Call),
    /// To kill tinc-up.
    Kill,
    /// To let go of it, and become who scripts run as from now on.
    GiveUp,
}

/// What became of it so far.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Said(u64, String, Said),
    Ended(u64, Outcome),
    /// A message made no sense, and what was wrong with it.
    Refused(String),
}

/// The process, which waits to be needed.
#[derive(Debug)]
pub struct Prepared {
    socket: UnixStream,
    number: Pid,
}

impl Prepared {
    /// Starts it, with the rights that we have now. `quiet`: whoever holds the other end of our standard error waits for it to be closed.
    ///
    /// # Errors
    /// Those of [`fork`]: no other thread may run.
    pub fn start(quiet: bool) -> io::Result<Self> {
        let (socket, number) = fork(TITLE, |socket| main(socket, quiet))?;
        Ok(Self { socket, number })
    }

    /// It is not needed.
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

/// Who waits for the end of which script.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    scripts: BTreeMap<u64, oneshot::Sender<Outcome>>,
}

impl Monitor {
    /// Lets the process run scripts by what is fixed from now on. Should it end before us, [`Event::MonitorGone`] follows.
    ///
    /// # Errors
    /// Those of a socket that cannot be written to or waited for.
    pub fn over(
        mut prepared: Prepared,
        begin: &Begin,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        // At once, not by a task: what comes after this call is not trusted.
        prepared.socket.write_all(&line(begin)?)?;
        let (lines, write) = split(prepared.socket)?;
        let (asks, queue) = mpsc::unbounded_channel();
        let waiting = Arc::default();
        tokio::spawn(ask_all(queue, write, Arc::clone(&waiting)));
        let heard = Arc::clone(&waiting);
        tokio::spawn(async move {
            hear_all(lines, &heard).await;
            let _ = events.send(Event::MonitorGone).await;
        });
        Ok(Self { asks, waiting })
    }

    /// Has a script run and waits for its end.
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

    /// Has it kill tinc-up.
    pub(super) fn kill(&self) {
        let _ = self.asks.send(Ask::Kill);
    }

    /// Has it become who all further scripts run as, in their root, with their nice value. It ends where it cannot.
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
            // Nobody waits from now on, nor asks.
            drop(queue);
            lock(&waiting).scripts.clear();
            return;
        }
    }
}

async fn hear_all(mut lines: Lines<BufReader<OwnedReadHalf>>, waiting: &Mutex<Waiting>) {
    while let Some(answer) = next(&mut lines).await {
        match answer {
            Answer::Said(_, script, said) => run::log(&script, said),
            Answer::Refused(why) => {
                tracing::error!(
                    why,
                    "the process that runs scripts refused an order of ours"
                );
            }
            Answer::Ended(id, outcome) => {
                if let Some(done) = lock(waiting).scripts.remove(&id) {
                    let _ = done.send(outcome);
                }
            }
        }
    }
    // Nobody will end what still waits.
    lock(waiting).scripts.clear();
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The monitor's whole life.
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
    // A service manager may tell all processes to stop: the daemon still has scripts to run, and ends us by ending. Others tell
    // all of our program whatever they have to tell a daemon.
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

/// Does what is asked for until nobody asks any more. `daemon`: who has started tinc-up.
async fn obey(socket: UnixStream, daemon: Option<Pid>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let (read, mut write) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let mut read = BufReader::new(read);
    let (answers, mut queue) = mpsc::channel(MAX_ANSWERS);
    tokio::spawn(async move {
        while let Some(answer) = queue.recv().await {
            if send(&mut write, &answer).await.is_err() {
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

/// The process that runs scripts, while it serves.
struct Helper {
    begin: Begin,
    /// As they are now: another root moves them.
    scripts: Scripts,
    /// tinc-up, until it has ended.
    watched: Option<Watched>,
    room: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    /// Orders refused so far.
    refused: u64,
}

impl Helper {
    fn take(&mut self, ask: Ask) -> io::Result<()> {
        match ask {
            Ask::Run(_, call @ Call::Device { up: true }) => {
                self.refuse(format!("{} is not run twice", call.script()));
            }
            Ask::Run(id, call) => self.run(id, &call),
            Ask::Kill => self.kill(),
            Ask::GiveUp => self.give_up()?,
        }
        Ok(())
    }

    fn run(&mut self, id: u64, call: &Call) {
        let room = Arc::clone(&self.room).try_acquire_owned();
        let Some(room) = room.ok().filter(|_| self.scripts.may_run(call)) else {
            let text = format!("{} may not run, or too many scripts do", call.script());
            self.refuse(text);
            let _ = self.answers.try_send(Answer::Ended(id, Outcome::Failed));
            return;
        };
        let order = self.scripts.order(call);
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let (said, script) = (answers.clone(), order.script.clone());
            // A daemon that does not read loses what scripts print, never their ends.
            let say: Say = Arc::new(move |what| {
                let _ = said.try_send(Answer::Said(id, script.clone(), what));
            });
            let outcome = run::run(&order, &say).await;
            let _ = answers.send(Answer::Ended(id, outcome)).await;
            drop(room);
        });
    }

    fn kill(&mut self) {
        self.watched.take().into_iter().for_each(Watched::kill);
    }

    /// Once: tinc-up has ended.
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
        Ok(())
    }

    /// Tells the operator, by the daemon and past it, of the first of many and then ever more seldom.
    fn refuse(&mut self, why: String) {
        self.refused += 1;
        if !self.refused.is_power_of_two() {
            return;
        }
        log::try_stderr(&format!(
            "{TITLE}: refused an order of the daemon ({} so far): {}\n",
            self.refused,
            why.escape_debug()
        ));
        let _ = self.answers.try_send(Answer::Refused(why));
    }
}

/// A process group that the daemon started before it locked itself in.
#[derive(Debug)]
struct Watched {
    leader: Pid,
    /// When it started: its number may be another process's later.
    started: u64,
}

impl Watched {
    /// The group with this number; none unless its leader is a child of `daemon`.
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

/// Parent, process group and start time of a process. Source: proc_pid_stat(5).
fn stat(process: Pid) -> Option<(i32, i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field may hold anything, and ends with the last of these.
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

/// Reads a line into `line`, without its end. Returns whether it has at most `most` bytes: of a longer one nothing is kept; none
/// at the end of the stream.
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

fn split(socket: UnixStream) -> io::Result<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf)> {
    socket.set_nonblocking(true)?;
    let (read, write) = tokio::net::UnixStream::from_std(socket)?.into_split();
    Ok((BufReader::new(read).lines(), write))
}

/// The next message; none at the end, or where it makes no sense.
async fn next<T: DeserializeOwned>(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<T> {
    let line = lines.next_line().await.ok()??;
    serde_json::from_str(&line).ok()
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
