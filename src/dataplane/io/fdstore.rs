//! Descriptors that the service manager keeps while meshd restarts. Source: sd_listen_fds(3),
//! sd_notify(3).

#![expect(unsafe_code, reason = "descriptors that we were started with")]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::MemfdFlags,
    pipe::PipeFlags,
};
use sd_notify::NotifyState;

use super::epoll::timespec;

/// Returns the descriptors that the service manager has passed to us, with their names; none at the
/// second call.
pub fn inherited() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let listed = sd_notify::listen_fds_with_names().into_iter().flatten();
    let own = |(fd, name)| {
        // SAFETY: the descriptor was just found open. The parent opens these for us alone, and no
        // other code here knows them.
        (name, unsafe { OwnedFd::from_raw_fd(fd) })
    };
    listed.map(own).collect()
}

/// Gives a copy of a descriptor to the service manager, which keeps it under this name until it is
/// taken back. Without a service manager the call has no effect.
pub fn give(name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    // Not polled: an error waiting in a socket would make the manager drop the socket.
    let states = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    sd_notify::notify_with_fds(&states, &[fd])
}

/// Removes all descriptors kept under this name.
pub fn take_back(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

/// Waits until the service manager has processed all messages, at most a second. Source:
/// sd_notify_barrier(3).
pub fn wait() -> io::Result<()> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    // The pipe is readable when its last writer closes it: the manager's answer.
    let limit = timespec(Duration::from_secs(1));
    let mut fds = [PollFd::new(&ours, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&limit))?;
    Ok(())
}

/// Returns true if there is a service manager that can keep descriptors.
#[must_use]
pub fn is_offered() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Makes a file in memory.
pub fn memory() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("meshd", MemfdFlags::CLOEXEC)?)
}
