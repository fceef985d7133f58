//! `meshctl plan`: shows the changes that a reload would make.

use meshd_api::{
    call,
    proto::{Change, Planned},
};

use crate::{
    Exit, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
};

/// Returns exit code 0 without changes, 10 with changes, 8 if the daemon would refuse the reload.
pub(super) fn run(context: &Context) -> Outcome {
    let answer = context.ask(call::Plan {})?;
    let plan = &answer.response;
    if context.format == Format::Json {
        output::json("plan", &Frame::from(&answer), plan)?;
    } else {
        output::print(|out| {
            lines(plan)
                .iter()
                .try_for_each(|line| writeln!(out, "{line}"))
        })?;
        plan.problems
            .iter()
            .for_each(|problem| output::complain(problem));
        if let Some(why) = &plan.refused {
            output::complain(&format!("a reload would be refused: {why}"));
        }
    }
    Ok(match (&plan.refused, plan.changed.is_empty()) {
        (Some(_), _) => Exit::Refused,
        (None, false) => Exit::Left,
        (None, true) => Exit::Fine,
    })
}

/// Returns a line for each change, and a note if the firewall must be loaded again.
pub(super) fn changes(changed: &[Change]) -> Vec<String> {
    let line = |change: &Change| format!("{} {change}", change.kind.mark());
    let mut lines: Vec<String> = changed.iter().map(line).collect();
    lines.extend(note_on_allow(changed));
    lines
}

/// Returns a note that the firewall must be loaded again, if an Allow line changed.
fn note_on_allow(changed: &[Change]) -> Option<String> {
    let mut keys = changed.iter().filter_map(|change| change.key.as_deref());
    let note = "Allow: load the rules of `meshctl firewall`, because meshd itself filters nothing";
    keys.any(|key| key == "Allow").then(|| note.into())
}

fn lines(plan: &Planned) -> Vec<String> {
    let mut lines = changes(&plan.changed);
    let restart = match plan.restart_needed.as_slice() {
        [] => "no".into(),
        names => names.join(", "),
    };
    let cut = match plan.cut.as_slice() {
        [] => "none".into(),
        names => names.join(", "),
    };
    let Planned { live, may_cut, .. } = plan;
    lines.push(format!(
        "= restart needed: {restart}; disconnected: {cut} (limit without --yes: {may_cut} of {live} nodes)"
    ));
    lines
}
