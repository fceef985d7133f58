//! Steps between two other nodes from our graph, where an end reports nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use meshd_api::{proto::EdgeRow, report::PathReport};
use meshd_wire::Options;

use crate::{
    Code, Finding, Severity,
    why::{Other, Step, Target, There, ends::facts},
};

/// Returns steps from the graph, for an end that reports nothing. If `told`, an older meshd reported the path only.
pub(super) fn by_graph(
    net: Option<&str>,
    end: &Other,
    other: &Target,
    edges: &[EdgeRow],
    told: Option<&[Finding]>,
) -> Vec<Finding> {
    let (from, to) = (end.target.node.as_str(), other.node.as_str());
    let why = unseen(end);
    let unknown = |step| Finding::new(Code::NotSeen, step, format!("not known from here: {why}"));
    let of_pair = |step| {
        let mut told = told.into_iter().flatten();
        let told = told.find(|finding| finding.step() == Some(step));
        told.cloned().unwrap_or_else(|| unknown(step))
    };
    let edge = |a: &str, b: &str| edges.iter().find(|edge| edge.from == a && edge.to == b);
    let linked = edge(from, to).is_some() && edge(to, from).is_some();
    let tcp_only = [from, to].into_iter().find(|name| {
        let mut own = edges.iter().filter(|edge| edge.from == **name);
        own.any(|edge| Options(edge.options).has(Options::TCP_ONLY))
    });
    let back = There::NotAsked;
    let mut owner = facts(net, end, other, &back, &PathReport::default()).subnet_owner();
    if owner.severity == Severity::Fine {
        owner.text.push_str(", seen from here");
    }
    let key = format!("proven by the link that it has with {to}");
    let address = address(edges, from, to);
    vec![
        Finding::new(Code::NameKnown, Step::Resolve, ""),
        match linked {
            true => Finding::new(Code::KeyKnown, Step::Key, key),
            false => unknown(Step::Key),
        },
        unknown(Step::Trust),
        meta_path(net, end, to, edges),
        address.unwrap_or_else(|| unknown(Step::Endpoint)),
        match (tcp_only, told) {
            (Some(name), None) => {
                let text = format!("{name} sets TCPOnly: no UDP");
                Finding::new(Code::TcpOnly, Step::UdpProbe, text)
            }
            _ => of_pair(Step::UdpProbe),
        },
        of_pair(Step::PathMtu),
        owner,
        unknown(Step::LocalRoute),
        of_pair(Step::Firewall),
    ]
}

/// Returns the reason why an end reports nothing.
fn unseen(end: &Other) -> String {
    let from = &end.target.node;
    match (&end.there, end.report.peer.offers) {
        (There::Says(_), _) => format!("the meshd of {from} is too old to report it"),
        (There::Silent, _) => format!("{from} does not answer when asked"),
        (There::NotAsked, _) => format!("{from} is down, seen from here"),
        (There::CannotBeAsked, None) => format!("{from} does not run a meshd with native"),
        (There::CannotBeAsked, Some(_)) => format!("{from} runs tinc, or a meshd without native"),
    }
}

/// Returns the address of `to` that a neighbour reports, `from` first.
fn address(edges: &[EdgeRow], from: &str, to: &str) -> Option<Finding> {
    let known = |edge: &&EdgeRow| edge.to == to && edge.host.parse::<IpAddr>().is_ok();
    let ours = edges.iter().filter(known).find(|edge| edge.from == from);
    let edge = ours.or_else(|| edges.iter().find(known))?;
    let EdgeRow { host, port, .. } = edge;
    let text = match edge.from == from {
        true => format!("{host} port {port}, by its link with {to}"),
        false => format!("{host} port {port}, as {} sees {to}", edge.from),
    };
    Some(Finding::new(Code::AddressKnown, Step::Endpoint, text))
}

fn meta_path(net: Option<&str>, end: &Other, to: &str, edges: &[EdgeRow]) -> Finding {
    let from = end.target.node.as_str();
    let found = |code, text: String| Finding::new(code, Step::MetaPath, text);
    if !end.report.pair.up {
        let option = net.map_or_else(String::new, |net| format!("-n {net} "));
        let remedy = format!("Fix that first: `meshctl {option}why {from}`");
        let text = "down, seen from here";
        return found(Code::DownFromHere, text.into()).remedy(remedy);
    }
    match chain(edges, from, to) {
        Some(chain) => found(Code::LinesArrive, chain.join(" -> ")),
        None => {
            let remedy = format!("One of the two must dial: `ConnectTo` on {from} or {to}");
            let text = format!("no chain of links leads to {to}");
            found(Code::NoChain, text).remedy(remedy)
        }
    }
}

/// Returns the shortest chain of edges that both ends announce.
#[must_use]
pub fn chain(edges: &[EdgeRow], from: &str, to: &str) -> Option<Vec<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for edge in edges {
        next.entry(&edge.from).or_default().push(&edge.to);
    }
    let both = |a: &str, b: &str| next.get(b).is_some_and(|ends| ends.contains(&a));
    let mut before: BTreeMap<&str, Option<&str>> = BTreeMap::from([(from, None)]);
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        for end in next.get(at).into_iter().flatten() {
            if both(at, end) && !before.contains_key(end) {
                before.insert(end, Some(at));
                queue.push_back(end);
            }
        }
    }
    let mut chain = vec![to.to_owned()];
    let mut at = *before.get(to)?;
    while let Some(node) = at {
        chain.push(node.to_owned());
        at = before.get(node).copied().flatten();
    }
    chain.reverse();
    Some(chain)
}
