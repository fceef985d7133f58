//! Output of the benchmark: a table to read, rows for programs, and the table of the README.

use std::fs;

use serde_json::Value;

/// Medians of one peer, in the order of the columns.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) medians: Vec<f64>,
}

/// The measured kinds: the first peer is ours, and compared with each other one.
pub(crate) struct Report<'a> {
    pub(crate) columns: &'a [&'a str],
    pub(crate) peers: Vec<Peer>,
    pub(crate) rounds: usize,
    pub(crate) seconds: usize,
}

/// The README's table stands between these.
const MARKERS: [&str; 2] = ["<!-- bench -->\n", "<!-- /bench -->\n"];

impl Report<'_> {
    /// The first peer by another, a column each.
    fn ratios(&self, other: &Peer) -> Vec<f64> {
        let pairs = self.peers[0].medians.iter().zip(&other.medians);
        pairs.map(|(ours, theirs)| ours / theirs).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.peers.iter().map(|peer| {
            serde_json::json!({"peer": peer.name, "median": peer.medians, "columns": self.columns})
        });
        rows.collect()
    }

    pub(crate) fn text(&self) -> String {
        let line = |head: &str, cells: Vec<String>| {
            let cells = cells.iter().map(|cell| format!(" {cell:>18}"));
            format!("{head:16}{}\n", cells.collect::<String>())
        };
        let numbers = |all: &[f64], digits: usize| {
            let all = all.iter();
            all.map(|number| format!("{number:.digits$}")).collect()
        };
        let names = self.columns.iter().map(ToString::to_string).collect();
        let mut text = line("median", names);
        for peer in &self.peers {
            text += &line(&peer.name, numbers(&peer.medians, 1));
        }
        for other in &self.peers[1..] {
            text += &line(
                &format!("by {}", other.name),
                numbers(&self.ratios(other), 2),
            );
        }
        text
    }

    /// Puts the table and the machine between the markers in a file.
    pub(crate) fn write_into(&self, file: &str) {
        let old = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let [begin, end] = MARKERS;
        let parts = old.split_once(begin);
        let parts = parts.and_then(|(head, rest)| Some((head, rest.split_once(end)?.1)));
        let (head, tail) = parts.unwrap_or_else(|| panic!("{file}: no {begin} before {end}"));
        let new = format!("{head}{begin}{}{end}{tail}", self.markdown());
        fs::write(file, new).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "Medians of {} rounds of {} s on {}; in brackets, how many times that {} has:\n\n| |",
            self.rounds,
            self.seconds,
            machine(),
            self.peers[0].name
        );
        for peer in &self.peers {
            text += &format!(" {} |", peer.name);
        }
        text += "\n|---|";
        text += &"---|".repeat(self.peers.len());
        for (at, column) in self.columns.iter().enumerate() {
            let [ours, others @ ..] = &self.peers[..] else {
                panic!("nobody was measured");
            };
            text += &format!("\n| {column} | {:.1} |", ours.medians[at]);
            for other in others {
                let ratio = self.ratios(other)[at];
                text += &format!(" {:.1} ({ratio:.2}) |", other.medians[at]);
            }
        }
        text + "\n"
    }
}

/// Processor, its cores, and the kernel.
fn machine() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{}, {cores} cores, Linux {}",
        model.map_or("a processor without a name", |(_, model)| model.trim()),
        kernel.trim()
    )
}
