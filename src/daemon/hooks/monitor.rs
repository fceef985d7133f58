//! The process that runs scripts: started before the daemon locks itself in, so that scripts have the rights that they always
//! had while the daemon itself can start no program any more. It hears of nothing but scripts, by a socket from the daemon,
//! and ends with it. Source: spec/security.md section 4.
//!
//! It is the daemon's copy from before that has read anything: a program started anew is a tenth of all that a start computes.
//! The daemon itself starts tinc-up, with all rights, and gives up its own meanwhile. This process keeps them until tinc-up has
//! ended, to kill it where it takes too long, and then has those that the user gave scripts. Both ways a line of JSON a message.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    process::{Pid, WaitOptions, waitpid},
    stdio,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use crate::{
    daemon::{Event, privileges},
    io::fork::fork,
};

use super::{
    Outcome,
    run::{self, Order, Said, Say},
};

/// What others see of it: whoever looks for daemons by name must not find it.
const TITLE: &str = "meshd-scripts";

/// What it is asked for.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// A script to run, and who asks.
    Run(u64, Order),
    /// To watch over tinc-up, this process group, which the daemon started and may not kill any more: it is killed when the daemon has gone.
    Watch(i32),
    /// To kill it.
    Kill,
    /// To let go of it, and become who scripts run as from now on, where they run, with this nice value.
    GiveUp(privileges::Drop, Option<i32>),
}

/// What became of it so far.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Said(u64, String, Said),
    Ended(u64, Outcome),
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
    /// Lets the process run what it is told to. Should it end before us, [`Event::MonitorGone`] follows.
    ///
    /// # Errors
    /// Those of a socket that cannot be waited for.
    pub fn over(prepared: Prepared, events: mpsc::Sender<Event>) -> io::Result<Self> {
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
    pub(super) async fn run(&self, order: Order) -> Outcome {
        self.ask(order).await.unwrap_or(Outcome::Failed)
    }

    fn ask(&self, order: Order) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        waiting.last += 1;
        let id = waiting.last;
        if self.asks.send(Ask::Run(id, order)).is_ok() {
            waiting.scripts.insert(id, done);
        }
        outcome
    }

    /// Has it watch over tinc-up, a process group: that does not outlive us.
    pub fn watch(&self, group: i32) {
        let _ = self.asks.send(Ask::Watch(group));
    }

    /// Has it kill that.
    pub(super) fn kill(&self) {
        let _ = self.asks.send(Ask::Kill);
    }

    /// Has it become who all further scripts run as, in their root, with their nice value. It ends where it cannot.
    pub fn give_up(&self, dropping: privileges::Drop, nice: Option<i32>) {
        let _ = self.asks.send(Ask::GiveUp(dropping, nice));
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
    obey(socket).await
}

/// Does what is asked for until nobody asks any more.
async fn obey(socket: UnixStream) -> io::Result<()> {
    let (mut lines, mut write) = split(socket)?;
    let (answers, mut queue) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(answer) = queue.recv().await {
            if send(&mut write, &answer).await.is_err() {
                return;
            }
        }
    });
    let mut watched = None;
    while let Some(ask) = next(&mut lines).await {
        let (id, order) = match ask {
            Ask::Run(id, order) => (id, order),
            Ask::Watch(group) => {
                watched = Some(group);
                continue;
            }
            Ask::Kill => {
                watched.take().into_iter().for_each(run::kill);
                continue;
            }
            Ask::GiveUp(dropping, nice) => {
                watched = None;
                nice.map_or(Ok(()), privileges::set_nice)
                    .and_then(|()| privileges::drop_to(&dropping))
                    .map_err(io::Error::other)?;
                continue;
            }
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let (said, script) = (answers.clone(), order.script.clone());
            let say: Say = Arc::new(move |what| {
                let _ = said.send(Answer::Said(id, script.clone(), what));
            });
            let outcome = run::run(&order, &say).await;
            let _ = answers.send(Answer::Ended(id, outcome));
        });
    }
    watched.into_iter().for_each(run::kill);
    Ok(())
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
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    write.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;

    #[tokio::test]
    async fn tinc_up_is_killed_when_the_daemon_says_so() {
        tinc_up_is_killed(true).await;
    }

    #[tokio::test]
    async fn tinc_up_does_not_outlive_the_daemon() {
        tinc_up_is_killed(false).await;
    }

    /// What the daemon has started and may not end, the monitor ends for it.
    async fn tinc_up_is_killed(by_word: bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tinc-up");
        fs::write(&path, "#!/bin/sh\nsleep 1000 &\necho begun\nwait\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let order = Order {
            script: "tinc-up".into(),
            path,
            dir: dir.path().into(),
            words: Vec::new(),
            env: vec![("PATH".into(), crate::daemon::hooks::PATH.into())],
            limit: Duration::from_millis(300),
        };
        let (told, mut heard) = mpsc::unbounded_channel();
        let say: Say = Arc::new(move |said| told.send(said).unwrap_or_default());
        let mut script = run::begin(&order, &say, false).ok().unwrap();
        let group = script.group().unwrap();
        assert_eq!(heard.recv().await, Some(Said::Running));
        assert_eq!(heard.recv().await, Some(Said::Output("begun".into())));
        assert!(script.wait().await.is_none());
        assert_eq!(heard.recv().await, Some(Said::TookLonger(order.limit)));

        let (socket, theirs) = UnixStream::pair().unwrap();
        let obeying = tokio::spawn(obey(theirs));
        let number = rustix::process::getpid();
        let (events, mut gone) = mpsc::channel(1);
        let monitor = Monitor::over(Prepared { socket, number }, events).unwrap();
        monitor.watch(group);
        if by_word {
            monitor.kill();
        }
        // Its end is that of the daemon.
        let monitor = by_word.then_some(monitor);
        let status = script.wait().await.unwrap();
        assert_eq!(script.judge(status), Outcome::Failed);
        let ended = Said::Ended("was killed by signal 9".into());
        assert_eq!(heard.recv().await, Some(ended));
        drop(monitor);
        obeying.await.unwrap().unwrap();
        assert!(matches!(gone.recv().await, Some(Event::MonitorGone)));
    }
}
