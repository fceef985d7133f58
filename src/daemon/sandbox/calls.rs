//! System calls that the daemon may make after everything is open. Source: proto/threat-model.md section 4.
//!
//! The list contains the calls observed in scenarios of `tests/net` (strace), their equivalents in other C libraries,
//! kernels and on the second kind of processor, the calls of a panic and its trace, and those of glibc's name lookups
//! and their modules.
//!
//! An unlisted call fails with EPERM. The filter sends SIGSYS instead of an error code, so that we can count and log
//! the call ([`meshd_dataplane::io::refused`]); the kernel's own log is visible to root only, if at all. Allowed calls
//! cost what any filter costs (some 40 ns): for calls that are allowed with all arguments the kernel keeps a table, so
//! the calls of the packet path have no conditions. The exception is [`STARTING`]: C libraries block all signals around
//! these calls, and a SIGSYS would then kill the process. So the kernel answers these with an error, and the caller
//! logs it.
//!
//! In tests every refused call ends the process (`MESHD_SANDBOX=kill` in its environment), so that a missing call fails
//! a scenario. The kernel logs it: `audit: type=1326 … syscall=N`.

use std::{collections::BTreeMap, env, process};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use meshd_dataplane::io::sigsys;
pub(super) use meshd_dataplane::io::sigsys::counts;

use super::{SandboxError, Who};

/// Allowed with all arguments.
const ALLOWED: &[i64] = &[
    // Files. Landlock limits the paths. No file gets another mode or owner.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_memfd_create,
    libc::SYS_getcwd,
    libc::SYS_umask,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // Threads and processors.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_getcpu,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_getpriority,
    // Packet threads drop their remaining capabilities.
    libc::SYS_capget,
    libc::SYS_capset,
    // Identity and limits.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    // Signals, and the exit status of tinc-up.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // Operations on existing sockets.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
];

/// The same calls under older names, which only this kind of processor has.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_time,
    libc::SYS_getrlimit,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// Calls that start processes and programs.
#[cfg(target_arch = "x86_64")]
const STARTING: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const STARTING: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// Allowed requests on a descriptor: non-blocking, close-on-exec, terminal check; on the device and on interfaces:
/// names, numbers, MTU.
const IOCTLS: [u64; 12] = [
    libc::FIONBIO,
    libc::FIONREAD,
    libc::FIOCLEX,
    libc::FIONCLEX,
    libc::TCGETS,
    libc::TCGETS2,
    libc::TIOCGWINSZ,
    libc::SIOCGIFNAME,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFMTU,
    // TUNGETIFF (linux/if_tun.h), which libc defines for some C libraries only.
    0x8004_54d2,
];

/// Allowed requests on a descriptor that `fcntl` handles.
const FCNTLS: [i32; 8] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GET_SEALS,
    libc::F_ADD_SEALS,
];

/// Calls that make files, each with the number of its argument for the mode.
const MAKING: &[(i64, u8)] = &[(libc::SYS_openat, 3), (libc::SYS_mkdirat, 2)];
/// The same calls under older names.
#[cfg(target_arch = "x86_64")]
const OLD_MAKING: &[(i64, u8)] = &[(libc::SYS_open, 2), (libc::SYS_mkdir, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OLD_MAKING: &[(i64, u8)] = &[];
/// Set-user-ID and set-group-ID bits of a mode: another user who runs such a file gets our rights.
const SUID: u64 = 0o6000;

/// Allowed requests of a thread about itself: name, remaining capabilities, and names for memory (glibc, PR_SET_VMA).
const PRCTLS: [i32; 7] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_CAPBSET_READ,
    libc::PR_CAP_AMBIENT,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_VMA,
    libc::PR_GET_NO_NEW_PRIVS,
];

/// Forbidden flags of `clone`: namespaces (linux/sched.h, CLONE_NEW*).
const NAMESPACES: u64 = 0x7e02_0000;
/// Bits of the kind in a socket's type; the others are flags (linux/net.h).
const KIND: u64 = 0xf;
/// Environment variable. If it is set, a forbidden call ends the process.
const SWITCH: &str = "MESHD_SANDBOX";

/// Forbids all other system calls for all present and later threads. It cannot be undone.
pub fn forbid(who: Who) -> Result<(), SandboxError> {
    let arch = TargetArch::try_from(env::consts::ARCH).map_err(|_| SandboxError::Processor)?;
    let kill = env::var_os(SWITCH).is_some_and(|value| value == "kill");
    let action = |action| match kill {
        true => SeccompAction::KillProcess,
        false => action,
    };
    let apply = |rules, otherwise, those| -> Result<(), SandboxError> {
        let filter =
            SeccompFilter::new(rules, otherwise, those, arch).map_err(seccompiler::Error::from)?;
        let program = BpfProgram::try_from(filter).map_err(seccompiler::Error::from)?;
        Ok(seccompiler::apply_filter_all_threads(&program)?)
    };
    if !kill {
        sigsys::catch().map_err(SandboxError::Handler)?;
    }
    // Their flags and modes are in memory, which a filter cannot read. C libraries fall back to older calls, if the
    // kernel lacks these.
    let newer = unconditional(&[libc::SYS_clone3, libc::SYS_openat2]).collect();
    let none = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply(newer, SeccompAction::Allow, none)?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    apply(starting()?, SeccompAction::Allow, action(refuse))?;
    // The order of filters does not matter: the most severe answer counts.
    apply(
        allowed(who)?,
        action(SeccompAction::Trap),
        SeccompAction::Allow,
    )
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn unconditional(calls: &[i64]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    calls.iter().map(|call| (*call, Vec::new()))
}

/// Compares argument `number`, 32 bits of it, under the bits of `mask`.
fn masked(number: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    Ok(SeccompCondition::new(
        number,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}

fn is(number: u8, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    masked(number, u64::from(u32::MAX), value)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(conditions)?)
}

/// Rules for programs, processes other than our threads, and threads in namespaces.
fn starting() -> Result<Rules, seccompiler::Error> {
    let mut rules: Rules = unconditional(STARTING).collect();
    let mut clones = vec![rule(vec![masked(0, word(libc::CLONE_THREAD), 0)?])?];
    for bit in (0..32).map(|bit| 1 << bit) {
        if NAMESPACES & bit != 0 {
            clones.push(rule(vec![masked(0, bit, bit)?])?);
        }
    }
    rules.insert(libc::SYS_clone, clones);
    Ok(rules)
}

fn allowed(who: Who) -> Result<Rules, seccompiler::Error> {
    // The other filters decide these.
    let judged = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_openat2];
    let lists = [ALLOWED, OLD, STARTING, &judged];
    let mut rules: Rules = lists.into_iter().flat_map(unconditional).collect();
    let stream = |family, kind| rule(vec![is(0, word(family))?, masked(1, KIND, word(kind))?]);
    let local = || rule(vec![is(0, word(libc::AF_UNIX))?]);
    let mut sockets = vec![
        stream(libc::AF_INET, libc::SOCK_STREAM)?,
        stream(libc::AF_INET, libc::SOCK_DGRAM)?,
        stream(libc::AF_INET6, libc::SOCK_STREAM)?,
        stream(libc::AF_INET6, libc::SOCK_DGRAM)?,
        rule(vec![
            is(0, word(libc::AF_NETLINK))?,
            is(2, word(libc::NETLINK_ROUTE))?,
        ])?,
    ];
    if who == Who::Services {
        sockets.push(local()?);
        rules.insert(libc::SYS_socketpair, vec![local()?]);
    }
    let asked = |number: u8, values: &mut dyn Iterator<Item = u64>| {
        let rules = values.map(|value| rule(vec![is(number, value)?]));
        rules.collect::<Result<Vec<_>, _>>()
    };
    for (call, mode) in MAKING.iter().chain(OLD_MAKING) {
        rules.insert(*call, vec![rule(vec![masked(*mode, SUID, 0)?])?]);
    }
    let own = u64::from(process::id());
    rules.extend([
        (libc::SYS_socket, sockets),
        (libc::SYS_ioctl, asked(1, &mut IOCTLS.into_iter())?),
        (
            libc::SYS_fcntl,
            asked(1, &mut FCNTLS.into_iter().map(word))?,
        ),
        (
            libc::SYS_prctl,
            asked(0, &mut PRCTLS.into_iter().map(word))?,
        ),
        // An abort sends a signal to our own process.
        (libc::SYS_tgkill, vec![rule(vec![is(0, own)?])?]),
        // Reading our own limits is allowed, setting them is not: the third argument holds new limits.
        (
            libc::SYS_prlimit64,
            vec![rule(vec![
                is(0, 0)?,
                SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?,
            ])?],
        ),
    ]);
    Ok(rules)
}

fn word(number: i32) -> u64 {
    number.cast_unsigned().into()
}
