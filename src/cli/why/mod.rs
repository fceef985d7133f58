//! `meshctl why`: finds the first broken step between a name and a delivered packet.

mod local;

use serde::Serialize;

use meshd_api::{
    call,
    proto::Answer,
    report::{NodeReport, PathReport},
    why::{End, LONGEST, PathBetween},
};
use meshd_config::Source;
use meshd_diagnose::{
    Finding, Here, Severity,
    why::{self, Asked, Explained, Firewall, Step, Verdict},
};
use meshd_os::clock;

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    escape::paint,
    firewall,
    output::{self, Frame},
};

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
    let (from, to) = match second {
        None => (None, first),
        Some(second) => (Some(first), second),
    };
    let answer = ask(context, from, to)?;
    let path = &answer.response;
    let asked = Asked {
        here: Here {
            node: answer.node.clone(),
            net: answer.net.clone(),
            pid: Some(path.daemon.pid),
            main: main_file(&path.daemon.config),
        },
        from,
        to,
        firewall: firewall(path),
    };
    show(context, &Frame::from(&answer), &why::explain(path, &asked))
}

/// Asks the daemon about a path.
pub(super) fn ask(
    context: &Context,
    from: Option<&str>,
    to: &str,
) -> Result<Answer<Box<PathBetween>>, Failure> {
    let mut client = context.connect()?;
    client.patience(Some(context.timeout() + LONGEST))?;
    Ok(client.ask(call::Why {
        from: from.map(str::to_owned),
        to: to.to_owned(),
    })?)
}

/// Returns the main file of a configuration directory.
fn main_file(config: &str) -> String {
    let source = Source {
        base: config.into(),
        ..Source::default()
    };
    meshd_config::main_file(&source).display().to_string()
}

/// Returns the state of this machine's firewall for the other end. The daemon cannot read the rules: it starts no
/// program.
fn firewall(path: &PathBetween) -> Firewall {
    let ((End::Own(_), End::Other(other)) | (End::Other(other), End::Own(_))) =
        (&path.from, &path.to)
    else {
        return Firewall::Unchecked("it is not on the path".into());
    };
    let from = other.report.pair.udp.address;
    match firewall::inspect(from.map(|at| at.ip()), path.daemon.port) {
        firewall::FirewallVerdict::Open(what) => Firewall::Open(what),
        firewall::FirewallVerdict::Closed(rule) => Firewall::Closed(rule),
        firewall::FirewallVerdict::Unsure(what) => Firewall::Unsure(what),
        firewall::FirewallVerdict::Nothing(why) => Firewall::Unchecked(why),
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
    let (to, verdict) = match files.world.resolve(to) {
        Err(end) => (to.to_owned(), why::unknown(to, &end)),
        Ok(target) if target.node.as_str() == own => {
            (own.clone(), why::ourselves(&files.here(), &target))
        }
        Ok(target) => {
            let facts = files.facts(target);
            (facts.target.node.to_string(), why::judge(&facts))
        }
    };
    let explained = Explained {
        from: &own,
        to: &to,
        verdict,
        ours: None,
        from_says: None,
        to_says: None,
    };
    show(context, &frame, &explained)
}

fn show(context: &Context, frame: &Frame<'_>, explained: &Explained<'_>) -> Outcome {
    let verdict = &explained.verdict;
    let broken = verdict.broken();
    match context.format {
        Format::Json => {
            let data = Data {
                from: explained.from,
                to: explained.to,
                fine: broken.is_none(),
                broken: broken.and_then(Finding::step),
                headline: &verdict.headline,
                steps: verdict.steps.iter().map(StepRow::from).collect(),
                advice: &verdict.advice,
                sight: explained.ours,
                from_says: explained.from_says,
                to_says: explained.to_says,
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
