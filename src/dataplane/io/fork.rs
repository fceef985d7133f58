//! A second process that is made of this one.

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
    process::{Pid, setpgid},
    stdio,
};

/// The first descriptor that custom has given no name.
const FIRST: libc::c_uint = 3;

/// Starts a process that does nothing but `then`, and ends with its answer for a code. Returns our end of a socket between both, and
/// its number.
///
/// It is a copy of this one, so what we know by now it knows. It keeps standard error, but no other descriptor, has a process group of its own, and
/// `title` for the name and the arguments that others see of it.
///
/// # Errors
/// Those of `fork(2)` and `socketpair(2)`; and [`io::ErrorKind::ResourceBusy`] where other threads run, which a copy would not have.
pub fn fork(title: &str, then: impl FnOnce(UnixStream) -> u8) -> io::Result<(UnixStream, Pid)> {
    let own = Own::read().ok_or(io::ErrorKind::InvalidData)?;
    if own.threads != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // A device or a port is free when nobody holds what we are given of it by a service manager.
    let given = env::var_os("LISTEN_FDS").is_some();
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: no thread but this one exists, so the copy lacks nothing that others hold.
    match unsafe { libc::fork() } {
        0 => {
            drop(ours);
            // Not even a panic returns to where the first process goes on.
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
            // Or its end would not be seen below.
            drop(theirs);
            if given {
                (&ours).read_exact(&mut [0])?;
            }
            Ok((ours, Pid::from_raw(number).expect("it is not 0")))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets go of all that is the first process's, and tells it where it waits for that.
fn become_other(title: &str, own: &Own, socket: UnixStream, told: bool) -> io::Result<UnixStream> {
    setpgid(None, None)?;
    stdio::dup2_stdin(&socket)?;
    stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    let _ = socket.into_raw_fd();
    // SAFETY: our copies of their owners are never dropped, as this process does not return to where they are.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) } != 0 {
        // Linux before 5.9.
        for fd in FIRST.cast_signed()..1024 {
            // SAFETY: the same.
            unsafe { libc::close(fd) };
        }
    }
    own.rename(title);
    let mut socket: UnixStream = io::stdin().as_fd().try_clone_to_owned()?.into();
    if told {
        socket.write_all(&[0])?;
    }
    Ok(socket)
}

/// What the kernel says of this process. Source: proc_pid_stat(5).
struct Own {
    threads: usize,
    /// The address of the first byte of the arguments, and that behind the last.
    arguments: (usize, usize),
}

impl Own {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field may hold anything, and ends with the last of these.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            threads: field(20)?,
            arguments: (field(48)?, field(49)?),
        })
    }

    /// Shows `title` for name and arguments; what is too long is cut.
    fn rename(&self, title: &str) {
        let _ = rustix::thread::set_name(&CString::new(title).unwrap_or_default());
        let (start, end) = self.arguments;
        if start == 0 || start >= end {
            return;
        }
        let first: *mut u8 = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the kernel put our arguments there, for us to write to as long as we live; there is no other thread, and the process
        // that is called so does not ask for arguments.
        let room = unsafe { slice::from_raw_parts_mut(first, end - start) };
        room.fill(0);
        let shown = title.len().min(room.len() - 1);
        room[..shown].copy_from_slice(&title.as_bytes()[..shown]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_is_not_copied() {
        let error = std::thread::scope(|scope| {
            let other = scope.spawn(|| fork("none", |_| 0).map(drop));
            other.join().unwrap().unwrap_err()
        });
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
}
