//! The native handshake on a stream and its state machine. The records after it are in `record`.
//!
//! ```text
//! len(2) | Noise message    message 1 (AEADs that the dialler accepts), message 2 (the one chosen)
//! len(2) | sealed record    READY of the dialler, then anything
//! ```
//! Anybody who has seen message 1 can replay it, so the acceptor is up only after READY. Source:
//! proto/native-link.md sections 2 and 3.1.

use std::{mem, sync::Arc, time::Instant};

use bytes::{Buf, BufMut, BytesMut};
use zeroize::Zeroizing;

use meshd_crypto::{
    Rng,
    aead::TAG,
    noise::{self, Begun, Parties, Purpose, SessionKeys, StaticPublic, StaticSecret},
    seal::{Aead, Aeads, SealKey},
};
use meshd_wire::NodeName;

use crate::link::{
    LinkError,
    frame::{Bulk, Step, misbehaved},
    record::{MAX_BODY, READY_BODY, Session},
};

/// Longest accepted Noise message, in bytes: has room for a post-quantum key exchange. Source:
/// proto/native-link.md section 3.1.
pub(super) const MAX_HANDSHAKE: usize = 2 << 10;
/// Last part of the prologue of a renewal, after both ID lines.
const RENEWAL: &[u8] = b"rekey";
/// Length of the length field.
pub(super) const LENGTH: usize = 2;

/// Knowledge of both ends before the handshake.
pub(super) struct Terms {
    /// True if this node dialled: then the first message is ours.
    pub(super) outgoing: bool,
    /// This node and the other node.
    pub(super) names: [NodeName; 2],
    /// Both ID lines without LF, ours first.
    pub(super) ids: [Vec<u8>; 2],
    pub(super) secret: Arc<StaticSecret>,
    /// Keys that the other node may prove; the handshake addresses the first one.
    pub(super) peers: Vec<StaticPublic>,
    pub(super) psk: Zeroizing<[u8; 32]>,
    pub(super) aeads: Aeads,
    pub(super) rng: Rng,
}

/// Kind of a handshake on a link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    First,
    Renewal,
}

/// Keys from a handshake.
pub(super) struct Keys {
    pub(super) tx: SealKey,
    pub(super) rx: SealKey,
}

impl Keys {
    fn new(aead: Aead, keys: &SessionKeys) -> Self {
        Self {
            tx: SealKey::new(aead, &keys.tx),
            rx: SealKey::new(aead, &keys.rx),
        }
    }
}

impl Terms {
    fn parties<T>(&self, round: Round, with: impl FnOnce(&Parties<'_>) -> T) -> T {
        let [mut names, mut ids] = [[0, 1], [0, 1]];
        if !self.outgoing {
            (names, ids) = ([1, 0], [1, 0]);
        }
        let context: [&[u8]; 3] = [&self.ids[ids[0]], &self.ids[ids[1]], RENEWAL];
        with(&Parties {
            purpose: Purpose::Link,
            initiator: &self.names[names[0]],
            responder: &self.names[names[1]],
            context: match round {
                Round::First => &context[..2],
                Round::Renewal => &context,
            },
            psk: &self.psk,
            secret: &self.secret,
        })
    }

    /// Makes our first message.
    pub(super) fn begin(&mut self, round: Round) -> Result<(Begun, Vec<u8>), LinkError> {
        let mut rng = self.rng.fork();
        let Some(peer) = self.peers.first() else {
            return misbehaved("no key to call it by".into());
        };
        let payload = [self.aeads.0];
        Ok(self.parties(round, |parties| {
            noise::begin(parties, peer, &payload, &mut rng)
        }))
    }

    /// Makes the second message, in answer to a first one.
    pub(super) fn answer(
        &mut self,
        round: Round,
        message: &[u8],
    ) -> Result<(Vec<u8>, Keys), LinkError> {
        let mut rng = self.rng.fork();
        let asked = self.parties(round, |parties| {
            noise::asked(parties, &self.peers, message, &mut rng)
        });
        let Ok((asked, payload)) = asked else {
            return misbehaved("its native keys do not fit: compare the host files of both".into());
        };
        let theirs = payload.first().map_or(Aeads(0), |byte| Aeads(*byte));
        let Some(aead) = self.aeads.best(theirs) else {
            return misbehaved("it accepts no AEAD that we have".into());
        };
        let (message, keys) = asked.answer(&[Aeads::only(aead).0]);
        Ok((message, Keys::new(aead, &keys)))
    }

    /// Makes the keys from the second message.
    pub(super) fn finish(&self, begun: Begun, message: &[u8]) -> Result<Keys, LinkError> {
        let Ok((payload, keys)) = begun.answered(message) else {
            return misbehaved(
                "its native answer does not fit: compare PresharedKeyFile and hosts/ of both"
                    .into(),
            );
        };
        match self.aeads.chosen(&payload) {
            Some(aead) => Ok(Keys::new(aead, &keys)),
            None => misbehaved("it chose an AEAD that we do not accept".into()),
        }
    }
}

/// A native link behind its ID lines.
pub(super) struct Native {
    terms: Terms,
    stage: Stage,
}

enum Stage {
    /// Our first message is sent.
    Begun(Begun),
    /// Expects the first message.
    Listening,
    /// Our second message is sent; expects READY.
    Unproven(Session),
    /// Both ends are authenticated.
    Up(Session),
    /// After an error.
    Failed,
}

impl Native {
    /// Starts the handshake: the dialler appends the first message to `output`.
    pub(super) fn start(mut terms: Terms, output: &mut BytesMut) -> Result<Self, LinkError> {
        let stage = match terms.outgoing {
            true => {
                let (begun, message) = terms.begin(Round::First)?;
                write_clear(&message, output);
                Stage::Begun(begun)
            }
            false => Stage::Listening,
        };
        Ok(Self { terms, stage })
    }

    /// Takes the next item off `input`; `None` until it is complete. Errors are final.
    pub(super) fn read(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        now: Instant,
    ) -> Result<Option<Step>, LinkError> {
        let Some(header) = input.first_chunk::<LENGTH>().copied() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(header));
        let due = match self.stage {
            Stage::Begun(_) | Stage::Listening => 0..=MAX_HANDSHAKE,
            Stage::Unproven(_) => READY_BODY..=READY_BODY,
            Stage::Up(_) => 1 + TAG..=MAX_BODY,
            Stage::Failed => return misbehaved("a record after an error".into()),
        };
        if !due.contains(&length) {
            return misbehaved(format!("a native record of {length} bytes"));
        }
        if input.len() < LENGTH + length {
            return Ok(None);
        }
        input.advance(LENGTH);
        let body = input.split_to(length);
        if let Stage::Up(session) = &mut self.stage {
            return session
                .read(header, body, &mut self.terms, output, now)
                .map(Some);
        }
        let step;
        (self.stage, step) = match mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Begun(begun) => {
                let keys = self.terms.finish(begun, &body)?;
                let mut session = Session::new(keys, now);
                session.write_ready(output)?;
                (Stage::Up(session), Step::Up)
            }
            Stage::Listening => {
                let (message, keys) = self.terms.answer(Round::First, &body)?;
                write_clear(&message, output);
                (Stage::Unproven(Session::new(keys, now)), Step::Nothing)
            }
            Stage::Unproven(mut session) => {
                session.read_ready(header, body)?;
                (Stage::Up(session), Step::Up)
            }
            Stage::Up(_) | Stage::Failed => unreachable!("both have returned"),
        };
        Ok(Some(step))
    }

    /// Appends a request line, at most [`crate::link::MAX_LINE`] bytes without LF.
    pub(super) fn write_line(
        &mut self,
        line: &[u8],
        output: &mut BytesMut,
    ) -> Result<(), LinkError> {
        let Stage::Up(session) = &mut self.stage else {
            return Ok(());
        };
        session.write_line(line, &mut self.terms, output)
    }

    /// Appends a packet. Returns `false` if a peer may not accept its length.
    pub(super) fn write_bulk(
        &mut self,
        bulk: Bulk,
        data: &[u8],
        output: &mut BytesMut,
    ) -> Result<bool, LinkError> {
        match &mut self.stage {
            Stage::Up(session) if bulk.fits(data.len()) => session
                .write_bulk(bulk, data, &mut self.terms, output)
                .map(|()| true),
            _ => Ok(false),
        }
    }

    /// Returns the time at which [`Self::handle_timeout`] is due, if any.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Up(session) => session.renewal_due(&self.terms),
            _ => None,
        }
    }

    /// Starts a renewal of the keys, if it is due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        output: &mut BytesMut,
    ) -> Result<(), LinkError> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        match &mut self.stage {
            Stage::Up(session) => session.renew(&mut self.terms, output),
            _ => Ok(()),
        }
    }

    /// Returns the session, for tests that manipulate it.
    #[cfg(test)]
    pub(super) fn session(&mut self) -> &mut Session {
        match &mut self.stage {
            Stage::Up(session) => session,
            _ => panic!("not up"),
        }
    }
}

fn write_clear(message: &[u8], output: &mut BytesMut) {
    let length = u16::try_from(message.len()).expect("our messages are short");
    output.put_u16(length);
    output.put_slice(message);
}

const _: () = assert!(LENGTH + MAX_HANDSHAKE < crate::link::MAX_PREAUTH);
