//! The lab's namespaces and links.

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    panic,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, bail, ensure};
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Signal, getegid, geteuid, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

/// The namespace that sees the whole wire.
pub(super) const TENANT: &str = "tenant";
/// Address of the tenant on the wire.
pub(super) const TENANT_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// Name of every droplet's mesh device.
pub(super) const DEVICE: &str = "mesh0";
/// The namespace of the bridge.
const WIRE: &str = "wire";

/// One droplet.
#[derive(Debug, Clone)]
pub(super) struct Droplet {
    /// Name of the node and of its namespace.
    pub(super) name: String,
    /// Address on the wire.
    pub(super) outer: Ipv4Addr,
    /// Address in the mesh.
    pub(super) inner: Ipv4Addr,
}

/// The droplets of a lab of `count` nodes.
pub(super) fn droplets(count: u8) -> Vec<Droplet> {
    (1..=count)
        .map(|number| Droplet {
            name: format!("droplet_{number}"),
            outer: Ipv4Addr::new(203, 0, 113, 100 + number),
            inner: Ipv4Addr::new(172, 20, 0, number),
        })
        .collect()
}

/// Moves this process into its own network and mount namespaces. The next child will be process 1 of a process-id
/// namespace. Without root, a user namespace comes first.
pub(super) fn move_in() -> anyhow::Result<()> {
    let private = UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    match unshare(private) {
        Err(Errno::PERM) => {}
        other => return other.context("make namespaces"),
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare(private | UnshareFlags::NEWUSER).with_context(no_namespaces)?;
    // Otherwise the kernel refuses a group map to ordinary users.
    fs::write("/proc/self/setgroups", "deny").context("write /proc/self/setgroups")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("write /proc/self/gid_map")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("write /proc/self/uid_map")
}

fn no_namespaces() -> String {
    "this machine does not let ordinary users make namespaces: run the lab as root, or allow them \
     (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, `sysctl user.max_user_namespaces=1000`)"
        .into()
}

#[expect(
    deprecated,
    reason = "the call is unsound for CLONE_FILES only, which never stands among these flags"
)]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    rustix::thread::unshare(flags)
}

/// First act of process 1: it makes the kernel kill it at the end of the process outside, and separates its mounts.
pub(super) fn settle() -> anyhow::Result<()> {
    ensure!(
        std::process::id() == 1,
        "only the lab itself uses --inside: run `meshctl lab` without it"
    );
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the parent")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("make mounts private")?;
    mount("meshd-lab", "/run", "tmpfs", MountFlags::empty(), None)
        .with_context(no_namespaces)
        .context("mount a tmpfs on /run")
}

/// Makes the namespaces, the wire and every link to it. The bridge forgets every address at once, so it works as a hub:
/// the tenant receives each frame.
pub(super) fn build(droplets: &[Droplet]) -> anyhow::Result<()> {
    let names: Vec<&str> = droplets
        .iter()
        .map(|d| d.name.as_str())
        .chain([TENANT])
        .collect();
    let spaces: String = names
        .iter()
        .map(|name| format!("netns add {name}\n"))
        .collect();
    ip(&format!("netns add {WIRE}\n{spaces}"))?;

    let mut wire = String::from(
        "link add br0 type bridge ageing_time 0 stp_state 0 mcast_snooping 0\nlink set br0 up\n",
    );
    for (port, name) in names.iter().enumerate() {
        wire += &format!("link add port{port} type veth peer name eth0 netns {name}\n");
        wire += &format!("link set port{port} master br0 up\n");
    }
    within(WIRE, || ip(&wire))??;

    let ends = droplets.iter().map(|d| (d.name.as_str(), d.outer));
    for (name, address) in ends.chain([(TENANT, TENANT_ADDRESS)]) {
        let end = format!(
            "link set lo up\nlink set eth0 promisc on up\naddr add {address}/24 dev eth0\n"
        );
        within(name, || ip(&end))??;
    }
    Ok(())
}

/// Runs `work` in a thread in the namespace `name`; its sockets and processes belong there.
pub(super) fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(name)?;
            Ok(work())
        });
        inside
            .join()
            .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

/// Moves the calling thread into the namespace `name`.
pub(super) fn enter(name: &str) -> anyhow::Result<()> {
    let space = fs::File::open(format!("/run/netns/{name}"))
        .with_context(|| format!("open the namespace {name}"))?;
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter the namespace {name}"))
}

/// Runs `ip` with a batch of commands in the calling thread's namespace.
fn ip(batch: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `ip`")?;
    let mut stdin = child.stdin.take().context("no pipe to `ip`")?;
    stdin.write_all(batch.as_bytes()).context("write to `ip`")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for `ip`")?;
    if !output.status.success() {
        bail!(
            "`ip` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
