//! Fields that no form describes: keys, sockets, and the options that this node announces.

use std::net::SocketAddr;

use meshd_crypto::noise::StaticSecret;
use meshd_proto::mesh::{Settings, settings::Host};

use super::{field::Field, print::Print};
use crate::Shell;

/// The Ed25519 key of this node: its public half is compared and printed.
pub(super) const ED25519_KEY: Option<Field<Settings>> = Some(Field {
    read: |_, _, _| (),
    print: |from| from.key.public().print(),
    same: |a, b| a.key.public() == b.key.public(),
    copy: |from, to| to.key = from.key.clone(),
});

/// The RSA key of this node: its public half is compared.
pub(super) const RSA_KEY: Option<Field<Settings>> = Some(Field {
    read: |_, _, _| (),
    print: |_| Vec::new(),
    same: |a, b| {
        let public = |settings: &Settings| settings.rsa.as_ref().map(|key| key.public());
        public(a) == public(b)
    },
    copy: |from, to| to.rsa = from.rsa.clone(),
});

/// The native key of this node. A key that is derived from the Ed25519 key is not printed, and changes only with that.
pub(super) const NATIVE_KEY: Option<Field<Settings>> = Some(Field {
    read: |_, _, _| (),
    print: |from| match is_derived(from) {
        true => Vec::new(),
        false => from.secret.public().print(),
    },
    same: |a, b| is_derived(a) && is_derived(b) || a.secret.public() == b.secret.public(),
    copy: |from, to| to.secret = from.secret.clone(),
});

fn is_derived(settings: &Settings) -> bool {
    StaticSecret::of(&settings.key).public() == settings.secret.public()
}

/// The Ed25519 key of another node, or the reason why it is unreadable.
pub(super) const HOST_KEY: Option<Field<Host>> = Some(Field {
    read: |_, _, _| (),
    print: |from| from.key.print(),
    same: |a, b| (&a.key, &a.bad_key) == (&b.key, &b.bad_key),
    copy: |from, to| {
        to.key = from.key;
        to.bad_key = from.bad_key.clone();
    },
});

/// The sockets of BindToAddress. They are in `listen` too.
pub(super) const BOUND: Option<Field<Shell>> = Some(Field {
    read: |_, _, _| (),
    print: |from| from.bound.print(),
    same: |a, b| (&a.bound, &a.bind) == (&b.bound, &b.bind),
    copy: |from, to| {
        to.bound = from.bound.clone();
        to.bind = from.bind.clone();
        to.listen = from.listen.clone();
    },
});

/// The sockets of ListenAddress.
pub(super) const LISTEN: Option<Field<Shell>> = Some(Field {
    read: |_, _, _| (),
    print: |from| only_listened(from).print(),
    same: |a, b| only_listened(a) == only_listened(b),
    copy: |from, to| to.listen = from.listen.clone(),
});

fn only_listened(shell: &Shell) -> Vec<SocketAddr> {
    let others = shell
        .listen
        .iter()
        .filter(|addr| !shell.bound.contains(addr));
    others.copied().collect()
}
