//! `meshctl why`: finds the first broken step between a name and a delivered packet.

mod facts;
pub(super) mod gather;
mod judge;
pub(super) mod others;
pub(super) mod resolve;
#[cfg(test)]
mod tests;
mod way;

use serde::Serialize;

use meshd_os::clock;
use meshd_proto::mesh::reports::path_report::{NodeReport, PathReport};

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    escape::paint,
    output::{self, Frame},
};

use facts::{Name, State, Step, There};
use gather::{Files, Live};
use judge::Verdict;
use others::{End, Side};
use resolve::Target;

#[derive(Serialize)]
struct Data<'a> {
    from: &'a str,
    to: &'a str,
    fine: bool,
    /// The first broken step.
    broken: Option<Name>,
    headline: &'a str,
    steps: &'a [Step],
    advice: &'a str,
    /// Our daemon's view; null if it was not asked, or for two other nodes.
    sight: Option<&'a NodeReport>,
    /// The ends' views of each other, if they were asked and answered: `from`'s view of `to`, and the other way round.
    from_says: Option<&'a PathReport>,
    to_says: Option<&'a PathReport>,
}

/// Returns exit code 1 if a step is broken, 4 if the node does not exist.
pub(super) fn run(context: &Context, first: &str, second: Option<&str>) -> Outcome {
    if context.offline() {
        return offline(context, first, second);
    }
    let mut live = Live::open(context)?;
    let own = live.world.own.clone();
    let net = live.net();
    let answer = live.answer.clone();
    let frame = Frame::from(&answer);
    let (from, to) = match second {
        None => (own.as_str(), first),
        Some(second) => (first, second),
    };
    let ends = [from, to].map(|typed| (typed, live.world.resolve(typed)));
    let mut targets = Vec::new();
    for (typed, end) in ends {
        match end {
            Ok(target) => targets.push(target),
            Err(unknown) => return nobody(context, &frame, (from, to), typed, unknown),
        }
    }
    let (Some(b), Some(a)) = (targets.pop(), targets.pop()) else {
        return Err(Failure::odd_answer());
    };
    let is_own = |target: &Target| target.node.as_str() == own;
    match (is_own(&a), is_own(&b)) {
        (true, true) => {
            let verdict = ourselves(&net, &b);
            show(context, &frame, (&own, &own), &verdict, Said::default())
        }
        (false, false) => {
            let ends = [live.end(&a, &b.node)?, live.end(&b, &a.node)?];
            let edges = live.edges()?;
            let [one, two] = &ends;
            let sides = [
                Side::of(&net, one, (&b, &two.there), &edges),
                Side::of(&net, two, (&a, &one.there), &edges),
            ];
            let verdict = others::judge(&net, &sides, [&a, &b]);
            let said = Said {
                sight: None,
                from: said(&one.there),
                to: said(&two.there),
            };
            show(
                context,
                &frame,
                (a.node.as_str(), b.node.as_str()),
                &verdict,
                said,
            )
        }
        (own_first, _) => {
            let (target, ours) = if own_first { (&b, &a) } else { (&a, &b) };
            let facts = live.facts(target.clone())?;
            let sight = facts.sight.clone().unwrap_or_default();
            let end = End::new(target, &sight, facts.there.clone());
            let back = There::Says(Box::new(sight.pair.clone()));
            let theirs = Side::of(&net, &end, (ours, &back), &live.edges()?);
            let mut verdict = judge::judge(&facts);
            match second {
                None if theirs.told => others::add(&mut verdict, &theirs),
                None => {}
                Some(_) => {
                    let mine = Side {
                        name: own.clone(),
                        steps: verdict.steps,
                        told: true,
                    };
                    let (sides, targets) = match own_first {
                        true => ([mine, theirs], [&a, &b]),
                        false => ([theirs, mine], [&a, &b]),
                    };
                    verdict = others::judge(&net, &sides, targets);
                }
            }
            let (from, to) = match own_first {
                true => (Some(&sight.pair), said(&facts.there)),
                false => (said(&facts.there), Some(&sight.pair)),
            };
            let sight = Some(&sight);
            let said = Said { sight, from, to };
            let names = (a.node.as_str(), b.node.as_str());
            show(context, &frame, names, &verdict, said)
        }
    }
}

/// Judges from the files alone.
fn offline(context: &Context, first: &str, second: Option<&str>) -> Outcome {
    let files = Files::open(context)?;
    let own = files.world.own.clone();
    let time = clock::rfc3339(clock::wall());
    let frame = Frame {
        net: files.config.source.net.as_deref(),
        node: Some(&own),
        time: &time,
    };
    let to = match second {
        None => first,
        Some(second) if first == own => second,
        Some(second) if second == own => first,
        Some(_) => {
            let text =
                "of two other nodes the files here say nothing; ask a daemon, without --config";
            return Err(Failure::new(Exit::Usage, text));
        }
    };
    let target = match files.world.resolve(to) {
        Ok(target) => target,
        Err(unknown) => return nobody(context, &frame, (&own, to), to, unknown),
    };
    if target.node.as_str() == own {
        let verdict = ourselves("", &target);
        return show(context, &frame, (&own, &own), &verdict, Said::default());
    }
    let facts = files.facts(target);
    let verdict = judge::judge(&facts);
    show(
        context,
        &frame,
        (&own, facts.node.as_str()),
        &verdict,
        Said::default(),
    )
}

fn said(there: &There) -> Option<&PathReport> {
    match there {
        There::Says(pair) => Some(pair),
        There::NotAsked | There::CannotBeAsked | There::Silent => None,
    }
}

fn ourselves(net: &str, target: &Target) -> Verdict {
    let node = &target.node;
    Verdict {
        headline: format!("{node}: this is our own node"),
        steps: vec![Step::fine(
            Name::Resolve,
            match &target.asked {
                Some(asked) => format!("{asked} is ours"),
                None => format!("{node} is our own name"),
            },
        )],
        advice: format!("`meshctl {net}status` shows it"),
    }
}

/// The name or address belongs to no node.
fn nobody(
    context: &Context,
    frame: &Frame<'_>,
    ends: (&str, &str),
    typed: &str,
    (text, cure): (String, String),
) -> Outcome {
    let verdict = Verdict {
        headline: format!("{typed}: not known"),
        advice: cure.clone(),
        steps: vec![Step::broken(Name::Resolve, text, cure)],
    };
    show(context, frame, ends, &verdict, Said::default())
}

/// The result for programs.
#[derive(Default)]
struct Said<'a> {
    sight: Option<&'a NodeReport>,
    from: Option<&'a PathReport>,
    to: Option<&'a PathReport>,
}

fn show(
    context: &Context,
    frame: &Frame<'_>,
    (from, to): (&str, &str),
    verdict: &Verdict,
    said: Said<'_>,
) -> Outcome {
    let broken = verdict.broken();
    match context.format {
        Format::Json => {
            let data = Data {
                from,
                to,
                fine: broken.is_none(),
                broken: broken.map(|step| step.name),
                headline: &verdict.headline,
                steps: &verdict.steps,
                advice: &verdict.advice,
                sight: said.sight,
                from_says: said.from,
                to_says: said.to,
            };
            output::json("why", frame, &data)?;
        }
        Format::Tsv => output::print(|out| {
            verdict.steps.iter().try_for_each(|step| {
                let name = serde_json::to_value(step.name)?;
                let state = serde_json::to_value(step.state)?;
                let words =
                    [&name, &state].map(|word| word.as_str().unwrap_or_default().to_owned());
                writeln!(out, "{}\t{}\t{}", words[0], words[1], clean(&step.text))
            })
        })?,
        Format::Table => output::print(|out| {
            lines(verdict, context.utf8, context.color)
                .iter()
                .try_for_each(|line| writeln!(out, "{line}"))
        })?,
    }
    Ok(exit(verdict))
}

fn exit(verdict: &Verdict) -> Exit {
    match verdict.broken().map(|step| step.name) {
        Some(Name::Resolve) => Exit::Unknown,
        Some(_) => Exit::Negative,
        None => Exit::Fine,
    }
}

/// Formats the verdict for people.
fn lines(verdict: &Verdict, utf8: bool, color: bool) -> Vec<String> {
    let width = verdict
        .steps
        .iter()
        .map(|step| step.name.label().len())
        .max()
        .unwrap_or_default();
    let mut lines = vec![plain(&verdict.headline, utf8)];
    for step in &verdict.steps {
        let (mark, colour) = match (step.state, utf8) {
            (State::Fine, true) => ("✓", 32),
            (State::Fine, false) => ("+", 32),
            (State::Broken, true) => ("✗", 31),
            (State::Broken, false) => ("x", 31),
            (State::Skipped, _) => ("-", 0),
        };
        let mark = match color && colour > 0 {
            true => paint(colour, mark),
            false => mark.to_owned(),
        };
        let label = step.name.label();
        lines.push(format!(
            " {mark} {label:width$}  {}",
            plain(&step.text, utf8)
        ));
    }
    let arrow = if utf8 { "→" } else { "->" };
    lines.push(format!(" {arrow} {}", plain(&verdict.advice, utf8)));
    lines
}

/// Removes terminal control sequences: other nodes supply parts of the text.
fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn plain(text: &str, utf8: bool) -> String {
    let text = clean(text);
    match utf8 {
        true => text,
        false => text
            .replace('…', "...")
            .replace('·', "-")
            .replace(|c: char| !c.is_ascii(), "?"),
    }
}
