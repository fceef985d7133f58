//! Choice of the dialect between two nodes, from their ID lines and their keys of each other.
//! Source: wire/tinc-1.1.md sections 3.1 and 3.4, proto/threat-model.md section 2.3.
//!
//! UPGRADE is for a tinc 1.1 and meshd if one of them has no Ed25519 key of the other. Each end
//! proves its RSA key and sends its Ed25519 key. Then the link ends, so that the next link may
//! speak SPTPS. A tinc 1.1 that has stored our key speaks nothing less with us. So we send our key
//! only to a node whose key we know or may store.

use meshd_wire::NodeName;

use crate::link::{
    Credentials, Link, LinkError, Phase,
    hello::{Id, Offer},
    identity::Upgrade,
};

/// Lowest protocol minor that has SPTPS. Source: wire/tinc-1.1.md section 3.1.
const SPTPS_MINOR: u8 = 2;

/// Protocol behind the ID lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Legacy,
    /// The legacy handshake, then Ed25519 keys only.
    Upgrade,
    Sptps,
    Native,
}

impl Speech {
    /// Returns the offer in our ID line when it answers another ID line.
    pub(super) const fn answer(self, offer: Offer) -> Offer {
        match self {
            Self::Legacy => Offer::Legacy,
            Self::Upgrade => Offer::Upgrade,
            Self::Sptps | Self::Native => offer,
        }
    }
}

impl Link {
    /// Returns the protocol to speak with the sender of this ID line, if `offer` is ours.
    pub(super) fn choose(
        &self,
        id: &Id,
        theirs: &Credentials,
        offer: Offer,
    ) -> Result<Speech, LinkError> {
        let incompatible = |why: String| Err(LinkError::Incompatible(why));
        let rsa = self.local.rsa.is_some() && theirs.rsa.is_some();
        let upgrade = rsa && self.local.sptps && theirs.upgrade != Upgrade::No;
        let speech = match offer {
            _ if id.minor == 0 => Speech::Legacy,
            Offer::Sptps | Offer::Native if id.minor >= SPTPS_MINOR => {
                match self.local.native.is_some() && id.native {
                    true => Speech::Native,
                    false => Speech::Sptps,
                }
            }
            // The other end knows our key and would refuse less.
            Offer::Legacy if upgrade && !self.outgoing && id.minor >= SPTPS_MINOR => {
                Speech::Upgrade
            }
            Offer::Legacy => Speech::Legacy,
            _ if upgrade => Speech::Upgrade,
            _ => Speech::Legacy,
        };
        if theirs.native_only && speech != Speech::Native {
            return incompatible(self.refused_sptps(id));
        }
        if speech == Speech::Legacy && !(rsa && theirs.legacy) {
            return incompatible(self.refused_legacy(id, theirs));
        }
        Ok(speech)
    }

    /// Returns the error of a handshake that took too long.
    pub(super) fn timed_out(&self) -> LinkError {
        let seconds = self.auth_timeout.as_secs();
        let refused = format!(
            "no answer to legacy (17.0) within {seconds} s: a tinc 1.1 that has an Ed25519 key in its hosts/{} refuses it",
            self.local.name
        );
        match self.phase {
            Phase::Hello(..) if self.outgoing && self.offer == Offer::Legacy => {
                LinkError::Incompatible(refused)
            }
            // The ID line of the other end offered more.
            Phase::Legacy(SPTPS_MINOR.., _) if !self.outgoing => LinkError::Stranger(refused),
            _ => LinkError::AuthTimeout(seconds),
        }
    }

    /// Explains why a node that must speak native may not speak SPTPS, with the remedy. The text is
    /// short, because logs cut long reasons.
    fn refused_sptps(&self, id: &Id) -> String {
        let Id { name, native, .. } = id;
        match native {
            true => format!(
                "MinProtocol = native for {name}, but we have Native = no: change one of them"
            ),
            false => format!(
                "MinProtocol = native, but {name} offers no native link: upgrade it, or set sptps in hosts/{name}"
            ),
        }
    }

    /// Explains why legacy may not be spoken with a node, with the remedy.
    fn refused_legacy(&self, id: &Id, theirs: &Credentials) -> String {
        let Id { name, minor, .. } = id;
        match (minor, theirs.key) {
            (1, Some(_)) => format!(
                "{name} does not know our Ed25519 key (17.1): {}",
                put_our_file(&self.local.name)
            ),
            (_, Some(_)) if self.local.rsa.is_some() => format!(
                "{name} speaks only the legacy protocol: if that is right, its RSA key and MinProtocol = legacy in hosts/{name} allow it"
            ),
            (_, Some(_)) => format!(
                "{name} speaks only the legacy protocol (17.0), and we have no RSA key: see PrivateKeyFile"
            ),
            (_, None) => format!("hosts/{name} has no key that we could use with our own keys"),
        }
    }
}

/// Remedy for a node that does not know our key.
pub(super) fn put_our_file(our_name: &NodeName) -> String {
    format!("put our hosts/{our_name} into its hosts/")
}
