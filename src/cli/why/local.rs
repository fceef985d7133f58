//! Facts of this machine: the files and the kernel's routes.

use std::net::IpAddr;

use meshd_api::{proto::SubnetRow, report::NodeReport, rows::PeerRow};
use meshd_config::{Config, Source, vars::nearness};
use meshd_diagnose::{
    Here,
    why::{Disk, Firewall, Kernel, PathFacts, Target, There, World},
};
use meshd_os::{clock, netlink};
use meshd_proto::mesh::reports::facts::HostFile;
use meshd_wire::{NodeName, Prefix, Subnet};

use crate::{
    Failure,
    context::{self, Context},
    hosts,
};

/// The files of a configuration, without a daemon.
pub(super) struct Files {
    pub(super) config: Config,
    pub(super) world: World,
}

impl Files {
    pub(super) fn open(context: &Context) -> Result<Self, Failure> {
        let source = context.source(None)?;
        let config = context::load(&source)?;
        let settings = &config.settings;
        let own = settings.name.to_string();
        let mut all: Vec<(Subnet, &str)> = settings
            .subnets
            .iter()
            .map(|subnet| (*subnet, own.as_str()))
            .collect();
        for (name, host) in &settings.hosts {
            all.extend(host.subnets.iter().map(|subnet| (*subnet, name.as_str())));
        }
        all.sort();
        let row = |(subnet, owner): &(Subnet, &str)| SubnetRow {
            subnet: subnet.prefix,
            weight: subnet.weight,
            owner: Some((*owner).to_owned()),
            reachable: false,
            active: false,
        };
        let subnets = all.iter().map(row).collect();
        let names = hosts::names(&source)
            .into_iter()
            .filter(|name| *name != own);
        let world = World {
            names: names.collect(),
            own,
            subnets,
            refused: Vec::new(),
            nearness,
        };
        Ok(Self { config, world })
    }

    /// Returns the node of these files.
    pub(super) fn here(&self) -> Here {
        let source = &self.config.source;
        Here {
            node: self.world.own.clone(),
            net: source.net.clone(),
            pid: None,
            main: meshd_config::main_file(source).display().to_string(),
        }
    }

    pub(super) fn facts(&self, target: Target) -> PathFacts {
        PathFacts {
            here: self.here(),
            not_listening: Vec::new(),
            disk: disk(&self.config.source, &target.node),
            target,
            report: None,
            there: There::NotAsked,
            silent_since: None,
            kernel: Kernel::Unchecked("meshd was not asked".into()),
            firewall: Firewall::Unchecked("meshd was not asked".into()),
        }
    }
}

pub(super) fn disk(source: &Source, node: &NodeName) -> Disk {
    let file = hosts::file(source, node);
    let place = |variable| {
        let of_host = meshd_config::place_of(source, Some(node), variable);
        let (file, line, _) = of_host.or_else(|| meshd_config::place_of(source, None, variable))?;
        Some(format!("{}:{line}", file.display()))
    };
    let host = file.as_ref().and_then(|file| {
        meshd_config::load_host(source, node)
            .ok()
            .filter(|_| file.is_ok())
    });
    let addresses = host.iter().flat_map(|host| &host.addresses);
    let subnets = host.iter().flat_map(|host| &host.subnets);
    let now = host.as_ref().and_then(|host| host.at(clock::unix()));
    Disk {
        file,
        shut_out: now.and_then(|host| host.shut_out),
        fingerprint: host.as_ref().and_then(|host| Some(host.key?.fingerprint())),
        addresses: addresses
            .map(|at| format!("{} port {}", at.host, at.port))
            .collect(),
        subnets: subnets.map(|subnet| subnet.prefix).collect(),
        min_place: place("MinProtocol"),
        tcp_only_place: place("TCPOnly"),
    }
}

/// Describes a node that the daemon has not heard of.
pub(super) fn unheard(source: &Source, node: &NodeName) -> NodeReport {
    let file = hosts::file(source, node).and_then(Result::ok);
    let host = meshd_config::load_host(source, node).ok();
    let addresses = host.iter().flat_map(|host| &host.addresses);
    NodeReport {
        peer: PeerRow {
            name: node.to_string(),
            host_file: file.unwrap_or(HostFile::Missing),
            ..PeerRow::default()
        },
        fingerprint: host.as_ref().and_then(|host| Some(host.key?.fingerprint())),
        addresses: addresses
            .map(|at| format!("{} port {}", at.host, at.port))
            .collect(),
        ..NodeReport::default()
    }
}

/// Returns the kernel's route for the target.
pub(super) fn kernel(target: &Target, interface: Option<&str>) -> Kernel {
    let Some(ours) = interface else {
        return Kernel::Unchecked("meshd has no device".into());
    };
    let typed = target
        .asked
        .as_ref()
        .and_then(|asked| asked.parse::<IpAddr>().ok());
    let first = || {
        target
            .subnets
            .iter()
            .find_map(|row| first_address(row.subnet))
    };
    let Some(address) = typed.or_else(first) else {
        return Kernel::Unchecked("there is no address to look up".into());
    };
    let (ours, address_text) = (ours.to_owned(), address.to_string());
    match netlink::route_now(address) {
        Ok(route) => Kernel::To {
            address: address_text,
            interface: route.interface,
            ours,
            source: route.source.map(|source| source.to_string()),
        },
        Err(error) => Kernel::No {
            address: address_text,
            ours,
            why: error.to_string(),
        },
    }
}

/// Returns the address of a host, or the first address of a network.
fn first_address(subnet: Prefix) -> Option<IpAddr> {
    match subnet {
        Prefix::V4(net, 31..) => Some(net.into()),
        Prefix::V4(net, _) => Some(std::net::Ipv4Addr::from_bits(net.to_bits() | 1).into()),
        Prefix::V6(net, 127..) => Some(net.into()),
        Prefix::V6(net, _) => Some(std::net::Ipv6Addr::from_bits(net.to_bits() | 1).into()),
        Prefix::Mac(_) => None,
    }
}
