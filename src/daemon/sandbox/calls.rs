//! The system calls that the daemon may make once all is open. Source: proto/threat-model.md section 4.
//!
//! The list is what scenarios of `tests/net` were seen to make (strace), with what other C libraries, kernels and the second
//! kind of processor have in its place, what a panic and its trace need, and what glibc's name look-ups and their modules call.
//!
//! What is not listed fails with EPERM. The filter has SIGSYS sent for it rather than answer itself, because then we can count and
//! log it ([`meshd_dataplane::io::sigsys`]): what the kernel answers by itself is seen, if at all, in the audit log of the machine, and by root.
//! Where nothing is refused that costs what any filter does (some 40 ns a call): of calls that are allowed whatever their arguments
//! the kernel keeps a table, so those of packets have no conditions.
//! The exception is [`STARTING`]: C libraries block all signals around these, and who is sent a SIGSYS then is ended. So the kernel
//! does answer them, and whoever tried it logs the error.
//!
//! In tests everything that is refused ends the process (`MESHD_SANDBOX=kill` in its environment), so that a call which is missing
//! here fails a scenario. Then the kernel logs it: `audit: type=1326 … syscall=N`.

use std::{collections::BTreeMap, env, process};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use meshd_dataplane::io::sigsys;
pub(super) use meshd_dataplane::io::sigsys::counts;

use super::SandboxError;

/// Allowed whatever the arguments.
const ALLOWED: &[i64] = &[
    // Files. Landlock says which.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_openat,
    libc::SYS_openat2,
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
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
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
    // Packet threads give up what is left.
    libc::SYS_capget,
    libc::SYS_capset,
    // Who we are and how much we may have.
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
    // Signals, and how tinc-up has ended.
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
    // Sockets, once they are made.
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

/// The same under the names of before, which only this kind of processor has.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_chmod,
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

/// Starting processes and programs.
#[cfg(target_arch = "x86_64")]
const STARTING: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const STARTING: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// What may be asked of a descriptor: not to block, to be closed at a start, whether it is a terminal; of the device and of
/// interfaces: names, numbers, MTU.
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
    // TUNGETIFF (linux/if_tun.h), which libc has for some C libraries only.
    0x8004_54d2,
];

/// What a thread may ask of itself: its name, what is left of its capabilities, and names for memory (glibc, PR_SET_VMA).
const PRCTLS: [i32; 7] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_CAPBSET_READ,
    libc::PR_CAP_AMBIENT,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_VMA,
    libc::PR_GET_NO_NEW_PRIVS,
];

/// What `clone` must not be asked for: namespaces (linux/sched.h, CLONE_NEW*).
const NAMESPACES: u64 = 0x7e02_0000;
/// The kind in the type of a socket; the rest is flags (linux/net.h).
const KIND: u64 = 0xf;
/// Whose presence in the environment ends the process where it makes a call that is not allowed.
const SWITCH: &str = "MESHD_SANDBOX";

/// Refuses all other system calls to all threads that there are and will be. There is no way back.
pub fn forbid() -> Result<(), SandboxError> {
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
    // Its flags are in memory, where no filter looks. C libraries take clone, where the kernel has none of it.
    let newer = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let none = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply(newer, SeccompAction::Allow, none)?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    apply(starting()?, SeccompAction::Allow, action(refuse))?;
    // What comes last in the kernel's order of filters decides nothing: the most severe answer counts.
    apply(
        allowed()?,
        action(SeccompAction::Trap),
        SeccompAction::Allow,
    )
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn unconditional(calls: &[i64]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    calls.iter().map(|call| (*call, Vec::new()))
}

/// Argument `number`, 32 bits of it, under the bits of `mask`.
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

/// Programs, processes that are no thread of ours, and threads in namespaces.
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

fn allowed() -> Result<Rules, seccompiler::Error> {
    // What the other filters have judged.
    let judged = [libc::SYS_clone, libc::SYS_clone3];
    let lists = [ALLOWED, OLD, STARTING, &judged];
    let mut rules: Rules = lists.into_iter().flat_map(unconditional).collect();
    let stream = |family, kind| rule(vec![is(0, word(family))?, masked(1, KIND, word(kind))?]);
    let local = || rule(vec![is(0, word(libc::AF_UNIX))?]);
    let sockets = vec![
        local()?,
        stream(libc::AF_INET, libc::SOCK_STREAM)?,
        stream(libc::AF_INET, libc::SOCK_DGRAM)?,
        stream(libc::AF_INET6, libc::SOCK_STREAM)?,
        stream(libc::AF_INET6, libc::SOCK_DGRAM)?,
        rule(vec![
            is(0, word(libc::AF_NETLINK))?,
            is(2, word(libc::NETLINK_ROUTE))?,
        ])?,
    ];
    let asked = |number: u8, values: &mut dyn Iterator<Item = u64>| {
        let rules = values.map(|value| rule(vec![is(number, value)?]));
        rules.collect::<Result<Vec<_>, _>>()
    };
    let own = u64::from(process::id());
    rules.extend([
        (libc::SYS_socket, sockets),
        (libc::SYS_socketpair, vec![local()?]),
        (libc::SYS_ioctl, asked(1, &mut IOCTLS.into_iter())?),
        (
            libc::SYS_prctl,
            asked(0, &mut PRCTLS.into_iter().map(word))?,
        ),
        // An abort is a signal to ourselves.
        (libc::SYS_tgkill, vec![rule(vec![is(0, own)?])?]),
        // To look at our own limits, not to set them: the third argument is what to set.
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
