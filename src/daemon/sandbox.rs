//! What the daemon gives up once all is open, beside what its unit takes from it: files that are none of its business, system
//! calls that it never makes, and capabilities. Scripts are run by a process that was started before ([`super::hooks::monitor`]).
//!
//! Of system calls those are listed that are refused, not those that are allowed: name look-ups and the C library may call what
//! they like, and the units have systemd's allow-list on top. Source: spec/security.md section 4.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Rules for files were not made, or not taken.
    #[error("cannot forbid files: {0}")]
    Files(#[from] landlock::RulesetError),
    /// It was not made, or the kernel did not take it.
    #[error("cannot forbid system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    /// No filter can be made for this kind of processor.
    #[error("cannot forbid system calls on this kind of processor")]
    Processor,
}

/// What name look-ups read, with the libraries that they load, and what the kernel tells. Whole directories, as files there are
/// replaced by new ones.
const READ: [&str; 8] = [
    "/etc", "/run", "/usr", "/lib", "/lib64", "/proc", "/sys", "/dev",
];
/// Where to write what is for nobody.
const NULL: &str = "/dev/null";
/// What Landlock is asked for; older kernels have less of it.
const ASKED: ABI = ABI::V6;

/// Directories, with all below them.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// To read, beside those that everybody needs.
    pub read: Vec<PathBuf>,
    /// To write to, and read.
    pub write: Vec<PathBuf>,
}

/// Refuses all other files to this thread and those that it will start, and to signal or to call by an abstract socket anybody
/// outside. Returns whether the kernel does all of that. There is no way back.
pub fn confine(files: &Files) -> Result<bool, SandboxError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let rules = Ruleset::default().handle_access(AccessFs::from_all(ASKED))?;
    // A service manager may listen there.
    let manager = env::var_os("NOTIFY_SOCKET");
    let abstract_one = manager.is_some_and(|path| path.as_encoded_bytes().starts_with(b"@"));
    let scope = match abstract_one {
        true => Scope::Signal.into(),
        false => Scope::from_all(ASKED),
    };
    let everybody = READ.iter().map(Path::new);
    let status: RestrictionStatus = rules
        .scope(scope)?
        .create()?
        .add_rules(path_beneath_rules(everybody, read))?
        .add_rules(path_beneath_rules(&files.read, read))?
        .add_rules(path_beneath_rules([NULL], AccessFs::from_file(ASKED)))?
        .add_rules(path_beneath_rules(&files.write, writing()))?
        .restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// All but to run what was written.
fn writing() -> landlock::BitFlags<AccessFs> {
    AccessFs::from_all(ASKED) & !landlock::BitFlags::from(AccessFs::Execute)
}

/// Starting programs; looking into others; other names, roots and mounts; modules and kernels; rings, whose work no filter
/// sees; clocks; other users.
const REFUSED: [i64; 59] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_mknodat,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_setuid,
    libc::SYS_setreuid,
    libc::SYS_setresuid,
    libc::SYS_setgid,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];

/// What `clone` must not be asked for: namespaces (linux/sched.h, CLONE_NEW*).
const NAMESPACES: u64 = 0x7e02_0000;
/// The kind in the type of a socket; the rest is flags (linux/net.h).
const KIND: u64 = 0xf;

/// Refuses these system calls to all threads that there are and will be, with EPERM. There is no way back.
pub fn forbid() -> Result<(), SandboxError> {
    let arch = TargetArch::try_from(env::consts::ARCH).map_err(|_| SandboxError::Processor)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let refused = |conditions: Vec<SeccompCondition>| {
        SeccompRule::new(conditions).map_err(seccompiler::Error::from)
    };
    let argument = |number, operator, value| {
        SeccompCondition::new(number, SeccompCmpArgLen::Dword, operator, value)
            .map_err(seccompiler::Error::from)
    };
    let raw = |family: i32| {
        let [family, kind] = [family, libc::SOCK_RAW]
            .map(i64::from)
            .map(i64::cast_unsigned);
        refused(vec![
            argument(0, SeccompCmpOp::Eq, family)?,
            argument(1, SeccompCmpOp::MaskedEq(KIND), kind)?,
        ])
    };
    let packet = i64::from(libc::AF_PACKET).cast_unsigned();
    let sockets = vec![
        raw(libc::AF_INET)?,
        raw(libc::AF_INET6)?,
        refused(vec![argument(0, SeccompCmpOp::Eq, packet)?])?,
    ];
    rules.insert(libc::SYS_socket, sockets);
    let mut spaces = Vec::new();
    for bit in (0..32)
        .map(|bit| 1 << bit)
        .filter(|bit| NAMESPACES & bit != 0)
    {
        spaces.push(refused(vec![argument(
            0,
            SeccompCmpOp::MaskedEq(bit),
            bit,
        )?])?);
    }
    rules.insert(libc::SYS_clone, spaces);
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)
        .map_err(seccompiler::Error::from)?;
    let program = BpfProgram::try_from(filter).map_err(seccompiler::Error::from)?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        net::{TcpListener, UdpSocket},
        os::{
            fd::AsFd,
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixListener, UnixStream},
        },
        process::Command,
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

    /// What is refused to root.
    fn probe() {
        probe_files();
        forbid().unwrap();
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
        // And what a daemon does.
        TcpListener::bind("127.0.0.1:0").unwrap();
        UdpSocket::bind("[::1]:0")
            .or_else(|_| UdpSocket::bind("127.0.0.1:0"))
            .unwrap();
        socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
        fs::read("/etc/passwd").unwrap();
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
        if !confine(&files).unwrap() {
            return eprintln!("SKIPPED: this kernel has no Landlock, or an old one");
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
        // Nobody may tidy up there now.
        let _ = dir.keep();
    }

    fn probe_thread() {
        assert!(
            Command::new("/bin/true").status().is_err(),
            "of all threads"
        );
    }

    /// The filter is for a process and for good, so this test has one of its own.
    #[test]
    fn t50_what_the_daemon_never_does_is_refused() {
        const CHILD: &str = "MESHD_TEST_SANDBOX";
        if env::var_os(CHILD).is_some() {
            return probe();
        }
        if !geteuid().is_root() {
            return eprintln!("SKIPPED: others than root are refused most of it anyway");
        }
        let name = "daemon::sandbox::tests::t50_what_the_daemon_never_does_is_refused";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = [child.stdout, child.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
