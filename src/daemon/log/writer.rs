//! Writes lines to standard error or the log file: a bounded queue with its own thread, so that a blocked reader delays
//! no other thread.
//!
//! The thread starts when the daemon drops its rights, because rights belong to threads. Before that, the logging
//! thread writes, and keeps in the queue what standard error does not accept at once.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    stdio,
};

use meshd_os::clock;

use super::lock;

/// Maximum bytes in the queue. Further lines are lost, until half of the queue is written.
const MAX_WAITING: usize = 1 << 20;
/// Name of the thread.
const THREAD_NAME: &str = "meshd-log";

/// Makes the line that reports lost lines.
pub(super) type Notice = Box<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// Standard error or a file, with its queue.
pub(super) struct Writer {
    file: Mutex<Option<Arc<File>>>,
    queue: Mutex<Queue>,
    changed: Condvar,
    notice: Notice,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lost lines that are not reported yet.
    unreported: u64,
    /// Lines lost since the start.
    lost: u64,
    /// True if the thread runs.
    threaded: bool,
    /// True while the thread writes a line.
    writing: bool,
}

impl Queue {
    fn push(&mut self, line: Vec<u8>, notice: &Notice) {
        let room = match self.unreported {
            0 => MAX_WAITING,
            _ => MAX_WAITING / 2,
        };
        if self.bytes + line.len() > room {
            self.unreported += 1;
            self.lost += 1;
            return;
        }
        if self.unreported > 0 {
            let lost = std::mem::take(&mut self.unreported);
            self.add(notice(lost));
        }
        self.add(line);
    }

    fn add(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Returns the next line; after the last one, the report of lost lines.
    fn pop(&mut self, notice: &Notice) -> Option<Vec<u8>> {
        if self.lines.is_empty() && self.unreported > 0 {
            return Some(notice(std::mem::take(&mut self.unreported)));
        }
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        Some(line)
    }

    fn is_done(&self) -> bool {
        self.lines.is_empty() && self.unreported == 0 && !self.writing
    }
}

impl Writer {
    /// Writes to this file, or else to standard error.
    pub(super) fn new(file: Option<File>, notice: Notice) -> Self {
        Self {
            file: Mutex::new(file.map(Arc::new)),
            queue: Mutex::default(),
            changed: Condvar::new(),
            notice,
        }
    }

    /// Continues in another file; a line that is being written still goes to the old one.
    pub(super) fn reopen(&self, file: File) {
        *lock(&self.file) = Some(Arc::new(file));
    }

    /// Starts the writing thread.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let writer = Arc::clone(self);
        let name = THREAD_NAME.to_owned();
        lock(&self.queue).threaded = true;
        let started = thread::Builder::new()
            .name(name)
            .spawn(move || writer.live());
        if started.is_err() {
            lock(&self.queue).threaded = false;
        }
        started.map(drop)
    }

    /// Adds a line. Never blocks on the reader; a line without room is lost and counted.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut queue = lock(&self.queue);
        queue.push(line, &self.notice);
        if queue.threaded {
            self.changed.notify_all();
        } else {
            self.write_ready(&mut queue, Duration::ZERO);
        }
    }

    /// Returns the number of lines lost since the start.
    pub(super) fn lost(&self) -> u64 {
        lock(&self.queue).lost
    }

    /// Waits until all lines are written, at most for `limit`.
    pub(super) fn drain(&self, limit: Duration) {
        let until = clock::now() + limit;
        let mut queue = lock(&self.queue);
        while !queue.is_done() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            if queue.threaded {
                let waited = self.changed.wait_timeout(queue, left);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else if !self.write_ready(&mut queue, left) {
                return;
            }
        }
    }

    /// Writes lines without waiting longer than `limit`. Returns true if all were written.
    fn write_ready(&self, queue: &mut Queue, limit: Duration) -> bool {
        while !queue.is_done() {
            if lock(&self.file).is_none() && !is_ready(limit) {
                return false;
            }
            if let Some(line) = queue.pop(&self.notice) {
                self.write(&line);
            }
        }
        true
    }

    fn live(&self) {
        let mut queue = lock(&self.queue);
        loop {
            let Some(line) = queue.pop(&self.notice) else {
                let waited = self.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.writing = true;
            drop(queue);
            self.write(&line);
            queue = lock(&self.queue);
            queue.writing = false;
            self.changed.notify_all();
        }
    }

    /// Errors are ignored: a line that cannot be written has no other target.
    fn write(&self, line: &[u8]) {
        let file = lock(&self.file).clone();
        match file {
            Some(file) => write_all(file.as_fd(), line),
            None => write_all(stdio::stderr(), line),
        }
    }
}

/// Avoids the lock of the standard library, because a panicking thread prints too.
fn write_all(to: BorrowedFd<'_>, mut line: &[u8]) {
    while !line.is_empty() {
        match rustix::io::write(to, line) {
            Ok(count) => line = &line[count..],
            Err(Errno::INTR) => {}
            // Another process that shares the descriptor, or another task, has made it non-blocking.
            Err(Errno::WOULDBLOCK) => drop(poll_for(to, None)),
            Err(_) => return,
        }
    }
}

/// Writes a short line to standard error unless its reader blocks.
pub(super) fn try_stderr(line: &[u8]) {
    if is_ready(Duration::ZERO) {
        write_all(stdio::stderr(), line);
    }
}

/// True if standard error accepts a line within this time. A pipe that accepts anything accepts a short line whole.
fn is_ready(limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap_or_default();
    !matches!(poll_for(stdio::stderr(), Some(&limit)), Ok(0))
}

fn poll_for(to: BorrowedFd<'_>, limit: Option<&Timespec>) -> rustix::io::Result<usize> {
    poll(&mut [PollFd::new(&to, PollFlags::OUT)], limit)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::OwnedFd};

    use super::*;

    fn over_a_pipe() -> (File, Arc<Writer>) {
        let (read, write) = io::pipe().unwrap();
        let notice = Box::new(|lost| format!("{lost} lost\n").into_bytes());
        let write = File::from(OwnedFd::from(write));
        let writer = Arc::new(Writer::new(Some(write), notice));
        (OwnedFd::from(read).into(), writer)
    }

    /// The reader blocks from the start: no thread waits for it. Once it reads, it gets the oldest lines and the count
    /// of lost ones.
    #[test]
    fn a_reader_that_hangs_holds_up_nobody_and_hears_how_many_it_lost() {
        let (mut reader, writer) = over_a_pipe();
        writer.start().unwrap();
        let line = |number: u64| format!("{number:099}\n").into_bytes();
        let pushed = 20_000;
        for number in 0..pushed {
            writer.push(line(number));
        }
        writer.drain(Duration::from_millis(10));
        let lost = writer.lost();
        assert!((1..pushed).contains(&lost), "{lost}");
        let told = format!("{lost} lost\n");
        let expected = (pushed - lost) as usize * 100 + told.len();
        let mut text = vec![0; expected];
        reader.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with(&told), "{}", &text[text.len() - 200..]);
        for (number, seen) in (0..pushed - lost).zip(text.lines()) {
            assert_eq!(seen.parse::<u64>().unwrap(), number, "the order");
        }
        writer.push(line(7));
        let mut last = [0; 100];
        reader.read_exact(&mut last).unwrap();
        assert_eq!(last[..], line(7));
        writer.drain(Duration::from_secs(60));
        assert!(lock(&writer.queue).is_done());
    }

    #[test]
    fn lines_before_the_thread_are_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let notice: Notice = Box::new(|_| unreachable!("nothing is lost"));
        let writer = Writer::new(Some(File::create(&path).unwrap()), notice);
        writer.push(b"one\n".to_vec());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }
}
