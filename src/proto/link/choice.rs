//! What two nodes speak, by their ID lines and what each knows of the other. Source:
//! wire/tinc-1.1.md sections 3.1 and 3.4, proto/threat-model.md section 2.3.
//!
//! UPGRADE is for a tinc 1.1 and us where one has no Ed25519 key of the other: each proves its RSA key and tells its
//! Ed25519 key, and the link ends, so that the next one may speak SPTPS. From then on a tinc 1.1 speaks nothing less
//! with us, so we tell ours only where we can do so too: to a node whose key we know, or store.

use meshd_wire::NodeName;

use crate::link::{
    Credentials, Link, LinkError, Phase,
    hello::{Id, Offer},
    identity::Upgrade,
};

/// Lowest minor version that speaks SPTPS. Source: wire/tinc-1.1.md section 3.1.
const SPTPS_MINOR: u8 = 2;

/// What is spoken behind the ID lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Legacy,
    /// The legacy handshake, then Ed25519 keys and nothing else.
    Upgrade,
    Sptps,
    Native,
}

impl Speech {
    /// What an ID line says that answers another.
    pub(super) const fn answer(self, offer: Offer) -> Offer {
        match self {
            Self::Legacy => Offer::Legacy,
            Self::Upgrade => Offer::Upgrade,
            Self::Sptps | Self::Native => offer,
        }
    }
}

impl Link {
    /// What is spoken with the sender of this ID line, if we had offered `offer` or would.
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
            // It knows our key and would refuse less.
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

    /// Why a handshake takes so long.
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
            // Its ID line offered more.
            Phase::Legacy(SPTPS_MINOR.., _) if !self.outgoing => LinkError::Stranger(refused),
            _ => LinkError::AuthTimeout(seconds),
        }
    }

    /// Why a node that must speak native may not speak SPTPS, and what to do about it. Short: logs cut
    /// long reasons.
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

    /// Why a node may not speak legacy, or we cannot, and what to do about it.
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

/// What to do where a node does not know our key.
pub(super) fn put_our_file(our_name: &NodeName) -> String {
    format!("put our hosts/{our_name} into its hosts/")
}
