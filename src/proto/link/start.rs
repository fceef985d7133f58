//! The start of a link: reads the ID line, chooses the dialect, and begins its handshake.

use std::mem;

use bytes::Bytes;

use meshd_crypto::{
    Rng,
    sptps::{Parties, Role, link_label},
};
use meshd_wire::NodeName;

use super::{
    Credentials, Link, LinkError, MAX_LINE, Phase, Upgrade,
    choice::{Speech, put_our_file},
    frame::{Framed, Step},
    hello::{self, Id, Offer, excerpt},
    legacy::{self, Legacy},
    noise::{Native, Terms},
    sptps::Stream,
};

/// The ID line of the other end.
pub(super) struct IdLine {
    pub(super) id: Id,
    /// The line as received, without LF.
    line: Bytes,
}

impl Link {
    /// Reads the ID line. A dialled link goes on; an accepted link needs credentials first. Source:
    /// wire/tinc-1.1.md section 3.1.
    pub(super) fn hello(&mut self) -> Result<Option<Step>, LinkError> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let Some(end) = end.filter(|&end| end <= MAX_LINE) else {
            return match self.input.len() > MAX_LINE {
                true => Err(LinkError::Misbehaved("an ID line without an end".into())),
                false => Ok(None),
            };
        };
        let mut line = self.input.split_to(end + 1).freeze();
        line.truncate(end);
        let id = Id::parse(&line).ok_or_else(|| {
            LinkError::Misbehaved(format!("no ID line of a node: {}", excerpt(&line)))
        })?;
        if self.another == Upgrade::Due {
            self.another = Upgrade::Possible;
        }
        let Phase::Hello(rng, dialled) = mem::replace(&mut self.phase, Phase::Dead) else {
            unreachable!("the caller has looked at the phase");
        };
        self.check_name(&id.name)?;
        let hello = IdLine { id, line };
        match dialled {
            Some(theirs) => self.start(hello, *theirs, rng)?,
            None => self.phase = Phase::Named(rng, Box::new(hello)),
        }
        Ok(Some(Step::Nothing))
    }

    /// Chooses the dialect, and answers the ID line.
    pub(super) fn start(
        &mut self,
        IdLine { id, line }: IdLine,
        theirs: Credentials,
        mut rng: Box<Rng>,
    ) -> Result<(), LinkError> {
        self.peer = Some(id.name.clone());
        if !id.is_our_protocol() {
            return Err(LinkError::Incompatible(other_protocol(&id)));
        }
        let offer = match self.outgoing {
            true => self.offer,
            false => self.local.offer_to(&theirs),
        };
        let speech = self.choose(&id, &theirs, offer)?;
        if !self.outgoing {
            self.write_id(speech.answer(offer));
        }
        let rsa = self.local.rsa.clone().zip(theirs.rsa.clone());
        if let (Speech::Legacy | Speech::Upgrade, Some((own, peer))) = (speech, rsa) {
            let sends_ours = theirs.key.is_some() || theirs.learn;
            let keys = || legacy::Keys {
                own: sends_ours.then(|| self.local.key.public()),
                peer: theirs.key.into_iter().chain(theirs.next).collect(),
            };
            let terms = legacy::Terms {
                outgoing: self.outgoing,
                own,
                peer,
                rng: *rng,
                upgrade: (speech == Speech::Upgrade).then(keys),
            };
            let legacy = Legacy::start(terms, &mut self.output)?;
            self.phase = Phase::Legacy(id.minor, Box::new(legacy));
            return Ok(());
        }
        let native = self.local.native.clone();
        let native = native.filter(|_| speech == Speech::Native);
        let Some(native) = native else {
            let stream = self.start_sptps(&id, &theirs, &mut rng)?;
            self.phase = Phase::Sptps(id.minor, Box::new(Framed::new(stream)));
            return Ok(());
        };
        let terms = Terms {
            outgoing: self.outgoing,
            names: [self.local.name.clone(), id.name],
            ids: [
                hello::line(&self.local.name, Offer::Native).into_bytes(),
                line.to_vec(),
            ],
            secret: native.secret,
            peers: theirs.native,
            psk: theirs.psk,
            aeads: native.aeads,
            rng: *rng,
        };
        let native = Native::start(terms, &mut self.output)?;
        self.phase = Phase::Native(id.minor, Box::new(native));
        Ok(())
    }

    pub(super) fn write_id(&mut self, offer: Offer) {
        let id = hello::line(&self.local.name, offer);
        self.output.extend_from_slice(id.as_bytes());
        self.output.extend_from_slice(b"\n");
    }

    fn start_sptps(
        &mut self,
        id: &Id,
        theirs: &Credentials,
        rng: &mut Rng,
    ) -> Result<Stream, LinkError> {
        let peer_key = theirs.key.ok_or_else(|| {
            LinkError::Incompatible(format!("no Ed25519PublicKey in hosts/{}", id.name))
        })?;
        let (role, label) = match self.outgoing {
            true => (Role::Initiator, link_label(&self.local.name, &id.name)),
            false => (Role::Responder, link_label(&id.name, &self.local.name)),
        };
        let parties = Parties {
            role,
            key: self.local.key.clone(),
            peer_key,
            next_key: theirs.next,
            label,
        };
        Ok(Stream::start(parties, rng, &mut self.output))
    }

    /// Checks that this name may be the other end's.
    fn check_name(&self, name: &NodeName) -> Result<(), LinkError> {
        match &self.peer {
            Some(dialled) if dialled != name => Err(LinkError::Misbehaved(format!(
                "{name} answered where {dialled} was called: check the Address in hosts/{dialled}"
            ))),
            None if *name == self.local.name => Err(LinkError::Misbehaved(format!(
                "somebody calls itself {name} like us: give one of the two another Name"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn is_in_handshake(&self) -> bool {
        !self.up
            && !matches!(
                self.phase,
                Phase::Hello(..) | Phase::Named(..) | Phase::Dead
            )
    }

    pub(super) fn handshake_failed(&mut self, what: &str) -> LinkError {
        let peer = self.peer.as_ref().map_or("", NodeName::as_str);
        // A node that does not know our key answers with METAKEY, the legacy handshake.
        if self.outgoing && self.input.starts_with(b"1 ") {
            if self.another == Upgrade::Possible {
                self.another = Upgrade::Due;
            }
            return LinkError::Incompatible(format!(
                "{peer} does not know our Ed25519 key: {}",
                put_our_file(&self.local.name)
            ));
        }
        LinkError::Misbehaved(format!("handshake with {peer}: {what}"))
    }
}

/// Explains why we cannot talk to the sender of this ID line, with the remedy.
fn other_protocol(id: &Id) -> String {
    let Id {
        name, major, minor, ..
    } = id;
    format!("{name} speaks protocol {major}.{minor} and we 17.7: install a version that fits")
}
