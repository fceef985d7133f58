//! `meshctl reload`, `stop`, `retry`: control the daemon.

use meshd_api::{
    call::{self, Call},
    proto::Reloaded,
};

use crate::{
    Exit, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
    plan,
};

/// Returns exit code 7 if a host file was not applied, else 9 if a change waits for a restart.
pub(super) fn reload(context: &Context, call: impl Call<Answer = Reloaded>) -> Outcome {
    let answer = context.ask(call)?;
    let reloaded = &answer.response;
    if context.format == Format::Json {
        output::json("reload", &Frame::from(&answer), reloaded)?;
    } else {
        let Reloaded {
            changed,
            restart_needed,
            problems,
            not_taken,
        } = reloaded;
        output::print(|out| {
            if changed.is_empty() {
                writeln!(out, "nothing changed")?;
            }
            plan::changes(changed)
                .iter()
                .try_for_each(|line| writeln!(out, "{line}"))?;
            if !not_taken.is_empty() {
                writeln!(out, "not applied: {}", not_taken.join(", "))?;
            }
            match restart_needed.as_slice() {
                [] => Ok(()),
                names => writeln!(out, "restart needed for: {}", names.join(", ")),
            }
        })?;
        problems
            .iter()
            .for_each(|problem| output::complain(problem));
    }
    Ok(
        match (&reloaded.not_taken[..], &reloaded.restart_needed[..]) {
            ([], []) => Exit::Fine,
            ([], _) => Exit::NeedsRestart,
            _ => Exit::Config,
        },
    )
}

pub(super) fn confirm(context: &Context) -> Outcome {
    done(context, "confirm", call::Confirm {}, "kept")
}

pub(super) fn stop(context: &Context) -> Outcome {
    done(context, "stop", call::Stop {}, "stopping")
}

pub(super) fn retry(context: &Context) -> Outcome {
    done(
        context,
        "retry",
        call::Retry {},
        "dialling; `meshctl peers` shows the result",
    )
}

fn done(context: &Context, name: &str, call: impl Call<Answer = bool>, words: &str) -> Outcome {
    let answer = context.ask(call)?;
    let done = answer.response;
    if context.format == Format::Json {
        output::json(
            name,
            &Frame::from(&answer),
            &serde_json::json!({ "done": done }),
        )?;
    } else if output::watched() {
        output::complain(words);
    }
    Ok(if done { Exit::Fine } else { Exit::Negative })
}
