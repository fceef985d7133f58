//! Drops rights after everything is open: user, root directory, capabilities, memory, priority.
//!
//! Source: config/tinc.md section 4.4. There are two deliberate departures. Of root's rights CAP_NET_ADMIN stays, for
//! the daemon and not for scripts, while a later task needs it (see [`Keep`]). Users come from /etc/passwd only, not
//! from a directory service. If no service manager has set them, scripts get no_new_privs and the bounding set of the
//! unit ([`bound_scripts`]). Under tinc, scripts could use sudo as the user of -U.

use meshd_os::users::{self, User};
use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use rustix::{
    mm::MlockAllFlags,
    process::{DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit, setrlimit},
};

/// Reason why rights could not be dropped. Each one stops the start.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// No such user.
    #[error("unknown user {0:?}: create it, or name another one with -U")]
    UnknownUser(String),
    /// A step failed.
    #[error("cannot {step}: {error}")]
    Step {
        /// The step that failed.
        step: &'static str,
        /// The kernel's error.
        error: io::Error,
    },
    /// Other threads run already, which would keep the old rights.
    #[error("{0} threads run while the daemon drops its rights (this is a bug; report it)")]
    Threads(usize),
    /// The remaining capabilities differ from the requested ones.
    #[error("capabilities are still {0:?} after dropping them")]
    Kept(CapsHashSet),
}

/// Rights to drop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drop {
    /// `-U`.
    pub user: Option<String>,
    /// `-R`: the new root.
    pub chroot: Option<PathBuf>,
    /// Rights to keep.
    pub keep: Keep,
}

/// Capabilities that stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// CAP_NET_ADMIN: for routes of InterfaceRoute = auto, or a mark on new outgoing sockets (FWMark).
    pub net_admin: bool,
    /// CAP_IPC_LOCK: see [`lock_memory`].
    pub ipc_lock: bool,
    /// CAP_DAC_READ_SEARCH: for keys and host files of other users, as root (see [`Keep::of_root`]).
    pub read: bool,
    /// CAP_NET_BIND_SERVICE: for a port below 1024 that failed to open at the start.
    pub bind: bool,
    /// CAP_DAC_OVERRIDE: for files of other users that we write.
    pub write: bool,
}

impl Keep {
    /// Adds capabilities that only root needs and gets. Root reads files of other users, such as keys of the user
    /// `meshd`. Root writes to files of other users if one of `places` is another user's. Root accesses its own files
    /// as their owner.
    #[must_use]
    pub fn of_root(self, places: &[PathBuf]) -> Self {
        let root = rustix::process::geteuid().is_root();
        let others = |path: &PathBuf| fs::metadata(path).is_ok_and(|place| place.uid() != 0);
        Self {
            read: root,
            write: root && places.iter().any(others),
            ..self
        }
    }
}

/// Checks that the user exists, before anything is opened.
pub fn check(user: Option<&str>) -> Result<(), PrivilegeError> {
    user.map_or(Ok(()), |name| find_user(name).map(drop))
}

/// Locks all present and future memory in RAM. Returns true if a limit remains that only CAP_IPC_LOCK overrides:
/// without it an allocation would fail later and end the daemon.
pub fn lock_memory() -> Result<bool, PrivilegeError> {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    step("lock memory (-L)", rustix::mm::mlockall(all))?;
    Ok(getrlimit(Resource::Memlock).current.is_some())
}

/// Sets the nice value of this thread and of its later threads.
pub fn set_nice(nice: i32) -> Result<(), PrivilegeError> {
    let set = rustix::process::setpriority_process(None, nice);
    step("set ProcessPriority", set)
}

/// Switches to the user in the new root. No other thread may run yet: rights belong to threads.
pub fn drop_to(drop: &Drop) -> Result<(), PrivilegeError> {
    let user = drop.user.as_deref().map(find_user).transpose()?;
    if user.is_some() || drop.chroot.is_some() {
        single_threaded()?;
    }
    if let Some(user) = &user {
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let gid = Gid::from_raw(user.gid);
        step("set groups", rustix::thread::set_thread_groups(&groups))?;
        step(
            "set group",
            rustix::thread::set_thread_res_gid(gid, gid, gid),
        )?;
    }
    if let Some(root) = &drop.chroot {
        step("change the root (-R)", rustix::process::chroot(root))?;
        step("change to the new root", rustix::process::chdir("/"))?;
    }
    if let Some(user) = &user {
        let uid = Uid::from_raw(user.uid);
        step(
            "keep capabilities",
            rustix::thread::set_keep_capabilities(true),
        )?;
        step(
            "set user",
            rustix::thread::set_thread_res_uid(uid, uid, uid),
        )?;
        if user.uid != 0 {
            reduce(drop.keep)?;
        }
    }
    // Keys in memory must not get into a core file.
    let behavior = DumpableBehavior::NotDumpable;
    step(
        "forbid core files",
        rustix::process::set_dumpable_behavior(behavior),
    )
}

fn step<E: Into<io::Error>>(step: &'static str, done: Result<(), E>) -> Result<(), PrivilegeError> {
    done.map_err(|error| PrivilegeError::Step {
        step,
        error: error.into(),
    })
}

fn single_threaded() -> Result<(), PrivilegeError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads == 1 {
        Ok(())
    } else {
        Err(PrivilegeError::Threads(threads))
    }
}

/// Clears all other capabilities, and verifies that.
fn reduce(keep: Keep) -> Result<(), PrivilegeError> {
    let wanted = [
        (keep.net_admin, Capability::CAP_NET_ADMIN),
        (keep.ipc_lock, Capability::CAP_IPC_LOCK),
        (keep.bind, Capability::CAP_NET_BIND_SERVICE),
        (keep.read, Capability::CAP_DAC_READ_SEARCH),
        (keep.write, Capability::CAP_DAC_OVERRIDE),
    ];
    let kept: CapsHashSet = wanted
        .into_iter()
        .filter_map(|(keep, cap)| keep.then_some(cap))
        .filter(|cap| caps::has_cap(None, CapSet::Permitted, *cap).unwrap_or(false))
        .collect();
    // Not verified, because that takes 41 calls for each thread: a capability that is not inheritable cannot be ambient
    // (capabilities(7)).
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    clear(CapSet::Inheritable)?;
    // The effective set must never exceed the permitted one.
    clear(CapSet::Effective)?;
    for set in [CapSet::Permitted, CapSet::Effective] {
        caps::set(None, set, &kept).map_err(failed)?;
    }
    for set in [CapSet::Permitted, CapSet::Effective] {
        verify(set, &kept)?;
    }
    Ok(())
}

fn clear(set: CapSet) -> Result<(), PrivilegeError> {
    caps::clear(None, set).map_err(failed)?;
    verify(set, &CapsHashSet::new())
}

fn verify(set: CapSet, wanted: &CapsHashSet) -> Result<(), PrivilegeError> {
    match caps::read(None, set).map_err(failed)? {
        left if left == *wanted => Ok(()),
        left => Err(PrivilegeError::Kept(left)),
    }
}

fn failed(error: caps::errors::CapsError) -> PrivilegeError {
    PrivilegeError::Step {
        step: "drop capabilities",
        error: io::Error::other(error.to_string()),
    }
}

/// Drops every capability that is not needed, root's too, for good. Programs that we start get none either, if we may
/// set that. No other thread may run yet.
pub fn drop_capabilities(keep: Keep) -> Result<(), PrivilegeError> {
    single_threaded()?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed)? {
        clear(CapSet::Bounding)?;
    }
    reduce(keep)
}

/// Maximum capabilities of programs that root's scripts start: the set of
/// packaging/debian/meshd-tinc/meshd-tinc@.tinc.service.
const OF_SCRIPTS: [Capability; 7] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
];

/// Limits the rights of this process's scripts, as our unit does: no capabilities beyond `OF_SCRIPTS`, and none from
/// set-user-ID programs. If a service manager started the daemon, its unit sets the limits.
pub fn bound_scripts() -> Result<(), PrivilegeError> {
    if is_managed() {
        return Ok(());
    }
    let forbid = rustix::thread::set_no_new_privs(true);
    step("forbid new privileges to scripts", forbid)?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed)? {
        let bounding = caps::read(None, CapSet::Bounding).map_err(failed)?;
        for capability in bounding.difference(&OF_SCRIPTS.into_iter().collect()) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed)?;
        }
    }
    Ok(())
}

/// True if a service manager started the daemon; called in its child. Source: systemd.exec(5).
fn is_managed() -> bool {
    let daemon = rustix::process::getppid().map(|daemon| daemon.to_string());
    let started = std::env::var("SYSTEMD_EXEC_PID").ok();
    std::env::var_os("NOTIFY_SOCKET").is_some() || started.is_some() && started == daemon
}

/// Drops rights of this process that its programs cannot get.
pub fn keep_bounded() -> Result<(), PrivilegeError> {
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let have = caps::read(None, set).map_err(failed)?;
        let kept: CapsHashSet = have.intersection(&bounding).copied().collect();
        if kept != have {
            caps::set(None, set, &kept).map_err(failed)?;
        }
    }
    Ok(())
}

/// Gives up all rights, and root's identity if we may and the user `nobody` exists. No other thread may run yet.
pub fn become_nobody() {
    let drop = Drop {
        user: rustix::process::geteuid()
            .is_root()
            .then(|| "nobody".to_owned()),
        ..Drop::default()
    };
    // What remains without that user is read access to root's files.
    let _ = drop_to(&drop);
    let _ = drop_capabilities(Keep::default());
}

/// Drops every capability of the calling thread, root's too: the packet threads need none.
pub fn drop_thread_capabilities() {
    reduce_thread(Keep::default());
}

/// Does the same, but keeps CAP_IPC_LOCK for memory that is locked under a limit.
pub fn keep_thread_memory_lock() {
    reduce_thread(Keep {
        ipc_lock: true,
        ..Keep::default()
    });
}

fn reduce_thread(keep: Keep) {
    if let Err(error) = reduce(keep) {
        tracing::warn!(%error, "cannot drop the rights of a packet thread");
    }
}

fn find_user(name: &str) -> Result<User, PrivilegeError> {
    let found = users::user(name).map_err(|error| PrivilegeError::Step {
        step: "read /etc/passwd",
        error,
    })?;
    found.ok_or_else(|| PrivilegeError::UnknownUser(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_refused_before_anything_changes() {
        let drop = Drop {
            user: Some("no such user here".into()),
            ..Drop::default()
        };
        assert!(matches!(
            drop_to(&drop),
            Err(PrivilegeError::UnknownUser(_))
        ));
    }
}
