//! `meshctl why`: finds the first broken step between a name and a delivered packet.

pub(super) mod gather;
mod local;
use serde::Serialize;

use meshd_api::{
    client::ClientError,
    report::{NodeReport, PathReport},
};
use meshd_diagnose::{
    Finding, Severity,
    why::{self, Side, Step, Target, There, Verdict},
};
use meshd_os::clock;

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    escape::paint,
    output::{self, Frame},
};

use gather::Live;
use local::Files;

/// One step in JSON.
#[derive(Serialize)]
struct StepRow<'a> {
    name: Option<Step>,
    state: State,
    text: &'a str,
}

impl<'a> From<&'a Finding> for StepRow<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            name: finding.step(),
            state: State::of(finding),
            text: &finding.text,
        }
    }
}

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Fine,
    Broken,
    /// Not tried, or intended.
    Skipped,
}

impl State {
    fn of(finding: &Finding) -> Self {
        match finding.severity {
            Severity::Fine => Self::Fine,
            Severity::Note => Self::Skipped,
            Severity::Warning | Severity::Critical => Self::Broken,
        }
    }
}

#[derive(Serialize)]
struct Data<'a> {
    from: &'a str,
    to: &'a str,
    fine: bool,
    /// The first broken step.
    broken: Option<Step>,
    headline: &'a str,
    steps: Vec<StepRow<'a>>,
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
        return Err(ClientError::Type.into());
    };
    let is_own = |target: &Target| target.node.as_str() == own;
    let here = live.here();
    match (is_own(&a), is_own(&b)) {
        (true, true) => {
            let verdict = why::ourselves(&here, &b);
            show(context, &frame, (&own, &own), &verdict, Views::default())
        }
        (false, false) => of_others(context, &mut live, [&a, &b]),
        (own_first, _) => of_ours(context, &mut live, [&a, &b], own_first, second.is_some()),
    }
}

/// Judges the path between two other nodes.
fn of_others(context: &Context, live: &mut Live, [a, b]: [&Target; 2]) -> Outcome {
    let answer = live.answer.clone();
    let net = answer.net.as_deref();
    let ends = [live.end(a, &b.node)?, live.end(b, &a.node)?];
    let edges = live.edges()?;
    let [one, two] = &ends;
    let sides = [
        Side::of(net, one, b, &two.there, &edges),
        Side::of(net, two, a, &one.there, &edges),
    ];
    let verdict = why::judge_ends(net, &sides, [a, b]);
    let views = Views {
        ours: None,
        from: view(&one.there),
        to: view(&two.there),
    };
    let names = (a.node.as_str(), b.node.as_str());
    show(context, &Frame::from(&answer), names, &verdict, views)
}

/// Judges the path between this node and another one. `both`: the request names both.
fn of_ours(
    context: &Context,
    live: &mut Live,
    [a, b]: [&Target; 2],
    own_first: bool,
    both: bool,
) -> Outcome {
    let answer = live.answer.clone();
    let net = answer.net.as_deref();
    let (target, ours) = if own_first { (b, a) } else { (a, b) };
    let facts = live.facts(target.clone())?;
    let report = facts.report.clone().unwrap_or_default();
    let end = live.end_of(target, &report, facts.there.clone());
    let back = There::Says(Box::new(report.pair.clone()));
    let theirs = Side::of(net, &end, ours, &back, &live.edges()?);
    let mut verdict = why::judge(&facts);
    if both {
        let mine = Side {
            name: answer.node.clone(),
            steps: verdict.steps,
            told: true,
        };
        let sides = match own_first {
            true => [mine, theirs],
            false => [theirs, mine],
        };
        verdict = why::judge_ends(net, &sides, [a, b]);
    } else if theirs.told {
        why::add(&mut verdict, &theirs);
    }
    let (from, to) = match own_first {
        true => (Some(&report.pair), view(&facts.there)),
        false => (view(&facts.there), Some(&report.pair)),
    };
    let ours = Some(&report);
    let views = Views { ours, from, to };
    let names = (a.node.as_str(), b.node.as_str());
    show(context, &Frame::from(&answer), names, &verdict, views)
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
        let verdict = why::ourselves(&files.here(), &target);
        return show(context, &frame, (&own, &own), &verdict, Views::default());
    }
    let facts = files.facts(target);
    let verdict = why::judge(&facts);
    show(
        context,
        &frame,
        (&own, facts.target.node.as_str()),
        &verdict,
        Views::default(),
    )
}

fn view(there: &There) -> Option<&PathReport> {
    match there {
        There::Says(pair) => Some(pair),
        There::NotAsked | There::CannotBeAsked | There::Silent => None,
    }
}

/// The name or address belongs to no node.
fn nobody(
    context: &Context,
    frame: &Frame<'_>,
    ends: (&str, &str),
    typed: &str,
    (text, remedy): (String, String),
) -> Outcome {
    let verdict = why::unknown(typed, text, remedy);
    show(context, frame, ends, &verdict, Views::default())
}

/// The result for programs.
#[derive(Default)]
struct Views<'a> {
    ours: Option<&'a NodeReport>,
    from: Option<&'a PathReport>,
    to: Option<&'a PathReport>,
}

fn show(
    context: &Context,
    frame: &Frame<'_>,
    (from, to): (&str, &str),
    verdict: &Verdict,
    views: Views<'_>,
) -> Outcome {
    let broken = verdict.broken();
    match context.format {
        Format::Json => {
            let data = Data {
                from,
                to,
                fine: broken.is_none(),
                broken: broken.and_then(Finding::step),
                headline: &verdict.headline,
                steps: verdict.steps.iter().map(StepRow::from).collect(),
                advice: &verdict.advice,
                sight: views.ours,
                from_says: views.from,
                to_says: views.to,
            };
            output::json("why", frame, &data)?;
        }
        Format::Tsv => output::print(|out| {
            verdict.steps.iter().try_for_each(|step| {
                let name = serde_json::to_value(step.step())?;
                let state = serde_json::to_value(State::of(step))?;
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
    match verdict.broken().map(Finding::step) {
        Some(Some(Step::Resolve)) => Exit::Unknown,
        Some(_) => Exit::Negative,
        None => Exit::Fine,
    }
}

fn label(step: &Finding) -> &'static str {
    step.step().map_or("", Step::label)
}

/// Formats the verdict for people.
fn lines(verdict: &Verdict, utf8: bool, color: bool) -> Vec<String> {
    let width = verdict
        .steps
        .iter()
        .map(|step| label(step).len())
        .max()
        .unwrap_or_default();
    let mut lines = vec![plain(&verdict.headline, utf8)];
    for step in &verdict.steps {
        let (mark, colour) = match (State::of(step), utf8) {
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
        let label = label(step);
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

#[cfg(test)]
mod tests;
