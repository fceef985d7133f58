//! Stand-in for systemd as a keeper of descriptors and listener: FDSTORE, LISTEN_FDS, WATCHDOG.
//! Source: sd_notify(3), sd_listen_fds(3).

#![expect(
    unsafe_code,
    reason = "descriptors are put in place between fork and exec"
)]

use std::{
    io::{self, IoSliceMut},
    mem::{self, MaybeUninit},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::{net::UnixDatagram, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The first descriptor that is handed over.
const FIRST: i32 = 3;
/// Above all that are.
const ASIDE: i32 = 500;

/// One unit's store, and what its daemon has said.
pub(crate) struct Keeper {
    path: PathBuf,
    /// WatchdogSec of the unit.
    pub(crate) watchdog: Option<Duration>,
    said: Arc<Mutex<Said>>,
}

/// Messages of a daemon since the beginning.
#[derive(Default)]
struct Said {
    kept: Vec<(String, OwnedFd)>,
    fed: u64,
}

impl Keeper {
    pub(crate) fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let said = Arc::new(Mutex::new(Said::default()));
        let listener = Arc::clone(&said);
        // Ends with the test process.
        thread::spawn(move || {
            while let Ok((text, fds)) = receive(&socket) {
                listener.lock().unwrap().hear(&text, fds);
            }
        });
        Self {
            path: path.to_owned(),
            watchdog: None,
            said,
        }
    }

    /// Makes a command start as a unit's process with all that is kept; its shell sets LISTEN_PID.
    pub(crate) fn hand_over(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path);
        if let Some(limit) = self.watchdog {
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        let said = self.said.lock().unwrap();
        let (mut names, mut copies) = (Vec::new(), Vec::new());
        for (name, fd) in &said.kept {
            names.push(name.clone());
            copies.push(rustix::io::fcntl_dupfd_cloexec(fd, ASIDE).unwrap());
        }
        command.env("LISTEN_FDS", names.len().to_string());
        command.env("LISTEN_FDNAMES", names.join(":"));
        let put = move || {
            for (number, fd) in (FIRST..).zip(&copies) {
                // SAFETY: whatever was open under this number is not used between here and exec.
                let mut place = unsafe { OwnedFd::from_raw_fd(number) };
                let done = rustix::io::dup2(fd, &mut place);
                mem::forget(place);
                done?;
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(put) };
    }

    /// Names of what is kept.
    pub(crate) fn kept(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.kept.iter().map(|(name, _)| name.clone()).collect()
    }

    /// How often it fed the watchdog.
    pub(crate) fn fed(&self) -> u64 {
        self.said.lock().unwrap().fed
    }

    /// As a unit that was stopped for good.
    pub(crate) fn forget(&self) {
        self.said.lock().unwrap().kept.clear();
    }
}

impl Said {
    fn hear(&mut self, text: &str, fds: Vec<OwnedFd>) {
        let has = |line| text.lines().any(|said| said == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        self.fed += u64::from(has("WATCHDOG=1"));
        if has("FDSTORE=1") {
            let name = name.expect("all have names");
            self.kept
                .extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
        } else if has("FDSTOREREMOVE=1") {
            self.kept.retain(|(kept, _)| Some(kept.as_str()) != name);
        }
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.flatten().collect();
    Ok((
        String::from_utf8_lossy(&bytes[..message.bytes]).into_owned(),
        fds,
    ))
}
