//! Law of belief: who may state which fact about whom, what the statement adds, what it ends, and
//! which budget pays for it.
//!
//! No line carries its author. A line about a node that arrives over that node's own link is the
//! node's own word. Any other line about the node is hearsay. Hearsay is forwarded at once, as in
//! tinc, so that its subject can contradict it.
//!
//! [`ruling`] and [`price`] hold every decision. The other modules of `gossip` carry decisions
//! out. The tests of this module try every cell, and compare both tables with
//! proto/threat-model.md section 2.5.

use std::time::Duration;

use meshd_wire::{KeyRequest, Request};

use crate::mesh::limits::{
    ELSEWHERE_BURST, GRAPH_LINES, LINE_BURST, ROUTED_MOST, ROUTED_MOST_BURST, STRAY_BURST,
    STRAY_RATE,
};

/// Time for the subject of a DEL_EDGE, or for a neighbour of the subject, to contradict the line.
pub(in crate::mesh) const GRACE: Duration = Duration::from_secs(1);
/// Time for which new options, or a new path via relays, must stay the same before they take effect
/// on a live tunnel.
const SETTLED: Duration = Duration::from_secs(5);
/// Time after which a withdrawn subnet is removed if no line has announced it again.
pub(in crate::mesh) const UNCLAIMED: Duration = Duration::from_millis(600);
/// KEY_CHANGED lines by hearsay that take effect at once, and the seconds for each later one.
pub(in crate::mesh) const KEY_CHANGES: (usize, u32) = (2, 5);

/// A fact that a line states. One ADD_EDGE states three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Statement {
    /// ADD_EDGE: the edge and its weight.
    Edge,
    /// ADD_EDGE: the options of the edge.
    Options,
    /// ADD_EDGE: the addresses of the edge.
    Address,
    /// DEL_EDGE.
    EdgeEnd,
    /// ADD_SUBNET.
    Subnet,
    /// DEL_SUBNET.
    SubnetEnd,
    KeyChanged,
    /// REQ_KEY without a packet.
    KeyRequest,
    /// ANS_KEY.
    KeyAnswer,
    /// The address at the end of ANS_KEY.
    KeyAddress,
    UdpInfo,
    MtuInfo,
    /// REQ_KEY with a packet, and SPTPS_PACKET.
    Packet,
    /// ACK.
    Ack,
    /// PING and PONG.
    OfLink,
    /// Any other line that no node forwards.
    Misplaced,
    /// A line that cannot be parsed and that nodes forward.
    Unreadable,
}

/// The sender of a line, as seen from its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Speaker {
    /// The subject is this node, no matter which link the line came over.
    OfUs,
    /// The subject itself: it is at the other end of the link.
    Itself,
    /// Another node about a neighbour of ours. A routed line counts as the neighbour's own while
    /// the neighbour's link is younger than `SIDE_BY_SIDE`: the line may still be on the old path.
    Aside,
    /// A neighbour of the subject, which is no neighbour of ours.
    Neighbour,
    /// Any other member.
    Anybody,
    /// A connection before its ACK.
    Stranger,
}

/// Effect of a statement that something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Adds {
    /// No request of this kind has such a speaker.
    Never,
    Nothing,
    /// Nothing; we answer with the truth about ourselves.
    Correction,
    /// Nothing; we answer in the neighbour's place if the neighbour does not say the same.
    LateCorrection,
    /// The fact.
    Fact,
    /// The fact, if SubnetPolicy allows it.
    IfAllowed,
    /// An address that is probed while no address is confirmed.
    Candidate,
    /// A hint that counts while no address is confirmed.
    Hint,
    /// A handshake beside the session in use.
    Handshake,
    /// Nothing here; the line or packet goes on to its target.
    Passage,
    /// An answer on the same link.
    Answer,
}

/// Effect of a statement on what held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Ends {
    Nothing,
    /// The fact that the statement contradicts.
    AtOnce,
    /// The edge; but a node that has no other path stays reachable for this time, and as long as
    /// its tunnel is alive.
    UnlessAlive(Duration),
    /// The path via relays: at once if the tunnel is not alive, else after this time.
    OncePathSettled(Duration),
    /// Option bits: at once if the tunnel is not alive, else when both directions of an edge have
    /// agreed for this time. A direct path that answers and the dialect stay.
    OnceAgreed(Duration),
    /// The subnet after this time; never if our host file lists it and nobody else's does.
    UnlessListed(Duration),
    /// The sending key so often at once, then once in so many seconds.
    Paced(usize, u32),
    /// A session, once its successor has authenticated the node. A legacy key at once.
    OnceAuthenticated,
    /// The link. A legacy link stays, because a line feed in a forwarded word begins a line there.
    Link,
}

/// One cell of the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) struct Ruling {
    pub(in crate::mesh) adds: Adds,
    pub(in crate::mesh) ends: Ends,
}

impl Ruling {
    const fn new(adds: Adds, ends: Ends) -> Self {
        Self { adds, ends }
    }

    /// Returns true if the line has no effect here and is not forwarded.
    pub(in crate::mesh) const fn is_void(self) -> bool {
        matches!(
            (self.adds, self.ends),
            (Adds::Never | Adds::Nothing, Ends::Nothing)
        )
    }
}

/// Rulings by speaker, in the order of [`Speaker`].
type Row = [Ruling; 6];

const REFUSED: Ruling = Ruling::new(Adds::Nothing, Ends::Link);
const NOTHING: Ruling = Ruling::new(Adds::Nothing, Ends::Nothing);
const NEVER: Ruling = Ruling::new(Adds::Never, Ends::Nothing);

/// Row of a flooded statement that the subject, or we in its place, correct.
const fn flooded(own: Ruling, hearsay: Ruling) -> Row {
    let ours = Ruling::new(Adds::Correction, Ends::Nothing);
    let aside = Ruling::new(Adds::LateCorrection, Ends::Nothing);
    [ours, own, aside, hearsay, hearsay, REFUSED]
}

/// Row of a line that has a sender and a target.
const fn routed(own: Ruling, hearsay: Ruling) -> Row {
    [NOTHING, own, NOTHING, hearsay, hearsay, REFUSED]
}

/// The path to a neighbour is our own edge, so an edge of another node, also of a neighbour, only
/// concerns paths to third nodes.
const EDGE: Row = {
    let fact = Ruling::new(Adds::Fact, Ends::OncePathSettled(SETTLED));
    flooded(fact, fact)
};
const OPTIONS: Row = {
    let fact = Ruling::new(Adds::Fact, Ends::OnceAgreed(SETTLED));
    flooded(fact, fact)
};
const ADDRESS: Row = {
    let candidate = Ruling::new(Adds::Candidate, Ends::Nothing);
    flooded(candidate, candidate)
};
const EDGE_END: Row = flooded(
    Ruling::new(Adds::Nothing, Ends::AtOnce),
    Ruling::new(Adds::Nothing, Ends::UnlessAlive(GRACE)),
);
const SUBNET: Row = {
    let allowed = Ruling::new(Adds::IfAllowed, Ends::Nothing);
    flooded(allowed, allowed)
};
const SUBNET_END: Row = flooded(
    Ruling::new(Adds::Nothing, Ends::AtOnce),
    Ruling::new(Adds::Nothing, Ends::UnlessListed(UNCLAIMED)),
);
/// A correction of KEY_CHANGED does not exist, so we have none.
const KEY_CHANGED: Row = routed(
    Ruling::new(Adds::Nothing, Ends::AtOnce),
    Ruling::new(Adds::Nothing, Ends::Paced(KEY_CHANGES.0, KEY_CHANGES.1)),
);
const KEYS: Row = {
    let handshake = Ruling::new(Adds::Handshake, Ends::OnceAuthenticated);
    routed(handshake, handshake)
};
const KEY_ADDRESS: Row = {
    let candidate = Ruling::new(Adds::Candidate, Ends::Nothing);
    routed(candidate, candidate)
};
/// The link of a neighbour tells its address.
const UDP_INFO: Row = routed(
    Ruling::new(Adds::Passage, Ends::Nothing),
    Ruling::new(Adds::Candidate, Ends::Nothing),
);
const MTU_INFO: Row = {
    let hint = Ruling::new(Adds::Hint, Ends::Nothing);
    routed(hint, hint)
};
const PACKET: Row = {
    let passage = Ruling::new(Adds::Passage, Ends::Nothing);
    routed(passage, passage)
};
const ANSWER: Ruling = Ruling::new(Adds::Answer, Ends::Nothing);
const ACK: Row = [NEVER, REFUSED, NEVER, NEVER, NEVER, ANSWER];
const OF_LINK: Row = [NEVER, ANSWER, NEVER, NEVER, NEVER, REFUSED];
const MISPLACED: Row = [NEVER, REFUSED, NEVER, NEVER, NEVER, REFUSED];
const UNREADABLE: Row = [NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, REFUSED];

/// Returns the effect of a statement by a speaker.
pub(in crate::mesh) const fn ruling(statement: Statement, speaker: Speaker) -> Ruling {
    let row = match statement {
        Statement::Edge => EDGE,
        Statement::Options => OPTIONS,
        Statement::Address => ADDRESS,
        Statement::EdgeEnd => EDGE_END,
        Statement::Subnet => SUBNET,
        Statement::SubnetEnd => SUBNET_END,
        Statement::KeyChanged => KEY_CHANGED,
        Statement::KeyRequest | Statement::KeyAnswer => KEYS,
        Statement::KeyAddress => KEY_ADDRESS,
        Statement::UdpInfo => UDP_INFO,
        Statement::MtuInfo => MTU_INFO,
        Statement::Packet => PACKET,
        Statement::Ack => ACK,
        Statement::OfLink => OF_LINK,
        Statement::Misplaced => MISPLACED,
        Statement::Unreadable => UNREADABLE,
    };
    row[speaker as usize]
}

impl Statement {
    /// Returns the first statement of a request. The others of ADD_EDGE and ANS_KEY have the same
    /// rulings where the line is void or corrected.
    pub(in crate::mesh) fn of(request: &Request) -> Self {
        match request {
            Request::AddEdge { .. } => Self::Edge,
            Request::DelEdge { .. } => Self::EdgeEnd,
            Request::AddSubnet { .. } => Self::Subnet,
            Request::DelSubnet { .. } => Self::SubnetEnd,
            Request::KeyChanged { .. } => Self::KeyChanged,
            Request::ReqKey { payload, .. } if payload.ext() == Some(KeyRequest::PACKET) => {
                Self::Packet
            }
            Request::ReqKey { .. } => Self::KeyRequest,
            Request::AnsKey { .. } => Self::KeyAnswer,
            Request::UdpInfo { .. } => Self::UdpInfo,
            Request::MtuInfo { .. } => Self::MtuInfo,
            Request::Ping | Request::Pong => Self::OfLink,
            Request::Ack { .. } => Self::Ack,
            Request::TermReq | Request::Packet { .. } | Request::SptpsPacket { .. } => {
                Self::Misplaced
            }
        }
    }
}

/// Place of a line's subject in relation to the link, which decides on the payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Place {
    /// Each fact once, until the first PONG of the link.
    FirstExchange,
    /// The neighbour at the other end of the link.
    Itself,
    /// A node behind that neighbour that we know; or one that was quiet lately.
    Behind,
    /// A node that we know otherwise.
    Elsewhere,
    /// A node that only the neighbour vouches for.
    Unvouched,
    /// A line that was seen before, or that is unreadable.
    Useless,
    /// An unreadable line in the neighbour's own name.
    Fault,
    /// A routed line that names the neighbour as its sender.
    Routed,
    /// A routed line of a sender that only the neighbour vouches for.
    RoutedUnvouched,
    /// A routed line of a sender behind the neighbour that we know.
    RoutedBehind,
    /// A routed line of a sender that does not lie behind the neighbour.
    Stray,
}

/// A budget of a node. See [`Price`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Account {
    /// Lines about the node itself.
    Own,
    /// Lines that the node forwards about nodes behind it.
    Others,
    /// Lines about nodes that do not lie behind the node.
    Elsewhere,
    /// Lines about nodes that only the node vouches for.
    Unknown,
    /// Routed bytes of the node.
    Routed,
    /// Routed bytes in the names of nodes that do not lie behind the node.
    Stray,
}

/// The node whose account pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Payer {
    /// The neighbour at the other end of the link.
    Neighbour,
    /// That neighbour, and the subject in addition: see [`SUBJECT`].
    NeighbourAndSubject,
    /// The sender that the line names.
    Sender,
}

/// Amounts a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Rate {
    /// Lines: this many times MetaRate.
    Lines(u32),
    /// Bytes.
    Bytes(u32),
}

impl Rate {
    /// Returns the rate for a MetaRate.
    pub(in crate::mesh) const fn at(self, meta_rate: u32) -> u32 {
        match self {
            Self::Lines(times) => meta_rate.saturating_mul(times),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Price of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) struct Price {
    pub(in crate::mesh) payer: Payer,
    pub(in crate::mesh) account: Account,
    pub(in crate::mesh) rate: Rate,
    pub(in crate::mesh) burst: usize,
    /// Refusals a second, as multiples of MetaRate, that do not count yet.
    pub(in crate::mesh) slack: u32,
    /// True if the link is closed after refusals for `OVER_BUDGET`.
    pub(in crate::mesh) cuts: bool,
}

/// Lines a second about one node from others, as a multiple of MetaRate, and lines at once. Each
/// hop accepts fewer lines about others from a member than the next hop accepts about one node, so
/// the node's own lines still have room.
pub(in crate::mesh) const SUBJECT: (Rate, usize) = (Rate::Lines(2), 2 * LINE_BURST);

/// Returns the price of a line by the place of its subject or sender.
pub(in crate::mesh) const fn price(place: Place) -> Price {
    let (payer, account, rate, burst, slack, cuts) = match place {
        Place::FirstExchange | Place::Useless => (
            Payer::Neighbour,
            Account::Others,
            Rate::Lines(10),
            GRAPH_LINES,
            15,
            true,
        ),
        Place::Behind => (
            Payer::NeighbourAndSubject,
            Account::Others,
            Rate::Lines(10),
            GRAPH_LINES,
            15,
            true,
        ),
        Place::Itself | Place::Fault => (
            Payer::Neighbour,
            Account::Own,
            Rate::Lines(1),
            LINE_BURST,
            0,
            true,
        ),
        Place::Elsewhere => (
            Payer::NeighbourAndSubject,
            Account::Elsewhere,
            Rate::Lines(1),
            ELSEWHERE_BURST,
            4,
            true,
        ),
        Place::Unvouched => (
            Payer::Neighbour,
            Account::Unknown,
            Rate::Lines(1),
            LINE_BURST,
            4,
            true,
        ),
        Place::Routed | Place::RoutedUnvouched | Place::RoutedBehind => {
            let own = matches!(place, Place::Routed);
            (
                Payer::Sender,
                Account::Routed,
                Rate::Bytes(ROUTED_MOST),
                ROUTED_MOST_BURST,
                if own { 0 } else { 15 },
                !matches!(place, Place::RoutedBehind),
            )
        }
        Place::Stray => (
            Payer::Neighbour,
            Account::Stray,
            Rate::Bytes(STRAY_RATE),
            STRAY_BURST,
            15,
            true,
        ),
    };
    Price {
        payer,
        account,
        rate,
        burst,
        slack,
        cuts,
    }
}

#[cfg(test)]
mod tests;
