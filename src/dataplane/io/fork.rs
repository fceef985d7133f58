//! Forks a second process from this one.

#![expect(unsafe_code, reason = "fork, and what a copy of us must not keep")]

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, IntoRawFd},
        unix::net::UnixStream,
    },
    panic::{self, AssertUnwindSafe},
    process, ptr, slice,
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, setpgid},
    stdio,
};

/// First descriptor behind the standard ones.
const FIRST: libc::c_uint = 3;

/// Starts a process that only runs `then` and exits with its result. Returns our end of a socket of
/// this kind between both processes, and the process id.
///
/// The new process is a copy of this one, with all its present knowledge. The copy keeps standard
/// error but no other descriptor. The copy has a process group of its own, and shows `title` as its
/// name and arguments.
///
/// # Errors
/// Those of `fork(2)` and `socketpair(2)`; [`io::ErrorKind::ResourceBusy`] if other threads run,
/// which a copy would lack.
pub fn fork(
    title: &str,
    kind: SocketType,
    then: impl FnOnce(UnixStream) -> u8,
) -> io::Result<(UnixStream, Pid)> {
    let own = Own::read().ok_or(io::ErrorKind::InvalidData)?;
    if own.threads != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // A device or port is free only when no process holds a descriptor of it from a service
    // manager.
    let given = env::var_os("LISTEN_FDS").is_some();
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let (ours, theirs): (UnixStream, UnixStream) = (pair.0.into(), pair.1.into());
    // SAFETY: this is the only thread, so the copy lacks nothing that other threads hold.
    match unsafe { libc::fork() } {
        0 => {
            drop(ours);
            // Not even a panic may return into the code of the first process.
            let life = AssertUnwindSafe(|| become_other(title, &own, theirs, given).map(then));
            process::exit(match panic::catch_unwind(life) {
                Ok(Ok(code)) => code.into(),
                Ok(Err(error)) => {
                    eprintln!("{title}: cannot begin: {error}");
                    1
                }
                Err(_) => 101,
            })
        }
        number if number > 0 => {
            // Otherwise the end of the other process would not be seen below.
            drop(theirs);
            if given {
                (&ours).read_exact(&mut [0])?;
            }
            Ok((ours, Pid::from_raw(number).expect("it is not 0")))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Releases everything that belongs to the first process, and reports it if that process waits.
fn become_other(title: &str, own: &Own, socket: UnixStream, ack: bool) -> io::Result<UnixStream> {
    setpgid(None, None)?;
    stdio::dup2_stdin(&socket)?;
    stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    let _ = socket.into_raw_fd();
    // SAFETY: our copies of the owners are never dropped, because this process does not return to
    // them.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) } != 0 {
        // Linux before 5.9.
        for fd in FIRST.cast_signed()..1024 {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
    own.rename(title);
    let mut socket: UnixStream = io::stdin().as_fd().try_clone_to_owned()?.into();
    if ack {
        socket.write_all(&[0])?;
    }
    Ok(socket)
}

/// Makes this process ignore the signals that end or reload a daemon. Programs that it starts
/// ignore them too.
pub fn ignore_signals() {
    for signal in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGALRM,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ] {
        // SAFETY: no handler runs, the kernel drops these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Facts of the kernel about this process. Source: proc_pid_stat(5).
struct Own {
    threads: usize,
    /// Address of the first byte of the arguments, and the address behind the last.
    arguments: (usize, usize),
}

impl Own {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field may contain anything, and ends with the last of these.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            threads: field(20)?,
            arguments: (field(48)?, field(49)?),
        })
    }

    /// Shows `title` as name and arguments; a title that is too long is cut.
    fn rename(&self, title: &str) {
        let _ = rustix::thread::set_name(&CString::new(title).unwrap_or_default());
        let (start, end) = self.arguments;
        if start == 0 || start >= end {
            return;
        }
        let first: *mut u8 = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the kernel put our arguments there, and we may write to them while we live. There
        // is no other thread, and this process does not read its arguments.
        let room = unsafe { slice::from_raw_parts_mut(first, end - start) };
        room.fill(0);
        let length = title.len().min(room.len() - 1);
        room[..length].copy_from_slice(&title.as_bytes()[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_is_not_copied() {
        let error = std::thread::scope(|scope| {
            let other = scope.spawn(|| fork("none", SocketType::STREAM, |_| 0).map(drop));
            other.join().unwrap().unwrap_err()
        });
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
}
