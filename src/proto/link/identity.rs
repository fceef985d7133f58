//! Identity of this node and credentials of other nodes: the inputs of a link.

use std::sync::Arc;

use zeroize::Zeroizing;

use meshd_crypto::{
    PrivateKey, PublicKey,
    noise::{StaticPublic, StaticSecret},
    rsa::{RsaPrivate, RsaPublic},
    seal::Aeads,
};
use meshd_wire::NodeName;

use crate::link::hello::Offer;

/// Identity of this node on every link.
pub struct Identity {
    /// Name of this node.
    pub name: NodeName,
    /// Private key of this node.
    pub key: Arc<PrivateKey>,
    /// True if we speak SPTPS and more (ExperimentalProtocol); else legacy only.
    pub sptps: bool,
    /// Our RSA key; without it there are no legacy links.
    pub rsa: Option<Arc<RsaPrivate>>,
    /// Identity for native links; `None` if this node does not offer them.
    pub native: Option<NativeIdentity>,
}

impl Identity {
    /// Returns our offer to a node: legacy only if nothing better is possible.
    pub(super) fn offer_to(&self, theirs: &Credentials) -> Offer {
        let keys = theirs.key.is_some() || !theirs.native.is_empty();
        let upgrade = match theirs.upgrade {
            Upgrade::No => false,
            Upgrade::Possible => !keys && theirs.learn,
            Upgrade::Due => true,
        };
        match &self.native {
            _ if self.sptps && self.rsa.is_some() && theirs.rsa.is_some() && upgrade => {
                Offer::Upgrade
            }
            _ if !(self.sptps && keys) => Offer::Legacy,
            None => Offer::Sptps,
            Some(_) => Offer::Native,
        }
    }
}

/// Identity of this node on every native link.
#[derive(Clone)]
pub struct NativeIdentity {
    /// Our X25519 secret.
    pub secret: Arc<StaticSecret>,
    /// AEADs that we accept.
    pub aeads: Aeads,
}

/// Credentials by which a link authenticates another node.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Ed25519 key of the node (SPTPS).
    pub key: Option<PublicKey>,
    /// RSA key of the node, if it may be used.
    pub rsa: Option<RsaPublic>,
    /// True if legacy may be spoken with the node (MinProtocol).
    pub legacy: bool,
    /// State of UPGRADE with the node: Ed25519 keys sent over a link authenticated by RSA keys.
    pub upgrade: Upgrade,
    /// True if a key received in an UPGRADE is stored (LearnKeys).
    pub learn: bool,
    /// The next Ed25519 key of the node, accepted like `key`.
    pub next: Option<PublicKey>,
    /// X25519 keys of the node (native), each accepted alike. The dialler addresses the first one.
    pub native: Vec<StaticPublic>,
    /// True if the node must speak native (MinProtocol).
    pub native_only: bool,
    /// Preshared key with the node (native); all zero if there is none.
    pub psk: Zeroizing<[u8; 32]>,
}

impl Credentials {
    /// Returns the credentials of a node of which only the Ed25519 key is known.
    #[must_use]
    pub fn of(key: PublicKey) -> Self {
        Self {
            key: Some(key),
            rsa: None,
            legacy: false,
            upgrade: Upgrade::No,
            learn: false,
            next: None,
            native: vec![StaticPublic::of(&key)],
            native_only: false,
            psk: Zeroizing::default(),
        }
    }

    /// Returns true if every key and dialect of these credentials is also allowed by `new`.
    pub(super) fn is_within(&self, new: &Self) -> bool {
        let keys = |of: &Self| [of.key, of.next].into_iter().flatten().collect::<Vec<_>>();
        let kept = keys(self).iter().all(|key| keys(new).contains(key));
        let natives = self.native.iter().all(|key| new.native.contains(key));
        let rsa = self.rsa.is_none() || self.rsa == new.rsa;
        let legacy = !self.legacy || new.legacy;
        let sptps = self.native_only || !new.native_only;
        kept && natives && rsa && legacy && sptps && self.psk == new.psk
    }
}

/// State of UPGRADE between two nodes. Source: wire/tinc-1.1.md section 3.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// No UPGRADE.
    No,
    /// UPGRADE if one node has no key of the other.
    Possible,
    /// This link is dialled for an UPGRADE only.
    Due,
}
