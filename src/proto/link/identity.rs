//! Who we are and whom we let in: what a link is made with.

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

/// Our own side of every link.
pub struct Identity {
    /// Our name.
    pub name: NodeName,
    /// Our private key.
    pub key: Arc<PrivateKey>,
    /// Whether we speak SPTPS and more (ExperimentalProtocol); else nothing but legacy.
    pub sptps: bool,
    /// Our RSA key; without it there are no legacy links.
    pub rsa: Option<Arc<RsaPrivate>>,
    /// What native links need; `None` if we do not offer them.
    pub native: Option<NativeIdentity>,
}

impl Identity {
    /// What we say that we speak to a node: legacy only if there is nothing better in common.
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

/// Our own side of every native link.
#[derive(Clone)]
pub struct NativeIdentity {
    /// Our X25519 secret.
    pub secret: Arc<StaticSecret>,
    /// The AEADs that we accept.
    pub aeads: Aeads,
}

/// What a link must know of a node in order to believe that it is the one.
#[derive(Clone)]
pub struct Credentials {
    /// Its Ed25519 key (SPTPS).
    pub key: Option<PublicKey>,
    /// Its RSA key, if it is of use.
    pub rsa: Option<RsaPublic>,
    /// Whether it may be spoken to in legacy (MinProtocol).
    pub legacy: bool,
    /// Whether Ed25519 keys may be told over a link that RSA keys authenticate.
    pub upgrade: Upgrade,
    /// Whether a key that is told so is stored (LearnKeys).
    pub learn: bool,
    /// The Ed25519 key that it is about to change to, as good as `key`.
    pub next: Option<PublicKey>,
    /// Its X25519 keys (native), each as good as the others. Who dials calls the first one.
    pub native: Vec<StaticPublic>,
    /// Whether it must speak native (MinProtocol).
    pub native_only: bool,
    /// The secret that we share with it besides all keys (native); all zero if there is none.
    pub psk: Zeroizing<[u8; 32]>,
}

impl Credentials {
    /// Those of a node of which nothing but its Ed25519 key is known.
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
}

/// Whether two nodes tell each other their Ed25519 keys. Source: wire/tinc-1.1.md section 3.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// They do not.
    No,
    /// They do where one has no key of the other.
    Possible,
    /// This link is dialled for nothing else.
    Due,
}

/// Where an accepting link finds what it must know of the name that a stranger claims.
pub trait Keyring {
    /// The credentials of `name`; `None` if there is no such node, or no key of it.
    fn credentials(&self, name: &NodeName) -> Option<Credentials>;

    /// Whether there is time for one RSA operation for a stranger now: it costs milliseconds
    /// (T37 of proto/threat-model.md). `known`: it calls from an address of some node.
    fn may_compute(&self, known: bool) -> bool;
}
