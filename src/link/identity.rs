//! Who we are and whom we let in: what a link is made with.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{
    crypto::{
        PrivateKey, PublicKey,
        noise::{StaticPublic, StaticSecret},
        seal::Aeads,
    },
    wire::NodeName,
};

/// Our own side of every link.
pub struct Identity {
    /// Our name.
    pub name: NodeName,
    /// Our private key.
    pub key: Arc<PrivateKey>,
    /// What native links need; `None` if we do not offer them.
    pub native: Option<NativeIdentity>,
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
    pub key: PublicKey,
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
            key,
            next: None,
            native: vec![StaticPublic::of(&key)],
            native_only: false,
            psk: Zeroizing::default(),
        }
    }
}

/// Where an accepting link finds what it must know of the name that a stranger claims.
pub trait Keyring {
    /// The credentials of `name`; `None` if there is no such node, or no key of it.
    fn credentials(&self, name: &NodeName) -> Option<Credentials>;
}
