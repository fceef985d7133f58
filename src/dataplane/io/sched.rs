//! Scheduling of threads by the kernel.

#![expect(unsafe_code, reason = "a system call that no crate wraps")]

use std::{io, mem::size_of};

use rustix::process::getpriority_process;

/// Time slice that a thread requests, in nanoseconds: the least that the kernel accepts. Source:
/// Linux, kernel/sched/syscalls.c, since 6.12.
const SLICE: u64 = 100_000;

/// Requests short time slices for the calling thread. The thread gets no more time in all, but it
/// runs as soon as there is work, not after other threads' slices of 3 ms. That is most of a round
/// trip beside bulk. Needs no rights; kernels before 6.12 accept the request and ignore it.
///
/// Errors: those of sched_setattr(2), if a filter of system calls forbids it.
pub fn short_turns() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        // The call sets the nice value too.
        sched_nice: getpriority_process(None)?,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes from a value that lives until it returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_nice_value() {
        let nice = || getpriority_process(None).unwrap();
        std::thread::spawn(move || {
            let raised = rustix::process::nice(3).unwrap();
            short_turns().unwrap();
            assert_eq!(nice(), raised);
        })
        .join()
        .unwrap();
    }
}
