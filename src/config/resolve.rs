//! Converts merged lines to typed settings. Defaults are those of the table, which are tinc 1.1's.
//!
//! Source: config/tinc.md section 2.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use meshd_crypto::PrivateKey;
use meshd_proto::{
    mesh::{
        Settings,
        settings::{Host, MinProtocol},
    },
    route::Mode,
};
use meshd_wire::{NodeName, Options};

use crate::{
    Config, DeviceType, Problem, Shell, Source,
    allow::{Allow, Whom},
    legacy,
    merged::{Entry, Tree},
    reader::Reader,
    secrets::{Secrets, check_own_keys, secrets},
    shell,
    vars::{Field, VARS, Var},
};

/// PingInterval for a value below 1, in seconds.
const PING_NEVER: u64 = 86_400;

/// Reads the fields of all rows.
fn read_fields<T: 'static>(
    reader: &mut Reader<'_>,
    to: &mut T,
    field: impl Fn(&Var) -> Option<Field<T>>,
) {
    for var in VARS {
        if let Some(field) = field(var) {
            (field.read)(reader, var.name, to);
        }
    }
}

/// Returns the settings; `None` without a name or key. Adds every error to `problems`.
pub(super) fn build(
    source: &Source,
    tree: &Tree,
    name: Option<NodeName>,
    hosts: BTreeMap<NodeName, Arc<Host>>,
    last: Option<&Config>,
    problems: &mut Vec<Problem>,
) -> Option<(Settings, Shell)> {
    let mut reader = Reader::new(tree);
    let experimental = reader.boolean("ExperimentalProtocol");
    let secrets = secrets(source, tree, last, experimental, &mut reader.problems);
    if let (Some(name), Some(secrets)) = (&name, &secrets) {
        check_own_keys(source, name, secrets, tree, &mut reader.problems);
    }
    let usable = name.is_some() && secrets.is_some();
    // Without a name or key the other lines are read all the same, for their problems.
    let key = secrets.as_ref().map(|secrets| Arc::clone(&secrets.key));
    let key = key.unwrap_or_else(|| Arc::new(PrivateKey::from_seed(&[0; 32])));
    let mut settings = Settings::new(name.clone()?, key);
    read_fields(&mut reader, &mut settings, |var| var.mesh);
    let mut shell = Shell::default();
    read_fields(&mut reader, &mut shell, |var| var.shell);
    choose_device(&mut reader, settings.route.mode, &mut shell);
    check_allow(&mut reader, name.as_ref(), &hosts, settings.route.mode);
    join(&mut reader, &mut settings, secrets, hosts);
    settings.port = shell.port;
    shell::join(source, &mut reader, &mut shell, settings.options);
    problems.append(&mut reader.problems);
    usable.then_some((settings, shell))
}

/// Chooses the kind of device by the mode. Refuses combinations that would change the meaning of the file.
fn choose_device(reader: &mut Reader<'_>, mode: Mode, shell: &mut Shell) {
    let Some(entry) = reader.tree.first("DeviceType") else {
        shell.device_type = match mode {
            Mode::Router => DeviceType::Tun,
            Mode::Switch | Mode::Hub => DeviceType::Tap,
        };
        return;
    };
    if shell.device_type == DeviceType::Tun && mode != Mode::Router {
        let text =
            "Mode = switch and hub need frames, which a tun device lacks; use DeviceType = tap";
        reader.problems.push(entry.error(text));
    }
}

/// Refuses rules in modes where an address has no owner, and warns of rules that match no node.
fn check_allow(
    reader: &mut Reader<'_>,
    own: Option<&NodeName>,
    hosts: &BTreeMap<NodeName, Arc<Host>>,
    mode: Mode,
) {
    for entry in reader.tree.all("Allow") {
        if mode != Mode::Router {
            let text =
                "Allow needs Mode = router, because addresses in frames have no owner; remove it";
            reader.problems.push(entry.error(text));
            continue;
        }
        let Ok(Allow { from, .. }) = Allow::parse(&entry.value) else {
            continue;
        };
        let no_node = !hosts.iter().any(|(name, host)| from.means(name, host));
        let text = match &from {
            _ if !no_node => continue,
            Whom::All => continue,
            Whom::Node(node) if Some(node) == own => {
                "this rule names our own node; remove it".into()
            }
            Whom::Node(node) => {
                format!("there is no usable hosts/{node}, so this rule has no effect")
            }
            Whom::Label(..) => {
                format!("no host file has the label {from}, so this rule has no effect")
            }
        };
        reader.problems.push(entry.warning(text));
    }
}

/// Reads the settings that depend on files or on several variables.
fn join(
    reader: &mut Reader<'_>,
    settings: &mut Settings,
    secrets: Option<Secrets>,
    hosts: BTreeMap<NodeName, Arc<Host>>,
) {
    let tcp_only = settings.options.has(Options::TCP_ONLY);
    let discovery = reader.boolean("PMTUDiscovery").unwrap_or(!tcp_only);
    settings.options.0 &= !Options::PMTU_DISCOVERY;
    for (bit, on) in [
        (Options::INDIRECT, tcp_only),
        (Options::PMTU_DISCOVERY, discovery),
    ] {
        settings.options.0 |= if on { bit } else { 0 };
    }
    let is_strict = |entry: &Entry| entry.value.eq_ignore_ascii_case("strict");
    let strict = reader.tree.first("SubnetPolicy").is_some_and(is_strict);
    settings.strict_subnets |= settings.route.tunnel_server || strict;
    (settings.ping_interval, settings.ping_timeout) = pings(reader);
    settings.has_address = reader.tree.first("Address").is_some();
    settings.connect_to = connect_to(reader, &settings.name, &hosts);
    settings.suite = legacy::suite(reader);
    settings.hosts = hosts;
    if let Some(secrets) = secrets {
        settings.sptps = secrets.sptps;
        settings.rsa = secrets.rsa;
        settings.secret = secrets.native;
        settings.psk = secrets.psk;
        check_protocols(reader, settings);
    }
}

/// Limits what this node offers to the keys that it has, and refuses a MinProtocol that it does not speak.
fn check_protocols(reader: &mut Reader<'_>, settings: &mut Settings) {
    settings.native &= settings.sptps;
    if !settings.sptps {
        settings.options = settings.options.with_minor(0);
    }
    let text = match settings.min_protocol {
        Some(MinProtocol::Native) if !settings.native => {
            "MinProtocol = native needs Native = yes, otherwise no link is possible"
        }
        Some(MinProtocol::Sptps) if !settings.sptps => {
            "MinProtocol = sptps needs our Ed25519 key and ExperimentalProtocol = yes, otherwise no link is possible"
        }
        _ => return,
    };
    if let Some(entry) = reader.tree.first("MinProtocol") {
        reader.problems.push(entry.error(text));
    }
}

/// PingInterval below 1 means never; PingTimeout is 1 to PingInterval, else PingInterval.
fn pings(reader: &mut Reader<'_>) -> (Duration, Duration) {
    let seconds = |n: i32| u64::try_from(n).ok().filter(|n| *n > 0);
    let interval = seconds(reader.number("PingInterval", i32::MIN, i32::MAX)).unwrap_or(PING_NEVER);
    let timeout = seconds(reader.number("PingTimeout", i32::MIN, i32::MAX));
    let fits = timeout.filter(|t| *t <= interval);
    if let (None, Some(entry)) = (fits, reader.tree.first("PingTimeout")) {
        let text = format!("PingTimeout must be 1 to PingInterval; meshd uses {interval}");
        reader.problems.push(entry.warning(text));
    }
    let timeout = fits.unwrap_or(interval);
    (Duration::from_secs(interval), Duration::from_secs(timeout))
}

/// Reports and skips invalid names and names without a host file. Skips our own name.
fn connect_to(
    reader: &mut Reader<'_>,
    own: &NodeName,
    hosts: &BTreeMap<NodeName, Arc<Host>>,
) -> Vec<NodeName> {
    let mut names = Vec::new();
    for entry in reader.tree.all("ConnectTo") {
        let name = match NodeName::new(&entry.value) {
            Ok(name) => name,
            Err(error) => {
                reader
                    .problems
                    .push(entry.warning(format!("{error}; the line is ignored")));
                continue;
            }
        };
        if name == *own || names.contains(&name) {
            continue;
        }
        let text = match hosts.get(&name) {
            None => Some(format!(
                "there is no usable hosts/{name}; copy it from that node"
            )),
            Some(host) if host.key.is_none() && host.rsa.is_none() => Some(format!(
                "hosts/{name} has no public key, so no link is possible"
            )),
            Some(host) if host.addresses.is_empty() => {
                Some(format!("hosts/{name} has no Address to dial"))
            }
            Some(_) => None,
        };
        reader.problems.extend(text.map(|text| entry.warning(text)));
        names.push(name);
    }
    names
}
