//! How the kernel shares processors among threads.

#![expect(unsafe_code, reason = "a system call that no crate wraps")]

use std::{io, mem::size_of};

use rustix::process::getpriority_process;

/// What a thread asks to run at a stretch, in nanoseconds: the least that the kernel takes. Source: Linux,
/// kernel/sched/syscalls.c, since 6.12.
const SLICE: u64 = 100_000;

/// Asks for short turns for the calling thread. It gets no more time than before, but as soon as there is something to do,
/// not when others have had their turns of 3 ms: that is most of a round trip beside bulk. Needs no rights; kernels before
/// 6.12 take it and do nothing.
///
/// Errors: those of sched_setattr(2), where a filter of system calls forbids it.
pub fn short_turns() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        // It would be set too.
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
