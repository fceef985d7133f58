//! The rows, by topic, in the order of their TOML tables.

mod control;
mod hosts;
mod node;
mod packets;
mod process;

use super::{
    Honoured, InHosts, Kind, Place, Reload, TomlKey, Var, Version,
    field::{bit, checked, field, hidden, joint},
    special::{BOUND, ED25519_KEY, HOST_KEY, LISTEN, NATIVE_KEY, RSA_KEY},
};
use crate::toml::keys::Form;

/// All variables.
pub const VARS: &[Var] = &{
    const PARTS: [&[Var]; 5] = [
        &hosts::HOSTS,
        &node::NODE,
        &control::CONTROL,
        &packets::PACKETS,
        &process::PROCESS,
    ];
    const COUNT: usize = hosts::HOSTS.len()
        + node::NODE.len()
        + control::CONTROL.len()
        + packets::PACKETS.len()
        + process::PROCESS.len();
    let mut all = [ROW; COUNT];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut row = 0;
        while row < PARTS[part].len() {
            all[at] = PARTS[part][row];
            at += 1;
            row += 1;
        }
        part += 1;
    }
    all
};

/// The columns that a row leaves out.
const ROW: Var = Var {
    name: "",
    place: Place::Server,
    version: Version::All,
    kind: Kind::Text,
    default: "",
    example: "",
    multiple: false,
    reload: Reload::Restart,
    safe: false,
    guards: false,
    restricts: false,
    in_hosts: InHosts::Read,
    hidden: false,
    honoured: Honoured::Yes,
    help: "",
    toml: None,
    toml_host: None,
    mesh: None,
    shell: None,
    host: None,
};

const fn key(table: &'static str, name: &'static str, form: Form) -> Option<TomlKey> {
    Some(TomlKey { table, name, form })
}

/// Names that the rows use.
mod prelude {
    pub(super) use meshd_wire::Subnet;

    pub(super) use super::{
        super::{
            Honoured::{NoEffect, NotYet},
            Ignoring::{Safe, Unsafe},
            InHosts::{NamesSecret, RunsPrograms},
            Kind::*,
            Place::{Both, Host},
            Reload::*,
            Var,
            Version::*,
        },
        BOUND, ED25519_KEY, HOST_KEY, LISTEN, NATIVE_KEY, ROW, RSA_KEY, bit, checked, field,
        hidden, joint, key,
    };
    pub(super) use crate::{allow::Allow, keys, toml::keys::Form, values};
}
