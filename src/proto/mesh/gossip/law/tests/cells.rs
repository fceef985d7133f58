//! Each cell of the law, tried at one node by a line of that statement and that speaker.
//!
//! Nodes 0 - 1 - 2 - 3 form a line; nodes 4 and 5 are linked to node 0. Only node 0 acts after the
//! start, so no other node contradicts a line.

use std::time::{Duration, Instant};

use bytes::Bytes;

use meshd_crypto::{PrivateKey, Rng};
use meshd_wire::{Options, Request, base64};

use super::{
    super::{Adds, Ends, Ruling, Speaker, Statement, ruling},
    SPEAKERS, STATEMENTS,
};
use crate::{
    link::{Dialect, Hello},
    mesh::{
        Input, LinkId, LinkReport, Mesh, Output,
        paths::hints::Hints,
        sessions::legacy,
        testing::{Net, name, settings, underlay},
    },
    route::NodeIdx,
    tunnel::sptps::{Tunnel, TunnelSetup},
};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than any time in the law.
const LATER: Duration = Duration::from_secs(7);
/// Another address of a node, in lines.
const ELSEWHERE: &str = "192.0.2.9 655";
/// A subnet that no host file lists.
const UNLISTED: &str = "10.78.0.0/16";

/// Node 0, and all that it has sent.
struct Us {
    net: Net,
    now: Instant,
    sent: Vec<Output>,
}

impl Us {
    fn new(statement: Statement) -> Self {
        let mut all = settings(6);
        all.iter_mut().for_each(|one| one.native = false);
        let mut net = match statement {
            Statement::KeyChanged => legacy::tests::net(6, |_, _| ()),
            _ => Net::new(all),
        };
        if statement == Statement::Edge {
            // Relays carry the packets of this pair.
            net.no_udp.insert((0, 2));
        }
        for (a, b) in [(0, 1), (1, 2), (2, 3), (4, 0), (5, 0)] {
            net.join(a, b);
        }
        net.run(SECOND);
        for _ in 0..4 {
            for to in [1, 2, 3] {
                net.send(0, to, 100);
                net.send(to, 0, 100);
            }
            net.run(SECOND);
        }
        let now = net.now;
        Self {
            net,
            now,
            sent: Vec::new(),
        }
    }

    fn mesh(&mut self) -> &mut Mesh {
        &mut self.net.meshes[0]
    }

    fn idx(&mut self, n: u8) -> NodeIdx {
        self.mesh().nodes.find(&name(n)).unwrap()
    }

    fn link(&self, n: u8) -> LinkId {
        *self.net.link_of(0, n)
    }

    /// Carries out what is due now, and keeps what node 0 sends.
    fn settle(&mut self) {
        let now = self.now;
        self.mesh().settle_all(now);
        while let Some(output) = self.mesh().poll_output() {
            self.sent.push(output);
        }
    }

    fn hear(&mut self, link: LinkId, line: &str) {
        let line = Bytes::from(line.to_owned());
        self.net.now = self.now;
        self.net
            .input(0, Input::Link(LinkReport::Line { link, line }));
        self.settle();
    }

    /// Lets time pass, with signs of life of `alive` meanwhile.
    fn run(&mut self, time: Duration, alive: Option<NodeIdx>) {
        let end = self.now + time;
        while self.now < end {
            self.now += SECOND / 20;
            self.net.now = self.now;
            if let Some(idx) = alive {
                let now = self.now;
                self.mesh().cx.now = now;
                self.mesh().note_session(idx);
            }
            let due = self.mesh().poll_timeout();
            if due.is_some_and(|(at, _)| at <= self.now) {
                self.net.input(0, Input::Timeout);
            }
            self.settle();
        }
    }

    /// Requests sent over a link since the last line of [`Cell::says`].
    fn lines_to(&self, link: LinkId) -> Vec<Request> {
        let lines = self.sent.iter().filter_map(|output| match output {
            Output::SendLine { to, line } if *to == link => Request::parse(line).ok(),
            _ => None,
        });
        lines.collect()
    }

    fn closes(&self, at: LinkId) -> bool {
        let mut sent = self.sent.iter();
        sent.any(|output| matches!(output, Output::Close { link, .. } if *link == at))
    }

    /// True if a packet or line went to node 5, other than lines of links.
    fn passed_on(&self) -> bool {
        let link = self.link(5);
        let mut sent = self.sent.iter();
        sent.any(|output| match output {
            Output::SendLine { to, line } => *to == link && !line.starts_with(b"8"),
            Output::SendRelayed { to, .. } => *to == link,
            Output::Datagram { to, datagram } => *to == underlay(5) && datagram.len() > 150,
            _ => false,
        })
    }

    fn has_edge(&mut self, from: NodeIdx, to: &str) -> bool {
        let to = to.parse().unwrap();
        self.mesh().nodes[from].edges.contains_key(&to)
    }

    fn has_subnet(&mut self, of: NodeIdx, subnet: &str) -> bool {
        let subnet = subnet.parse().unwrap();
        self.mesh().nodes[of].subnets.contains(&subnet)
    }
}

/// A cell, its subject and the other end of the subject's edge, and the node that speaks.
struct Cell {
    statement: Statement,
    speaker: Speaker,
    ruling: Ruling,
    subject: u8,
    other: u8,
    by: u8,
    us: Us,
}

impl Cell {
    fn new(statement: Statement, speaker: Speaker) -> Self {
        let (subject, other, by) = match (speaker, statement) {
            // A shorter path to node 2 by way of node 4.
            (Speaker::Itself, Statement::Edge) => (4, 2, 4),
            (Speaker::Neighbour, Statement::Edge) => (2, 4, 1),
            (Speaker::Anybody, Statement::Edge) => (2, 4, 4),
            (Speaker::OfUs, _) => (0, 1, 4),
            (Speaker::Itself, _) => (1, 2, 1),
            (Speaker::Aside, _) => (1, 2, 4),
            (Speaker::Neighbour, _) => (2, 3, 1),
            (Speaker::Anybody, _) => (2, 3, 4),
            (Speaker::Stranger, _) => (2, 3, 3),
        };
        Self {
            statement,
            speaker,
            ruling: ruling(statement, speaker),
            subject,
            other,
            by,
            us: Us::new(statement),
        }
    }

    /// The link of the speaker.
    fn link(&mut self) -> LinkId {
        if self.speaker != Speaker::Stranger {
            return self.us.link(self.by);
        }
        // A connection that has proven a name and has sent no ACK yet.
        let link = self.us.net.new_link();
        let hello = Hello {
            name: name(self.by),
            minor: 7,
            dialect: Dialect::Sptps,
            outgoing: false,
            started: self.us.now,
        };
        let report = LinkReport::Up {
            link,
            hello,
            remote: underlay(self.by),
            local: underlay(0),
        };
        self.us.net.input(0, Input::Link(report));
        self.us.settle();
        link
    }

    fn says(&mut self, line: &str) {
        let link = self.link();
        self.us.sent.clear();
        self.us.hear(link, line);
    }

    fn ends_of_edge(&mut self) -> (NodeIdx, NodeIdx) {
        (self.us.idx(self.subject), self.us.idx(self.other))
    }

    /// The line of the statement, with a nonce.
    fn line(&mut self, nonce: u8) -> String {
        let (s, t) = (name(self.subject), name(self.other));
        let (from, to) = self.ends_of_edge();
        let edge = self.us.mesh().nodes.edge(from, to).cloned();
        let changed = |options: u32, address: Option<&str>| {
            let edge = edge.as_ref().unwrap();
            let address = address.map_or_else(|| edge.address.to_string(), str::to_owned);
            let options = edge.options.0 | options;
            format!("12 {nonce} {s} {t} {address} {options:x} {}", edge.weight)
        };
        match self.statement {
            Statement::Edge if edge.is_some() => format!("12 {nonce} {s} x9 {ELSEWHERE} 700000c 7"),
            Statement::Edge => format!("12 {nonce} {s} {t} {ELSEWHERE} 700000c -500"),
            Statement::Options => changed(Options::INDIRECT, None),
            Statement::Address => changed(0, Some(ELSEWHERE)),
            Statement::EdgeEnd => format!("13 {nonce} {s} {t}"),
            Statement::Subnet => format!("10 {nonce} {s} 10.77.0.0/16"),
            Statement::SubnetEnd if self.subject == 0 => format!("11 {nonce} {s} 10.0.0.0"),
            Statement::SubnetEnd => format!("11 {nonce} {s} {UNLISTED}"),
            Statement::KeyChanged => format!("14 {nonce} {s}"),
            Statement::KeyRequest => format!("15 {s} n0 15 {}", self.kex()),
            Statement::KeyAnswer => format!("16 {s} n5 AAAA -1 -1 -1 0"),
            Statement::KeyAddress => format!("16 {s} n0 AAAA -1 -1 -1 0 {ELSEWHERE}"),
            Statement::UdpInfo => format!("22 {s} n0 {ELSEWHERE}"),
            Statement::MtuInfo => format!("23 {s} n0 900"),
            Statement::Packet => format!("15 {s} n5 21 {}", base64::encode(&[7; 200])),
            Statement::Ack => "4 655 10 700000c".into(),
            Statement::OfLink => "8".into(),
            Statement::Misplaced => "7".into(),
            Statement::Unreadable => format!("12 {nonce} {s}"),
        }
    }

    fn kex(&self) -> String {
        let mut rng = Rng::new([5; 32]);
        let key = PrivateKey::generate(&mut rng);
        let setup = TunnelSetup {
            peer_key: key.public(),
            key: key.into(),
            name: name(self.subject),
            peer: name(0),
            next_key: None,
            replay_window: 128,
            compression: 0,
        };
        base64::encode(&Tunnel::initiate(setup, &mut rng).1)
    }

    /// Makes what the statement is about.
    fn prepare(&mut self) {
        if self.statement == Statement::SubnetEnd && self.subject != 0 {
            let own = if self.subject == 1 { 1 } else { 4 };
            let link = self.us.link(own);
            let line = format!("10 a0 n{} {UNLISTED}", self.subject);
            self.us.hear(link, &line);
        }
        if self.statement == Statement::Edge && self.speaker != Speaker::OfUs {
            // The other direction of the new edge.
            let (from, to) = (name(self.other), name(self.subject));
            let link = self.us.link(if self.other == 4 { 4 } else { 1 });
            let line = format!("12 a1 {from} {to} {ELSEWHERE} 700000c -500");
            if self.speaker != Speaker::Aside && self.speaker != Speaker::Stranger {
                self.us.hear(link, &line);
            }
        }
        if [
            Statement::KeyAddress,
            Statement::UdpInfo,
            Statement::MtuInfo,
        ]
        .contains(&self.statement)
        {
            let subject = self.us.idx(self.subject);
            let path = &mut self.us.mesh().paths[subject];
            path.unconfirm();
            path.hinted_mtu = Hints::default();
        }
    }

    fn check(mut self) {
        self.prepare();
        let line = self.line(1);
        let link = self.link();
        if let Ok(request) = Request::parse(line.as_bytes()) {
            let first = match self.statement {
                Statement::Options | Statement::Address => Statement::Edge,
                Statement::KeyAddress => Statement::KeyAnswer,
                statement => statement,
            };
            assert_eq!(Statement::of(&request), first, "{line}");
            let seen = self.us.mesh().speaker(link, &request);
            match self.ruling.adds {
                // The request names no node.
                Adds::Never => assert_eq!(seen, Speaker::Itself, "{line}"),
                _ => assert_eq!(seen, self.speaker, "{line}"),
            }
        }
        if self.ruling.adds != Adds::Never {
            self.adds(link, &line);
            Self::new(self.statement, self.speaker).ends();
        }
    }

    /// Returns true if the fact of the statement is in the state of node 0.
    fn has_fact(&mut self) -> bool {
        let (subject, other) = self.ends_of_edge();
        let (us, to) = (self.subject, name(self.other));
        let edge = |cell: &mut Self| cell.us.mesh().nodes.edge(subject, other).cloned();
        let elsewhere = "192.0.2.9:655".parse().ok();
        match self.statement {
            // `line` names a new node where the edge to the other end exists already.
            Statement::Edge if us == 4 || self.other == 4 => self.us.has_edge(subject, to.as_str()),
            Statement::Edge => self.us.has_edge(subject, "x9"),
            Statement::Options => edge(self).unwrap().options.has(Options::INDIRECT),
            Statement::Address => edge(self).unwrap().address.known() == elsewhere,
            Statement::Subnet => self.us.has_subnet(subject, "10.77.0.0/16"),
            Statement::KeyAddress | Statement::UdpInfo => {
                self.us.mesh().paths[subject].addr == elsewhere
            }
            Statement::MtuInfo => self.us.mesh().paths[subject].hinted_mtu.longest() == 900,
            _ => false,
        }
    }

    /// Returns true if node 0 has answered or forwarded the line.
    fn reacts(&mut self, link: LinkId) -> bool {
        let lines = self.us.lines_to(link);
        match self.statement {
            Statement::KeyRequest => {
                let via = self.us.link(1);
                let lines = self.us.lines_to(via);
                lines
                    .iter()
                    .any(|line| matches!(line, Request::AnsKey { .. }))
            }
            Statement::KeyAnswer | Statement::Packet => self.us.passed_on(),
            Statement::Ack => self.us.mesh().active(link).is_some(),
            Statement::OfLink => lines.contains(&Request::Pong),
            _ => false,
        }
    }

    fn is_corrected(&self, link: LinkId) -> bool {
        let subject = name(self.subject);
        let lines = self.us.lines_to(link);
        // After an ACK the first exchange follows.
        self.statement != Statement::Ack
            && lines.iter().any(|line| line.subject() == Some(&subject))
    }

    fn adds(&mut self, link: LinkId, line: &str) {
        self.us.sent.clear();
        self.us.hear(link, line);
        let (fact, reaction) = (self.has_fact(), self.reacts(link));
        let (statement, ruling) = (self.statement, self.ruling);
        let case = format!("{line}: {statement:?} {:?} {ruling:?}", self.speaker);
        let wanted = match ruling.adds {
            Adds::Fact | Adds::IfAllowed | Adds::Candidate | Adds::Hint => (true, false),
            Adds::Handshake if statement == Statement::KeyAddress => (false, false),
            // The state after a hint for us is that of before.
            Adds::Passage if statement == Statement::UdpInfo => (false, false),
            Adds::Handshake | Adds::Passage | Adds::Answer => (false, true),
            _ => (false, false),
        };
        assert_eq!((fact, reaction), wanted, "{case}");
        let at_once = self.is_corrected(link);
        assert_eq!(at_once, ruling.adds == Adds::Correction, "{case}");
        if ruling.adds == Adds::LateCorrection {
            self.us.run(4 * SECOND, None);
            assert!(self.is_corrected(link) && !self.has_fact(), "{case}");
        }
    }

    /// Returns true if what the statement may end is still so.
    fn holds(&mut self) -> bool {
        let (subject, other) = self.ends_of_edge();
        let mesh = self.us.mesh();
        match self.statement {
            Statement::Edge => {
                let target = self.us.idx(2);
                !self.has_moved(target)
            }
            Statement::Options => !mesh.nodes[other]
                .reachability
                .options
                .has(Options::INDIRECT),
            Statement::EdgeEnd => mesh.nodes[other].reachability.reachable,
            Statement::SubnetEnd if self.subject == 0 => self.us.has_subnet(subject, "10.0.0.0"),
            Statement::SubnetEnd => self.us.has_subnet(subject, UNLISTED),
            Statement::KeyChanged => {
                self.subject == 0 || mesh.sessions[subject].legacy.tx.is_some()
            }
            _ => mesh.nodes[subject].reachability.reachable,
        }
    }

    fn ends(mut self) {
        self.prepare();
        let case = format!("{:?} {:?} {:?}", self.statement, self.speaker, self.ruling);
        let line = self.line(1);
        let target = match self.statement {
            Statement::Edge => self.us.idx(2),
            _ => self.us.idx(self.other),
        };
        let before = self.session();
        match self.ruling.ends {
            Ends::Nothing | Ends::OnceAuthenticated => {
                self.says(&line);
                assert!(self.holds(), "{case}");
                self.us.run(LATER, Some(target));
                assert!(self.holds() && self.session() == before, "{case}");
                let link = self.link_if_up();
                assert!(link.is_none_or(|link| !self.us.closes(link)), "{case}");
            }
            Ends::Link => {
                let link = self.link();
                self.us.hear(link, &line);
                assert!(self.us.closes(link), "{case}");
            }
            Ends::AtOnce => {
                self.us.run(SECOND / 10, Some(target));
                self.says(&line);
                assert!(!self.holds(), "{case}");
            }
            Ends::UnlessAlive(after) => self.ends_late(&line, target, after),
            Ends::OncePathSettled(after) => {
                self.moves(&line, target, after, true);
            }
            Ends::OnceAgreed(after) => self.moves(&line, target, after, false),
            Ends::UnlessListed(after) => {
                self.says(&line);
                let listed = format!("10.0.0.{}", self.subject);
                self.says(&format!("11 2 n{} {listed}", self.subject));
                assert!(self.holds(), "{case}");
                self.us.run(after + SECOND / 2, None);
                assert!(!self.holds(), "{case}");
                self.us.run(LATER, None);
                let subject = self.us.idx(self.subject);
                assert!(self.us.has_subnet(subject, &listed), "{case}");
            }
            Ends::Paced(burst, every) => {
                let subject = self.us.idx(self.subject);
                let key = self.us.mesh().sessions[subject].legacy.tx.clone();
                assert!(key.is_some());
                for nonce in 0..=burst {
                    self.us.mesh().sessions[subject].legacy.tx = key.clone();
                    let line = self.line(10 + u8::try_from(nonce).unwrap());
                    self.says(&line);
                    assert_eq!(self.holds(), nonce == burst, "{case}, line {nonce}");
                }
                self.us.run(SECOND * (every + 1), None);
                assert!(!self.holds(), "{case}: the last one waits");
            }
        }
    }

    /// The link of the speaker, if it has one that stays.
    fn link_if_up(&self) -> Option<LinkId> {
        (self.speaker != Speaker::Stranger).then(|| self.us.link(self.by))
    }

    /// The sending key of the subject, for comparison.
    fn session(&mut self) -> Option<*const ()> {
        let subject = self.us.idx(self.subject);
        let key = self.us.mesh().sessions[subject].tx();
        key.map(|key| std::sync::Arc::as_ptr(&key).cast())
    }

    /// A node is unreachable after a while if it is silent, and never while its tunnel is alive.
    fn ends_late(mut self, line: &str, target: NodeIdx, after: Duration) {
        let mut silent = Self::new(self.statement, self.speaker);
        silent.us.run(4 * SECOND, None);
        silent.says(line);
        assert!(silent.holds(), "{line}");
        silent.us.run(after + SECOND / 2, None);
        assert!(!silent.holds(), "{line}");

        self.us.run(SECOND / 10, Some(target));
        self.says(line);
        self.us.run(LATER, Some(target));
        assert!(self.holds(), "{line}: it is alive");
    }

    /// A path changes at once if the tunnel is silent, else after a while; if `alone`, without
    /// another statement.
    fn moves(mut self, line: &str, target: NodeIdx, after: Duration, alone: bool) {
        let mut silent = Self::new(self.statement, self.speaker);
        silent.prepare();
        silent.us.run(4 * SECOND, None);
        silent.says(line);
        assert!(silent.has_moved(target), "{line}");

        self.us.run(SECOND / 10, Some(target));
        self.says(line);
        assert!(!self.has_moved(target), "{line}");
        self.us.run(after - SECOND / 2, Some(target));
        assert!(!self.has_moved(target), "{line}");
        self.us.run(SECOND, Some(target));
        if !alone {
            assert!(!self.has_moved(target), "{line}: one end only");
            let (s, t) = (name(self.subject), name(self.other));
            let link = self.us.link(1);
            let back = format!("12 77 {t} {s} 192.168.7.{} 655 700000d 10", self.subject);
            self.us.hear(link, &back);
            self.us.run(after + SECOND, Some(target));
        }
        assert!(self.has_moved(target), "{line}");
    }

    fn has_moved(&mut self, target: NodeIdx) -> bool {
        let by = self.us.idx(4);
        let place = self.us.mesh().nodes[target].reachability;
        match self.statement {
            Statement::Edge => place.nexthop == by,
            _ => place.options.has(Options::INDIRECT),
        }
    }
}

/// The lines of all cells, each at a mesh of its own.
#[test]
fn every_cell_is_what_the_code_does() {
    std::thread::scope(|scope| {
        for statement in STATEMENTS {
            scope.spawn(move || {
                for speaker in SPEAKERS {
                    Cell::new(statement, speaker).check();
                }
            });
        }
    });
}
