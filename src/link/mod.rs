//! One meta connection: bytes in, authenticated request lines out, and back. Three dialects will
//! live behind [`Link`]; they are told apart in this file only. Today: SPTPS.
//!
//! A link knows no socket: the shell feeds it what TCP delivers and writes what it wants sent.
//! Source: tinc-1.1-wire.md sections 2 and 3.

mod event;
mod frame;
mod hello;
pub mod sptps;
#[cfg(test)]
mod tests;

pub use event::{Hello, LinkError, LinkEvent};

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use crate::{
    crypto::{
        PrivateKey, PublicKey, Rng,
        sptps::{Parties, Role, link_label},
    },
    link::{
        frame::{Framed, Step},
        hello::{Id, shown},
        sptps::Stream,
    },
    wire::NodeName,
};

/// Our own side of every link.
pub struct Identity {
    /// Our name.
    pub name: NodeName,
    /// Our private key.
    pub key: Arc<PrivateKey>,
}

/// Where an accepting link finds the key of the name that a stranger claims.
pub trait Keyring {
    /// The public key in the host file of `name`; `None` if there is no such node or key.
    fn public_key(&self, name: &NodeName) -> Option<PublicKey>;
}

/// Hard limit of bytes queued to one link. Source: spec/security.md section 5.6.
pub const MAX_QUEUE: usize = 4 << 20;
/// Queued bytes above which data packets over TCP are dropped. Source: the same.
pub const MAX_QUEUE_BULK: usize = 256 << 10;
/// Longest request line in bytes without LF that we send or accept. Source: tinc-1.1-wire.md section 3.3.
pub const MAX_LINE: usize = 2175;
/// Bytes that a stranger may make us hold before it is authenticated. Source: spec/security.md section 5.6.
pub const MAX_PREAUTH: usize = 8 << 10;
/// Longest that a handshake may take, whatever the configuration says. Source: spec/security.md T36.
pub const MAX_AUTH: Duration = Duration::from_secs(10);

/// One meta connection in any dialect.
pub struct Link {
    local: Arc<Identity>,
    /// Dialled, or claimed in the ID line.
    peer: Option<NodeName>,
    outgoing: bool,
    started: Instant,
    auth_timeout: Duration,
    phase: Phase,
    up: bool,
    /// What TCP delivered and is not a whole record yet.
    input: BytesMut,
    output: BytesMut,
    /// Bytes handed out that [`Link::written`] has not confirmed.
    in_flight: usize,
    events: VecDeque<LinkEvent>,
}

enum Phase {
    /// The other side's ID line is due; its key is known already if we dialled.
    Hello(Box<Rng>, Option<PublicKey>),
    /// The dialect, by the minor versions of both sides.
    Sptps(u8, Box<Framed>),
    Dead,
}

impl Link {
    /// A link that we open to `peer`. It wants to send at once: poll [`Self::take_output`]. The
    /// handshake has `auth_timeout` (PingTimeout) from `now`, at most [`MAX_AUTH`].
    #[must_use]
    pub fn dial(
        local: Arc<Identity>,
        peer: NodeName,
        peer_key: PublicKey,
        auth_timeout: Duration,
        rng: Rng,
        now: Instant,
    ) -> Self {
        let phase = Phase::Hello(rng.into(), Some(peer_key));
        let mut link = Self::new(local, Some(peer), phase, auth_timeout, now);
        let id = hello::line(&link.local.name);
        link.output.extend_from_slice(id.as_bytes());
        link
    }

    /// A link that somebody opened to us. It stays silent until a valid ID line has come. The
    /// handshake has `auth_timeout` (PingTimeout) from `now`, at most [`MAX_AUTH`].
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
            peer,
            started: now,
            auth_timeout: auth_timeout.min(MAX_AUTH),
            phase,
            up: false,
            input: BytesMut::new(),
            output: BytesMut::new(),
            in_flight: 0,
            events: VecDeque::new(),
        }
    }

    /// Takes bytes that TCP delivered, any chunking. Poll events and output afterwards.
    pub fn handle_bytes(&mut self, mut data: &[u8], keys: &dyn Keyring, _now: Instant) {
        // Before authentication in portions, so that a stranger cannot make us hold much. There always
        // is room: what is left over is less than a line or a handshake record.
        while !data.is_empty() && !self.is_dead() {
            let room = match self.up {
                true => data.len(),
                false => MAX_PREAUTH - self.input.len(),
            };
            let (portion, rest) = data.split_at(data.len().min(room));
            self.input.extend_from_slice(portion);
            data = rest;
            while self.step(keys) {}
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Moves everything that waits to be written into one buffer; empty if nothing waits. The shell
    /// reports progress with [`Self::written`].
    #[must_use]
    pub fn take_output(&mut self) -> Bytes {
        self.in_flight += self.output.len();
        self.output.split().freeze()
    }

    /// Tells the link that `count` bytes of its output have reached the kernel.
    pub fn written(&mut self, count: usize) {
        self.in_flight = self.in_flight.saturating_sub(count);
    }

    /// Bytes handed out or waiting that [`Self::written`] has not confirmed.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.in_flight + self.output.len()
    }

    /// The other node: dialled, claimed or proven.
    #[must_use]
    pub fn peer(&self) -> Option<&NodeName> {
        self.peer.as_ref()
    }

    /// Whether the other side is authenticated and the link alive.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up && !self.is_dead()
    }

    /// Queues one request line (without LF). Ignored on a dead or unauthenticated link, and if the
    /// line is longer than [`MAX_LINE`]. The link dies if more than [`MAX_QUEUE`] bytes wait then.
    pub fn send_line(&mut self, line: &[u8]) {
        if !self.is_up() || line.len() > MAX_LINE {
            return;
        }
        let written = match &mut self.phase {
            Phase::Sptps(_, framed) => framed.write_line(line, &mut self.output),
            Phase::Hello(..) | Phase::Dead => return,
        };
        if let Err(error) = written {
            self.fail(error);
        } else if self.queued() > MAX_QUEUE {
            self.fail(LinkError::Stalled(self.queued()));
        }
    }

    /// Queues a frame as PACKET (17). Returns `false` if it was dropped because the link is congested
    /// ([`MAX_QUEUE_BULK`]) or not up, or because the frame is not of a length that a peer takes
    /// (14 to 1673 bytes).
    pub fn send_frame(&mut self, frame: &[u8]) -> bool {
        self.send_bulk(|framed, output| framed.write_frame(frame, output))
    }

    /// Queues a relay datagram as SPTPS_PACKET (21). Returns `false` if it was dropped, for the same
    /// reasons (33 to 1706 bytes).
    pub fn send_relayed(&mut self, datagram: &[u8]) -> bool {
        self.send_bulk(|framed, output| framed.write_relayed(datagram, output))
    }

    fn send_bulk(
        &mut self,
        write: impl FnOnce(&mut Framed, &mut BytesMut) -> Result<bool, LinkError>,
    ) -> bool {
        if !self.is_up() || self.queued() > MAX_QUEUE_BULK {
            return false;
        }
        let written = match &mut self.phase {
            Phase::Sptps(_, framed) => write(framed, &mut self.output),
            Phase::Hello(..) | Phase::Dead => return false,
        };
        written.unwrap_or_else(|error| {
            self.fail(error);
            false
        })
    }

    /// When [`Self::handle_timeout`] wants to be called, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.up && !self.is_dead()).then(|| self.started + self.auth_timeout)
    }

    /// Lets the handshake deadline act.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| now >= deadline) {
            self.fail(LinkError::AuthTimeout(self.auth_timeout.as_secs()));
        }
    }

    fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead)
    }

    /// Takes one thing off the input; whether to go on.
    fn step(&mut self, keys: &dyn Keyring) -> bool {
        let step = match &mut self.phase {
            Phase::Hello(..) => self.hello(keys),
            Phase::Sptps(_, framed) => framed.read(&mut self.input, &mut self.output),
            Phase::Dead => return false,
        };
        match step {
            Ok(None) => return false,
            Ok(Some(Step::Nothing)) => {}
            Ok(Some(Step::Event(event))) => self.events.push_back(event),
            Ok(Some(Step::Up)) => self.come_up(),
            Err(LinkError::Misbehaved(what)) if self.is_in_handshake() => {
                self.fail(self.handshake_failed(&what));
            }
            Err(error) => self.fail(error),
        }
        true
    }

    fn come_up(&mut self) {
        let (Some(name), Phase::Sptps(minor, _)) = (&self.peer, &self.phase) else {
            unreachable!("nobody is authenticated without a name and a dialect");
        };
        self.up = true;
        self.events.push_back(LinkEvent::Up(Hello {
            name: name.clone(),
            minor: *minor,
            outgoing: self.outgoing,
            started: self.started,
        }));
    }

    /// Ends the link. What waits to be sent is dropped. A stranger's error stays a stranger's,
    /// whatever it was.
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

    /// Reads the ID line, chooses the dialect, answers. Source: tinc-1.1-wire.md section 3.1.
    fn hello(&mut self, keys: &dyn Keyring) -> Result<Option<Step>, LinkError> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let Some(end) = end.filter(|&end| end <= MAX_LINE) else {
            return match self.input.len() > MAX_LINE {
                true => Err(LinkError::Misbehaved("an ID line without an end".into())),
                false => Ok(None),
            };
        };
        let line = self.input.split_to(end + 1);
        let line = &line[..end];
        let id = Id::parse(line).ok_or_else(|| {
            LinkError::Misbehaved(format!("no ID line of a node: {}", shown(line)))
        })?;
        let Phase::Hello(mut rng, dialled_key) = mem::replace(&mut self.phase, Phase::Dead) else {
            unreachable!("the caller has looked at the phase");
        };
        let peer_key = self.key_for(&id, dialled_key, keys)?;
        self.peer = Some(id.name.clone());
        if let Some(reason) = incompatible(&id) {
            return Err(LinkError::Incompatible(reason));
        }

        let (role, label) = match self.outgoing {
            true => (Role::Initiator, link_label(&self.local.name, &id.name)),
            false => (Role::Responder, link_label(&id.name, &self.local.name)),
        };
        let parties = Parties {
            role,
            key: self.local.key.clone(),
            peer_key,
            label,
        };
        if !self.outgoing {
            let answer = hello::line(&self.local.name);
            self.output.extend_from_slice(answer.as_bytes());
        }
        let stream = Stream::start(parties, &mut rng, &mut self.output);
        self.phase = Phase::Sptps(id.minor, Box::new(Framed::new(stream)));
        Ok(Some(Step::Nothing))
    }

    /// The key that the sender of this ID line has to prove.
    fn key_for(
        &self,
        id: &Id,
        dialled_key: Option<PublicKey>,
        keys: &dyn Keyring,
    ) -> Result<PublicKey, LinkError> {
        let name = &id.name;
        match (&self.peer, dialled_key) {
            (Some(dialled), Some(_)) if dialled != name => Err(LinkError::Misbehaved(format!(
                "{name} answered where {dialled} was called: check the Address in hosts/{dialled}"
            ))),
            (_, Some(key)) => Ok(key),
            _ if *name == self.local.name => Err(LinkError::Misbehaved(format!(
                "somebody calls itself {name} like us: give one of the two another Name"
            ))),
            _ => keys.public_key(name).ok_or_else(|| {
                LinkError::Incompatible(format!(
                    "{name} is not known: put its host file with Ed25519PublicKey into hosts/"
                ))
            }),
        }
    }

    fn is_in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Sptps(..)) && !self.up
    }

    fn handshake_failed(&self, what: &str) -> LinkError {
        let peer = self.peer.as_ref().map_or("", NodeName::as_str);
        // A node that does not know our key answers with METAKEY, the legacy handshake.
        if self.outgoing && self.input.starts_with(b"1 ") {
            return LinkError::Incompatible(format!(
                "{peer} does not know our Ed25519 key: put our hosts/{} into its hosts/",
                self.local.name
            ));
        }
        LinkError::Misbehaved(format!("handshake with {peer}: {what}"))
    }
}

/// Why we cannot talk to the sender of this ID line, and what to do about it.
fn incompatible(id: &Id) -> Option<String> {
    let Id { name, major, minor } = id;
    match minor {
        _ if !id.is_our_protocol() => Some(format!(
            "{name} speaks protocol {major}.{minor} and we 17.7: install a version that fits"
        )),
        0 => Some(format!(
            "{name} speaks only the legacy protocol (17.0): not supported yet"
        )),
        1 => Some(format!(
            "{name} does not know our Ed25519 key (17.1): put our host file into its hosts/"
        )),
        _ => None,
    }
}

const _: () = assert!(MAX_LINE < MAX_PREAUTH);
