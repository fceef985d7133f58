//! The sandbox: after everything is open, the daemon drops access to other files, unused system calls, and
//! capabilities, in addition to the restrictions of its unit. Processes that started earlier run scripts
//! ([`super::hooks::monitor`]) and talk to local services ([`super::services`]). Source: proto/threat-model.md section 4.
//!
//! Refusals of Landlock are not counted as refused system calls are: the kernel reports them only in its audit log.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls;
/// There is no list for this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls {
    pub fn forbid(_: super::Who) -> Result<(), super::SandboxError> {
        Err(super::SandboxError::Processor)
    }

    pub fn counts() -> impl Iterator<Item = (usize, u64)> {
        std::iter::empty()
    }
}

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::PathBuf,
};

use landlock::{
    ABI, Access, AccessFs, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use syscalls::Sysno;

pub use calls::forbid;

/// Reason why the sandbox is not in force.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The Landlock rules were not made, or the kernel refused them.
    #[error("cannot forbid files: {0}")]
    Files(#[from] landlock::RulesetError),
    /// The filter was not made, or the kernel refused it.
    #[error("cannot forbid system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    /// The handler of refused calls could not be installed.
    #[error("cannot answer refused system calls: {0}")]
    Handler(std::io::Error),
    /// There is no filter for this kind of processor.
    #[error("cannot forbid system calls on this kind of processor")]
    Processor,
}

/// A process with a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The daemon.
    Daemon,
    /// The service process: it has Unix sockets, and no file to write.
    Services,
}

impl Who {
    /// Returns what it reads, in addition to the configuration. Name look-ups and their modules read whole directories,
    /// because files there are replaced.
    fn reads(self) -> Vec<PathBuf> {
        let paths: &[&str] = match self {
            Self::Daemon => &["/proc/self"],
            Self::Services => &[
                "/etc", "/run", "/usr", "/lib", "/lib64", "/proc", "/sys", "/dev",
            ],
        };
        let paths = paths.iter().map(PathBuf::from);
        // For the names of functions in a panic's trace.
        paths.chain(env::current_exe()).collect()
    }
}

/// Path for output that is discarded.
const NULL: &str = "/dev/null";
/// Requested version of Landlock; older kernels support less.
const ASKED: ABI = ABI::V6;

/// Directories with everything below them.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Directories to read, in addition to those of every daemon.
    pub read: Vec<PathBuf>,
    /// Directories to write and read.
    pub write: Vec<PathBuf>,
}

/// Forbids all other files, signals to other processes, and abstract sockets, for this thread and its later threads.
/// Returns true if the kernel enforces all of it. It cannot be undone.
pub fn confine(who: Who, files: &Files) -> Result<bool, SandboxError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let rules = Ruleset::default().handle_access(AccessFs::from_all(ASKED))?;
    let scope = match who {
        Who::Daemon => Scope::from_all(ASKED),
        // A service may listen there.
        Who::Services => Scope::Signal.into(),
    };
    let status: RestrictionStatus = rules
        .scope(scope)?
        .create()?
        .add_rules(path_beneath_rules(who.reads(), read))?
        .add_rules(path_beneath_rules(&files.read, read))?
        .add_rules(path_beneath_rules([NULL], AccessFs::from_file(ASKED)))?
        .add_rules(path_beneath_rules(&files.write, writing()))?
        .restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// Does all of it: [`confine`], then [`forbid`].
pub fn enter(who: Who, files: &Files) -> Result<bool, SandboxError> {
    let confined = confine(who, files);
    forbid(who)?;
    confined
}

/// Returns all rights but execution of written files.
fn writing() -> landlock::BitFlags<AccessFs> {
    AccessFs::from_all(ASKED) & !landlock::BitFlags::from(AccessFs::Execute)
}

/// Returns the system calls refused since the start, by name, with counts.
#[must_use]
pub fn refused() -> BTreeMap<String, u64> {
    let named = |(number, count)| {
        let name = Sysno::new(number).map_or("a new one", |call| call.name());
        (name.to_owned(), count)
    };
    calls::counts().map(named).collect()
}

/// Refused calls that the log has reported.
#[derive(Debug, Default)]
pub struct ReportedCalls(BTreeSet<String>);

impl ReportedCalls {
    /// Reports each refused call once.
    pub fn report_new(&mut self) {
        for (call, count) in refused() {
            if self.0.insert(call.clone()) {
                tracing::error!(
                    call,
                    count,
                    "the sandbox refused a system call; report this as a bug, and set Sandbox = off to allow the call meanwhile"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        net::{TcpListener, ToSocketAddrs as _, UdpSocket},
        os::{
            fd::AsFd,
            linux::net::SocketAddrExt as _,
            unix::{
                net::{SocketAddr, UnixListener, UnixStream},
                process::ExitStatusExt as _,
            },
        },
        process::{Command, Output},
    };

    use rustix::{
        fs::{CWD, FileType, Mode, mknodat},
        io::Errno,
        mount::{MountFlags, UnmountFlags, mount, unmount},
        net::{AddressFamily, SocketType, socket},
        process::{chroot, geteuid},
        thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_uid},
    };

    use super::*;
    use meshd_dataplane::io::sigsys::attempt;

    /// Calls that the daemon never makes, and that would weaken the rest of the filter.
    const NEVER: [i64; 32] = [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_setgroups,
        libc::SYS_personality,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_seccomp,
        libc::SYS_fanotify_init,
        libc::SYS_kill,
        libc::SYS_clone,
    ];

    fn tried(call: i64) -> Option<i32> {
        attempt(call).err().and_then(|error| error.raw_os_error())
    }

    /// Tries calls that are refused to root.
    fn probe() {
        probe_files();
        // kill(-1, -1) and clone with all flags have no effect either.
        let proven: Vec<i64> = NEVER
            .into_iter()
            .filter(|call| tried(*call) != Some(libc::EPERM))
            .collect();
        assert!(proven.len() > 20, "root may do these: {proven:?}");
        forbid(Who::Daemon).unwrap();
        for call in NEVER {
            assert_eq!(
                tried(call),
                Some(libc::EPERM),
                "{:?}",
                Sysno::new(call as usize)
            );
        }
        // These C libraries fall back to another call.
        for call in [libc::SYS_clone3, 509] {
            assert_eq!(tried(call), Some(libc::ENOSYS), "{call}");
        }
        let counted = refused();
        for call in [
            "ptrace",
            "bpf",
            "io_uring_setup",
            "keyctl",
            "mount",
            "setuid",
            "a new one",
        ] {
            assert_eq!(counted.get(call), Some(&1), "{call} of {counted:?}");
        }
        let mut reported = ReportedCalls::default();
        reported.report_new();
        assert_eq!(reported.0.len(), counted.len());
        let refused = |what: &str, tried: Result<(), Errno>| {
            assert_eq!(tried, Err(Errno::PERM), "{what}");
        };
        let inet = |family| socket(family, SocketType::RAW, None).map(drop);
        refused("raw", inet(AddressFamily::INET));
        refused("raw over IPv6", inet(AddressFamily::INET6));
        refused(
            "packet",
            socket(AddressFamily::PACKET, SocketType::DGRAM, None).map(drop),
        );
        refused("chroot", chroot("/"));
        let flags = MountFlags::empty();
        refused("mount", mount("none", "/tmp", "tmpfs", flags, None));
        refused("umount", unmount("/nowhere", UnmountFlags::empty()));
        refused("setuid", set_thread_uid(geteuid()));
        let mode = Mode::from_bits_truncate(0o600);
        refused(
            "mknod",
            mknodat(CWD, "/tmp/meshd-probe", FileType::Fifo, mode, 0),
        );
        let space = fs::File::open("/proc/self/ns/net").unwrap();
        let kind = Some(LinkNameSpaceType::Network);
        refused("setns", move_into_link_name_space(space.as_fd(), kind));
        let started = Command::new("/bin/true")
            .status()
            .map_err(|error| error.kind());
        assert_eq!(
            started.err(),
            Some(io::ErrorKind::PermissionDenied),
            "execve"
        );
        // Calls that the daemon makes.
        TcpListener::bind("127.0.0.1:0").unwrap();
        UdpSocket::bind("[::1]:0")
            .or_else(|_| UdpSocket::bind("127.0.0.1:0"))
            .unwrap();
        socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
        fs::read("/proc/self/status").unwrap();
        std::thread::spawn(probe_thread).join().unwrap();
    }

    fn probe_files() {
        let dir = tempfile::tempdir().unwrap();
        let [conf, run, other] = ["conf", "run", "other"].map(|name| dir.path().join(name));
        for place in [&conf, &run, &other] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("file"), "text").unwrap();
        }
        let name = SocketAddr::from_abstract_name("meshd-probe-of-the-sandbox").unwrap();
        let _listener = UnixListener::bind_addr(&name).unwrap();
        let files = Files {
            read: vec![conf.clone()],
            write: vec![run.clone()],
        };
        if !confine(Who::Daemon, &files).unwrap() {
            return meshd_testing::skip("landlock", "Linux 6.12 has all that is asked");
        }
        let refused = |what: &str, tried: io::Result<()>| {
            let kind = tried.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::PermissionDenied), "{what}");
        };
        refused("read", fs::read(other.join("file")).map(drop));
        refused("list", fs::read_dir(&other).map(drop));
        refused(
            "write to the configuration",
            fs::write(conf.join("file"), "x"),
        );
        refused("make there", fs::write(conf.join("new"), "x"));
        refused("remove there", fs::remove_file(conf.join("file")));
        refused("write to /etc", fs::write("/etc/meshd-probe", "x"));
        refused("take out", fs::rename(conf.join("file"), run.join("file")));
        refused(
            "an abstract socket",
            UnixStream::connect_addr(&name).map(drop),
        );
        fs::read(conf.join("file")).unwrap();
        fs::write(run.join("new"), "x").unwrap();
        fs::rename(run.join("new"), run.join("file")).unwrap();
        fs::remove_file(run.join("file")).unwrap();
        fs::write(NULL, "x").unwrap();
        let elsewhere = other.join("file");
        let thread = std::thread::spawn(move || fs::read(elsewhere).is_err());
        assert!(thread.join().unwrap(), "of threads to come");
        // No process may remove it now.
        let _ = dir.keep();
    }

    fn probe_thread() {
        assert!(
            Command::new("/bin/true").status().is_err(),
            "of all threads"
        );
    }

    /// The filter applies to a whole process for good, so these tests have a separate one.
    const CHILD: &str = "MESHD_TEST_SANDBOX";

    fn in_a_child(test: &str, switch: &str) -> Output {
        let name = format!("sandbox::tests::{test}");
        Command::new(env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(CHILD, "1")
            .env("MESHD_SANDBOX", switch)
            .env("RUST_BACKTRACE", "full")
            .output()
            .unwrap()
    }

    #[test]
    fn t50_what_the_daemon_never_does_is_refused() {
        if env::var_os(CHILD).is_some() {
            return probe();
        }
        if !geteuid().is_root() {
            return meshd_testing::skip("root", "others are refused most of it anyway");
        }
        let child = in_a_child("t50_what_the_daemon_never_does_is_refused", "");
        let said = [child.stdout, child.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }

    #[test]
    fn in_tests_it_is_the_end() {
        if env::var_os(CHILD).is_some() {
            forbid(Who::Services).unwrap();
            let name = std::thread::spawn(|| ("localhost", 1).to_socket_addrs().map(drop));
            name.join().unwrap().unwrap();
            let failed = std::thread::spawn(|| panic!("with all that it prints"));
            failed.join().unwrap_err();
            eprintln!("what is allowed is allowed");
            let _ = attempt(libc::SYS_keyctl);
            unreachable!("alive");
        }
        let child = in_a_child("in_tests_it_is_the_end", "kill");
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(said.contains("what is allowed is allowed"), "{said}");
        assert_eq!(child.status.signal(), Some(libc::SIGSYS), "{said}");
    }
}
