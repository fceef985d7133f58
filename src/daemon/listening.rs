//! Listening sockets that do not work yet: no interface has the address (or IPv6 has not verified it), or the port was
//! taken.
//!
//! A socket can be bound before its address exists (IP_FREEBIND), which needs no rights later. Own packets leave by the
//! first socket of a family with an existing address.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;

use meshd_dataplane::{
    fastpath,
    io::udp::{self, UdpSocket},
};

use crate::{conn, driver::Driver, privileges, startup::open};

/// Interval of attempts to open a failed socket.
const RETRY: Duration = Duration::from_secs(5);

/// The state of the listening sockets.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// Addresses in the order of the configuration.
    wanted: Vec<IpAddr>,
    /// Open sockets.
    open: Vec<SocketAddr>,
    /// Open sockets whose address no interface has.
    away: Vec<SocketAddr>,
    /// Addresses that failed to open, each with the reason.
    failed: Vec<(SocketAddr, String)>,
    /// Time of the next attempt.
    retry: Option<Instant>,
}

impl Listening {
    /// Records which of the wanted addresses are open, and which have failed.
    pub(super) fn new(
        wanted: &[SocketAddr],
        open: &[Arc<UdpSocket>],
        failed: Vec<(SocketAddr, String)>,
    ) -> Self {
        Self {
            wanted: wanted.iter().map(SocketAddr::ip).collect(),
            open: open.iter().map(|udp| udp.local()).collect(),
            failed,
            ..Self::default()
        }
    }

    /// Returns a line for each unreachable address, with the reason.
    pub(super) fn missing(&self) -> Vec<String> {
        let away = self.away.iter();
        let away = away.map(|addr| format!("{addr} (no interface has this address)"));
        let failed = self.failed.iter();
        let failed = failed.map(|(addr, why)| format!("{addr} ({why})"));
        away.chain(failed).collect()
    }

    /// Returns the rank of a socket: working ones come first.
    fn rank(&self, addr: SocketAddr) -> (bool, Option<usize>) {
        let place = self.wanted.iter().position(|ip| *ip == addr.ip());
        (self.away.contains(&addr), place)
    }
}

impl Driver {
    /// Checks which listening sockets work now, and retries the failed ones.
    pub(super) fn check_sockets(&mut self, now: Instant) -> anyhow::Result<()> {
        let all = self.net.listening.open.iter().copied();
        let away: Vec<SocketAddr> = all.filter(|addr| !udp::is_here(addr.ip())).collect();
        for addr in away
            .iter()
            .filter(|addr| !self.net.listening.away.contains(addr))
        {
            tracing::warn!(%addr, "no interface has this ListenAddress: this node is unreachable by it until an interface gets the address");
        }
        for addr in self
            .net
            .listening
            .away
            .iter()
            .filter(|addr| !away.contains(addr))
        {
            tracing::info!(%addr, "an interface has this ListenAddress now");
        }
        let mut changed = away != self.net.listening.away;
        self.net.listening.away = away;
        if !self.net.listening.failed.is_empty() {
            let due = *self.net.listening.retry.get_or_insert(now + RETRY);
            if now >= due {
                self.net.listening.retry = Some(now + RETRY);
                changed |= self.open_failed();
            }
        }
        if changed {
            let listening = &self.net.listening;
            for queue in &mut self.net.queues {
                queue.udp.sort_by_key(|udp| listening.rank(udp.local()));
            }
            self.net.udp = self
                .net
                .queues
                .first()
                .map_or_else(Vec::new, |queue| queue.udp.clone());
            self.restart_workers()?;
        }
        Ok(())
    }

    /// Retries the failed addresses. Returns true if a new socket is open.
    fn open_failed(&mut self) -> bool {
        let before = self.net.listening.failed.len();
        let workers = self.net.queues.len();
        for (addr, _) in std::mem::take(&mut self.net.listening.failed) {
            match open::open_new(addr, &self.net.options, workers) {
                Ok((tcp, udp)) => {
                    tracing::info!(%addr, "listening");
                    self.net.listening.open.push(addr);
                    for (queue, udp) in self.net.queues.iter_mut().zip(udp) {
                        queue.udp.push(Arc::new(udp));
                    }
                    conn::accept(tcp, self.links.open(), self.inbox.events.clone());
                }
                Err(error) => self.net.listening.failed.push((addr, error.to_string())),
            }
        }
        self.net.listening.failed.len() < before
    }

    /// Restarts the packet threads with the present sockets.
    fn restart_workers(&mut self) -> anyhow::Result<()> {
        let Some(workers) = self.net.workers.take() else {
            return Ok(());
        };
        for (reason, count) in workers.drops() {
            *self.net.drops.entry(reason).or_default() += count;
        }
        workers.stop();
        self.start_workers()
    }

    /// Starts the packet threads.
    pub(super) fn start_workers(&mut self) -> anyhow::Result<()> {
        let prepare = match self.device.dropping.keep.ipc_lock {
            true => privileges::keep_thread_memory_lock,
            false => privileges::drop_thread_capabilities,
        };
        let workers = fastpath::start(
            self.mesh.snapshot(),
            self.net.queues.clone(),
            self.inbox.punts.0.clone(),
            prepare,
        );
        let workers = workers.context("cannot start the packet threads")?;
        workers.set_tap(self.net.tap.clone());
        self.net.workers = Some(workers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A late socket sends as if it had existed from the start.
    #[test]
    fn sockets_that_work_come_first_and_then_as_the_configuration_has_them() {
        let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let [one, two, three] = ["192.0.2.1:1", "192.0.2.2:1", "127.0.0.1:1"].map(addr);
        let failed = vec![(one, "taken".to_owned())];
        let mut listening = Listening::new(&[one, two, three], &[], failed);
        listening.away = vec![two];
        let mut all = [three, two, one];
        all.sort_by_key(|addr| listening.rank(*addr));
        assert_eq!(all, [one, three, two]);
        let missing = listening.missing();
        assert_eq!(
            missing,
            [
                "192.0.2.2:1 (no interface has this address)",
                "192.0.2.1:1 (taken)"
            ]
        );
    }
}
