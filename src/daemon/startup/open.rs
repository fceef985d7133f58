//! Opens the resources that must exist before anything runs: listening sockets, directory and pid file.

use meshd_os::users;
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZero,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, chown},
    },
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use socket2::Type;
use tokio::{net::TcpListener, time::sleep};

use meshd_config::{AddressFamily, Shell};
use meshd_dataplane::io::{
    tun::Tun,
    udp::{SocketOptions, UdpSocket, is_as},
};
use meshd_os::files::write_atomic;
use meshd_proto::route::Mode;

use crate::{
    Prepared, conn,
    fdstore::{self, Kept, Note},
    startup::device::{Device, layer},
};

/// Maximum number of packet threads.
const MAX_WORKERS: usize = 4;
/// Maximum number of attempts with a port of the kernel's choice that is taken on another address.
const PORT_TRIES: usize = 16;
/// Number of attempts to open a name or port that a released descriptor may still hold, and the pause between them.
const RELEASE_TRIES: usize = 100;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);
/// The group with read access to the daemon. Source: cli/meshctl.md section 4.2.
const GROUP: &str = "meshd";

/// The opened resources.
pub(crate) struct Opened {
    pub(crate) sockets: Sockets,
    pub(crate) device: Device,
    pub(crate) note: Note,
    /// Pid file and sockets.
    pub(crate) own: Vec<PathBuf>,
    /// The processes outside of the sandbox, if there is one.
    pub(crate) prepared: Option<Prepared>,
}

/// The listening sockets, all on one port.
pub(crate) struct Sockets {
    /// TCP.
    pub(crate) tcp: Vec<TcpListener>,
    /// UDP sockets, one set for each worker; the first of a family sends for it.
    pub(crate) udp: Vec<Vec<Arc<UdpSocket>>>,
    /// The port.
    pub(crate) port: u16,
    /// Addresses that failed to open, each with the reason; without families that the kernel lacks.
    pub(crate) failed: Vec<(SocketAddr, String)>,
}

/// Returns the socket options of the configuration.
#[must_use]
pub(crate) fn socket_options(shell: &Shell) -> SocketOptions {
    SocketOptions {
        rcvbuf: shell.udp_rcvbuf,
        sndbuf: shell.udp_sndbuf,
        fwmark: shell.fwmark,
        interface: shell.bind_to_interface.clone(),
        dont_fragment: shell.pmtu_discovery,
        shared: workers(shell) > 1,
    }
}

/// Returns the number of packet threads: one for each processor, but no more than can share tinc's small replay windows
/// (proto/design.md section 2.4).
pub(super) fn workers(shell: &Shell) -> usize {
    // Asked once: the answer comes from a dozen files of the control group.
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    let wanted = match shell.workers {
        0 => *PROCESSORS,
        wanted => wanted,
    };
    wanted.min(MAX_WORKERS)
}

/// Releases kept descriptors that this configuration does not need.
pub(crate) fn release_unfit(shell: &Shell, mode: Mode, kept: &mut Kept) {
    let (options, wanted) = (socket_options(shell), addresses(shell));
    let (layer, interface) = (layer(shell, mode), shell.interface.as_deref());
    let listens =
        |fd: BorrowedFd<'_>, kind| wanted.iter().any(|addr| is_as(fd, *addr, kind, &options));
    kept.retain(|name, fd| {
        fdstore::is_of(name, fdstore::NOTE)
            || fdstore::is_of(name, fdstore::TCP) && listens(fd, Type::STREAM)
            || fdstore::is_of(name, fdstore::UDP) && listens(fd, Type::DGRAM)
            || fdstore::is_of(name, fdstore::TUN)
                && layer.is_some_and(|layer| Tun::is_queue_of(fd, layer, interface))
    });
}

/// Returns the listening addresses.
pub(crate) fn addresses(shell: &Shell) -> Vec<SocketAddr> {
    if !shell.listen.is_empty() {
        return shell.listen.clone();
    }
    let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let all: &[IpAddr] = match shell.address_family {
        AddressFamily::V4 => &[v4],
        AddressFamily::V6 => &[v6],
        AddressFamily::Any => &[v4, v6],
    };
    all.iter()
        .map(|ip| SocketAddr::new(*ip, shell.port))
        .collect()
}

/// Opens every socket of the configuration. Skips a failed one with a warning; it is an error if none is left. Takes
/// over sockets that were kept over a restart.
///
/// Every opened and kept socket needs a thread that reads it, because the kernel distributes senders over all bound
/// sockets.
pub(crate) async fn open_sockets(
    shell: &Shell,
    device: &Device,
    kept: &mut Kept,
) -> anyhow::Result<Sockets> {
    let threads = match device.queues.len() {
        0 => workers(shell),
        queues => queues,
    };
    let options = socket_options(shell);
    let wanted = addresses(shell);
    let tries = if shell.port == 0 { PORT_TRIES } else { 1 };
    let mut last = None;
    for left in (0..tries).rev() {
        match open_all(&wanted, &options, (threads, &mut *kept), left > 0).await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => {
                kept.forget();
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) => Err(error),
        None => bail!("no address to listen on"),
    }
}

/// `strict`: any failure is an error, so that the caller can try another port.
async fn open_all(
    wanted: &[SocketAddr],
    options: &SocketOptions,
    (workers, kept): (usize, &mut Kept),
    strict: bool,
) -> anyhow::Result<Sockets> {
    let mut sockets = Sockets {
        tcp: Vec::new(),
        udp: vec![Vec::new(); workers],
        port: 0,
        failed: Vec::new(),
    };
    let mut failed = None;
    for addr in wanted {
        // A dynamic port is chosen once, and the other sockets use it.
        let dynamic = addr.port() == 0 && sockets.port != 0;
        let port = if dynamic { sockets.port } else { addr.port() };
        let addr = SocketAddr::new(addr.ip(), port);
        match open_some(addr, options, (workers, &mut *kept)).await {
            Ok((tcp, udp)) => {
                if sockets.port == 0 {
                    sockets.port = udp[0].local().port();
                }
                sockets.tcp.push(tcp);
                for (set, udp) in sockets.udp.iter_mut().zip(udp) {
                    set.push(Arc::new(udp));
                }
            }
            Err(error) if strict => bail!("cannot listen on {addr}: {error}"),
            Err(error) => {
                // A kernel without IPv6 is not worth a warning.
                if addr.is_ipv6() && addr.ip().is_unspecified() {
                    tracing::info!(%addr, %error, "not listening");
                } else {
                    tracing::warn!(%addr, %error, "cannot listen: trying again");
                    sockets.failed.push((addr, error.to_string()));
                }
                failed = Some((addr, error));
            }
        }
    }
    match failed {
        Some((addr, error)) if sockets.tcp.is_empty() => Err(error)
            .with_context(|| format!("cannot listen on {addr}; check whether tincd is running")),
        _ => Ok(sockets),
    }
}

/// Opens one TCP socket, and a UDP socket for each worker on the same port.
async fn open_some(
    addr: SocketAddr,
    options: &SocketOptions,
    (workers, kept): (usize, &mut Kept),
) -> io::Result<(TcpListener, Vec<UdpSocket>)> {
    let released = kept.has_released(fdstore::TCP) || kept.has_released(fdstore::UDP);
    let mut old = |kind, of: Type, addr| kept.take(kind, |fd| is_as(fd, addr, of, options));
    let (tcp, is_new) = match old(fdstore::TCP, Type::STREAM, addr) {
        Some(socket) => (conn::adopt(socket)?, false),
        None => {
            let socket = patiently(released, || conn::listen(addr, options)).await?;
            (socket, true)
        }
    };
    let addr = tcp.local_addr()?;
    let mut udp = Vec::new();
    let mut fresh = Vec::new();
    for _ in 0..workers {
        udp.push(match old(fdstore::UDP, Type::DGRAM, addr) {
            Some(socket) => UdpSocket::adopt(socket, options)?,
            None => {
                fresh.push(udp.len());
                patiently(released, || UdpSocket::bind(addr, options)).await?
            }
        });
    }
    if is_new {
        kept.keep(fdstore::TCP, &tcp);
    }
    for at in fresh {
        kept.keep(fdstore::UDP, &udp[at]);
    }
    Ok((tcp, udp))
}

/// Opens the sockets of an address that failed at the start, as [`open_some`] does. They are not kept over a restart.
pub(crate) fn open_new(
    addr: SocketAddr,
    options: &SocketOptions,
    workers: usize,
) -> io::Result<(TcpListener, Vec<UdpSocket>)> {
    let tcp = conn::listen(addr, options)?;
    let udp = (0..workers).map(|_| UdpSocket::bind(addr, options));
    Ok((tcp, udp.collect::<io::Result<_>>()?))
}

/// Opens a resource. If a released descriptor may still hold it, waits and retries.
pub(super) async fn patiently<T>(
    released: bool,
    mut open: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut tries = if released { RELEASE_TRIES } else { 0 };
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => tries -= 1,
            result => return result,
        }
        sleep(RELEASE_PAUSE).await;
    }
}

/// Returns RunScripts as names of scripts.
#[must_use]
pub(crate) fn run_scripts(shell: &Shell) -> Option<Vec<String>> {
    let run = shell.run_scripts.as_ref()?;
    Some(run.iter().map(ToString::to_string).collect())
}

/// Makes the directory of pid file and control socket if it is missing: root owns it, its group may read it.
pub(crate) fn make_run_dir(file: &Path) -> anyhow::Result<()> {
    let Some(dir) = file.parent().filter(|dir| !dir.exists()) else {
        return Ok(());
    };
    let made = fs::DirBuilder::new()
        .mode(0o750)
        .recursive(true)
        .create(dir);
    made.with_context(|| {
        format!(
            "cannot make {}; name another place with --pidfile",
            dir.display()
        )
    })?;
    let _ = chown(dir, None, users::group_id(GROUP));
    Ok(())
}

/// Gives a file to the group with read access, if the group exists.
pub(crate) fn give_to_group(path: &Path) {
    let _ = chown(path, None, users::group_id(GROUP));
}

/// Writes our process id.
pub(crate) fn write_pid(path: &Path) -> anyhow::Result<()> {
    let pid = format!("{}\n", std::process::id());
    write_atomic(path, pid.as_bytes(), 0o644)
        .with_context(|| format!("cannot write the pid file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_dataplane::io::udp::is_here;

    fn shell(listen: &[&str]) -> Shell {
        Shell {
            listen: listen.iter().map(|addr| addr.parse().unwrap()).collect(),
            pmtu_discovery: true,
            ..Shell::default()
        }
    }

    #[tokio::test]
    async fn one_dynamic_port_serves_all_sockets() {
        for workers in [1, 3] {
            let mut shell = shell(&["127.0.0.1:0", "127.0.0.2:0"]);
            shell.workers = workers;
            let sockets = open_sockets(&shell, &Device::default(), &mut Kept::default())
                .await
                .unwrap();
            assert_eq!((sockets.tcp.len(), sockets.udp.len()), (2, workers));
            for set in &sockets.udp {
                assert_eq!(set.len(), 2);
                for (tcp, udp) in sockets.tcp.iter().zip(set) {
                    assert_eq!(tcp.local_addr().unwrap().port(), sockets.port);
                    assert_eq!(udp.local(), tcp.local_addr().unwrap());
                }
            }
        }
    }

    /// As at boot, before the network is up; no host has 192.0.2.0/24.
    #[tokio::test]
    async fn an_address_that_is_not_there_yet_is_bound_all_the_same() {
        for wanted in [
            &["192.0.2.77:0"][..],
            &["127.0.0.1:0", "192.0.2.77:0", "[2001:db8::77]:0"],
        ] {
            let sockets = open_sockets(&shell(wanted), &Device::default(), &mut Kept::default())
                .await
                .unwrap();
            assert_eq!(
                (sockets.tcp.len(), sockets.udp[0].len()),
                (wanted.len(), wanted.len())
            );
            assert_eq!(sockets.failed, []);
        }
        assert!(is_here([127, 0, 0, 1].into()) && !is_here([192, 0, 2, 77].into()));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_left_out_unless_it_is_the_last() {
        let first = open_sockets(
            &shell(&["127.0.0.1:0"]),
            &Device::default(),
            &mut Kept::default(),
        )
        .await
        .unwrap();
        let taken = format!("127.0.0.1:{}", first.port);
        let mut both = shell(&[&taken, &format!("127.0.0.3:{}", first.port)]);
        both.port = first.port;
        let second = open_sockets(&both, &Device::default(), &mut Kept::default())
            .await
            .unwrap();
        assert_eq!(second.tcp.len(), 1);
        let (addr, why) = second.failed[0].clone();
        assert_eq!(addr.to_string(), taken);
        assert!(why.contains("in use"), "{why}");
        drop(second);
        both.listen.pop();
        let error = open_sockets(&both, &Device::default(), &mut Kept::default())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains(&taken), "{error}");
        let options = socket_options(&both);
        assert!(open_new(addr, &options, 1).is_err());
        drop(first);
        let (_, udp) = open_new(addr, &options, 1).unwrap();
        assert_eq!((udp.len(), udp[0].local()), (1, addr));
    }
}
