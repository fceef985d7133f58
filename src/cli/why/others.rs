//! Judges both ends of a path: each end's view of the other, and the graph where an end cannot be asked.

use std::collections::{BTreeMap, VecDeque};

use meshd_proto::{
    link::Dialect,
    mesh::reports::{
        path_report::{NodeReport, PathReport},
        view::EdgeRow,
    },
};
use meshd_wire::{NodeName, Options};

use crate::why::{
    facts::{Disk, Facts, Firewall, Kernel, Name, State, Step, There},
    gather::silent_since,
    judge::{self, Verdict},
    resolve::Target,
    way::hears,
};

/// One end that is not our node.
#[derive(Debug, Clone)]
pub(super) struct End {
    /// The request and its owner.
    pub(super) target: Target,
    /// True if this node reaches it.
    pub(super) up: bool,
    /// The best protocol that the end has announced.
    pub(super) offers: Option<Dialect>,
    /// The end's view of the other end.
    pub(super) there: There,
    /// Start of its unanswered probes, as it reports it.
    pub(super) silent_since: Option<String>,
}

impl End {
    /// Combines our view of the end with its own report.
    pub(super) fn new(target: &Target, sight: &NodeReport, there: There) -> Self {
        Self {
            target: target.clone(),
            up: sight.pair.up,
            offers: sight.peer.offers,
            silent_since: match &there {
                There::Says(pair) => silent_since(pair),
                _ => None,
            },
            there,
        }
    }

    fn name(&self) -> &NodeName {
        &self.target.node
    }
}

/// The steps from one end to the other.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
    /// True if the end reported all its facts, so that none comes from the graph.
    pub(super) told: bool,
}

impl Side {
    /// Returns the steps from `end` to `other`. `net` is `-n NET ` for commands, `edges` is our graph.
    pub(super) fn of(
        net: &str,
        end: &End,
        (other, back): (&Target, &There),
        edges: &[EdgeRow],
    ) -> Self {
        let told = match &end.there {
            There::Says(pair) => Some(judge::judge(&facts(net, end, (other, back), pair)).steps),
            There::NotAsked | There::CannotBeAsked | There::Silent => None,
        };
        let whole = matches!(&end.there, There::Says(pair) if pair.detail.is_some());
        let steps = match (told, whole) {
            (Some(steps), true) => steps,
            (told, _) => by_graph(net, end, other, edges, told.as_deref()),
        };
        Self {
            name: end.name().to_string(),
            steps,
            told: whole,
        }
    }
}

/// Returns the facts that the end reported. Its files, kernel and firewall stay unknown.
fn facts(net: &str, end: &End, (other, back): (&Target, &There), pair: &PathReport) -> Facts {
    let own = end.name().to_string();
    let node = other.node.clone();
    let sight = NodeReport::of_told(node.as_str(), pair);
    let refused = sight.refused.first();
    let refused = refused.filter(|row| {
        other
            .refused
            .as_ref()
            .is_some_and(|(s, _)| *s == row.subnet)
    });
    let at_home = format!("only {own} knows that: `meshctl {net}why {node}` there");
    Facts {
        net: net.into(),
        reload: format!("`meshctl {net}reload`"),
        not_listening: Vec::new(),
        main: "its configuration".into(),
        asked: other.asked.clone(),
        subnets: other.subnets.clone(),
        refused: refused.map(|row| (row.subnet.clone(), row.why.clone())),
        disk: Disk::default(),
        there: back.clone(),
        silent_since: end.silent_since.clone(),
        kernel: Kernel::NotLooked(format!("not known from here: {at_home}")),
        firewall: match hears(pair) {
            true => Firewall::Open(format!("probes of {node} arrive")),
            false => Firewall::NotLooked(at_home),
        },
        sight: Some(sight),
        own,
        node,
    }
}

/// Returns steps from the graph, for an end that reports nothing. If `told`, an older meshd reported the path only.
fn by_graph(
    net: &str,
    end: &End,
    other: &Target,
    edges: &[EdgeRow],
    told: Option<&[Step]>,
) -> Vec<Step> {
    let (from, to) = (end.name().as_str(), other.node.as_str());
    let why = match &end.there {
        There::Says(_) => format!("the meshd of {from} is too old to report it"),
        There::Silent => format!("{from} does not answer when asked"),
        There::NotAsked => format!("{from} is down, seen from here"),
        There::CannotBeAsked => match end.offers {
            None => format!("{from} does not run a meshd with native"),
            Some(_) => format!("{from} runs tinc, or a meshd without native"),
        },
    };
    let unknown = |name| Step::skipped(name, format!("not known from here: {why}"));
    let of_pair = |name| {
        let said = told.into_iter().flatten().find(|step| step.name == name);
        said.cloned().unwrap_or_else(|| unknown(name))
    };
    let edge = |a: &str, b: &str| edges.iter().find(|edge| edge.from == a && edge.to == b);
    let linked = edge(from, to).is_some() && edge(to, from).is_some();
    let tcp_only = [from, to].into_iter().find(|name| {
        let mut own = edges.iter().filter(|edge| edge.from == **name);
        own.any(|edge| Options(edge.options).has(Options::TCP_ONLY))
    });
    let known = |edge: &&EdgeRow| edge.to == to && edge.host.parse::<std::net::IpAddr>().is_ok();
    let seen = edge(from, to)
        .filter(known)
        .or_else(|| edges.iter().find(known));
    let mut owner =
        facts(net, end, (other, &There::NotAsked), &PathReport::default()).subnet_owner();
    if owner.state == State::Fine {
        owner.text.push_str(", seen from here");
    }
    vec![
        Step::fine(Name::Resolve, ""),
        match linked {
            true => Step::fine(
                Name::Key,
                format!("proven by the link that it has with {to}"),
            ),
            false => unknown(Name::Key),
        },
        unknown(Name::Trust),
        meta_path(net, end, to, edges),
        match seen {
            Some(edge) if edge.from == from => Step::fine(
                Name::Endpoint,
                format!("{} port {}, by its link with {to}", edge.host, edge.port),
            ),
            Some(edge) => Step::fine(
                Name::Endpoint,
                format!(
                    "{} port {}, as {} sees {to}",
                    edge.host, edge.port, edge.from
                ),
            ),
            None => unknown(Name::Endpoint),
        },
        match (tcp_only, told) {
            (Some(name), None) => {
                Step::skipped(Name::UdpProbe, format!("{name} sets TCPOnly: no UDP"))
            }
            _ => of_pair(Name::UdpProbe),
        },
        of_pair(Name::PathMtu),
        owner,
        unknown(Name::LocalRoute),
        of_pair(Name::Firewall),
    ]
}

fn meta_path(net: &str, end: &End, to: &str, edges: &[EdgeRow]) -> Step {
    let from = end.name().as_str();
    if !end.up {
        let cure = format!("Fix that first: `meshctl {net}why {from}`");
        return Step::broken(Name::MetaPath, "down, seen from here", cure);
    }
    match way(edges, from, to) {
        Some(way) => Step::fine(Name::MetaPath, way.join(" -> ")),
        None => Step::broken(
            Name::MetaPath,
            format!("no chain of links leads to {to}"),
            format!("One of the two must dial: `ConnectTo` on {from} or {to}"),
        ),
    }
}

/// Judges the path between two nodes by the views of both ends.
pub(super) fn judge(net: &str, sides: &[Side; 2], targets: [&Target; 2]) -> Verdict {
    let [a, b] = sides;
    let asked = targets.map(|target| match (&target.asked, target.subnets.first()) {
        (Some(asked), Some(first)) => format!("{asked} is in {} of {}", first.subnet, target.node),
        _ => format!("{} is known", target.node),
    });
    let mut steps = vec![Step::fine(Name::Resolve, asked.join("; "))];
    let both = a.steps.iter().zip(&b.steps).skip(1);
    steps.extend(both.map(|(one, two)| joined((&a.name, one), (&b.name, two))));
    let broken = steps.iter().find(|step| step.state == State::Broken);
    let silent = sides.iter().find(|side| !side.told);
    let (how, advice) = match (broken, silent) {
        (Some(step), _) => ("a step between them is broken", step.cure.clone()),
        (None, Some(side)) => {
            let other = if side.name == a.name {
                &b.name
            } else {
                &a.name
            };
            let text = format!(
                "This node sees no more; a meshd on {} would report it: `meshctl {net}why {other}` there",
                side.name
            );
            ("no fault is visible from here", text)
        }
        (None, None) => {
            let text = format!(
                "Nothing is broken; on {}: `meshctl {net}ping {}` measures the path",
                a.name, b.name
            );
            ("fine", text)
        }
    };
    Verdict {
        headline: format!("{} to {}: {how}", a.name, b.name),
        steps,
        advice,
    }
}

/// Joins one step of both ends.
fn joined((a, one): (&str, &Step), (b, two): (&str, &Step)) -> Step {
    let broken = [(a, one), (b, two)]
        .into_iter()
        .find(|(_, step)| step.state == State::Broken);
    Step {
        name: one.name,
        // An unknown state at one end does not become fine because the other end finds no fault.
        state: match [one.state, two.state] {
            [State::Broken, _] | [_, State::Broken] => State::Broken,
            [State::Fine, State::Fine] => State::Fine,
            _ => State::Skipped,
        },
        text: match one.text == two.text {
            true => one.text.clone(),
            false => format!("{a}: {}; {b}: {}", one.text, two.text),
        },
        cure: broken.map_or_else(String::new, |(end, step)| on(end, &step.cure)),
    }
}

/// Prefixes advice with a node, unless the advice names one.
fn on(node: &str, cure: &str) -> String {
    let names = ["On ", "One of ", "Likely ", "Fix that "];
    match names.iter().any(|begin| cure.starts_with(begin)) {
        true => cure.to_owned(),
        false => format!("On {node}: {cure}"),
    }
}

/// Adds the other end's view: a step that it finds broken and that the remedy does not place on our node.
pub(super) fn add(verdict: &mut Verdict, theirs: &Side) {
    for (step, there) in verdict.steps.iter_mut().zip(&theirs.steps) {
        if there.state == State::Broken && step.state != State::Broken {
            let text = format!("{} says: {}", theirs.name, there.text);
            *step = Step::broken(step.name, text, on(&theirs.name, &there.cure));
        }
    }
    if let Some(step) = verdict.broken() {
        verdict.advice = step.cure.clone();
    }
}

/// Returns the shortest chain of edges that both ends announce.
pub(crate) fn way(edges: &[EdgeRow], from: &str, to: &str) -> Option<Vec<String>> {
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
