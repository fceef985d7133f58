//! Gathers the facts from the daemon, the other end, the files and the kernel.

use std::{net::IpAddr, time::Duration};

use meshd_api::{
    client::{Client, ClientError},
    proto::{Answer, ErrorCode, Request, Response, Status},
};
use meshd_config::{Config, Source};
use meshd_os::{clock, netlink};
use meshd_proto::mesh::reports::{
    path_report::{NodeReport, PathReport},
    view::{HostFile, PathKind, PeerRow, SubnetRow},
};
use meshd_wire::{NodeName, Prefix, Subnet};

use crate::{
    Failure,
    context::{self, Context},
    firewall, hosts,
    why::{
        facts::{Disk, Facts, Firewall, Kernel, There},
        others::End,
        resolve::{Target, World},
    },
};

/// Number of probes before the path is judged. A pause follows a probe that did not go by UDP.
pub(super) const PROBES: u8 = 3;
const PAUSE: Duration = Duration::from_millis(400);
/// Longest wait for one probe.
const PATIENCE_MS: u64 = 700;
/// Longest wait for the other end's answer; it includes a handshake.
const ASK_MS: u64 = 2_500;

/// A connection to a daemon that answers.
pub(crate) struct Live {
    client: Client,
    /// The first answer; it supplies the frame of our output.
    pub(crate) answer: Answer,
    status: Status,
    source: Source,
    pub(crate) world: World,
}

impl Live {
    pub(crate) fn open(context: &Context) -> Result<Self, Failure> {
        let mut client = context.connect()?;
        client.patience(Some(context.timeout()))?;
        let answer = client.ask(Request::Status)?;
        let Response::Status(status) = answer.response.clone() else {
            return Err(Failure::odd_answer());
        };
        let Response::Peers(peers) = client.ask(Request::Peers)?.response else {
            return Err(Failure::odd_answer());
        };
        let Response::Subnets(subnets) = client.ask(Request::Subnets)?.response else {
            return Err(Failure::odd_answer());
        };
        let Response::Refused(refused) = client.ask(Request::Refused)?.response else {
            return Err(Failure::odd_answer());
        };
        let source = Source {
            base: status.config.clone().into(),
            ..Source::default()
        };
        let mut names: Vec<String> = peers.into_iter().map(|row| row.name).collect();
        names.extend(
            hosts::names(&source)
                .into_iter()
                .filter(|name| *name != answer.node),
        );
        names.sort();
        names.dedup();
        let world = World {
            own: answer.node.clone(),
            names,
            subnets,
            refused,
        };
        Ok(Self {
            client,
            answer,
            status: *status,
            source,
            world,
        })
    }

    /// `-n NET `, if there is one.
    pub(super) fn net(&self) -> String {
        net(self.answer.net.as_deref())
    }

    pub(super) fn facts(&mut self, target: Target) -> Result<Facts, Failure> {
        let node = target.node.clone();
        self.probe(&node)?;
        let own = self.answer.node.clone();
        let there = match self.sight(&node)? {
            sight if !sight.pair.up => There::NotAsked,
            sight if !sight.may_ask => There::CannotBeAsked,
            _ => self.ask(node.as_str(), &own)?,
        };
        let sight = self.sight(&node)?;
        let silent_since = silent_since(&sight.pair);
        let port = self
            .status
            .listen
            .first()
            .and_then(|listen| listen.rsplit_once(':'));
        let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(655);
        let from = sight
            .pair
            .udp
            .address
            .as_ref()
            .and_then(|at| at.parse::<std::net::SocketAddr>().ok());
        let reload = match (&self.answer.net, self.status.pid) {
            (Some(_), _) => format!("`meshctl {}reload`", self.net()),
            (None, pid) => format!("`kill -HUP {pid}`"),
        };
        Ok(Facts {
            net: self.net(),
            reload,
            not_listening: self.status.not_listening.clone(),
            main: meshd_config::main_file(&self.source).display().to_string(),
            kernel: kernel(&target, self.status.interface.as_deref()),
            firewall: match firewall::look(from.map(|at| at.ip()), port) {
                firewall::Seen::Open(what) => Firewall::Open(what),
                firewall::Seen::Closed(rule) => Firewall::Closed(rule),
                firewall::Seen::Unsure(what) => Firewall::Unsure(what),
                firewall::Seen::Nothing(why) => Firewall::NotLooked(why),
            },
            disk: disk(&self.source, &node),
            own,
            node,
            asked: target.asked,
            subnets: target.subnets,
            refused: target.refused,
            sight: Some(sight),
            there,
            silent_since,
        })
    }

    /// Makes the daemon probe the path as traffic would.
    pub(crate) fn probe(&mut self, node: &NodeName) -> Result<(), Failure> {
        for _ in 0..PROBES {
            let request = Request::Ping {
                node: node.to_string(),
                timeout_ms: PATIENCE_MS,
            };
            match self.client.ask(request) {
                Ok(answer) => match answer.response {
                    Response::Ping(pong) if pong.path == PathKind::Down => return Ok(()),
                    Response::Ping(pong)
                        if pong.path == PathKind::Udp && pong.pmtu_bytes.is_some() =>
                    {
                        return Ok(());
                    }
                    Response::Ping(_) => std::thread::park_timeout(PAUSE),
                    _ => return Err(Failure::odd_answer()),
                },
                Err(ClientError::Refused(refused)) if refused.code == ErrorCode::Unknown => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn sight(&mut self, node: &NodeName) -> Result<NodeReport, Failure> {
        let request = Request::Sight {
            node: node.to_string(),
        };
        match self.client.ask(request) {
            Ok(Answer {
                response: Response::Sight(sight),
                ..
            }) => Ok(*sight),
            Ok(_) => Err(Failure::odd_answer()),
            // The node has a host file, but no node has announced it yet.
            Err(ClientError::Refused(refused)) if refused.code == ErrorCode::Unknown => {
                Ok(unheard(&self.source, node))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks a node for its view of another node.
    fn ask(&mut self, node: &str, about: &str) -> Result<There, Failure> {
        let request = Request::AskNode {
            node: node.into(),
            about: about.into(),
            timeout_ms: ASK_MS,
        };
        match self.client.ask(request)?.response {
            Response::Told(Some(pair)) => Ok(There::Says(pair)),
            Response::Told(None) => Ok(There::Silent),
            _ => Err(Failure::odd_answer()),
        }
    }

    /// Returns a node's view of another one, or our own view if `node` is our node. `None` if the node cannot be asked.
    pub(crate) fn told(&mut self, node: &str, about: &str) -> Result<Option<PathReport>, Failure> {
        let name = |text: &str| NodeName::new(text).map_err(|_| Failure::odd_answer());
        if node == self.world.own {
            return Ok(Some(self.sight(&name(about)?)?.pair));
        }
        let sight = self.sight(&name(node)?)?;
        if !sight.pair.up || !sight.may_ask {
            return Ok(None);
        }
        match self.ask(node, about)? {
            There::Says(pair) => Ok(Some(*pair)),
            There::NotAsked | There::CannotBeAsked | There::Silent => Ok(None),
        }
    }

    /// Measures a round trip, if the node answers.
    pub(crate) fn ping(&mut self, node: &str) -> Result<Option<f64>, Failure> {
        let request = Request::Ping {
            node: node.into(),
            timeout_ms: PATIENCE_MS,
        };
        match self.client.ask(request)?.response {
            Response::Ping(pong) => Ok(pong.rtt_seconds),
            _ => Err(Failure::odd_answer()),
        }
    }

    /// Returns another node with its view of the other end.
    pub(super) fn end(&mut self, target: &Target, other: &NodeName) -> Result<End, Failure> {
        let node = &target.node;
        let sight = self.sight(node)?;
        let there = match (sight.pair.up, sight.may_ask) {
            (false, _) => There::NotAsked,
            (true, false) => There::CannotBeAsked,
            (true, true) => self.ask(node.as_str(), other.as_str())?,
        };
        Ok(End::new(target, &sight, there))
    }

    pub(crate) fn edges(
        &mut self,
    ) -> Result<Vec<meshd_proto::mesh::reports::view::EdgeRow>, Failure> {
        match self.client.ask(Request::Edges)?.response {
            Response::Edges(edges) => Ok(edges),
            _ => Err(Failure::odd_answer()),
        }
    }
}

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
            subnet: subnet.prefix.to_string(),
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
        };
        Ok(Self { config, world })
    }

    pub(super) fn facts(&self, target: Target) -> Facts {
        let source = &self.config.source;
        let net = net(source.net.as_deref());
        Facts {
            own: self.world.own.clone(),
            reload: format!("`meshctl {net}reload`"),
            net,
            not_listening: Vec::new(),
            main: meshd_config::main_file(source).display().to_string(),
            disk: disk(source, &target.node),
            node: target.node,
            asked: target.asked,
            subnets: target.subnets,
            refused: target.refused,
            sight: None,
            there: There::NotAsked,
            silent_since: None,
            kernel: Kernel::NotLooked("not checked: meshd was not asked".into()),
            firewall: Firewall::NotLooked("meshd was not asked".into()),
        }
    }
}

/// Returns the start of an end's unanswered probes, as in `03:12:44`.
pub(super) fn silent_since(pair: &PathReport) -> Option<String> {
    let seconds = pair.udp.silent_seconds?;
    let ago = Duration::try_from_secs_f64(seconds).ok()?;
    let text = clock::rfc3339(clock::wall().checked_sub(ago)?);
    Some(text.get(11..19).unwrap_or_default().to_owned())
}

fn net(net: Option<&str>) -> String {
    net.map_or_else(String::new, |net| format!("-n {net} "))
}

fn disk(source: &Source, node: &NodeName) -> Disk {
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
        subnets: subnets.map(|subnet| subnet.prefix.to_string()).collect(),
        min_place: place("MinProtocol"),
        tcp_only_place: place("TCPOnly"),
    }
}

/// Describes a node that the daemon has not heard of.
fn unheard(source: &Source, node: &NodeName) -> NodeReport {
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
fn kernel(target: &Target, interface: Option<&str>) -> Kernel {
    let Some(ours) = interface else {
        return Kernel::NotLooked("not checked: meshd has no device".into());
    };
    let typed = target
        .asked
        .as_ref()
        .and_then(|asked| asked.parse::<IpAddr>().ok());
    let first = || {
        target
            .subnets
            .iter()
            .find_map(|row| first_address(&row.subnet))
    };
    let Some(address) = typed.or_else(first) else {
        return Kernel::NotLooked("not checked: there is no address to look up".into());
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
fn first_address(subnet: &str) -> Option<IpAddr> {
    match subnet.parse::<Subnet>().ok()?.prefix {
        Prefix::V4(net, 31..) => Some(net.into()),
        Prefix::V4(net, _) => Some(std::net::Ipv4Addr::from_bits(net.to_bits() | 1).into()),
        Prefix::V6(net, 127..) => Some(net.into()),
        Prefix::V6(net, _) => Some(std::net::Ipv6Addr::from_bits(net.to_bits() | 1).into()),
        Prefix::Mac(_) => None,
    }
}
