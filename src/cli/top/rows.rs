//! Computes rows of rates from two answers of the daemon, without clock, terminal or socket.

use serde_json::{Map, Value};

use meshd_api::proto::DaemonStatus;
use meshd_api::rows::PeerRow;
use meshd_proto::mesh::reports::facts::PathKind;

use crate::{
    peers::tunnel,
    table::{Table, age, bytes, or_dash, or_empty, round_trip},
    top::state::{State, View},
};

/// Answers of the daemon at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Shot {
    pub(super) net: Option<String>,
    pub(super) node: String,
    pub(super) time: String,
    pub(super) peers: Vec<PeerRow>,
    pub(super) status: DaemonStatus,
}

/// A column: its name for people (`>` as in [`Table::new`]) and its stable name for scripts.
pub(super) type Column = (&'static str, &'static str);

/// The content of one cell.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// A word or sentence.
    Text(String),
    /// A number, if known, and its format for people.
    Figure(Option<f64>, fn(f64) -> String),
}

impl Cell {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Figure(value, shown) => or_dash(value.map(shown)),
        }
    }

    fn raw(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Figure(value, _) => or_empty(*value),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Figure(value, _) => (*value).into(),
        }
    }
}

/// One view at one moment.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    /// The daemon in one line.
    pub(super) head: String,
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
}

const PEERS: &[Column] = &[
    ("NAME", "name"),
    ("PATH", "path"),
    ("TUNNEL", "tunnel"),
    (">RTT", "rtt_seconds"),
    (">MTU", "pmtu_bytes"),
    (">RX bit/s", "rx_bits_per_second"),
    (">TX bit/s", "tx_bits_per_second"),
    (">RX pkt/s", "rx_packets_per_second"),
    (">TX pkt/s", "tx_packets_per_second"),
    (">SINCE", "since_seconds"),
    ("NOTE", "note"),
];
const META: &[Column] = &[
    ("MESSAGE", "message"),
    (">IN/s", "in_per_second"),
    (">OUT/s", "out_per_second"),
    (">IN", "in"),
    (">OUT", "out"),
];
const DROPS: &[Column] = &[
    ("REASON", "reason"),
    (">DROPS/s", "drops_per_second"),
    (">DROPS", "drops"),
    ("THREADS", "threads"),
];
const THREADS: &[Column] = &[
    ("THREAD", "thread"),
    (">BUSY", "busy_ratio"),
    (">WAKES/s", "wakes_per_second"),
    (">DROPS/s", "drops_per_second"),
    (">BEAT", "beat_age_seconds"),
    ("READS", "reads"),
];

/// Returns the columns of a view.
pub(super) fn columns(view: View) -> &'static [Column] {
    match view {
        View::Peers => PEERS,
        View::Meta => META,
        View::Drops => DROPS,
        View::Threads => THREADS,
    }
}

/// Returns seconds between two answers by the daemon's clock. Returns `None` without an earlier answer, or if the
/// earlier one came from another process, whose counters differ.
fn span(before: Option<&Shot>, now: &Shot) -> Option<f64> {
    let before = before?;
    let same = before.status.pid == now.status.pid && before.node == now.node;
    let seconds = now.status.uptime_seconds - before.status.uptime_seconds;
    (same && seconds > 0.0).then_some(seconds)
}

/// Returns the growth of a counter per second; `None` if the counter was absent or went back.
fn rate(before: Option<u64>, now: u64, seconds: Option<f64>) -> Option<f64> {
    Some(now.checked_sub(before?)? as f64 / seconds?)
}

/// Formats a rate for people: at most three digits.
fn per_second(rate: f64) -> String {
    match rate {
        _ if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
        _ => bytes(rate.round() as u64),
    }
}

fn percent(ratio: f64) -> String {
    format!("{:.0}%", ratio * 100.0)
}

fn count(n: f64) -> String {
    format!("{n:.0}")
}

fn young(seconds: f64) -> String {
    age(seconds, true)
}

/// Makes a view from two answers, sorted and filtered by the state.
pub(super) fn screen(state: &State, before: Option<&Shot>, now: &Shot) -> Screen {
    let seconds = span(before, now);
    let mut rows = match state.view {
        View::Peers => peers(state.path, before, now, seconds),
        View::Meta => meta(before, now, seconds),
        View::Drops => drops(before, now, seconds),
        View::Threads => threads(before, now, seconds),
    };
    let wanted = state.filter.to_lowercase();
    rows.retain(|row| {
        let mut cells = row.iter();
        cells.any(|cell| matches!(cell, Cell::Text(text) if text.to_lowercase().contains(&wanted)))
    });
    sort(&mut rows, state.sorted_by());
    Screen {
        head: head(before, now, seconds),
        columns: columns(state.view),
        rows,
    }
}

/// Sorts words in ascending order, numbers in descending order, unknown numbers last.
fn sort(rows: &mut [Vec<Cell>], column: usize) {
    rows.sort_by(|a, b| match (a.get(column), b.get(column)) {
        (Some(Cell::Text(a)), Some(Cell::Text(b))) => a.cmp(b),
        (Some(Cell::Figure(a, _)), Some(Cell::Figure(b, _))) => {
            let [a, b] = [a, b].map(|value| value.unwrap_or(f64::NEG_INFINITY));
            b.total_cmp(&a)
        }
        _ => std::cmp::Ordering::Equal,
    });
}

fn head(before: Option<&Shot>, now: &Shot, seconds: Option<f64>) -> String {
    let (status, mesh) = (&now.status, &now.status.mesh);
    // Only nodes with a known rate count: nodes come and go.
    let bits = |of: fn(&PeerRow) -> u64| {
        let rates = now.peers.iter();
        let rates = rates.filter_map(|row| rate(old(before, row).map(of), of(row), seconds));
        let bits = seconds.map(|_| rates.sum::<f64>() * 8.0);
        or_dash(bits.map(per_second))
    };
    let lines = rate(
        before.map(|shot| shot.status.mesh.lines),
        mesh.lines,
        seconds,
    );
    let parts = [
        now.net.clone().unwrap_or_default(),
        now.node.clone(),
        format!("up {}", age(status.uptime_seconds, false)),
        format!(
            "{} of {} nodes, {} links",
            mesh.reachable, mesh.nodes, mesh.links
        ),
        format!(
            "rx {} tx {} bit/s",
            bits(|row| row.rx_bytes),
            bits(|row| row.tx_bytes)
        ),
        format!(
            "meta {}/s, {} B wait",
            or_dash(lines.map(per_second)),
            status.meta_queue_bytes
        ),
        now.time.clone(),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("  ")
}

/// Returns the earlier row of the same node.
fn old<'a>(before: Option<&'a Shot>, row: &PeerRow) -> Option<&'a PeerRow> {
    let mut rows = before?.peers.iter();
    rows.find(|old| old.name == row.name)
}

fn peers(
    path: Option<PathKind>,
    before: Option<&Shot>,
    now: &Shot,
    seconds: Option<f64>,
) -> Vec<Vec<Cell>> {
    let wanted = now
        .peers
        .iter()
        .filter(|row| path.is_none_or(|path| row.path == path));
    let rows = wanted.map(|row| {
        let old = old(before, row);
        let rate = |of: fn(&PeerRow) -> u64, times: f64| {
            let rate = rate(old.map(of), of(row), seconds);
            Cell::Figure(rate.map(|rate| rate * times), per_second)
        };
        let way = match (row.path, &row.via) {
            (PathKind::Via, Some(via)) => format!("via {via}"),
            (path, _) => path.word().into(),
        };
        let note = row.reason.as_ref().map(|reason| &reason.text);
        vec![
            Cell::Text(row.name.clone()),
            Cell::Text(way),
            Cell::Text(tunnel(row)),
            Cell::Figure(row.rtt_seconds, round_trip),
            Cell::Figure(row.pmtu_bytes.map(f64::from), count),
            rate(|row| row.rx_bytes, 8.0),
            rate(|row| row.tx_bytes, 8.0),
            rate(|row| row.rx_packets, 1.0),
            rate(|row| row.tx_packets, 1.0),
            Cell::Figure(row.since_seconds, young),
            Cell::Text(or_empty(note)),
        ]
    });
    rows.collect()
}

fn meta(before: Option<&Shot>, now: &Shot, seconds: Option<f64>) -> Vec<Vec<Cell>> {
    let messages = now.status.messages.iter();
    let messages = messages.filter(|(_, counts)| **counts != [0, 0]);
    let rows = messages.map(|(name, counts)| {
        let old = before.and_then(|shot| shot.status.messages.get(name));
        let rate = |at: usize| rate(old.map(|old| old[at]), counts[at], seconds);
        vec![
            Cell::Text(name.clone()),
            Cell::Figure(rate(0), per_second),
            Cell::Figure(rate(1), per_second),
            Cell::Figure(Some(counts[0] as f64), count),
            Cell::Figure(Some(counts[1] as f64), count),
        ]
    });
    rows.collect()
}

/// Answers omit reasons without drops: their count is 0.
fn drops(before: Option<&Shot>, now: &Shot, seconds: Option<f64>) -> Vec<Vec<Cell>> {
    let drops = now.status.drops.iter().filter(|(_, all)| **all > 0);
    let rows = drops.map(|(reason, all)| {
        let old = before.map(|shot| shot.status.drops.get(reason).copied().unwrap_or_default());
        let threads = now.status.threads.iter().filter_map(|thread| {
            let count = thread.drops.get(reason).filter(|count| **count > 0)?;
            Some(format!("{} {count}", thread.name))
        });
        vec![
            Cell::Text(reason.clone()),
            Cell::Figure(rate(old, *all, seconds), per_second),
            Cell::Figure(Some(*all as f64), count),
            Cell::Text(threads.collect::<Vec<_>>().join(", ")),
        ]
    });
    rows.collect()
}

fn threads(before: Option<&Shot>, now: &Shot, seconds: Option<f64>) -> Vec<Vec<Cell>> {
    let rows = now.status.threads.iter().map(|thread| {
        let threads = before.map(|shot| shot.status.threads.iter());
        let old = threads.and_then(|mut all| all.find(|old| old.name == thread.name));
        let ran = old.and_then(|old| Some(thread.run_seconds? - old.run_seconds?));
        let busy = ran
            .zip(seconds)
            .map(|(ran, seconds)| (ran / seconds).clamp(0.0, 1.0));
        let dropped = rate(
            old.map(|old| old.drops.values().sum()),
            thread.drops.values().sum(),
            seconds,
        );
        let device = thread.device.then(|| "device".to_owned());
        let reads: Vec<String> = device.into_iter().chain(thread.sockets.clone()).collect();
        vec![
            Cell::Text(thread.name.clone()),
            Cell::Figure(busy, percent),
            Cell::Figure(
                rate(old.map(|old| old.beats), thread.beats, seconds),
                per_second,
            ),
            Cell::Figure(dropped, per_second),
            Cell::Figure(thread.beat_age_seconds, young),
            Cell::Text(reads.join(", ")),
        ]
    });
    rows.collect()
}

impl Screen {
    /// Makes a table for people.
    pub(super) fn human(&self) -> Table {
        self.table(|(human, _)| human, Cell::text)
    }

    /// Makes a table for scripts.
    pub(super) fn raw(&self) -> Table {
        self.table(|(_, raw)| raw, Cell::raw)
    }

    fn table(&self, name: fn(Column) -> &'static str, cell: fn(&Cell) -> String) -> Table {
        let names: Vec<_> = self.columns.iter().copied().map(name).collect();
        let mut table = Table::new(&names);
        self.rows
            .iter()
            .for_each(|row| table.row(row.iter().map(cell)));
        table
    }

    /// Makes an object for each row, for programs.
    pub(super) fn values(&self) -> Vec<Map<String, Value>> {
        let object = |row: &Vec<Cell>| {
            let pairs = self.columns.iter().zip(row);
            pairs
                .map(|((_, name), cell)| ((*name).to_owned(), cell.value()))
                .collect()
        };
        self.rows.iter().map(object).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use meshd_api::proto::MeshStatus;
    use meshd_api::proto::ThreadRow;

    /// A daemon of process 7 after `seconds`, every counter at `n`.
    pub(in crate::top) fn shot(seconds: f64, n: u64) -> Shot {
        let peer = |name: &str, path, times: u64| PeerRow {
            name: name.into(),
            up: path != PathKind::Down,
            path,
            protocol: Some(meshd_proto::dialect::Dialect::Native),
            rtt_seconds: Some(0.0004),
            rx_bytes: 1000 * n * times,
            tx_bytes: 10 * n * times,
            rx_packets: n * times,
            tx_packets: n,
            ..PeerRow::default()
        };
        Shot {
            net: Some("priv".into()),
            node: "web_01".into(),
            time: "2026-11-22T10:29:18Z".into(),
            peers: vec![
                peer("db_01", PathKind::Udp, 1),
                peer("cache_1", PathKind::Tcp, 3),
                peer("old_03", PathKind::Down, 0),
            ],
            status: DaemonStatus {
                pid: 7,
                uptime_seconds: seconds,
                threads: vec![ThreadRow {
                    name: "meshd-w0".into(),
                    device: true,
                    sockets: vec!["0.0.0.0:655".into()],
                    beats: n,
                    beat_age_seconds: Some(0.5),
                    run_seconds: Some(n as f64 / 100.0),
                    drops: BTreeMap::from([("no_route".into(), n)]),
                }],
                drops: BTreeMap::from([("no_route".into(), n), ("ttl".into(), 0)]),
                messages: BTreeMap::from([
                    ("PING".into(), [n, n / 2]),
                    ("ADD_EDGE".into(), [0, 0]),
                ]),
                mesh: MeshStatus {
                    nodes: 4,
                    reachable: 3,
                    links: 2,
                    lines: n,
                    ..MeshStatus::default()
                },
                ..DaemonStatus::default()
            },
        }
    }

    fn texts(screen: &Screen) -> Vec<Vec<String>> {
        let row = |row: &Vec<Cell>| row.iter().map(Cell::text).collect();
        screen.rows.iter().map(row).collect()
    }

    fn of(view: View, before: Option<&Shot>, now: &Shot) -> Vec<Vec<String>> {
        let state = State {
            view,
            ..State::default()
        };
        texts(&screen(&state, before, now))
    }

    #[test]
    fn rates_are_what_grew_by_the_daemons_own_clock() {
        let (before, now) = (shot(10.0, 100), shot(12.0, 200));
        let peers = of(View::Peers, Some(&before), &now);
        assert_eq!(
            peers[1][..9],
            [
                "db_01", "udp", "native", "0.4ms", "-", "400k", "4.0k", "50", "50"
            ]
        );
        assert_eq!(peers[0][5..8], ["1.2M", "12k", "150"]);
        assert_eq!(peers[2][5..9], ["0", "0", "0", "50"]);
        let meta = of(View::Meta, Some(&before), &now);
        assert_eq!(meta, [["PING", "50", "25", "200", "100"]]);
        let drops = of(View::Drops, Some(&before), &now);
        assert_eq!(drops, [["no_route", "50", "200", "meshd-w0 200"]]);
        let threads = of(View::Threads, Some(&before), &now);
        assert_eq!(
            threads,
            [["meshd-w0", "50%", "50", "50", "0s", "device, 0.0.0.0:655"]]
        );
        let head = screen(&State::default(), Some(&before), &now).head;
        assert!(head.contains("rx 1.6M tx 16k bit/s  meta 50/s"), "{head}");
    }

    #[test]
    fn a_reason_or_a_node_that_is_new_has_a_rate_where_it_has_one() {
        let (mut before, now) = (shot(10.0, 100), shot(12.0, 200));
        before.status.drops.clear();
        before.peers.remove(0);
        assert_eq!(of(View::Drops, Some(&before), &now)[0][1], "100");
        let peers = of(View::Peers, Some(&before), &now);
        assert_eq!((peers[1][0].as_str(), peers[1][5].as_str()), ("db_01", "-"));
    }

    #[test]
    fn a_restart_or_a_counter_that_goes_back_gives_no_rate() {
        let now = shot(12.0, 200);
        let mut other = shot(11.0, 100);
        other.status.pid = 8;
        let mut grown = shot(10.0, 100);
        grown.peers[0].rx_bytes = u64::MAX;
        for before in [
            None,
            Some(&other),
            Some(&shot(12.0, 100)),
            Some(&shot(4000.0, 100)),
        ] {
            for view in View::ALL {
                for row in of(view, before, &now) {
                    let rates = match view {
                        View::Peers => 5..9,
                        View::Meta => 1..3,
                        View::Drops => 1..2,
                        View::Threads => 1..4,
                    };
                    assert!(
                        row[rates].iter().all(|cell| cell == "-"),
                        "{view:?} {row:?}"
                    );
                }
            }
            let head = screen(&State::default(), before, &now).head;
            assert!(head.contains("rx - tx - bit/s  meta -/s"), "{head}");
        }
        let peers = of(View::Peers, Some(&grown), &now);
        assert_eq!(peers[1][5..9], ["-", "4.0k", "50", "50"]);
    }

    #[test]
    fn rows_are_sorted_and_filtered() {
        let (before, now) = (shot(10.0, 100), shot(12.0, 200));
        let names = |state: &State| {
            let rows = screen(state, Some(&before), &now).rows;
            rows.iter().map(|row| row[0].text()).collect::<Vec<_>>()
        };
        let mut state = State::default();
        assert_eq!(names(&state), ["cache_1", "db_01", "old_03"]);
        state.path = Some(PathKind::Udp);
        assert_eq!(names(&state), ["db_01"]);
        state.path = None;
        state.filter = "TCP".into();
        assert_eq!(names(&state), ["cache_1"]);
        state.filter.clear();
        (0..5).for_each(|_| state.next_sort(1));
        assert_eq!(
            columns(View::Peers)[state.sorted_by()].1,
            "rx_bits_per_second"
        );
        assert_eq!(names(&state), ["cache_1", "db_01", "old_03"]);
    }

    #[test]
    fn programs_get_figures_and_nulls() {
        let now = shot(12.0, 200);
        let peers = screen(&State::default(), None, &now);
        let values = peers.values();
        assert_eq!(values[1]["name"], "db_01");
        assert_eq!(values[1]["rtt_seconds"], 0.0004);
        assert_eq!(values[1]["rx_bits_per_second"], Value::Null);
        let mut tsv = Vec::new();
        peers.raw().tsv(&mut tsv, false).unwrap();
        let tsv = String::from_utf8(tsv).unwrap();
        assert!(
            tsv.contains("db_01\tudp\tnative\t0.0004\t\t\t\t\t\t\t\n"),
            "{tsv}"
        );
    }
}
