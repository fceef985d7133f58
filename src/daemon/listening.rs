//! Listening sockets that do not work yet: the address is on no interface (IPv6: not verified yet), or the port was taken.
//!
//! A socket can be bound before its address exists (IP_FREEBIND), which needs no rights later. Packets of our own leave by the
//! first socket of a family whose address is there.

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

/// How often a socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The state of the listening sockets.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// As the configuration orders them.
    wanted: Vec<IpAddr>,
    /// All that are open.
    open: Vec<SocketAddr>,
    /// Those whose address no interface has.
    away: Vec<SocketAddr>,
    /// Addresses that could not be opened, and why.
    failed: Vec<(SocketAddr, String)>,
    /// When they are tried again.
    retry: Option<Instant>,
}

impl Listening {
    /// Of the wanted ones these are open, and those have failed.
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

    /// A line for each socket that nobody can reach us by, and why.
    pub(super) fn missing(&self) -> Vec<String> {
        let away = self.away.iter();
        let away = away.map(|addr| format!("{addr} (no interface has this address)"));
        let failed = self.failed.iter();
        let failed = failed.map(|(addr, why)| format!("{addr} ({why})"));
        away.chain(failed).collect()
    }

    /// Where a socket stands among all: those that work first.
    fn rank(&self, addr: SocketAddr) -> (bool, Option<usize>) {
        let place = self.wanted.iter().position(|ip| *ip == addr.ip());
        (self.away.contains(&addr), place)
    }
}

impl Driver {
    /// Looks which listening sockets work by now, and tries again those that could not be opened.
    pub(super) fn look_at_sockets(&mut self, now: Instant) -> anyhow::Result<()> {
        let all = self.listening.open.iter().copied();
        let away: Vec<SocketAddr> = all.filter(|addr| !udp::is_here(addr.ip())).collect();
        for addr in away
            .iter()
            .filter(|addr| !self.listening.away.contains(addr))
        {
            tracing::warn!(%addr, "no interface has this ListenAddress: nobody reaches us by it until one has");
        }
        for addr in self
            .listening
            .away
            .iter()
            .filter(|addr| !away.contains(addr))
        {
            tracing::info!(%addr, "an interface has this ListenAddress now");
        }
        let mut changed = away != self.listening.away;
        self.listening.away = away;
        if !self.listening.failed.is_empty() {
            let due = *self.listening.retry.get_or_insert(now + RETRY);
            if now >= due {
                self.listening.retry = Some(now + RETRY);
                changed |= self.open_failed();
            }
        }
        if changed {
            let listening = &self.listening;
            for queue in &mut self.queues {
                queue.udp.sort_by_key(|udp| listening.rank(udp.local()));
            }
            self.udp = self
                .queues
                .first()
                .map_or_else(Vec::new, |queue| queue.udp.clone());
            self.restart_workers()?;
        }
        Ok(())
    }

    /// Opens what could not be opened before. Returns whether anything is open now that was not.
    fn open_failed(&mut self) -> bool {
        let before = self.listening.failed.len();
        let workers = self.queues.len();
        for (addr, _) in std::mem::take(&mut self.listening.failed) {
            match open::open_new(addr, &self.sockets, workers) {
                Ok((tcp, udp)) => {
                    tracing::info!(%addr, "listening");
                    self.listening.open.push(addr);
                    for (queue, udp) in self.queues.iter_mut().zip(udp) {
                        queue.udp.push(Arc::new(udp));
                    }
                    conn::accept(tcp, self.links.open(), self.events.clone());
                }
                Err(error) => self.listening.failed.push((addr, error.to_string())),
            }
        }
        self.listening.failed.len() < before
    }

    /// Has packet threads run over the sockets as they are now, in the place of those that run.
    fn restart_workers(&mut self) -> anyhow::Result<()> {
        let Some(workers) = self.workers.take() else {
            return Ok(());
        };
        for (reason, count) in workers.drops() {
            *self.drops.entry(reason).or_default() += count;
        }
        workers.stop();
        self.start_workers()
    }

    /// Starts the packet threads.
    pub(super) fn start_workers(&mut self) -> anyhow::Result<()> {
        let prepare = match self.dropping.keep.ipc_lock {
            true => privileges::keep_thread_memory_lock,
            false => privileges::drop_thread_capabilities,
        };
        let workers = fastpath::start(
            self.mesh.snapshot(),
            self.queues.clone(),
            self.punts.0.clone(),
            prepare,
        );
        let workers = workers.context("cannot start the packet threads")?;
        workers.look(self.tap.clone());
        self.workers = Some(workers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes late sends as if it had been there from the start.
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
