mod cells;
mod page;

use super::{Place, Speaker, Statement};

/// All statements. A new one does not compile until [`number`] has it.
const STATEMENTS: [Statement; 17] = [
    Statement::Edge,
    Statement::Options,
    Statement::Address,
    Statement::EdgeEnd,
    Statement::Subnet,
    Statement::SubnetEnd,
    Statement::KeyChanged,
    Statement::KeyRequest,
    Statement::KeyAnswer,
    Statement::KeyAddress,
    Statement::UdpInfo,
    Statement::MtuInfo,
    Statement::Packet,
    Statement::Ack,
    Statement::OfLink,
    Statement::Misplaced,
    Statement::Unreadable,
];

const SPEAKERS: [Speaker; 6] = [
    Speaker::OfUs,
    Speaker::Itself,
    Speaker::Aside,
    Speaker::Neighbour,
    Speaker::Anybody,
    Speaker::Stranger,
];

/// All places, for the tests of budgets too.
pub(in crate::mesh::gossip) const PLACES: [Place; 11] = [
    Place::FirstExchange,
    Place::Itself,
    Place::Behind,
    Place::Elsewhere,
    Place::Unvouched,
    Place::Useless,
    Place::Fault,
    Place::Routed,
    Place::RoutedUnvouched,
    Place::RoutedBehind,
    Place::Stray,
];

/// A variant that is missing here does not compile.
const fn number(statement: Statement) -> usize {
    match statement {
        Statement::Edge => 0,
        Statement::Options => 1,
        Statement::Address => 2,
        Statement::EdgeEnd => 3,
        Statement::Subnet => 4,
        Statement::SubnetEnd => 5,
        Statement::KeyChanged => 6,
        Statement::KeyRequest => 7,
        Statement::KeyAnswer => 8,
        Statement::KeyAddress => 9,
        Statement::UdpInfo => 10,
        Statement::MtuInfo => 11,
        Statement::Packet => 12,
        Statement::Ack => 13,
        Statement::OfLink => 14,
        Statement::Misplaced => 15,
        Statement::Unreadable => 16,
    }
}

#[test]
fn the_lists_have_every_variant() {
    for (n, statement) in STATEMENTS.into_iter().enumerate() {
        assert_eq!(number(statement), n);
    }
    for (n, speaker) in SPEAKERS.into_iter().enumerate() {
        // A variant that is missing here does not compile.
        let number = match speaker {
            Speaker::OfUs => 0,
            Speaker::Itself => 1,
            Speaker::Aside => 2,
            Speaker::Neighbour => 3,
            Speaker::Anybody => 4,
            Speaker::Stranger => 5,
        };
        assert_eq!(number, n);
    }
    for (n, place) in PLACES.into_iter().enumerate() {
        let number = match place {
            Place::FirstExchange => 0,
            Place::Itself => 1,
            Place::Behind => 2,
            Place::Elsewhere => 3,
            Place::Unvouched => 4,
            Place::Useless => 5,
            Place::Fault => 6,
            Place::Routed => 7,
            Place::RoutedUnvouched => 8,
            Place::RoutedBehind => 9,
            Place::Stray => 10,
        };
        assert_eq!(number, n);
    }
}
