//! `meshctl peers`: shows every node, its path and its faults.

use meshd_api::{
    call,
    proto::{DaemonStatus, SubnetRow},
    rows::PeerRow,
};
use meshd_proto::{
    dialect::{self, Dialect},
    mesh::reports::facts::PathKind,
};

use crate::{
    Outcome,
    columns::SENTENCE,
    context::Context,
    output::{self, Frame, Show},
    table::{Table, age, bytes, or_dash, or_empty, round_trip, symbols},
};

struct Peers {
    head: String,
    rows: Vec<PeerRow>,
    utf8: bool,
}

pub(super) fn run(context: &Context) -> Outcome {
    let mut client = context.connect()?;
    let answer = client.ask(call::Peers {})?;
    let status = client.ask(call::Status {})?.response;
    let subnets = client.ask(call::Subnets {})?.response;
    let rows = &answer.response;
    let utf8 = context.utf8;
    let head = headline(
        answer.net.as_deref(),
        &answer.node,
        &status,
        &subnets,
        rows,
        utf8,
    );
    let peers = Peers {
        head,
        rows: rows.clone(),
        utf8,
    };
    output::show(context, "peers", &Frame::from(&answer), rows, &peers)
}

/// `priv · web_01 172.20.0.11 · 6 peers: 3 direct, 1 tcp, 1 relayed, 1 down · meshd 1.0.0 up 12d 4h`
fn headline(
    net: Option<&str>,
    node: &str,
    status: &DaemonStatus,
    subnets: &[SubnetRow],
    rows: &[PeerRow],
    utf8: bool,
) -> String {
    let own = subnets.iter().find(|s| s.owner.as_deref() == Some(node));
    let own = own.map_or_else(String::new, |s| format!(" {}", s.subnet));
    let counts: Vec<String> = [
        (PathKind::Udp, "direct"),
        (PathKind::Tcp, "tcp"),
        (PathKind::Via, "relayed"),
        (PathKind::Down, "down"),
    ]
    .into_iter()
    .map(|(path, word)| (rows.iter().filter(|row| row.path == path).count(), word))
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    let noun = if rows.len() == 1 { "peer" } else { "peers" };
    let colon = if counts.is_empty() { "" } else { ": " };
    let parts = [
        net.unwrap_or_default().to_owned(),
        format!("{node}{own}"),
        format!("{} {noun}{colon}{}", rows.len(), counts.join(", ")),
        format!(
            "meshd {} up {}",
            status.version,
            age(status.uptime_seconds, false)
        ),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(if utf8 { " · " } else { " - " })
}

/// Returns the protocol; with its cipher where there is a choice: `native AES-256-GCM`, `legacy aes-256-cbc sha256/4`.
pub(super) fn tunnel(row: &PeerRow) -> String {
    let name = row.protocol.map_or("-", Dialect::name);
    match (row.protocol, &row.cipher) {
        (Some(Dialect::Native | Dialect::Legacy), Some(cipher)) => format!("{name} {cipher}"),
        (Some(Dialect::Native | Dialect::Legacy), None) | (Some(Dialect::Sptps) | None, _) => {
            name.into()
        }
    }
}

impl Show for Peers {
    fn human(&self) -> (Vec<String>, Table) {
        let names = [
            "", "NAME", "ADDRESS", "PATH", "TUNNEL", "ENDPOINT", ">RTT", ">MTU", ">RX", ">TX",
            ">SINCE", "NOTE",
        ];
        // The symbol, NAME and PATH are never dropped.
        let ranks = [0, 0, 2, 0, 8, 5, 1, 7, 3, 4, 6, SENTENCE];
        let mut table = Table::new(&names).ranked(&ranks);
        for row in &self.rows {
            let [udp, tcp, via, down] = symbols(self.utf8);
            let (symbol, path) = match row.path {
                PathKind::Udp => (udp, "udp".into()),
                PathKind::Tcp => (tcp, "tcp".into()),
                PathKind::Via => (via, format!("via {}", or_dash(row.via.as_deref()))),
                PathKind::Down => (down, "down".into()),
            };
            let address = match row.subnets.as_slice() {
                [] => "-".into(),
                [only] => only.to_string(),
                [first, rest @ ..] => format!("{first} +{}", rest.len()),
            };
            table.row([
                symbol.into(),
                row.name.clone(),
                address,
                path,
                tunnel(row),
                or_dash(row.endpoint),
                or_dash(row.rtt_seconds.map(round_trip)),
                or_dash(row.pmtu_bytes),
                bytes(row.rx_bytes),
                bytes(row.tx_bytes),
                or_dash(row.since_seconds.map(|s| age(s, true))),
                or_empty(row.reason.as_ref().map(|reason| &reason.text)),
            ]);
        }
        (vec![self.head.clone()], table)
    }

    fn raw(&self) -> Table {
        let names = [
            "name",
            "up",
            "path",
            "via",
            "subnets",
            "endpoint",
            "protocol",
            "rtt_seconds",
            "pmtu_bytes",
            "rx_bytes",
            "tx_bytes",
            "rx_packets",
            "tx_packets",
            "since_seconds",
            "reason_code",
            "reason_text",
            "cipher",
            "link",
            "foreign_packets",
        ];
        let mut table = Table::new(&names);
        for row in &self.rows {
            let subnets: Vec<String> = row.subnets.iter().map(ToString::to_string).collect();
            table.row([
                row.name.clone(),
                row.up.to_string(),
                row.path.word().into(),
                or_empty(row.via.as_deref()),
                subnets.join(","),
                or_empty(row.endpoint),
                dialect::word(row.protocol).into(),
                or_empty(row.rtt_seconds),
                or_empty(row.pmtu_bytes),
                row.rx_bytes.to_string(),
                row.tx_bytes.to_string(),
                row.rx_packets.to_string(),
                row.tx_packets.to_string(),
                or_empty(row.since_seconds),
                or_empty(row.reason.as_ref().map(|reason| &reason.code)),
                or_empty(row.reason.as_ref().map(|reason| &reason.text)),
                or_empty(row.cipher.as_ref()),
                or_empty(row.link.map(Dialect::name)),
                row.foreign_packets.to_string(),
            ]);
        }
        table
    }
}
