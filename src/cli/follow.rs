//! `meshctl log`: log lines as they come.

use crate::{
    cli::{Exit, Failure, Outcome, args::Format, context::Context, output},
    control::proto::{LogLine, Request, Response},
};

pub(super) fn run(context: &Context, level: Option<u8>) -> Outcome {
    let mut client = context.connect()?;
    client.send(Request::Log { level })?;
    client.patience(None)?;
    if context.format == Format::Table && output::watched() {
        output::complain("following the log; end with Ctrl-C");
    }
    while let Some(answer) = client.receive()? {
        let Response::Log(line) = answer.response else {
            return Err(Failure::odd_answer());
        };
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

fn human(line: &LogLine, color: bool) -> String {
    let LogLine { time, level, text } = line;
    let code = match level.as_str() {
        "error" => 31,
        "warn" => 33,
        _ => 0,
    };
    if color && code > 0 {
        format!("{time} \x1b[{code}m{level:5}\x1b[0m {text}")
    } else {
        format!("{time} {level:5} {text}")
    }
}
