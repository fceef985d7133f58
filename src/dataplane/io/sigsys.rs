//! System calls that a filter forbids: they fail with an error and are counted (seccomp(2),
//! SECCOMP_RET_TRAP).

#![expect(unsafe_code, reason = "a signal handler")]

use std::{
    io,
    mem::zeroed,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use libc::{c_int, c_void, siginfo_t, ucontext_t};

/// Calls with this number or a higher one are counted together.
const CALLS: usize = 512;
/// Highest call that existed when the list of allowed calls was made: file_setattr of Linux 6.17. C
/// libraries try newer calls and fall back to old ones on "no such call", but not on "not
/// permitted".
const NEWEST: i64 = 469;
/// Code of a signal from a filter, as opposed to one that a process sent (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;

/// Counts by call number. A signal handler is no thread and loom does not model it, so these are
/// atomics of std.
static COUNTS: [AtomicU64; CALLS] = [const { AtomicU64::new(0) }; CALLS];

/// Makes each call that a filter answers with SIGSYS fail with EPERM and be counted; calls newer
/// than this list fail with ENOSYS. In a thread that blocks SIGSYS such a call ends the process.
///
/// Errors: those of sigaction(2).
pub fn catch() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = answer;
    // SAFETY: all zeros is a valid sigaction: no signal blocked, no flags.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the kernel, or the C library, reads a value that lives until it returns. The handler
    // only does what handlers may do.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns how often each call was refused since start, by its number; 511 stands for all higher
/// ones.
pub fn counts() -> impl Iterator<Item = (usize, u64)> {
    let counts = COUNTS.iter().enumerate();
    let counts = counts.map(|(call, count)| (call, count.load(Ordering::Relaxed)));
    counts.filter(|(_, count)| *count > 0)
}

/// Replaces the result of the system call: the kernel has put the call's number where the result is
/// expected.
extern "C" fn answer(_signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a value that lives until we return.
    let info = unsafe { &*info };
    // SAFETY: likewise the registers of the interrupted thread, which waits for us.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    if info.si_code != SYS_SECCOMP {
        return;
    }
    let call = number(context);
    let at = usize::try_from(call).map_or(CALLS - 1, |call| call.min(CALLS - 1));
    COUNTS[at].fetch_add(1, Ordering::Relaxed);
    let errno = match call {
        0..=NEWEST => libc::EPERM,
        _ => libc::ENOSYS,
    };
    *result(context) = -i64::from(errno);
}

#[cfg(target_arch = "x86_64")]
fn number(context: &ucontext_t) -> i64 {
    context.uc_mcontext.gregs[libc::REG_RAX as usize]
}

#[cfg(target_arch = "x86_64")]
fn result(context: &mut ucontext_t) -> &mut i64 {
    &mut context.uc_mcontext.gregs[libc::REG_RAX as usize]
}

#[cfg(target_arch = "aarch64")]
fn number(context: &ucontext_t) -> i64 {
    context.uc_mcontext.regs[8].cast_signed()
}

#[cfg(target_arch = "aarch64")]
fn result(context: &mut ucontext_t) -> &mut i64 {
    // SAFETY: a register has 64 bits, regardless of sign.
    unsafe { &mut *(&raw mut context.uc_mcontext.regs[0]).cast() }
}

/// Makes a system call with all arguments -1, which no call accepts.
#[cfg(any(test, feature = "testing"))]
pub fn attempt(call: i64) -> io::Result<()> {
    // SAFETY: no memory is at that address, so the kernel reads and writes none of ours.
    match unsafe { libc::syscall(call, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
