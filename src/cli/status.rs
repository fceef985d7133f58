//! `meshctl status`: shows the state of the daemon on one screen.

use std::collections::BTreeMap;

use meshd_api::{
    call,
    proto::{Answer, DaemonStatus, ThreadRow},
};
use meshd_proto::link::Dialect;

use crate::{
    Outcome,
    context::Context,
    output::{self, Frame, Show},
    table::{Table, age, or_empty},
};

struct Screen<'a> {
    answer: &'a Answer<Box<DaemonStatus>>,
    status: &'a DaemonStatus,
}

pub(super) fn run(context: &Context) -> Outcome {
    let answer = context.ask(call::Status {})?;
    let status = &answer.response;
    let screen = Screen {
        answer: &answer,
        status,
    };
    output::show(context, "status", &Frame::from(&answer), status, &screen)
}

fn dropped(drops: &BTreeMap<String, u64>) -> String {
    let drops = drops.iter().filter(|(_, count)| **count > 0);
    let drops: Vec<String> = drops
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    drops.join(", ")
}

/// `device, 0.0.0.0:655, beat 1s ago, drops no_key 5`
fn thread(row: &ThreadRow) -> String {
    let device = row.device.then(|| "device".to_owned());
    let beat = row.beat_age_seconds;
    let beat = beat.map(|seconds| format!("beat {} ago", age(seconds, true)));
    let drops = Some(dropped(&row.drops)).filter(|drops| !drops.is_empty());
    let drops = drops.map(|drops| format!("drops {drops}"));
    let sockets = row.sockets.iter().cloned();
    let parts: Vec<String> = device
        .into_iter()
        .chain(sockets)
        .chain(beat)
        .chain(drops)
        .collect();
    parts.join(", ")
}

impl Show for Screen<'_> {
    fn human(&self) -> (Vec<String>, Table) {
        let DaemonStatus { mesh, .. } = self.status;
        let status = self.status;
        let interface = match (&status.interface, status.mtu) {
            (Some(name), Some(mtu)) => format!("iface {name}  mtu {mtu}"),
            (Some(name), None) => format!("iface {name}"),
            (None, _) => "no iface".into(),
        };
        let mut table = Table::new(&["", ""]);
        let mut line = |name: &str, text: String| table.row([name.into(), text]);
        line(
            self.answer.net.as_deref().unwrap_or("meshd"),
            format!(
                "up {}  node {}  {interface}  workers {}  pid {}  version {}",
                age(status.uptime_seconds, false),
                self.answer.node,
                status.workers,
                status.pid,
                status.version,
            ),
        );
        line(
            "meta",
            format!(
                "{} links, {} of {} nodes reachable, {} edges, {} subnets, {} lines, {} refused",
                mesh.links,
                mesh.reachable,
                mesh.nodes,
                mesh.edges,
                mesh.subnets,
                mesh.lines,
                mesh.refused,
            ),
        );
        if mesh.downgrades > 0 {
            let text = format!("{} downgrades refused or suspected", mesh.downgrades);
            line("", text);
        }
        if mesh.subnets_refused > 0 {
            let text = format!(
                "{} subnets refused (SubnetPolicy, or too many)",
                mesh.subnets_refused
            );
            line("", text);
        }
        line("listen", status.listen.join(", "));
        line(
            "key",
            match status.offers {
                Some(Dialect::Legacy) => "only an RSA key: this node speaks legacy only".into(),
                _ => format!("ed25519 {}", status.public_key),
            },
        );
        if !status.offloads.is_empty() {
            let without = match status.offloads_missing.join(", ") {
                none if none.is_empty() => none,
                missing => format!("  without {missing}"),
            };
            line("path", format!("{}{without}", status.offloads.join(", ")));
        }
        for row in &status.threads {
            line(&row.name, thread(row));
        }
        let drops = dropped(&status.drops);
        if !drops.is_empty() {
            line("drops", drops);
        }
        if mesh.foreign_packets > 0 {
            let text = format!(
                "{} packets had a source outside their sender's subnets; SourceCheck = strict drops them",
                mesh.foreign_packets,
            );
            line("sources", text);
        }
        if !status.refused_calls.is_empty() {
            let calls = dropped(&status.refused_calls);
            line("sandbox", format!("refused system calls: {calls}"));
        }
        let problems = match status.problems.len() {
            0 => "ok".into(),
            1 => "1 problem".into(),
            n => format!("{n} problems"),
        };
        line("config", format!("{}  {problems}", status.config));
        for problem in &status.problems {
            line("", problem.clone());
        }
        (Vec::new(), table)
    }

    fn raw(&self) -> Table {
        let status = self.status;
        let mut table = Table::new(&["name", "value"]);
        let rows = [
            ("net", or_empty(self.answer.net.as_deref())),
            ("node", self.answer.node.clone()),
            ("version", status.version.clone()),
            ("pid", status.pid.to_string()),
            ("uptime_seconds", status.uptime_seconds.to_string()),
            ("interface", or_empty(status.interface.as_deref())),
            ("mtu", or_empty(status.mtu)),
            ("listen", status.listen.join(",")),
            ("public_key", status.public_key.clone()),
            ("config", status.config.clone()),
            ("workers", status.workers.to_string()),
            ("offloads", status.offloads.join(",")),
            ("links", status.mesh.links.to_string()),
            ("nodes", status.mesh.nodes.to_string()),
            ("reachable", status.mesh.reachable.to_string()),
            ("edges", status.mesh.edges.to_string()),
            ("subnets", status.mesh.subnets.to_string()),
            ("lines", status.mesh.lines.to_string()),
            ("graph_runs", status.mesh.graph_runs.to_string()),
            ("floods", status.mesh.floods.to_string()),
            ("refused", status.mesh.refused.to_string()),
            ("foreign_packets", status.mesh.foreign_packets.to_string()),
            ("downgrades", status.mesh.downgrades.to_string()),
            ("subnets_refused", status.mesh.subnets_refused.to_string()),
            ("problems", status.problems.len().to_string()),
        ];
        rows.into_iter()
            .for_each(|(name, value)| table.row([name.into(), value]));
        let missing = status.offloads_missing.join(",");
        table.row(["offloads_missing".into(), missing]);
        for (call, count) in &status.refused_calls {
            table.row([format!("refused_call_{call}"), count.to_string()]);
        }
        for thread in &status.threads {
            let name = &thread.name;
            let rows = [
                ("device", thread.device.to_string()),
                ("sockets", thread.sockets.join(",")),
                ("beats", thread.beats.to_string()),
                ("beat_age_seconds", or_empty(thread.beat_age_seconds)),
            ];
            for (what, value) in rows {
                table.row([format!("thread_{name}_{what}"), value]);
            }
            for (reason, count) in &thread.drops {
                table.row([format!("thread_{name}_drops_{reason}"), count.to_string()]);
            }
        }
        for (reason, count) in &status.drops {
            table.row([format!("drops_{reason}"), count.to_string()]);
        }
        table
    }
}
