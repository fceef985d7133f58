//! Judges both ends of a path: each end's view of the other, and the graph where an end cannot be asked.

use meshd_api::{
    proto::EdgeRow,
    report::{NodeReport, PathReport},
};

use crate::{
    Code, Facts, Finding, Here, diagnose,
    why::{
        Disk, Firewall, Kernel, Other, PathFacts, Step, Target, There, Verdict, graph::by_graph,
        udp::hears,
    },
};

/// The steps from one end to the other.
#[derive(Debug, Clone)]
pub struct Side {
    /// Name of the end.
    pub name: String,
    /// The steps.
    pub steps: Vec<Finding>,
    /// True if the end reported all its facts, so that none comes from the graph.
    pub told: bool,
}

impl Side {
    /// Returns the steps from `end` to `other`; `back` is the view of `other`, `edges` is our graph.
    #[must_use]
    pub fn of(
        net: Option<&str>,
        end: &Other,
        other: &Target,
        back: &There,
        edges: &[EdgeRow],
    ) -> Self {
        let (told, whole) = match &end.there {
            There::Says(pair) => {
                let facts = facts(net, end, other, back, pair);
                (Some(diagnose(&Facts::Path(&facts))), pair.detail.is_some())
            }
            There::NotAsked | There::CannotBeAsked | There::Silent => (None, false),
        };
        let steps = match (told, whole) {
            (Some(steps), true) => steps,
            (told, _) => by_graph(net, end, other, edges, told.as_deref()),
        };
        Self {
            name: end.target.node.to_string(),
            steps,
            told: whole,
        }
    }
}

/// Returns the facts that the end reported. Its files, kernel and firewall stay unknown.
pub(super) fn facts(
    net: Option<&str>,
    end: &Other,
    other: &Target,
    back: &There,
    pair: &PathReport,
) -> PathFacts {
    let here = Here {
        node: end.target.node.to_string(),
        net: net.map(str::to_owned),
        pid: None,
        main: "its configuration".into(),
    };
    let node = &other.node;
    let report = NodeReport::of_shared(node.as_str(), pair);
    let asked = other.refused.as_ref().map(|(subnet, _)| *subnet);
    let refused = report.refused.first();
    let refused = refused.filter(|row| asked == Some(row.subnet));
    let (own, option) = (&here.node, here.option());
    let at_home = format!("only {own} knows that: `meshctl {option}why {node}` there");
    PathFacts {
        not_listening: Vec::new(),
        target: Target {
            refused: refused.map(|row| (row.subnet, row.why.clone())),
            ..other.clone()
        },
        disk: Disk::default(),
        there: back.clone(),
        silent_since: end.there_silent_since.clone(),
        kernel: Kernel::NotSeen(at_home.clone()),
        firewall: match hears(pair) {
            true => Firewall::ProbesArrive(node.to_string()),
            false => Firewall::Unchecked(at_home),
        },
        report: Some(report),
        here,
    }
}

/// Judges the path between two nodes by the views of both ends.
#[must_use]
pub fn judge_ends(net: Option<&str>, sides: &[Side; 2], targets: [&Target; 2]) -> Verdict {
    let [a, b] = sides;
    let steps = diagnose(&Facts::Ends(sides, targets));
    let broken = steps.iter().find(|step| step.severity.is_fault());
    let silent = sides.iter().find(|side| !side.told);
    let option = net.map_or_else(String::new, |net| format!("-n {net} "));
    let (how, advice) = match (broken, silent) {
        (Some(step), _) => ("a step between them is broken", step.remedy.clone()),
        (None, Some(side)) => {
            let other = if side.name == a.name {
                &b.name
            } else {
                &a.name
            };
            let text = format!(
                "This node sees no more; a meshd on {} would report it: `meshctl {option}why {other}` there",
                side.name
            );
            ("no fault is visible from here", text)
        }
        (None, None) => {
            let text = format!(
                "Nothing is broken; on {}: `meshctl {option}ping {}` measures the path",
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

/// Joins the steps of both ends.
pub(crate) fn between([a, b]: &[Side; 2], targets: [&Target; 2]) -> Vec<Finding> {
    let asked = targets.map(|target| match (&target.asked, target.subnets.first()) {
        (Some(asked), Some(first)) => format!("{asked} is in {} of {}", first.subnet, target.node),
        _ => format!("{} is known", target.node),
    });
    let mut steps = vec![Finding::new(
        Code::NameKnown,
        Step::Resolve,
        asked.join("; "),
    )];
    let both = a.steps.iter().zip(&b.steps).skip(1);
    steps.extend(both.map(|(one, two)| joined((&a.name, one), (&b.name, two))));
    steps
}

/// Joins one step of both ends.
fn joined((a, one): (&str, &Finding), (b, two): (&str, &Finding)) -> Finding {
    // An unknown state at one end does not become fine because the other end finds no fault.
    let (end, worse) = match two.severity > one.severity && !one.severity.is_fault() {
        true => (b, two),
        false => (a, one),
    };
    let fault = worse.severity.is_fault();
    Finding {
        text: match one.text == two.text {
            true => one.text.clone(),
            false => format!("{a}: {}; {b}: {}", one.text, two.text),
        },
        remedy: match fault {
            true => on(end, &worse.remedy),
            false => String::new(),
        },
        ..worse.clone()
    }
}

/// Prefixes a remedy with a node, unless the remedy names one.
fn on(node: &str, remedy: &str) -> String {
    let names = ["On ", "One of ", "Likely ", "Fix that "];
    match names.iter().any(|begin| remedy.starts_with(begin)) {
        true => remedy.to_owned(),
        false => format!("On {node}: {remedy}"),
    }
}

/// Adds the other end's view: a step that it finds broken and that the remedy does not place on our node.
pub fn add(verdict: &mut Verdict, theirs: &Side) {
    for (step, there) in verdict.steps.iter_mut().zip(&theirs.steps) {
        if there.severity.is_fault() && !step.severity.is_fault() {
            *step = Finding {
                text: format!("{} says: {}", theirs.name, there.text),
                remedy: on(&theirs.name, &there.remedy),
                ..there.clone()
            };
        }
    }
    if let Some(step) = verdict.broken() {
        verdict.advice = step.remedy.clone();
    }
}

#[cfg(test)]
pub(crate) mod tests;
