//! The answer to `meshctl why`: probes and questions first, then all facts at one instant.

use std::time::{Duration, Instant};

use meshd_api::{
    call::{self, Call},
    proto::{Content, ErrorCode, Response},
    report::{NodeReport, PathReport, RefusedRow},
    why::{Daemon, End, Kernel, LONGEST, Local, Other, PathBetween, Target, There},
};
use meshd_config::{Source, on_disk, vars::nearness};
use meshd_diagnose::why::{PROBES, World};
use meshd_os::{clock, netlink};
use meshd_proto::mesh::reports::facts::PathKind;
use meshd_wire::NodeName;

use super::Client;
use crate::driver::Driver;

/// Pause after a probe that did not go by UDP.
const PAUSE: Duration = Duration::from_millis(400);
/// Longest wait for one probe.
const PROBE: Duration = Duration::from_millis(700);
/// Longest wait for the answer of an end; it includes a handshake.
const ASK: Duration = Duration::from_millis(2_500);

const _: () = assert!(
    LONGEST.as_millis()
        >= PROBES as u128 * (PAUSE.as_millis() + PROBE.as_millis()) + ASK.as_millis()
);

impl Driver {
    /// Returns the facts about a path at this instant. The views of the ends are left out.
    pub(super) fn path_between(&self, call: &call::Why, now: Instant) -> PathBetween {
        let own = self.config.settings.name.to_string();
        let mut names = on_disk::host_names(&self.config.source);
        names.extend(
            self.mesh
                .peers(now)
                .into_iter()
                .map(|row| row.name.to_string()),
        );
        names.retain(|name| *name != own);
        names.sort();
        names.dedup();
        let refused = self.mesh.refused_subnets();
        let world = World {
            names,
            subnets: self.mesh.subnets(),
            refused: refused.iter().map(RefusedRow::from).collect(),
            nearness,
            own,
        };
        let end = |typed: Option<&str>| match world.resolve(typed.unwrap_or(&world.own)) {
            Err(unknown) => End::Unknown(unknown),
            Ok(target) if target.node.as_str() == world.own => End::Own(target),
            Ok(target) => End::Other(Box::new(self.end(target, now))),
        };
        PathBetween {
            from: end(call.from.as_deref()),
            to: end(Some(&call.to)),
            daemon: Daemon {
                pid: std::process::id(),
                config: self.config.source.base.display().to_string(),
                interface: self.net.tun.as_ref().map(|tun| tun.name().to_owned()),
                port: self.net.port,
                not_listening: self.net.listening.missing(),
            },
            edges: self.mesh.edges(),
        }
    }

    fn end(&self, target: Target, now: Instant) -> Other {
        let report = self.report(&target.node, now);
        // The node has a host file, but no node has announced it yet.
        let report = report.unwrap_or_else(|| on_disk::unheard(&self.config.source, &target.node));
        Other {
            silent_since: silent_since(&report.pair),
            ..Other::new(target, report)
        }
    }
}

impl Client {
    /// Probes the path, asks its ends, and takes the facts.
    pub(super) async fn why(&self, call: call::Why) -> Result<Response, Response> {
        let path: PathBetween = *self.call(call.clone()).await?;
        let theirs = match (&path.from, &path.to) {
            (End::Own(own), End::Other(other)) => {
                let node = &other.target.node;
                self.probe(node).await?;
                [There::NotAsked, self.there(node, &own.node).await?]
            }
            (End::Other(other), End::Own(own)) => {
                let node = &other.target.node;
                self.probe(node).await?;
                [self.there(node, &own.node).await?, There::NotAsked]
            }
            (End::Other(a), End::Other(b)) => {
                let (a, b) = (&a.target.node, &b.target.node);
                let (one, two) = tokio::join!(self.there(a, b), self.there(b, a));
                [one?, two?]
            }
            _ => return Ok(call.response(Box::new(path))),
        };
        let asked = [node(&path.from).cloned(), node(&path.to).cloned()];
        let mut path: PathBetween = *self.call(call.clone()).await?;
        let between_others = matches!((&path.from, &path.to), (End::Other(_), End::Other(_)));
        let daemon = path.daemon.clone();
        let ends = [&mut path.from, &mut path.to];
        for ((end, there), asked) in ends.into_iter().zip(theirs).zip(asked) {
            let End::Other(other) = end else { continue };
            // The owner of an address may have changed meanwhile.
            if asked.as_ref() == Some(&other.target.node) {
                other.there_silent_since = there.report().and_then(silent_since);
                other.there = there;
            }
            if !between_others {
                other.local = Some(local(&daemon, &other.target).await);
            }
        }
        Ok(call.response(Box::new(path)))
    }

    /// Makes the driver answer a request.
    async fn call<C: Call>(&self, call: C) -> Result<C::Answer, Response> {
        let response = self.ask(call.into()).await;
        match response {
            Response::Error(_) => Err(response),
            response => C::Answer::of_response(response).ok_or_else(|| {
                let text = "the answer has another type".to_owned();
                super::error(ErrorCode::Malformed, text)
            }),
        }
    }

    /// Makes the mesh probe the path as traffic would.
    async fn probe(&self, node: &NodeName) -> Result<(), Response> {
        for _ in 0..PROBES {
            let call = call::Ping {
                node: node.to_string(),
                timeout_ms: PROBE.as_millis() as u64,
            };
            match self.call(call).await {
                Ok(pong) if pong.path == PathKind::Down => return Ok(()),
                Ok(pong) if pong.path == PathKind::Udp && pong.pmtu_bytes.is_some() => {
                    return Ok(());
                }
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(refused) if is_unknown(&refused) => return Ok(()),
                Err(refused) => return Err(refused),
            }
        }
        Ok(())
    }

    /// Asks a node for its view of another node, if it can be asked.
    async fn there(&self, node: &NodeName, about: &NodeName) -> Result<There, Response> {
        let sight = call::Sight {
            node: node.to_string(),
        };
        let report = match self.call(sight).await {
            Ok(report) => *report,
            Err(refused) if is_unknown(&refused) => NodeReport::default(),
            Err(refused) => return Err(refused),
        };
        if !report.pair.up {
            return Ok(There::NotAsked);
        }
        if !report.may_ask {
            return Ok(There::CannotBeAsked);
        }
        let call = call::AskNode {
            node: node.to_string(),
            about: about.to_string(),
            timeout_ms: ASK.as_millis() as u64,
        };
        Ok(self.call(call).await?.map_or(There::Silent, There::Says))
    }
}

fn node(end: &End) -> Option<&NodeName> {
    match end {
        End::Unknown(_) => None,
        End::Own(target) => Some(&target.node),
        End::Other(other) => Some(&other.target.node),
    }
}

fn is_unknown(refused: &Response) -> bool {
    matches!(refused, Response::Error(error) if error.code == ErrorCode::Unknown)
}

/// Returns the files and the kernel's route for an end.
async fn local(daemon: &Daemon, target: &Target) -> Local {
    let source = Source {
        base: daemon.config.clone().into(),
        ..Source::default()
    };
    Local {
        disk: on_disk::disk(&source, &target.node),
        kernel: kernel(target, daemon.interface.as_deref()).await,
    }
}

/// Returns the kernel's route for the target.
async fn kernel(target: &Target, interface: Option<&str>) -> Kernel {
    let Some(ours) = interface else {
        return Kernel::Unchecked("meshd has no device".into());
    };
    let Some(address) = target.address() else {
        return Kernel::Unchecked("there is no address to look up".into());
    };
    let (ours, text) = (ours.to_owned(), address.to_string());
    match netlink::route_to(address).await {
        Ok(route) => Kernel::To {
            address: text,
            interface: route.interface,
            ours,
            source: route.source.map(|source| source.to_string()),
        },
        Err(error) => Kernel::No {
            address: text,
            ours,
            why: error.to_string(),
        },
    }
}

/// Returns the start of an end's unanswered probes, as in `03:12:44`.
fn silent_since(pair: &PathReport) -> Option<String> {
    let seconds = pair.udp.silent_seconds?;
    let ago = Duration::try_from_secs_f64(seconds).ok()?;
    let text = clock::rfc3339(clock::wall().checked_sub(ago)?);
    Some(text.get(11..19).unwrap_or_default().to_owned())
}
