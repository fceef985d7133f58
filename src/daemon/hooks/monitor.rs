//! The process that runs scripts: started before the daemon locks itself in, so that scripts have the rights that they always
//! had while the daemon itself can start no program any more. It hears of nothing but scripts, by a socket from the daemon,
//! and ends with it. Source: spec/security.md section 4.
//!
//! It has all rights for tinc-up, beside which the daemon gives up its own, and then those that the user gave scripts.
//! Both ways a line of JSON a message.

use std::{
    collections::BTreeMap,
    io::{self, stdin},
    os::{fd::AsFd, fd::OwnedFd, unix::net::UnixStream},
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use crate::daemon::{Event, privileges};

use super::{
    Outcome,
    run::{self, Order, Said, Say},
};

/// The daemon's first argument where it is the monitor.
pub const ARGUMENT: &str = "--run-scripts-for-a-daemon";
/// The file that a process was started from, whatever became of it since.
const OURSELVES: &str = "/proc/self/exe";

/// What it is asked for.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// A script to run, and who asks.
    Run(u64, Order),
    /// To become who scripts run as from now on, where they run, with this nice value.
    GiveUp(privileges::Drop, Option<i32>),
}

/// What became of it so far.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Said(u64, String, Said),
    Ended(u64, Outcome),
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
    /// Starts the process, with the rights that this one has now. Should it end before us, [`Event::MonitorGone`] follows. `quiet`:
    /// whoever holds the other end of our standard error waits for it to be closed.
    pub fn start(quiet: bool, events: mpsc::Sender<Event>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(OURSELVES);
        command
            .arg0("meshd")
            .arg(ARGUMENT)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            // What is typed at a terminal is not for it.
            .process_group(0);
        if quiet {
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn()?;
        let (lines, write) = split(ours)?;
        let (asks, queue) = mpsc::unbounded_channel();
        let waiting = Arc::default();
        tokio::spawn(ask_all(queue, write, Arc::clone(&waiting)));
        let heard = Arc::clone(&waiting);
        tokio::spawn(async move {
            hear_all(lines, &heard).await;
            let _ = child.wait().await;
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
#[must_use]
pub fn main() -> ExitCode {
    // Whoever looks for daemons by name must not find it.
    let _ = rustix::thread::set_name(c"meshd-scripts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(serve())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshd: cannot run scripts: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> io::Result<()> {
    // A service manager may tell all processes to stop: the daemon still has scripts to run, and ends us by ending.
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ];
    let _ignored: Vec<_> = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
    let socket = stdin().as_fd().try_clone_to_owned()?;
    let (mut lines, mut write) = split(UnixStream::from(socket))?;
    let (answers, mut queue) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(answer) = queue.recv().await {
            if send(&mut write, &answer).await.is_err() {
                return;
            }
        }
    });
    while let Some(ask) = next(&mut lines).await {
        let (id, order) = match ask {
            Ask::Run(id, order) => (id, order),
            Ask::GiveUp(dropping, nice) => {
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
