//! What the benchmark says: a table to read, rows for programs, and the table of the README.

use std::fs;

use serde_json::Value;

/// Medians of one peer, in the order of the columns.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) medians: Vec<f64>,
}

/// What was run: two peers, the second of which is compared with.
pub(crate) struct Report<'a> {
    pub(crate) columns: &'a [&'a str],
    pub(crate) peers: [Peer; 2],
    pub(crate) rounds: usize,
    pub(crate) seconds: usize,
}

/// The README's table stands between these.
const MARKERS: [&str; 2] = ["<!-- bench -->\n", "<!-- /bench -->\n"];

impl Report<'_> {
    /// First peer by second, a column each.
    fn ratios(&self) -> Vec<f64> {
        let [ours, theirs] = &self.peers;
        let pairs = ours.medians.iter().zip(&theirs.medians);
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
            format!("{head:10}{}\n", cells.collect::<String>())
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
        text + &line("ratio", numbers(&self.ratios(), 2))
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
        let [ours, theirs] = &self.peers;
        let mut text = format!(
            "Medians of {} rounds of {} s on {}:\n\n| | {} | {} | ratio |\n|---|---|---|---|\n",
            self.rounds,
            self.seconds,
            machine(),
            ours.name,
            theirs.name
        );
        let medians = ours.medians.iter().zip(&theirs.medians);
        for ((column, (ours, theirs)), ratio) in self.columns.iter().zip(medians).zip(self.ratios())
        {
            text += &format!("| {column} | {ours:.1} | {theirs:.1} | {ratio:.2} |\n");
        }
        text
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
