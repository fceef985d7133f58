//! `meshctl log`: follows the daemon's log, or shows past lines.

use std::time::Duration;

use meshd_api::{call, proto::LogLine};

use crate::{Exit, Failure, Outcome, args::Format, context::Context, escape::paint, output};

/// Highest debug level of tinc.
const MAX_LEVEL: u8 = 10;

pub(super) fn run(
    context: &Context,
    follow: bool,
    since: Option<Duration>,
    peer: Option<&str>,
    level: Option<u8>,
) -> Outcome {
    let past = since.is_some() && !follow;
    let mut client = context.connect()?;
    client.send(call::Log {
        level,
        since_seconds: since.map_or(0, |since| since.as_secs().max(1)),
        past,
    })?;
    client.patience(None)?;
    if !past && context.format == Format::Table && output::watched() {
        output::complain("following the log; end with Ctrl-C");
    }
    while let Some(answer) = client.receive::<LogLine>()? {
        let line = answer.response;
        if peer.is_some_and(|peer| !is_about(&line.text, peer)) {
            continue;
        }
        output::print(|out| match context.format {
            Format::Json => {
                serde_json::to_writer(&mut *out, &line)?;
                writeln!(out)
            }
            Format::Tsv => writeln!(out, "{}\t{}\t{}", line.time, line.level, line.text),
            Format::Table => writeln!(out, "{}", human(&line, context.color)),
        })?;
    }
    Ok(Exit::Fine)
}

/// Returns all lines that the daemon has recorded.
pub(super) fn recorded(context: &Context) -> Result<String, Failure> {
    let mut client = context.connect()?;
    client.send(call::Log {
        level: Some(MAX_LEVEL),
        since_seconds: u64::MAX,
        past: true,
    })?;
    let mut text = String::new();
    while let Some(answer) = client.receive::<LogLine>()? {
        text.push_str(&human(&answer.response, false));
        text.push('\n');
    }
    Ok(text)
}

/// True if one of the fields at the end of a line names this node.
fn is_about(text: &str, node: &str) -> bool {
    let mut words = text.split(' ');
    words.any(|word| word.split_once('=').is_some_and(|(_, value)| value == node))
}

fn human(line: &LogLine, color: bool) -> String {
    let LogLine { time, level, text } = line;
    let code = match level.as_str() {
        "error" => 31,
        "warn" => 33,
        _ => 0,
    };
    if color && code > 0 {
        format!("{time} {} {text}", paint(code, &format!("{level:5}")))
    } else {
        format!("{time} {level:5} {text}")
    }
}
