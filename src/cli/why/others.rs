//! The way between two other nodes, as both of them and the graph tell it.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    cli::{
        table::round_trip,
        why::{
            facts::{Name, State, Step, There},
            judge::Verdict,
            way::hears,
        },
    },
    mesh::{
        sight::Pair,
        view::{EdgeRow, PathKind},
    },
};

/// One end.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) name: String,
    /// Whether we reach it; `None`: the daemon was not asked.
    pub(super) up: Option<bool>,
    /// What it says of the other end.
    pub(super) there: There,
}

/// Judges the way between two nodes of which none is ours.
pub(super) fn judge(net: &str, ends: &[End; 2], edges: &[EdgeRow]) -> Verdict {
    let [a, b] = ends;
    let mut steps = vec![Step::fine(
        Name::Resolve,
        format!("{} and {} are known", a.name, b.name),
    )];
    steps.push(meta_path(net, ends, edges));
    for (end, other) in [(a, b), (b, a)] {
        steps.push(says(net, end, other));
    }
    let broken = steps.iter().find(|step| step.state == State::Broken);
    let silent = steps
        .iter()
        .any(|step| step.name == Name::Says && step.state == State::Skipped);
    let advice = match broken {
        Some(step) => step.cure.clone(),
        None if silent => format!(
            "No more can be seen from here: ask on {} itself, `meshctl {net}why {}`",
            a.name, b.name
        ),
        None => format!(
            "Nothing is broken; on {}: `meshctl {net}ping {}` measures the way",
            a.name, b.name
        ),
    };
    let how = match broken {
        Some(_) => "something is broken between them",
        None if silent => "nothing wrong is seen from here",
        None => "fine",
    };
    Verdict {
        headline: format!("{} to {}: {how}", a.name, b.name),
        steps,
        advice,
    }
}

fn meta_path(net: &str, ends: &[End; 2], edges: &[EdgeRow]) -> Step {
    let [a, b] = ends;
    if let Some(end) = ends.iter().find(|end| end.up == Some(false)) {
        let cure = format!("Look at that first: `meshctl {net}why {}`", end.name);
        return Step::broken(
            Name::MetaPath,
            format!("{} is down, seen from here", end.name),
            cure,
        );
    }
    match way(edges, &a.name, &b.name) {
        Some(way) => Step::fine(Name::MetaPath, way.join(" -> ")),
        None => {
            let cure = format!(
                "One of the two must dial: `ConnectTo` on {} or {}",
                a.name, b.name
            );
            Step::broken(
                Name::MetaPath,
                format!("no chain of links joins {} and {}", a.name, b.name),
                cure,
            )
        }
    }
}

/// What one end says of the other.
fn says(net: &str, end: &End, other: &End) -> Step {
    let (name, from, to) = (Name::Says, &end.name, &other.name);
    let pair: &Pair = match &end.there {
        There::Says(pair) => pair,
        There::NotAsked => return Step::skipped(name, format!("{from} was not asked")),
        There::CannotBeAsked => {
            return Step::skipped(name, format!("{from} runs no meshd that could be asked"));
        }
        There::Silent => return Step::skipped(name, format!("{from} did not answer")),
    };
    let cure = format!("On {from}: `meshctl {net}why {to}`");
    let why = pair
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(": {}", reason.text));
    let silent = pair.udp.unanswered > 0 && pair.up;
    let hears = match (silent, hears(pair)) {
        (false, _) => String::new(),
        (true, true) => format!("; probes of {to} arrive there"),
        (true, false) => format!("; none of {to} arrives there"),
    };
    let why = format!("{why}{hears}");
    let meant = pair.tcp_only_here || pair.tcp_only_there || pair.indirect;
    let idle = pair
        .reason
        .as_ref()
        .is_some_and(|reason| reason.code == "idle");
    let rtt = pair
        .rtt_seconds
        .map_or_else(String::new, |rtt| format!(", rtt {}", round_trip(rtt)));
    let mtu = pair
        .mtu
        .proven_bytes
        .map_or_else(String::new, |mtu| format!(", packets of {mtu} bytes pass"));
    let via = pair.via.as_deref().unwrap_or("others");
    match pair.path {
        PathKind::Udp if pair.mtu.too_small => Step::broken(
            name,
            format!("{from} says: {to} by UDP{rtt}, but only short packets pass"),
            cure,
        ),
        PathKind::Udp => Step::fine(name, format!("{from} says: {to} by UDP{rtt}{mtu}")),
        PathKind::Tcp if meant => {
            Step::fine(name, format!("{from} says: {to} over TCP, as meant{rtt}"))
        }
        PathKind::Via if meant => {
            Step::fine(name, format!("{from} says: {to} through {via}, as meant"))
        }
        PathKind::Tcp | PathKind::Via if idle => Step::skipped(
            name,
            format!("{from} says: nothing was sent to {to} lately, so UDP was not tried"),
        ),
        PathKind::Tcp => Step::broken(name, format!("{from} says: {to} only over TCP{why}"), cure),
        PathKind::Via => Step::broken(
            name,
            format!("{from} says: {to} only through {via}{why}"),
            cure,
        ),
        PathKind::Down => Step::broken(name, format!("{from} says: {to} is down{why}"), cure),
    }
}

/// The shortest chain of edges that both ends of each have told.
pub(in crate::cli) fn way(edges: &[EdgeRow], from: &str, to: &str) -> Option<Vec<String>> {
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
    let mut way = vec![to.to_owned()];
    let mut at = *before.get(to)?;
    while let Some(node) = at {
        way.push(node.to_owned());
        at = before.get(node).copied().flatten();
    }
    way.reverse();
    Some(way)
}

#[cfg(test)]
mod tests;
