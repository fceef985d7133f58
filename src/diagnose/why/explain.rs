//! The verdict on a path, from the daemon's answer.

use meshd_api::{
    report::{NodeReport, PathReport},
    why::{End, Other, PathBetween, Target, There},
};

use crate::{
    Here,
    why::{
        Disk, Firewall, Kernel, PathFacts, Side, Verdict, add, judge, judge_ends, ourselves,
        unknown,
    },
};

/// The verdict on a path, with the reports behind it.
#[derive(Debug, Clone)]
pub struct Explained<'a> {
    /// The first end: its node, or the typed text if it names none.
    pub from: &'a str,
    /// The second end.
    pub to: &'a str,
    /// The verdict.
    pub verdict: Verdict,
    /// The daemon's view of the other node; `None` for two other nodes.
    pub ours: Option<&'a NodeReport>,
    /// View that `from` has of `to`, if `from` was asked and answered.
    pub from_says: Option<&'a PathReport>,
    /// View that `to` has of `from`.
    pub to_says: Option<&'a PathReport>,
}

/// Request and context of an answer.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The daemon's node.
    pub here: Here,
    /// The typed first end; `None`: the daemon's node.
    pub from: Option<&'a str>,
    /// The typed second end.
    pub to: &'a str,
    /// The firewall of the daemon's machine.
    pub firewall: Firewall,
}

/// Judges the path of an answer.
#[must_use]
pub fn explain<'a>(path: &'a PathBetween, asked: &'a Asked<'a>) -> Explained<'a> {
    let own = asked.here.node.as_str();
    let names = [asked.from.unwrap_or(own), asked.to];
    let alone = |names: [&'a str; 2], verdict| Explained {
        from: names[0],
        to: names[1],
        verdict,
        ours: None,
        from_says: None,
        to_says: None,
    };
    match (&path.from, &path.to) {
        (End::Unknown(end), _) => alone(names, unknown(names[0], end)),
        (_, End::Unknown(end)) => alone(names, unknown(names[1], end)),
        (End::Own(_), End::Own(target)) => alone([own, own], ourselves(&asked.here, target)),
        (End::Other(a), End::Other(b)) => of_others(path, asked, a, b),
        (End::Own(ours), End::Other(other)) => of_ours(path, asked, ours, other, true),
        (End::Other(other), End::Own(ours)) => of_ours(path, asked, ours, other, false),
    }
}

/// Judges the path between two other nodes.
fn of_others<'a>(
    path: &'a PathBetween,
    asked: &Asked<'_>,
    a: &'a Other,
    b: &'a Other,
) -> Explained<'a> {
    let net = asked.here.net.as_deref();
    let sides = [
        Side::of(net, a, &b.target, &b.there, &path.edges),
        Side::of(net, b, &a.target, &a.there, &path.edges),
    ];
    Explained {
        from: a.target.node.as_str(),
        to: b.target.node.as_str(),
        verdict: judge_ends(net, &sides, [&a.target, &b.target]),
        ours: None,
        from_says: a.there.report(),
        to_says: b.there.report(),
    }
}

/// Judges the path between the daemon's node and another one.
fn of_ours<'a>(
    path: &'a PathBetween,
    asked: &Asked<'_>,
    ours: &'a Target,
    other: &'a Other,
    own_first: bool,
) -> Explained<'a> {
    let net = asked.here.net.as_deref();
    let back = There::Says(Box::new(other.report.pair.clone()));
    let theirs = Side::of(net, other, ours, &back, &path.edges);
    let mut verdict = judge(&PathFacts::new(path, asked, other));
    let order = |mine, theirs| {
        if own_first {
            [mine, theirs]
        } else {
            [theirs, mine]
        }
    };
    if asked.from.is_some() {
        let mine = Side {
            name: asked.here.node.clone(),
            steps: verdict.steps,
            told: true,
        };
        let sides = match own_first {
            true => [mine, theirs],
            false => [theirs, mine],
        };
        verdict = judge_ends(net, &sides, order(ours, &other.target));
    } else if theirs.told {
        add(&mut verdict, &theirs);
    }
    let says = [Some(&other.report.pair), other.there.report()];
    let [from_says, to_says] = match own_first {
        true => says,
        false => [says[1], says[0]],
    };
    let [from, to] = order(ours, &other.target).map(|target| target.node.as_str());
    Explained {
        from,
        to,
        verdict,
        ours: Some(&other.report),
        from_says,
        to_says,
    }
}

impl PathFacts {
    /// Combines the facts of an answer with the firewall of this machine.
    fn new(path: &PathBetween, asked: &Asked<'_>, other: &Other) -> Self {
        let (disk, kernel) = match &other.local {
            Some(local) => (local.disk.clone(), local.kernel.clone()),
            None => {
                let unchecked = Kernel::Unchecked("meshd did not report it".into());
                (Disk::default(), unchecked)
            }
        };
        Self {
            here: asked.here.clone(),
            not_listening: path.daemon.not_listening.clone(),
            target: other.target.clone(),
            disk,
            report: Some(other.report.clone()),
            there: other.there.clone(),
            silent_since: other.silent_since.clone(),
            kernel,
            firewall: asked.firewall.clone(),
        }
    }
}
