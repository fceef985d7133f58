//! The process that runs scripts: started before the daemon locks itself in, so that scripts have the rights that they always
//! had while the daemon itself can start no program any more. It hears of nothing but scripts, by a socket from the daemon,
//! and ends with it. Source: spec/security.md section 4.
//!
//! Both ways a line of JSON a message.

use std::{
    collections::BTreeMap,
    io::{self, stdin},
    os::{fd::AsFd, fd::OwnedFd, unix::net::UnixStream},
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex},
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

/// The daemon's first argument where it is the monitor. The second one says what rights to give up ([`privileges::Drop`]).
pub const ARGUMENT: &str = "--run-scripts-for-a-daemon";
/// The file that a process was started from, whatever became of it since.
const OURSELVES: &str = "/proc/self/exe";

/// A script to run, and who asks.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    id: u64,
    order: Order,
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
    asks: mpsc::UnboundedSender<(Order, oneshot::Sender<Outcome>)>,
}

impl Monitor {
    /// Starts the process, with the rights that this one has now; it gives up those of `dropping` by itself, as what it is started
    /// from may not be there in another root. Should it end before us, [`Event::MonitorGone`] follows.
    pub fn start(dropping: &privileges::Drop, events: mpsc::Sender<Event>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(OURSELVES)
            .arg0("meshd")
            .arg(ARGUMENT)
            .arg(serde_json::to_string(dropping)?)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            // What is typed at a terminal is not for it.
            .process_group(0)
            .spawn()?;
        let (lines, write) = split(ours)?;
        let (asks, queue) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        tokio::spawn(ask_all(queue, write, Arc::clone(&waiting)));
        tokio::spawn(async move {
            hear_all(lines, waiting).await;
            let _ = child.wait().await;
            let _ = events.send(Event::MonitorGone).await;
        });
        Ok(Self { asks })
    }

    /// Has a script run and waits for its end.
    pub(super) async fn run(&self, order: Order) -> Outcome {
        let (done, outcome) = oneshot::channel();
        let _ = self.asks.send((order, done));
        outcome.await.unwrap_or(Outcome::Failed)
    }
}

/// Who waits for the end of which script.
type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Outcome>>>>;

async fn ask_all(
    mut queue: mpsc::UnboundedReceiver<(Order, oneshot::Sender<Outcome>)>,
    mut write: OwnedWriteHalf,
    waiting: Waiting,
) {
    let mut id = 0;
    while let Some((order, done)) = queue.recv().await {
        id += 1;
        lock(&waiting).insert(id, done);
        if send(&mut write, &Ask { id, order }).await.is_err() {
            lock(&waiting).remove(&id);
        }
    }
}

async fn hear_all(mut lines: Lines<BufReader<OwnedReadHalf>>, waiting: Waiting) {
    while let Some(answer) = next(&mut lines).await {
        match answer {
            Answer::Said(_, script, said) => run::log(&script, said),
            Answer::Ended(id, outcome) => {
                if let Some(done) = lock(&waiting).remove(&id) {
                    let _ = done.send(outcome);
                }
            }
        }
    }
    // Nobody will end what still waits.
    lock(&waiting).clear();
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Outcome>>> {
    waiting
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The monitor's whole life.
#[must_use]
pub fn main() -> ExitCode {
    // Whoever looks for daemons by name must not find it.
    let _ = rustix::thread::set_name(c"meshd-scripts");
    match give_up().and_then(|()| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(serve())
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshd: cannot run scripts: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes who scripts run as, where they run.
fn give_up() -> io::Result<()> {
    let dropping = std::env::args().nth(2).unwrap_or_default();
    let dropping: privileges::Drop = serde_json::from_str(&dropping)?;
    privileges::drop_to(&dropping).map_err(io::Error::other)
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
    while let Some(Ask { id, order }) = next(&mut lines).await {
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
