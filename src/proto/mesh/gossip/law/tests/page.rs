//! Section 2.5 of proto/threat-model.md is written from the tables of the law.

use std::fmt::Write;

use super::{
    super::{
        Account, Adds, Ends, Payer, Place, Rate, Ruling, SUBJECT, Speaker, Statement, price, ruling,
    },
    PLACES, SPEAKERS, STATEMENTS,
};
use crate::mesh::limits::{
    CORRECTION_RATE, MAX_ADDRESS_WORD, MAX_DENIED, MAX_DOUBTS, MAX_EDGE_WORDS, MAX_EDGES,
    MAX_NODES, MAX_SUBNETS, MAX_SUBNETS_PER_NODE, MAX_UNKNOWN_PER_NEIGHBOUR, OVER_BUDGET,
    ROUTED_RATE,
};

const PAGE: &str = include_str!("../../../../threat-model.md");
const BEGIN: &str = "<!-- The tables from here on are those of mesh/gossip/law.rs. -->\n";
const END: &str = "<!-- End of the tables of mesh/gossip/law.rs. -->\n";

fn statement(statement: Statement) -> &'static str {
    match statement {
        Statement::Edge => "ADD_EDGE: new edge, weight",
        Statement::Options => "ADD_EDGE: options",
        Statement::Address => "ADD_EDGE: addresses",
        Statement::EdgeEnd => "DEL_EDGE",
        Statement::Subnet => "ADD_SUBNET",
        Statement::SubnetEnd => "DEL_SUBNET",
        Statement::KeyChanged => "KEY_CHANGED, of a legacy node",
        Statement::KeyRequest => "REQ_KEY",
        Statement::KeyAnswer => "ANS_KEY",
        Statement::KeyAddress => "ANS_KEY: address",
        Statement::UdpInfo => "UDP_INFO",
        Statement::MtuInfo => "MTU_INFO",
        Statement::Packet => "a packet to relay",
        Statement::Ack => "ACK",
        Statement::OfLink => "PING, PONG",
        Statement::Misplaced => "any other request of a link",
        Statement::Unreadable => "a line that cannot be parsed",
    }
}

fn speaker(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::OfUs => "anybody of us",
        Speaker::Itself => "a neighbour of itself",
        Speaker::Aside => "another of a neighbour",
        Speaker::Neighbour => "its neighbour of a node behind it",
        Speaker::Anybody => "anybody of any other node",
        Speaker::Stranger => "before ACK",
    }
}

fn cell(ruling: Ruling) -> String {
    let adds = match ruling.adds {
        Adds::Never => return "-".into(),
        Adds::Nothing => "",
        Adds::Correction => "nothing; is corrected",
        Adds::LateCorrection => "nothing; is corrected for it",
        Adds::Fact => "the fact",
        Adds::IfAllowed => "what SubnetPolicy allows",
        Adds::Candidate => "a candidate for probes",
        Adds::Hint => "a hint",
        Adds::Handshake => "a handshake",
        Adds::Passage => "is forwarded",
        Adds::Answer => "is answered",
    };
    let ends = match ruling.ends {
        Ends::Nothing => String::new(),
        Ends::AtOnce => "ends it at once".into(),
        Ends::UnlessAlive(after) => format!("ends it; reachable {after:?} more and while alive"),
        Ends::OncePathSettled(after) => format!("moves a live path after {after:?}"),
        Ends::OnceAgreed(after) => {
            format!("changes a live path after {after:?}, if both ends agree")
        }
        Ends::UnlessListed(after) => format!("ends it after {after:?}, unless listed"),
        Ends::Paced(burst, every) => format!("ends it {burst} times, then once in {every} s"),
        Ends::OnceAuthenticated => "ends a session that its node has replaced".into(),
        Ends::Link => "ends the link".into(),
    };
    match (adds, ends.as_str()) {
        ("", "") => "nothing".into(),
        ("", ends) => ends.into(),
        (adds, "") => adds.into(),
        (adds, ends) => format!("{adds}; {ends}"),
    }
}

/// Bounds of what a statement can add, besides the price of its line.
fn bound(statement: Statement) -> String {
    match statement {
        Statement::Edge => format!(
            "{MAX_EDGES} edges, {MAX_NODES} nodes, {MAX_UNKNOWN_PER_NEIGHBOUR} new names a neighbour"
        ),
        Statement::Address => {
            format!(
                "{MAX_ADDRESS_WORD} bytes a word, {} MiB in all; T28",
                MAX_EDGE_WORDS >> 20
            )
        }
        Statement::EdgeEnd => format!("{MAX_DENIED} remembered, {MAX_DOUBTS} corrections wait"),
        Statement::Subnet => format!("{MAX_SUBNETS}, {MAX_SUBNETS_PER_NODE} a node"),
        Statement::Options | Statement::SubnetEnd => {
            format!("{CORRECTION_RATE} corrections a second")
        }
        Statement::KeyRequest | Statement::KeyAnswer => "T25, T38".into(),
        Statement::KeyAddress | Statement::UdpInfo => "T28".into(),
        Statement::MtuInfo => "one for each of the last seconds".into(),
        Statement::Packet => "once each, never back; T29".into(),
        Statement::KeyChanged
        | Statement::Ack
        | Statement::OfLink
        | Statement::Misplaced
        | Statement::Unreadable => String::new(),
    }
}

fn place(place: Place) -> &'static str {
    match place {
        Place::FirstExchange => "first exchange: each fact once, until the first PONG",
        Place::Itself => "about the neighbour",
        Place::Behind => "about a node behind it that we know, or about one that was quiet lately",
        Place::Elsewhere => "about a node that we know otherwise",
        Place::Unvouched => "about a node that only the neighbour vouches for",
        Place::Useless => "seen before, or not parsed",
        Place::Fault => "not parsed, in the neighbour's own name",
        Place::Routed => "routed, from the neighbour",
        Place::RoutedUnvouched => "routed, from a node that only the neighbour vouches for",
        Place::RoutedBehind => "routed, from a node behind it that we know",
        Place::Stray => "routed, from any other node",
    }
}

fn rate(rate: Rate) -> String {
    match rate {
        Rate::Lines(1) => "MetaRate".into(),
        Rate::Lines(times) => format!("{times} x MetaRate"),
        Rate::Bytes(bytes) => format!("{} KiB", bytes >> 10),
    }
}

fn amount(of: Rate, burst: usize) -> String {
    match of {
        Rate::Lines(_) => burst.to_string(),
        Rate::Bytes(_) => format!("{} MiB", burst >> 20),
    }
}

fn beliefs() -> String {
    let mut page = String::from("\n| statement |");
    for one in SPEAKERS {
        write!(page, " {} |", speaker(one)).unwrap();
    }
    page.push_str(" bounds |\n|");
    page.push_str(&" --- |".repeat(SPEAKERS.len() + 2));
    page.push('\n');
    for one in STATEMENTS {
        write!(page, "| {} |", statement(one)).unwrap();
        for by in SPEAKERS {
            write!(page, " {} |", cell(ruling(one, by))).unwrap();
        }
        writeln!(page, " {} |", bound(one)).unwrap();
    }
    page
}

fn prices() -> String {
    let mut page =
        String::from("\n| line | paid by | account | a second | at once | link ends |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for one in PLACES {
        let price = price(one);
        let payer = match price.payer {
            Payer::Neighbour => "neighbour",
            Payer::NeighbourAndSubject => "neighbour and subject",
            Payer::Sender => "sender",
        };
        let account = match price.account {
            Account::Own => "own",
            Account::Others => "others",
            Account::Elsewhere => "elsewhere",
            Account::Unknown => "unknown",
            Account::Routed => "routed",
            Account::Stray => "stray",
        };
        let cut = match (price.cuts, price.slack) {
            (false, _) => "never".into(),
            (true, 0) => format!("over it for {OVER_BUDGET:?}"),
            (true, times) => format!("{times} x MetaRate lines over it for {OVER_BUDGET:?}"),
        };
        let (a_second, at_once) = (rate(price.rate), amount(price.rate, price.burst));
        let place = place(one);
        writeln!(
            page,
            "| {place} | {payer} | {account} | {a_second} | {at_once} | {cut} |"
        )
        .unwrap();
    }
    let (subject, burst) = SUBJECT;
    write!(
        page,
        "\nThe subject of a line pays {} a second and {burst} at once, whoever sends the line. While \
         the link to the target of a routed line is congested, each sender has {} KiB a second of \
         it.\n\n",
        rate(subject),
        ROUTED_RATE >> 10,
    )
    .unwrap();
    page
}

#[test]
fn the_threat_model_has_the_tables_of_the_law() {
    let (_, rest) = PAGE.split_once(BEGIN).unwrap();
    let (written, _) = rest.split_once(END).unwrap();
    let tables = beliefs() + &prices();
    assert!(
        written == tables,
        "write into section 2.5:\n{BEGIN}{tables}{END}"
    );
}
