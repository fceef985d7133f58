//! One meta connection: bytes in, authenticated request lines out, and back. The dialects live
//! behind [`Link`], and only this file tells them apart. The dialects are SPTPS, native if both ID
//! lines offer it, and legacy if one end speaks nothing else and host files allow it.
//!
//! A link knows no socket: [`Pool`] owns all links of a node, and the shell passes bytes between
//! the pool and TCP. Source:
//! wire/tinc-1.1.md sections 2 and 3, wire/tinc-1.0.md section 1, proto/native-link.md.

mod budget;
mod choice;
mod event;
mod frame;
mod hello;
mod identity;
mod legacy;
mod noise;
pub mod pool;
mod record;
pub mod sptps;
mod start;
#[cfg(test)]
mod tests;

pub use budget::RsaBudget;
pub use event::{Dialect, Hello, LinkError, LinkEvent, Upgraded};
pub use identity::{Credentials, Identity, NativeIdentity, Upgrade};

pub use pool::{DialFault, DialId, LinkLog, LinkReport, Pool, PoolOutput, PoolSettings};

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use meshd_crypto::Rng;
use meshd_wire::NodeName;

use crate::link::{
    frame::{Bulk, Framed, Step},
    hello::Offer,
    legacy::Legacy,
    noise::Native,
    start::IdLine,
};

/// Hard limit of bytes queued to one link. Source: proto/threat-model.md section 5.6.
pub const MAX_QUEUE: usize = 4 << 20;
/// Queued bytes above which data packets over TCP are dropped. Source: proto/threat-model.md
/// section 5.6.
pub const MAX_QUEUE_BULK: usize = 256 << 10;
/// Unsent bytes in a link's queue at which the pool answers [`Pool::ask_room`]. With these bytes
/// left the socket does not run dry before more lines arrive.
pub const ROOM_LEFT: usize = 32 << 10;
/// Longest request line in bytes without LF that we send or parse. Source: wire/tinc-1.1.md section
/// 3.3.
pub const MAX_LINE: usize = 2175;
/// Most bytes held for a peer before its authentication. Source: proto/threat-model.md section 5.6.
pub const MAX_PREAUTH: usize = 8 << 10;
/// Most bytes held for a peer while its link waits for credentials: one read of the shell.
pub const MAX_WAITING: usize = 16 << 10;
/// Longest time of a handshake, regardless of the configuration. Source: T36 of
/// proto/threat-model.md.
pub const MAX_AUTH: Duration = Duration::from_secs(10);

slotmap::new_key_type! {
    /// One meta connection of a [`Pool`].
    pub struct LinkId;
}

/// One meta connection in any dialect.
pub struct Link {
    local: Arc<Identity>,
    /// Name of the other node: dialled, or claimed in its ID line.
    peer: Option<NodeName>,
    outgoing: bool,
    /// True if the remote address belongs to a known node.
    known: bool,
    started: Instant,
    auth_timeout: Duration,
    phase: Phase,
    up: bool,
    /// Offer of our ID line, if this node dialled.
    offer: Offer,
    /// State of UPGRADE for the next link to the node.
    another: Upgrade,
    /// Bytes from TCP that are no whole record yet.
    input: BytesMut,
    output: BytesMut,
    /// Bytes handed out that [`Link::written`] has not confirmed.
    in_flight: usize,
    events: VecDeque<LinkEvent>,
}

enum Phase {
    /// Expects the ID line of the other end; its credentials are known already if this node
    /// dialled.
    Hello(Box<Rng>, Option<Box<Credentials>>),
    /// Has the ID line of the other end; needs the credentials of its name.
    Named(Box<Rng>, Box<IdLine>),
    /// With the protocol minor of the other end.
    Legacy(u8, Box<Legacy>),
    /// With the protocol minor of the other end.
    Sptps(u8, Box<Framed>),
    /// With the protocol minor of the other end.
    Native(u8, Box<Native>),
    Dead,
}

impl Link {
    /// Opens a link to `peer`. The link has output at once: poll [`Self::take_output`]. The
    /// handshake has `auth_timeout` (PingTimeout) from `now`, at most [`MAX_AUTH`].
    #[must_use]
    pub fn dial(
        local: Arc<Identity>,
        peer: NodeName,
        credentials: Credentials,
        auth_timeout: Duration,
        rng: Rng,
        now: Instant,
    ) -> Self {
        let offer = local.offer_to(&credentials);
        let rsa = local.rsa.is_some() && credentials.rsa.is_some();
        let another = match credentials.upgrade {
            Upgrade::Possible if rsa && local.sptps => match offer {
                // A node that has our key does not accept less than SPTPS.
                Offer::Legacy => Upgrade::Due,
                _ => Upgrade::Possible,
            },
            _ => Upgrade::No,
        };
        let phase = Phase::Hello(rng.into(), Some(credentials.into()));
        let mut link = Self::new(local, Some(peer), phase, auth_timeout, now);
        (link.offer, link.another) = (offer, another);
        link.write_id(offer);
        link
    }

    /// Accepts a link. The link stays silent until a valid ID line arrives. The handshake has
    /// `auth_timeout` (PingTimeout) from `now`, at most [`MAX_AUTH`].
    #[must_use]
    pub fn accept(local: Arc<Identity>, auth_timeout: Duration, rng: Rng, now: Instant) -> Self {
        Self::new(
            local,
            None,
            Phase::Hello(rng.into(), None),
            auth_timeout,
            now,
        )
    }

    /// Marks the link as coming from an address of a known node.
    #[must_use]
    pub fn from_known(mut self) -> Self {
        self.known = true;
        self
    }

    fn new(
        local: Arc<Identity>,
        peer: Option<NodeName>,
        phase: Phase,
        auth_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            local,
            outgoing: peer.is_some(),
            known: peer.is_some(),
            peer,
            started: now,
            auth_timeout: auth_timeout.min(MAX_AUTH),
            phase,
            up: false,
            offer: Offer::Legacy,
            another: Upgrade::No,
            input: BytesMut::new(),
            output: BytesMut::new(),
            in_flight: 0,
            events: VecDeque::new(),
        }
    }

    /// Takes bytes from TCP in any portions. Look at [`Self::needs`], then poll events and output
    /// afterwards.
    pub fn handle_bytes(&mut self, mut data: &[u8], rsa: &mut RsaBudget, now: Instant) {
        // Before authentication the bytes are taken in portions, so a stranger cannot make us hold
        // many. There is always room, unless the link waits for credentials: the rest is less than
        // a line or a handshake record.
        while !data.is_empty() && !self.is_dead() {
            let room = match &self.phase {
                _ if self.up => data.len(),
                Phase::Named(..) => MAX_WAITING - self.input.len(),
                _ => MAX_PREAUTH - self.input.len(),
            };
            if room == 0 {
                let what = format!("more than {MAX_WAITING} bytes before our answer");
                return self.fail(LinkError::Misbehaved(what));
            }
            let (portion, rest) = data.split_at(data.len().min(room));
            self.input.extend_from_slice(portion);
            data = rest;
            while self.step(rsa, now) {}
        }
    }

    /// Returns the name whose credentials the link needs before it goes on:
    /// [`Self::handle_credentials`] is due.
    #[must_use]
    pub fn needs(&self) -> Option<&NodeName> {
        match &self.phase {
            Phase::Named(_, hello) => Some(&hello.id.name),
            _ => None,
        }
    }

    /// Takes the credentials that [`Self::needs`] asks for; `None` if there is no such node, or no
    /// key of it. The link goes on with the bytes that it kept. Poll events and output afterwards.
    pub fn handle_credentials(
        &mut self,
        theirs: Option<Credentials>,
        rsa: &mut RsaBudget,
        now: Instant,
    ) {
        if let Err(error) = self.take_credentials(theirs) {
            self.fail(error);
        }
        while self.step(rsa, now) {}
    }

    fn take_credentials(&mut self, theirs: Option<Credentials>) -> Result<(), LinkError> {
        let (rng, hello) = match mem::replace(&mut self.phase, Phase::Dead) {
            Phase::Named(rng, hello) => (rng, hello),
            other => {
                self.phase = other;
                return Ok(());
            }
        };
        let theirs = theirs.ok_or_else(|| {
            let name = &hello.id.name;
            LinkError::Incompatible(format!(
                "{name} is not known: put its host file with its public key into hosts/"
            ))
        })?;
        self.start(*hello, theirs, rng)
    }

    /// Returns the next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Moves all waiting output into one buffer; the buffer is empty if no output waits. The shell
    /// reports progress with [`Self::written`].
    #[must_use]
    pub fn take_output(&mut self) -> Bytes {
        self.in_flight += self.output.len();
        self.output.split().freeze()
    }

    /// Records that `count` bytes of the output have reached the kernel.
    pub fn written(&mut self, count: usize) {
        self.in_flight = self.in_flight.saturating_sub(count);
    }

    /// Returns the bytes handed out or waiting that [`Self::written`] has not confirmed.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.in_flight + self.output.len()
    }

    /// Returns the other node: dialled, claimed or authenticated.
    #[must_use]
    pub fn peer(&self) -> Option<&NodeName> {
        self.peer.as_ref()
    }

    /// Returns true if [`Upgrade::Due`] would help a dialled link that failed. The likely cause is
    /// that one end has no Ed25519 key of the other.
    #[must_use]
    pub fn wants_upgrade(&self) -> bool {
        !self.up && self.another == Upgrade::Due
    }

    /// Returns true if the other end is authenticated and the link alive.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up && !self.is_dead()
    }

    /// Queues one request line (without LF). Ignores it on a dead or unauthenticated link, and if
    /// it is longer than [`MAX_LINE`]. The link dies if more than [`MAX_QUEUE`] bytes wait then.
    pub fn send_line(&mut self, line: &[u8]) {
        if !self.is_up() || line.len() > MAX_LINE {
            return;
        }
        let written = match &mut self.phase {
            Phase::Sptps(_, framed) => framed.write_line(line, &mut self.output),
            Phase::Native(_, native) => native.write_line(line, &mut self.output),
            Phase::Legacy(_, legacy) => {
                legacy.write_line(line, &mut self.output);
                Ok(())
            }
            Phase::Hello(..) | Phase::Named(..) | Phase::Dead => return,
        };
        if let Err(error) = written {
            self.fail(error);
        } else if self.queued() > MAX_QUEUE {
            self.fail(LinkError::Stalled(self.queued()));
        }
    }

    /// Queues a frame, in SPTPS as PACKET (17). Returns `false` if the frame was dropped. Reasons:
    /// the link is congested ([`MAX_QUEUE_BULK`]) or not up, or a peer would not accept the length
    /// (14 to 1673 bytes).
    pub fn send_frame(&mut self, frame: &[u8]) -> bool {
        self.send_bulk(Bulk::Frame, frame)
    }

    /// Queues a relay datagram, in SPTPS as SPTPS_PACKET (21). Returns `false` if the datagram was
    /// dropped, for the same reasons (33 to 1706 bytes).
    pub fn send_relayed(&mut self, datagram: &[u8]) -> bool {
        self.send_bulk(Bulk::Relayed, datagram)
    }

    fn send_bulk(&mut self, bulk: Bulk, data: &[u8]) -> bool {
        if !self.is_up() || self.queued() > MAX_QUEUE_BULK {
            return false;
        }
        let written = match &mut self.phase {
            Phase::Sptps(_, framed) => framed.write_bulk(bulk, data, &mut self.output),
            Phase::Native(_, native) => native.write_bulk(bulk, data, &mut self.output),
            Phase::Legacy(_, legacy) => Ok(legacy.write_bulk(bulk, data, &mut self.output)),
            Phase::Hello(..) | Phase::Named(..) | Phase::Dead => return false,
        };
        written.unwrap_or_else(|error| {
            self.fail(error);
            false
        })
    }

    /// Returns the time at which [`Self::handle_timeout`] is due, if any.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Dead => None,
            _ if !self.up => Some(self.started + self.auth_timeout),
            Phase::Native(_, native) => native.poll_timeout(),
            Phase::Hello(..) | Phase::Named(..) | Phase::Legacy(..) | Phase::Sptps(..) => None,
        }
    }

    /// Enforces the handshake deadline, and renews the keys of a native link.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if !self.up {
            self.fail(self.timed_out());
        } else if let Phase::Native(_, native) = &mut self.phase
            && let Err(error) = native.handle_timeout(now, &mut self.output)
        {
            self.fail(error);
        }
    }

    fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead)
    }

    /// Takes one item off the input; returns true if there may be more.
    fn step(&mut self, rsa: &mut RsaBudget, now: Instant) -> bool {
        let step = match &mut self.phase {
            Phase::Hello(..) => self.hello(),
            Phase::Legacy(_, legacy) => {
                let mut may_compute = || self.outgoing || rsa.take(self.known, now);
                legacy.read(&mut self.input, &mut self.output, &mut may_compute)
            }
            Phase::Sptps(_, framed) => framed.read(&mut self.input, &mut self.output),
            Phase::Native(_, native) => native.read(&mut self.input, &mut self.output, now),
            Phase::Named(..) | Phase::Dead => return false,
        };
        match step {
            Ok(None) => return false,
            Ok(Some(Step::Nothing)) => {}
            Ok(Some(Step::Event(event))) => self.events.push_back(event),
            Ok(Some(Step::Up)) => self.come_up(),
            Ok(Some(Step::Upgraded(key, sent_ours))) => {
                let name = self.peer.clone().expect("who is authenticated has a name");
                self.phase = Phase::Dead;
                let upgraded = Upgraded {
                    name,
                    key,
                    sent_ours,
                };
                self.events.push_back(LinkEvent::Upgraded(upgraded));
            }
            Err(LinkError::Misbehaved(what)) if self.is_in_handshake() => {
                let error = self.handshake_failed(&what);
                self.fail(error);
            }
            Err(error) => self.fail(error),
        }
        true
    }

    fn come_up(&mut self) {
        let (minor, dialect) = match &self.phase {
            Phase::Legacy(minor, _) => (*minor, Dialect::Legacy),
            Phase::Sptps(minor, _) => (*minor, Dialect::Sptps),
            Phase::Native(minor, _) => (*minor, Dialect::Native),
            Phase::Hello(..) | Phase::Named(..) | Phase::Dead => {
                unreachable!("nobody is authenticated there")
            }
        };
        let name = self.peer.clone().expect("who is authenticated has a name");
        self.up = true;
        self.events.push_back(LinkEvent::Up(Hello {
            name,
            minor,
            dialect,
            outgoing: self.outgoing,
            started: self.started,
        }));
    }

    /// Ends the link and drops its waiting output. An error before the authentication of an
    /// accepted link always counts as a stranger's.
    fn fail(&mut self, error: LinkError) {
        let error = match error {
            LinkError::Misbehaved(what) | LinkError::Incompatible(what)
                if !self.outgoing && !self.up =>
            {
                LinkError::Stranger(what)
            }
            error => error,
        };
        self.phase = Phase::Dead;
        self.input = BytesMut::new();
        self.output = BytesMut::new();
        self.events.push_back(LinkEvent::Down(error));
    }
}

const _: () = assert!(MAX_LINE < MAX_PREAUTH && MAX_PREAUTH <= MAX_WAITING);
