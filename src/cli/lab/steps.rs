//! The lab from the inside: process 1 builds it, runs it and checks it, step by step.

use std::{
    io::BufRead as _,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use serde_json::Value;

use meshd_crypto::Rng;
use meshd_os::clock::now;

use crate::lab::{
    LabArgs,
    daemons::{self, Daemon},
    ping,
    report::{Ping, Report, Tenant},
    tenant::{self, Markers},
    transfer, tree,
    world::{self, Droplet},
};

/// Longest wait for the first answers of all pairs.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Up to this number of droplets, the lab shows each one's table; above, only the first one's.
const TABLES: usize = 4;

/// Runs the lab as process 1 of its namespaces; `outside` is the process that the user started.
pub(super) fn run(args: &LabArgs, outside: u32, report: &mut Report) -> ExitCode {
    let droplets = world::droplets(args.nodes);
    let root = PathBuf::from(format!("/run/meshd-lab-{outside}"));
    if let Some(mut rng) = prepare(&root, &droplets, report) {
        live(args, &root, &droplets, &mut rng, report);
    }
    report.finish()
}

fn prepare(root: &Path, droplets: &[Droplet], report: &mut Report) -> Option<Rng> {
    report.step("world", "separate namespaces", |_| {
        world::settle()?;
        Ok(((), "nothing of this machine's network is touched".into()))
    })?;
    report.step("wire", "one wire for all", |_| {
        world::build(droplets)?;
        Ok((
            (),
            format!(
                "{} droplets and a tenant that receives every frame",
                droplets.len()
            ),
        ))
    })?;
    report.step("keys", "keys and host files", |_| {
        let mut rng = tree::rng()?;
        tree::write(root, droplets, &mut rng)?;
        Ok((
            rng,
            format!("{} trees as `tinc init` writes them", droplets.len()),
        ))
    })
}

/// Runs from the start of the first daemon to the end of the last. A failed check does not stop the next one.
fn live(args: &LabArgs, root: &Path, droplets: &[Droplet], rng: &mut Rng, report: &mut Report) {
    let title = format!("{} daemons start", droplets.len());
    let started = report.step("daemons", &title, |_| {
        let daemons = daemons::start(&args.meshd, root, droplets)?;
        Ok((daemons, "every control socket answers".into()))
    });
    let Some(mut daemons) = started else {
        show_logs(root, droplets, report);
        return;
    };
    report.step(
        "ping",
        "each node pings every other over the mesh",
        |report| {
            report.pings = ping_pairs(droplets)?;
            let slowest = report
                .pings
                .iter()
                .map(|p| p.rtt_seconds)
                .fold(0.0, f64::max);
            Ok((
                (),
                format!(
                    "{} pairs, at most {:.2} ms",
                    report.pings.len(),
                    slowest * 1e3
                ),
            ))
        },
    );
    check_tenant(droplets, rng, report);
    check_peers(&daemons, report);
    if !report.ok() {
        show_logs(root, droplets, report);
    }
    if let (true, Some(outside)) = (args.keep, args.inside) {
        wait_for_enter(outside, root, report);
    }
    report.step("teardown", "daemons stop", |_| {
        daemons::stop(&mut daemons)?;
        Ok((
            (),
            "each by its own pid; the namespaces go with this process".into(),
        ))
    });
}

fn ping_pairs(droplets: &[Droplet]) -> anyhow::Result<Vec<Ping>> {
    let deadline = now() + CONVERGENCE;
    let from_one = |from: &Droplet| -> anyhow::Result<Vec<Ping>> {
        let others = droplets.iter().filter(|to| to.name != from.name);
        others
            .map(|to| {
                let rtt = ping::until_answered(&from.name, to.inner, deadline)?;
                Ok(Ping {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    rtt_seconds: rtt.as_secs_f64(),
                })
            })
            .collect()
    };
    let from_one = &from_one;
    let rows: Vec<anyhow::Result<Vec<Ping>>> = thread::scope(|scope| {
        let threads: Vec<_> = droplets
            .iter()
            .map(|from| scope.spawn(move || from_one(from)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|row| row.unwrap_or_else(|_| Err(anyhow!("a pinging thread panicked"))))
            .collect()
    });
    Ok(rows
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?
        .concat())
}

/// The tenant captures from before the transfer, then sends to every port.
fn check_tenant(droplets: &[Droplet], rng: &mut Rng, report: &mut Report) {
    let (first, last) = (&droplets[0], &droplets[droplets.len() - 1]);
    let mut found = Tenant::default();
    let markers = Markers::new(rng);
    let tap = report.step("tap", "the tenant listens", |_| {
        Ok((markers.listen()?, "on every frame at its interface".into()))
    });
    report.step("transfer", "a TCP transfer over the mesh", |report| {
        let transfer = transfer::run(last, first, &markers.secret)?;
        let text = format!(
            "{} to {}: {} MB in {:.1} s, {:.0} Mbit/s, the hashes are equal",
            transfer.from,
            transfer.to,
            transfer.bytes / 1_000_000,
            transfer.seconds,
            transfer.bits_per_second / 1e6
        );
        report.transfer = Some(transfer);
        Ok(((), text))
    });
    if let Some(tap) = tap {
        report.step("ciphertext", "the tenant received only ciphertext", |_| {
            tenant::hears_only_ciphertext(last, first, &markers, tap, &mut found)?;
            let text = format!(
                "{} frames, {:.1} MB; of {} plaintext markers: 0 from the mesh, {} from outside",
                found.frames,
                found.bytes as f64 / 1e6,
                tenant::REPEATS,
                found.control_seen
            );
            Ok(((), text))
        });
    }
    report.step("silence", "the tenant gets no answer", |_| {
        tenant::knocks(droplets, &mut found, rng)?;
        let text = format!(
            "{} datagrams and {} TCP connections full of garbage: 0 bytes came back",
            found.datagrams_sent, found.connections_opened
        );
        Ok(((), text))
    });
    report.tenant = Some(found);
}

fn check_peers(daemons: &[Daemon], report: &mut Report) {
    report.step("peers", "every droplet sees all others", |report| {
        for daemon in daemons {
            let name = &daemon.droplet.name;
            let answer = daemon.ask(&["peers", "--json"])?;
            let answer: Value = serde_json::from_str(&answer)
                .with_context(|| format!("{name}: `meshctl peers --json` printed no JSON"))?;
            let rows = answer
                .get("data")
                .and_then(Value::as_array)
                .context("no rows in `meshctl peers --json`")?;
            report.peers.insert(name.clone(), rows.clone().into());
            let up = rows
                .iter()
                .filter(|row| row.get("up") == Some(&Value::Bool(true)))
                .count();
            ensure!(
                up == daemons.len() - 1,
                "{name} sees {up} of {} others up",
                daemons.len() - 1
            );
        }
        Ok(((), "all up".into()))
    });
    let tables = if daemons.len() <= TABLES {
        daemons.len()
    } else {
        1
    };
    for daemon in &daemons[..tables] {
        match daemon.ask(&["peers"]) {
            Ok(table) => report.note(&format!(
                "\n$ meshctl peers   # on {}\n{table}",
                daemon.droplet.name
            )),
            Err(error) => report.note(&format!("{}: {error:#}", daemon.droplet.name)),
        }
    }
}

fn show_logs(root: &Path, droplets: &[Droplet], report: &mut Report) {
    for droplet in droplets {
        let lines = daemons::last_lines(root, droplet);
        report.note(&format!(
            "--- the log of {} ends with:\n{lines}",
            droplet.name
        ));
        report.logs.insert(droplet.name.clone(), lines.into());
    }
}

fn wait_for_enter(outside: u32, root: &Path, report: &Report) {
    let user = if in_user_namespace() {
        "-U --preserve-credentials "
    } else {
        ""
    };
    report.note(&format!(
        "The lab runs until you press Enter or Ctrl-C. To inspect it, use another terminal:\n\
         \x20 nsenter -t {outside} {user}-n -m sh\n\
         and there:\n\
         \x20 nsenter --net=/run/netns/droplet_1 ping 172.20.0.2\n\
         \x20 nsenter --net=/run/netns/tenant tcpdump -ni eth0\n\
         \x20 meshctl --pidfile={}/droplet_1/pid peers",
        root.display()
    ));
    let read = std::io::stdin().lock().read_line(&mut String::new());
    if !matches!(read, Ok(1..)) {
        // Standard input is not a terminal: only a signal ends the lab.
        loop {
            thread::park();
        }
    }
}

/// True in a user namespace. The machine's first one maps every id to itself; the lab's maps one id.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}
