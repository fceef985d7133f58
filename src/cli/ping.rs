//! `meshctl ping`: measures the path to a node.

use std::time::Duration;

use serde::Serialize;

use meshd_api::{call, proto::Pong};

use crate::{
    Exit, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
    table::or_empty,
};

/// Time between two probes.
const PAUSE: Duration = Duration::from_secs(1);
/// Time that the daemon may take beyond the probe.
const GRACE: Duration = Duration::from_secs(2);
/// Longest wait for one probe, in milliseconds; the limit of the daemon.
const MAX_WAIT: u128 = 60_000;

#[derive(Serialize)]
struct Pings<'a> {
    node: &'a str,
    pongs: Vec<Pong>,
    loss_ratio: f64,
}

/// Returns exit code 1 if no probe was answered.
pub(super) fn run(context: &Context, node: &str, count: u32) -> Outcome {
    let mut client = context.connect()?;
    client.patience(Some(context.timeout() + GRACE))?;
    let timeout_ms = u64::try_from(context.timeout().as_millis().min(MAX_WAIT)).unwrap_or_default();
    let mut pongs = Vec::new();
    let mut last = None;
    for number in 1..=count {
        if number > 1 {
            std::thread::park_timeout(PAUSE);
        }
        let node = node.to_owned();
        let answer = client.ask(call::Ping { node, timeout_ms })?;
        let pong = &answer.response;
        if context.format != Format::Json {
            let (line, pong) = (line(context, pong), pong.clone());
            output::print(|out| match context.format {
                Format::Tsv => writeln!(out, "{number}\t{}", tsv(&pong)),
                _ => writeln!(out, "{number} {line}"),
            })?;
        }
        pongs.push(pong.clone());
        last = Some(answer);
    }
    let answered = pongs
        .iter()
        .filter(|pong| pong.rtt_seconds.is_some())
        .count();
    let loss_ratio = 1.0 - answered as f64 / f64::from(count);
    match (&last, context.format) {
        (Some(answer), Format::Json) => {
            let data = Pings {
                node,
                pongs,
                loss_ratio,
            };
            output::json("ping", &Frame::from(answer), &data)?;
        }
        (_, Format::Table) => {
            let dot = if context.utf8 { "·" } else { "-" };
            let loss = loss_ratio * 100.0;
            output::print(|out| {
                writeln!(out, "{answered} of {count} answered {dot} loss {loss:.0}%")
            })?;
        }
        _ => {}
    }
    Ok(if answered > 0 {
        Exit::Fine
    } else {
        Exit::Negative
    })
}

/// `0.51ms udp 10.132.0.22:655 · pmtu 1451`
fn line(context: &Context, pong: &Pong) -> String {
    let Some(rtt) = pong.rtt_seconds else {
        return format!("no answer within {} s", context.timeout().as_secs());
    };
    let mut line = format!("{:.2}ms {}", rtt * 1000.0, pong.path.word());
    if let Some(endpoint) = &pong.endpoint {
        line.push_str(&format!(" {endpoint}"));
    }
    if let Some(pmtu) = pong.pmtu_bytes {
        let dot = if context.utf8 { "·" } else { "-" };
        line.push_str(&format!(" {dot} pmtu {pmtu}"));
    }
    line
}

fn tsv(pong: &Pong) -> String {
    [
        or_empty(pong.rtt_seconds),
        pong.path.word().into(),
        or_empty(pong.endpoint.as_deref()),
        or_empty(pong.pmtu_bytes),
    ]
    .join("\t")
}
