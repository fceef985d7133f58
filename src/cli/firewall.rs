//! `meshctl firewall`: prints rules that admit only the peers of the host files, and verifies this machine's firewall.

mod inner;
mod name;
mod nft;
mod rules;

use std::{collections::BTreeSet, net::IpAddr, process::Command};

use serde::Serialize;
use serde_json::Value;

use meshd_api::call;
use meshd_config::{Config, Source};
use meshd_os::{clock, netlink};

use crate::{
    Exit, Failure, Outcome,
    args::{Format, Tool},
    context::{self, Context},
    output::{self, Frame},
};

use inner::{Case, Inner};
use nft::{Fate, Packet};
use rules::Plan;

/// Result of a check of the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FirewallVerdict {
    /// The port is open, for all or for the given peer.
    Open(String),
    /// The port is closed by this rule.
    Closed(String),
    /// A rule that meshctl cannot evaluate decides.
    Unsure(String),
    /// The rules are not readable, for this reason.
    Nothing(String),
}

/// Checks whether UDP and TCP to our port are admitted, from an address if one is known.
pub(super) fn inspect(from: Option<IpAddr>, port: u16) -> FirewallVerdict {
    match ruleset() {
        Ok(ruleset) => seen(&ruleset, from, port),
        Err(why) => FirewallVerdict::Nothing(why),
    }
}

fn seen(ruleset: &Value, from: Option<IpAddr>, port: u16) -> FirewallVerdict {
    let sources = from.map_or_else(String::new, |from| format!(" from {from}"));
    // A packet usually arrives at the interface that its answer leaves by.
    let route = from.and_then(|from| netlink::route_now(from).ok());
    let interface = route.as_ref().map(|route| route.interface.as_str());
    for protocol in ["udp", "tcp"] {
        let packet = Packet {
            protocol,
            port,
            from,
            interface,
        };
        match nft::fate(ruleset, packet) {
            Fate::Accepted => {}
            Fate::Dropped(rule) => {
                return FirewallVerdict::Closed(format!(
                    "{port}/{protocol}{sources} is closed here: {rule}"
                ));
            }
            Fate::Unknown(rule) => {
                return FirewallVerdict::Unsure(format!(
                    "{port}/{protocol}{sources}: not known, {rule} decides"
                ));
            }
        }
    }
    FirewallVerdict::Open(format!(
        "{port}/udp and {port}/tcp{sources} are open here (nft)"
    ))
}

/// Returns the rules that nft prints. They include those of ufw, firewalld and iptables.
fn ruleset() -> Result<Value, String> {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let output = output.map_err(|error| format!("cannot run nft: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("nft fails");
        return Err(format!("{first}; try it with sudo"));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("nft did not print JSON: {error}"))
}

/// One row of `--verify`: a peer.
#[derive(Debug, Serialize)]
struct Row {
    node: String,
    address: IpAddr,
    /// The service of an Allow line, for traffic from the mesh; null: our own port.
    service: Option<String>,
    /// True if the service should be open.
    wanted: bool,
    /// Null: unknown.
    open: Option<bool>,
    text: String,
}

/// Returns exit code 1 if `verify` finds a blocked peer.
pub(super) fn run(context: &Context, tool: Tool, verify: bool) -> Outcome {
    let (config, device) = in_force(context)?;
    let today = config.settings.at(clock::unix());
    let peers = peers(&config);
    let device = device.or_else(|| config.shell.interface.clone());
    if device.is_none() && !config.shell.allow.is_empty() {
        output::complain(
            "the rules omit the Allow lines, because the mesh device is unknown; write `Interface = NAME` into the main file",
        );
    }
    let plan = Plan {
        name: match &config.source.net {
            Some(net) => net.clone(),
            None => config.settings.name.to_string(),
        },
        port: config.settings.port,
        interface: interface(&config, &peers),
        addresses: peers.iter().map(|(_, address)| *address).collect(),
        inner: device.and_then(|device| Inner::new(&config, &today.hosts, &device)),
    };
    let known: BTreeSet<&str> = peers.iter().map(|(name, _)| name.as_str()).collect();
    let hosts = config.settings.hosts.keys();
    let unknown = hosts
        .map(|name| name.as_str())
        .filter(|name| !known.contains(name));
    let unknown: Vec<&str> = unknown.collect();
    if !unknown.is_empty() {
        output::complain(&format!(
            "no numeric Address in the host files of {}: these rules block their links to this node; write one, or add rules for them",
            unknown.join(", ")
        ));
    }
    if verify {
        let cases = plan.inner.as_ref().map(|inner| inner.cases(&today.hosts));
        return check(
            context,
            &config,
            &plan,
            (&peers, &cases.unwrap_or_default()),
        );
    }
    if plan.addresses.is_empty() {
        let text = "no host file has a numeric Address: rules would admit no peer; `meshctl check` shows the files";
        return Err(Failure::new(Exit::Refused, text));
    }
    output::print(|out| write!(out, "{}", plan.text(tool)))?;
    Ok(Exit::Fine)
}

/// Returns the configuration that `--config` names, else that of the daemon or net, and the daemon's device.
fn in_force(context: &Context) -> Result<(Config, Option<String>), Failure> {
    let mut device = None;
    let source = match context.offline() {
        true => context.source(None)?,
        false => match context.ask(call::Status {}) {
            Ok(answer) => {
                device = answer.response.interface;
                Source {
                    base: answer.response.config.into(),
                    net: answer.net,
                    ..Source::default()
                }
            }
            Err(failure) if failure.exit == Exit::NotRunning => context.source(None)?,
            Err(failure) => return Err(failure),
        },
    };
    Ok((context::load(&source)?, device))
}

/// Each numeric Address of each host file.
fn peers(config: &Config) -> Vec<(String, IpAddr)> {
    let mut all = Vec::new();
    for (name, host) in &config.settings.hosts {
        for address in &host.addresses {
            if let Ok(ip) = address.host.parse::<IpAddr>() {
                all.push((name.to_string(), ip.to_canonical()));
            }
        }
    }
    all.dedup();
    all
}

/// Returns the interface of BindToInterface, or the one by which the kernel reaches all peers.
fn interface(config: &Config, peers: &[(String, IpAddr)]) -> Option<String> {
    if let Some(bound) = &config.shell.bind_to_interface {
        return Some(bound.clone());
    }
    let names = peers
        .iter()
        .map(|(_, address)| Some(netlink::route_now(*address).ok()?.interface));
    let names: Option<BTreeSet<String>> = names.collect();
    let mut names = names?.into_iter();
    names
        .next()
        .filter(|name| names.next().is_none() && name != "lo")
}

/// Checks that an allowed service of a node is open, and another one closed.
fn inner_row(ruleset: &Value, case: &Case, device: Option<&str>) -> Row {
    let service = format!("{}/{}", case.protocol, case.port);
    let packet = Packet {
        protocol: case.protocol,
        port: case.port,
        from: Some(case.address),
        interface: device,
    };
    let from = format!("{service} from {} of the mesh", case.address);
    let (open, text) = match (nft::fate(ruleset, packet), case.wanted) {
        (Fate::Accepted, true) => (Some(true), format!("{from} is open here (nft)")),
        (Fate::Accepted, false) => (
            Some(true),
            format!(
                "{from} is open here, but no Allow admits it: load what `meshctl firewall` prints"
            ),
        ),
        (Fate::Dropped(rule), true) => (
            Some(false),
            format!("{from} is closed here, but Allow admits it: {rule}"),
        ),
        (Fate::Dropped(rule), false) => (Some(false), format!("{from} is closed here: {rule}")),
        (Fate::Unknown(rule), _) => (None, format!("{from}: not known, {rule} decides")),
    };
    Row {
        node: case.node.to_string(),
        address: case.address,
        service: Some(service),
        wanted: case.wanted,
        open,
        text,
    }
}

fn check(
    context: &Context,
    config: &Config,
    plan: &Plan,
    (peers, cases): (&[(String, IpAddr)], &[Case]),
) -> Outcome {
    let ruleset = ruleset().map_err(|why| {
        Failure::new(
            Exit::Permission,
            format!("cannot check the firewall: {why}"),
        )
    })?;
    let mut rows: Vec<Row> = peers
        .iter()
        .map(|(node, address)| {
            let (open, text) = match seen(&ruleset, Some(*address), plan.port) {
                FirewallVerdict::Open(text) => (Some(true), text),
                FirewallVerdict::Closed(text) => (Some(false), text),
                FirewallVerdict::Unsure(text) | FirewallVerdict::Nothing(text) => (None, text),
            };
            Row {
                node: node.clone(),
                address: *address,
                service: None,
                wanted: true,
                open,
                text,
            }
        })
        .collect();
    let device = plan.inner.as_ref().map(|inner| inner.interface.as_str());
    rows.extend(cases.iter().map(|case| inner_row(&ruleset, case, device)));
    let time = clock::rfc3339(clock::wall());
    let frame = Frame {
        net: config.source.net.as_deref(),
        node: Some(config.settings.name.as_str()),
        time: &time,
    };
    match context.format {
        Format::Json => {
            output::json("firewall", &frame, &rows)?;
        }
        Format::Table | Format::Tsv => output::print(|out| {
            rows.iter().try_for_each(|row| {
                let mark = match row.open {
                    Some(true) => "open",
                    Some(false) => "closed",
                    None => "unknown",
                };
                writeln!(out, "{mark}\t{}\t{}", row.node, row.text)
            })
        })?,
    }
    Ok(match rows.iter().any(|row| row.open == Some(!row.wanted)) {
        true => Exit::Negative,
        false => Exit::Fine,
    })
}
