//! Readiness for the packet threads: epoll and eventfd.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::event::{
    EventfdFlags, Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
    eventfd,
};

/// Most events that one [`Epoll::wait`] reports.
const MAX_EVENTS: usize = 16;

/// A set of descriptors to wait for, level-triggered, for reading.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Adds a descriptor; [`Self::wait`] names it by `token`. The caller keeps it open.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let token = EventData::new_u64(token);
        Ok(epoll::add(&self.0, fd, token, EventFlags::IN)?)
    }

    /// Waits until something is readable, at most `limit`, and puts the tokens of what is into
    /// `ready`. Empty: the time is over, or a signal came.
    pub fn wait(&self, ready: &mut Vec<u64>, limit: Duration) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: limit.as_secs().cast_signed(),
            tv_nsec: limit.subsec_nanos().into(),
        };
        ready.clear();
        let mut events = [MaybeUninit::uninit(); MAX_EVENTS];
        match epoll::wait(&self.0, &mut events, Some(&limit)) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// A counter in the kernel that wakes an [`Epoll`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, not signalled.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Makes it readable, and leaves it so.
    pub fn signal(&self) -> io::Result<()> {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signalled_eventfd_is_reported_by_its_token() {
        let epoll = Epoll::new().unwrap();
        let event = EventFd::new().unwrap();
        let mut ready = vec![1];
        epoll.add(&event, 7).unwrap();
        epoll.wait(&mut ready, Duration::ZERO).unwrap();
        assert!(ready.is_empty());
        event.signal().unwrap();
        epoll.wait(&mut ready, Duration::from_secs(5)).unwrap();
        assert_eq!(ready, [7]);
    }
}
