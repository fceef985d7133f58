//! Readiness for the packet threads: epoll and eventfd.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
        eventfd,
    },
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};

/// Most events that one [`Epoll::wait`] reports.
const MAX_EVENTS: usize = 16;

/// A set of descriptors to wait for, level-triggered, for reading.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Makes an empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Adds a descriptor, which [`Self::wait`] reports by `token`. The caller keeps the descriptor
    /// open.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let token = EventData::new_u64(token);
        Ok(epoll::add(&self.0, fd, token, EventFlags::IN)?)
    }

    /// Waits until a descriptor is readable, at most `limit`, and puts the tokens of readable ones
    /// into `ready`. `ready` is empty after the limit or a signal.
    pub fn wait(&self, ready: &mut Vec<u64>, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map(timespec);
        ready.clear();
        let mut events = [MaybeUninit::uninit(); MAX_EVENTS];
        match epoll::wait(&self.0, &mut events, limit.as_ref()) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Converts a duration to the kernel's form.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().cast_signed(),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// A timer that wakes an [`Epoll`] periodically.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// Makes a timer that becomes readable after each `period`, which is above 0. The timer stays
    /// readable until it is cleared.
    pub fn every(period: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let times = Itimerspec {
            it_interval: timespec(period),
            it_value: timespec(period),
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        Ok(Self(timer))
    }

    /// Clears the timer until the next period.
    pub fn clear(&self) {
        // The result does not matter: the timer may not have been readable.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A counter in the kernel that wakes an [`Epoll`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes a new counter, not signalled.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Makes the counter readable, permanently.
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
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        event.signal().unwrap();
        epoll
            .wait(&mut ready, Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!(ready, [7]);
    }

    #[test]
    fn a_timer_wakes_until_it_is_cleared_and_then_again() {
        let epoll = Epoll::new().unwrap();
        let timer = Timer::every(Duration::from_millis(300)).unwrap();
        epoll.add(&timer, 7).unwrap();
        let mut ready = Vec::new();
        let mut woken = |limit| {
            epoll.wait(&mut ready, limit).unwrap();
            ready == [7]
        };
        for _ in 0..2 {
            assert!(woken(None));
            timer.clear();
        }
        timer.clear();
        assert!(!woken(Some(Duration::ZERO)));
    }
}
