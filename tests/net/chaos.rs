//! Chaos: seven nodes, one of them behind a NAT, and random faults, one or two at once. After each fault's end every
//! pair answers again within seconds, no daemon has ended, and no packet circles.
//!
//! Ignored in ordinary runs: `tests/run chaos [SEED] [MINUTES]` runs it. The faults are a function of the seed.

mod faults;
mod pings;

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use meshd::crypto::Rng;

use crate::{
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, introduce,
    },
    traffic::setting,
    world::{Host, Wire, World},
};
use faults::Fault;
use pings::Pings;

/// Longest time until a pair heals.
const BOUND: Duration = Duration::from_secs(5);
/// Time after which a pair counts as never healed.
const NEVER: Duration = Duration::from_secs(30);
/// Packets a second on all wires that are no storm. The pings and their answers make 1,700, on up to three legs.
const STORM: u64 = 20_000;

/// The mesh, with all that faults change.
struct Chaos {
    _world: World,
    /// The wire of all nodes but the last.
    wire: Wire,
    /// The NAT in front of the last node.
    router: Host,
    kinds: Vec<Kind>,
    nodes: Vec<Node>,
    /// Last byte of the outer address of each node, and of the NAT.
    outer: Vec<u8>,
    nat: u8,
    moved: u8,
    shouting: Option<Shouting>,
}

/// Broadcasts of a node, until this is dropped.
struct Shouting {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shouting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Effect of one kind of fault.
#[derive(Default)]
struct Row {
    times: Vec<Duration>,
    never: usize,
}

impl Chaos {
    /// Starts the mesh. With an even seed all dial two hubs, with an odd one AutoConnect finds the links.
    fn start(kinds: &[Kind], seed: u64) -> Self {
        let world = World::new();
        let (wire, inner) = (world.wire(), world.wire());
        let router = world.host("nat", &[&wire, &inner]);
        router.forward();
        router.nft(
            "table inet nat { chain post { type nat hook postrouting priority srcnat; \
             oifname \"eth1\" masquerade; }; chain in { type filter hook forward priority 0; \
             iifname \"eth1\" ct state new drop; }; }",
        );
        let mut nodes = Vec::new();
        for (number, kind) in kinds.iter().enumerate() {
            let last = number + 1 == kinds.len();
            let name = char::from(b'a' + u8::try_from(number).unwrap()).to_string();
            let host = world.host(&name, &[if last { &inner } else { &wire }]);
            let node = Node::new(*kind, &host);
            if last {
                host.route_by(&router, &inner);
                node.tinc(&["del", "Address"]);
            }
            if *kind == Tinc10 {
                node.without_key();
            }
            nodes.push(node);
        }
        introduce(&nodes.iter().collect::<Vec<_>>());
        for node in &nodes {
            if node.name == "a" {
                continue;
            }
            if seed.is_multiple_of(2) || node.kind == Tinc10 {
                node.connect_to(if node.name == "b" {
                    &["a"]
                } else {
                    &["a", "b"]
                });
            } else {
                node.connect_to(&["a"]);
                node.tinc(&["set", "AutoConnect", "yes"]);
            }
        }
        nodes.iter_mut().for_each(Node::start);
        Self {
            outer: nodes.iter().map(|node| node.host.index).collect(),
            nat: router.index,
            _world: world,
            wire,
            router,
            kinds: kinds.to_vec(),
            nodes,
            moved: 0,
            shouting: None,
        }
    }

    /// Sends broadcasts from a node's device, 100 a second.
    fn shout(&mut self, node: usize) {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let address = self.nodes[node].v4();
        let thread = self.nodes[node].host.inside(move || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            let group = address
                .rsplit_once('.')
                .map(|(net, _)| format!("{net}.255"));
            while !ended.load(Ordering::Relaxed) {
                let _ = socket.send_to(&[0; 100], (group.as_deref().unwrap(), 9));
                thread::sleep(Duration::from_millis(10));
            }
        });
        let thread = Some(thread);
        self.shouting = Some(Shouting { stop, thread });
    }

    /// Every two nodes, in both directions.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let count = self.nodes.len();
        (0..count).flat_map(move |a| (0..count).filter(move |b| *b != a).map(move |b| (a, b)))
    }

    /// The time that each pair needs from `since` on.
    fn wait_healed(
        &self,
        pings: &Pings,
        since: Instant,
    ) -> Vec<((usize, usize), Option<Duration>)> {
        loop {
            let times: Vec<_> = self
                .pairs()
                .map(|(a, b)| ((a, b), pings.healed(a, b, since)))
                .collect();
            let all = times.iter().all(|(_, time)| time.is_some());
            if all || since.elapsed() > NEVER {
                return times;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Which programs the nodes of a pair run now.
    fn pair_label(&self, a: usize, b: usize) -> &'static str {
        match [a, b].map(|node| self.nodes[node].kind == Meshd) {
            [true, true] => "two meshds",
            [false, false] => "two tincs",
            _ => "meshd and tinc",
        }
    }
}

/// The packets of the busiest second, from a thread that counts.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Watch {
    fn start(chaos: &Chaos) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let count = chaos.wire.counter();
        let thread = thread::spawn(move || {
            let (mut most, mut before, mut at) = (0, count(), Instant::now());
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_secs(1));
                let (now, elapsed) = (count(), at.elapsed());
                at += elapsed;
                most = most.max(((now - before) as f64 / elapsed.as_secs_f64()) as u64);
                before = now;
            }
            most
        });
        let thread = Some(thread);
        Self { stop, thread }
    }

    fn most(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// One or two faults of different nodes.
fn choose(rng: &mut Rng, nodes: usize) -> Vec<Fault> {
    let mut chosen = vec![Fault::random(rng, nodes)];
    if rng.below(2) == 0 {
        let other = Fault::random(rng, nodes);
        let same_node = other.node().is_some() && other.node() == chosen[0].node();
        if other.label() != chosen[0].label() && !same_node {
            chosen.push(other);
        }
    }
    chosen
}

/// Runs faults for the asked time, prints the table, and fails on what must not be.
fn run(kinds: &[Kind]) {
    let (seed, minutes) = (
        setting("MESHD_CHAOS_SEED", 1),
        setting("MESHD_CHAOS_MINUTES", 10),
    );
    eprintln!("chaos of {kinds:?}: MESHD_CHAOS_SEED={seed} MESHD_CHAOS_MINUTES={minutes}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = Rng::new(bytes);
    let mut chaos = Chaos::start(kinds, seed);
    let pings = Pings::start(&chaos.nodes);
    let started = Instant::now();
    let first = chaos.wait_healed(&pings, started);
    assert!(
        first.iter().all(|(_, time)| time.is_some()),
        "not whole at the start: {first:?}"
    );
    thread::sleep(Duration::from_secs(5));
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in 1.. {
        if started.elapsed() > Duration::from_secs(60 * minutes) {
            break;
        }
        let faults = choose(&mut rng, kinds.len());
        let lasts = Duration::from_millis(1000 + u64::from(rng.below(14_000)));
        let (times, most) = chaos.suffer(&pings, number, &faults, lasts);
        let names: Vec<_> = faults.iter().map(Fault::label).collect();
        let worst = times
            .iter()
            .max_by_key(|(_, time)| time.unwrap_or(Duration::MAX))
            .unwrap();
        let ((a, b), time) = *worst;
        eprintln!(
            "{:4.0} s, {number}: {faults:?} for {lasts:.1?}: worst {}-{} {time:.2?}, at most {most} packets/s",
            started.elapsed().as_secs_f64(),
            chaos.nodes[a].name,
            chaos.nodes[b].name
        );
        if most > STORM {
            wrong.push(format!("{number} {names:?}: {most} packets a second"));
        }
        for ((a, b), time) in times {
            let pair = chaos.pair_label(a, b);
            // Of two tincs neither is ours.
            if time.is_none_or(|time| time > BOUND) && pair != "two tincs" {
                let names = [a, b].map(|node| chaos.nodes[node].name.clone());
                wrong.push(format!("{number} {faults:?}: {names:?} {time:.2?}"));
            }
            for label in names.iter().copied().chain(["all"]) {
                let row = rows.entry(format!("{pair}: {label}")).or_default();
                match time {
                    Some(time) => row.times.push(time),
                    None => row.never += 1,
                }
            }
        }
        chaos.nodes.iter_mut().for_each(Node::assert_runs);
    }
    print_table(&mut rows);
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
}

/// A pair of nodes, and the time until it was healed; `None` if it never was.
type Healing = ((usize, usize), Option<Duration>);

impl Chaos {
    /// Lets faults begin, last and end, and waits until all pairs are healed. Returns their times, and the packets of
    /// the busiest second.
    fn suffer(
        &mut self,
        pings: &Pings,
        number: usize,
        faults: &[Fault],
        lasts: Duration,
    ) -> (Vec<Healing>, u64) {
        let watch = Watch::start(self);
        let tags: Vec<String> = (0..faults.len())
            .map(|at| format!("c{number}-{at}"))
            .collect();
        for (fault, tag) in faults.iter().zip(&tags) {
            self.begin(fault, tag);
        }
        thread::sleep(lasts);
        for (fault, tag) in faults.iter().zip(&tags) {
            self.end(fault, tag);
        }
        pings.forget();
        let times = self.wait_healed(pings, Instant::now());
        thread::sleep(Duration::from_secs(2));
        (times, watch.most())
    }
}

fn print_table(rows: &mut BTreeMap<String, Row>) {
    eprintln!(
        "{:32} {:>6} {:>7} {:>7} {:>7} {:>5}",
        "fault", "pairs", "p50", "p95", "max", "never"
    );
    for (label, row) in rows {
        row.times.sort();
        let at = |share: usize| {
            let place = (row.times.len() * share).div_ceil(100).saturating_sub(1);
            row.times.get(place).map_or(f64::NAN, Duration::as_secs_f64)
        };
        eprintln!(
            "{label:32} {:6} {:7.2} {:7.2} {:7.2} {:5}",
            row.times.len() + row.never,
            at(50),
            at(95),
            at(100),
            row.never
        );
    }
}

#[test]
#[ignore = "long: tests/run chaos"]
fn chaos_between_meshds() {
    run(&[Meshd; 7]);
}

#[test]
#[ignore = "long: tests/run chaos"]
fn chaos_beside_both_tincs() {
    run(&[Meshd, Tinc11, Meshd, Tinc10, Meshd, Tinc11, Meshd]);
}
