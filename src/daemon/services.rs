//! The service process: talks to local services for the daemon. These are the service of names (the C library with its
//! modules), syslog and the service manager. Source: proto/threat-model.md section 4.
//!
//! A process that can connect to Unix sockets can ask every service of the host that trusts its user, and name look-ups
//! read all of `/etc` and `/run`. So the daemon gives up both. This process has no file of the daemon, runs as `nobody`
//! if root started it, and is in a sandbox of its own ([`sandbox`]). It is a fork from before the daemon has read
//! anything, and does nothing before the first request.
//!
//! Each message is one packet of JSON. A request is one of [`Ask`]; others are dropped.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, ToSocketAddrs as _},
    os::{
        fd::{AsFd, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream},
        },
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustix::{
    net::{RecvFlags, SendFlags, SocketType, recv, send},
    process::{Pid, WaitOptions, getppid, waitpid},
    stdio,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::Interest,
    net::lookup_host,
    sync::{mpsc, oneshot},
};

use meshd_dataplane::io::fork;

use crate::{
    Event, privileges,
    sandbox::{self, Who},
    systemd::{self, Note},
};

/// Name of the process.
const TITLE: &str = "meshd-services";
/// Longest message, in bytes. A log line is shorter, because its values are cut.
pub(crate) const MAX_MESSAGE: usize = 16 << 10;
/// Maximum number of names that are looked up at once.
const MAX_AT_ONCE: usize = 16;
/// Maximum number of addresses in an answer.
const MAX_ADDRESSES: usize = 16;
/// Path of syslog's socket. Source: syslog(3).
const SYSLOG: &str = "/dev/log";

/// Request to the service process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum Ask {
    /// Look up a name; the number identifies the request.
    Resolve(u64, String, u16),
    /// Write a line to syslog, with its priority.
    Log(u8, String),
    /// Tell the service manager.
    Notify(Note),
}

/// The addresses of a name; none if there are none.
#[derive(Debug, Serialize, Deserialize)]
struct Answer(u64, Vec<SocketAddr>);

/// The part that talks to local services.
#[derive(Debug, Clone)]
pub enum Services {
    /// This process.
    Here,
    /// A process outside of our sandbox.
    Process(Arc<Remote>),
}

impl Services {
    /// Sends a message to the service manager.
    pub fn notify(&self, note: Note) {
        match self {
            Self::Here => systemd::notify(&note),
            Self::Process(remote) => {
                let first = lock(&remote.first)
                    .take_if(|_| matches!(note, Note::Ready(_)))
                    .map(|socket| socket.send(note.first().as_bytes()));
                if first.is_none() {
                    remote.ask(&Ask::Notify(note));
                }
            }
        }
    }

    /// Returns the addresses of a name; none if there are none.
    pub async fn resolve(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        match self {
            Self::Here => {
                let found = lookup_host((host, port)).await.into_iter().flatten();
                found.take(MAX_ADDRESSES).collect()
            }
            Self::Process(remote) => remote.resolve(host, port).await.unwrap_or_default(),
        }
    }
}

/// The daemon's end.
#[derive(Debug)]
pub struct Remote {
    socket: tokio::net::UnixStream,
    waiting: Mutex<Waiting>,
    /// Our own socket of the service manager, for the first message: a unit without NotifyAccess=all takes it from us
    /// only. It is closed then.
    first: Mutex<Option<UnixDatagram>>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    names: BTreeMap<u64, oneshot::Sender<Vec<SocketAddr>>>,
}

impl Remote {
    /// Returns false if the request was lost.
    fn ask(&self, ask: &Ask) -> bool {
        let sent = serde_json::to_vec(ask)
            .map_err(io::Error::other)
            .and_then(|text| {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(&self.socket, &text, flags).map_err(Into::into)
            });
        if let Err(error) = sent {
            tracing::debug!(%error, "cannot reach the service process");
            return false;
        }
        true
    }

    async fn resolve(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let (done, answer) = oneshot::channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            waiting.names.retain(|_, done| !done.is_closed());
            waiting.last += 1;
            let id = waiting.last;
            waiting.names.insert(id, done);
            id
        };
        if !self.ask(&Ask::Resolve(id, host.to_owned(), port)) {
            lock(&self.waiting).names.remove(&id);
        }
        answer.await.ok()
    }

    /// Returns our end, for a thread that writes log lines.
    pub(crate) fn for_log(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    async fn hear(&self) -> io::Result<()> {
        let mut text = vec![0; MAX_MESSAGE];
        loop {
            let length = self
                .socket
                .async_io(Interest::READABLE, || {
                    let got = recv(&self.socket, &mut text[..], RecvFlags::DONTWAIT);
                    Ok(got.map(|(length, _)| length)?)
                })
                .await?;
            if length == 0 {
                return Ok(());
            }
            if let Ok(Answer(id, addrs)) = serde_json::from_slice(&text[..length])
                && let Some(done) = lock(&self.waiting).names.remove(&id)
            {
                let _ = done.send(addrs);
            }
        }
    }
}

/// The service process before its first use.
#[derive(Debug)]
pub struct Prepared {
    socket: UnixStream,
    number: Pid,
}

impl Prepared {
    /// Starts it. `ident`: the name of syslog's lines. `quiet`: the process closes standard error, because a parent
    /// waits for its end.
    ///
    /// # Errors
    ///
    /// Those of [`fork::fork`]: no other thread may run.
    pub fn start(ident: &str, quiet: bool) -> io::Result<Self> {
        let (socket, number) = fork::fork(TITLE, SocketType::SEQPACKET, |socket| {
            fork::ignore_signals();
            if quiet {
                let _ = stdio::dup2_stderr(io::stdout());
            }
            match serve(socket, ident) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("meshd: cannot talk to local services: {error}");
                    1
                }
            }
        })?;
        Ok(Self { socket, number })
    }

    /// Ends the process without using it.
    pub fn dismiss(self) {
        drop(self.socket);
        let _ = waitpid(Some(self.number), WaitOptions::empty());
    }

    /// Uses it from now on. If it ends before us, [`Event::ServicesGone`] follows.
    ///
    /// # Errors
    ///
    /// Those of registering the socket.
    pub fn begin(self, events: mpsc::Sender<Event>) -> io::Result<Services> {
        self.socket.set_nonblocking(true)?;
        let remote = Arc::new(Remote {
            socket: tokio::net::UnixStream::from_std(self.socket)?,
            waiting: Mutex::default(),
            first: Mutex::new(manager()),
        });
        let heard = Arc::clone(&remote);
        tokio::spawn(async move {
            let _ = heard.hear().await;
            // Waiting requests get no answer any more.
            lock(&heard.waiting).names.clear();
            let _ = events.send(Event::ServicesGone).await;
        });
        Ok(Services::Process(remote))
    }
}

/// Runs the service process: waits for the first request, gives up all rights, and serves.
fn serve(mut socket: UnixStream, ident: &str) -> io::Result<()> {
    let mut text = vec![0; MAX_MESSAGE];
    let mut length = socket.read(&mut text)?;
    if length == 0 {
        return Ok(());
    }
    let mut local = Local {
        manager: manager(),
        syslog: syslog(),
        ident: format!("{ident}[{}]", getppid().map_or(0, Pid::as_raw_pid)),
        looking: Arc::default(),
    };
    privileges::become_nobody();
    if let Err(error) = sandbox::enter(Who::Services, &sandbox::Files::default()) {
        eprintln!("{TITLE}: runs without this part of its sandbox: {error}");
    }
    while length > 0 {
        if let Ok(ask) = serde_json::from_slice(&text[..length]) {
            local.take(ask, &socket);
        }
        length = socket.read(&mut text)?;
    }
    Ok(())
}

/// State of the service process.
struct Local {
    manager: Option<UnixDatagram>,
    syslog: UnixDatagram,
    /// Name and number of the daemon, in front of each line.
    ident: String,
    looking: Arc<AtomicUsize>,
}

impl Local {
    fn take(&mut self, ask: Ask, answers: &UnixStream) {
        match ask {
            Ask::Resolve(id, host, port) => self.resolve(id, host, port, answers),
            Ask::Log(priority, text) => {
                let line = format!("<{priority}>{}: {text}", self.ident);
                if self.syslog.send(line.as_bytes()).is_err() {
                    // syslog has restarted.
                    self.syslog = syslog();
                    let _ = self.syslog.send(line.as_bytes());
                }
            }
            Ask::Notify(note) => {
                let sent = self
                    .manager
                    .as_ref()
                    .map(|to| to.send(note.text().as_bytes()));
                if let Some(Err(error)) = sent {
                    eprintln!("{TITLE}: cannot reach the service manager: {error}");
                }
            }
        }
    }

    fn resolve(&self, id: u64, host: String, port: u16, answers: &UnixStream) {
        let (looking, to) = (Arc::clone(&self.looking), answers.try_clone());
        if looking.fetch_add(1, Ordering::Relaxed) < MAX_AT_ONCE {
            let answer = Arc::clone(&looking);
            let started = thread::Builder::new().spawn(move || {
                let found = (host.as_str(), port)
                    .to_socket_addrs()
                    .into_iter()
                    .flatten();
                let answer_to_daemon = Answer(id, found.take(MAX_ADDRESSES).collect());
                if let (Ok(mut to), Ok(text)) = (to, serde_json::to_vec(&answer_to_daemon)) {
                    let _ = to.write_all(&text);
                }
                answer.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_ok() {
                return;
            }
        }
        // The daemon asks again later.
        looking.fetch_sub(1, Ordering::Relaxed);
        if let Ok(text) = serde_json::to_vec(&Answer(id, Vec::new())) {
            let _ = (&mut &*answers).write_all(&text);
        }
    }
}

/// Returns a socket to syslog; lines are lost while there is none.
fn syslog() -> UnixDatagram {
    let socket = UnixDatagram::unbound().expect("a process without a limit of descriptors");
    let _ = socket.connect(SYSLOG);
    let _ = socket.set_nonblocking(true);
    socket
}

/// Returns a socket to the service manager, if there is one. Source: sd_notify(3).
fn manager() -> Option<UnixDatagram> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    let socket = UnixDatagram::unbound().ok()?;
    let connected = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => {
            UnixAddr::from_abstract_name(name).and_then(|addr| socket.connect_addr(&addr))
        }
        None => socket.connect(&path),
    };
    connected.ok().map(|()| socket)
}

/// A panic while a table was used leaves no harmful state.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends in this process; the other one is not in a sandbox, which would be ours too.
    fn pair() -> (UnixStream, Services, mpsc::Receiver<Event>) {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (events, gone) = mpsc::channel(1);
        let prepared = Prepared {
            socket: ours.into(),
            number: getppid().unwrap(),
        };
        (theirs.into(), prepared.begin(events).unwrap(), gone)
    }

    #[tokio::test]
    async fn a_name_is_looked_up_by_the_other_process() {
        let (theirs, services, mut gone) = pair();
        let other = thread::spawn(move || {
            let mut socket = theirs;
            let local = Local {
                manager: None,
                syslog: syslog(),
                ident: String::new(),
                looking: Arc::default(),
            };
            let mut text = vec![0; MAX_MESSAGE];
            // Anything else than a request is dropped.
            for count in 0.. {
                let length = socket.read(&mut text).unwrap();
                let Ok(Ask::Resolve(id, host, port)) = serde_json::from_slice(&text[..length])
                else {
                    return count;
                };
                local.resolve(id, host, port, &socket);
            }
            unreachable!()
        });
        let here: SocketAddr = "127.0.0.1:655".parse().unwrap();
        assert_eq!(services.resolve("127.0.0.1", 655).await, [here]);
        assert!(services.resolve("", 655).await.is_empty());
        services.notify(Note::Stopping);
        assert_eq!(other.join().unwrap(), 2);
        assert!(matches!(gone.recv().await, Some(Event::ServicesGone)));
        assert!(services.resolve("127.0.0.1", 655).await.is_empty());
    }
}
