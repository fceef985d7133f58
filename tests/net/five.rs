//! Five nodes and the faults of proto/threat-model.md section 5.5: traffic goes on or comes back within the
//! bounds there, a TCP transfer survives them all, and at the end every dump agrees.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    dump::wait_reachable,
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, bring_up, introduce, on_one_wire,
    },
    traffic::{Flow, Transfer, wait_ping},
    world::{Wire, World},
};

/// Time in which it happens even on a busy machine. tests/sim_faults.rs has the bounds of proto/threat-model.md section
/// 5.5 themselves, in virtual time.
fn bound(seconds: u64) -> Duration {
    Duration::from_secs(4 * seconds)
}

/// Those that can be asked: a tinc 1.0 has no tool for that.
fn seeing(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| node.kind != Tinc10)
}

/// Waits until packets between two nodes go straight, as far as they say.
fn wait_direct(a: &Node, b: &Node) {
    for (node, other) in [(a, b), (b, a)] {
        if node.kind != Tinc10 {
            node.wait_udp(other);
        }
    }
}

/// Traffic from a to e. b and c are hubs that everybody else connects to; d looks on.
struct Mesh {
    _world: World,
    wire: Wire,
    nodes: [Node; 5],
    flow: Flow,
    transfer: Transfer,
    title: String,
}

impl Mesh {
    /// Everything up, with a packet every 10 ms and a TCP transfer from a to e.
    fn start(kinds: [Kind; 5], ping_interval: &str) -> Self {
        let world = World::new();
        let wire = world.wire();
        let mut nodes = on_one_wire(&world, &wire, kinds);
        for node in &nodes {
            node.tinc(&["set", "PingInterval", ping_interval]);
            match node.name.as_str() {
                "b" => {}
                "c" => node.connect_to(&["b"]),
                _ => node.connect_to(&["b", "c"]),
            }
        }
        for node in &mut nodes {
            node.start();
        }
        for node in seeing(&nodes) {
            for other in &nodes {
                node.wait_reaches(other);
            }
        }
        let [a, .., e] = &nodes;
        wait_ping(a, &e.v4(), 56);
        wait_ping(e, &a.v4(), 56);
        wait_direct(a, e);
        let flow = Flow::start(a, e, &e.v4(), 100, 200);
        // At most 160 Mbit/s: the scenarios are about gaps, and run side by side.
        let pause = Duration::from_millis(50);
        let transfer = Transfer::start_paced(a, e, &e.v4(), u64::MAX, pause);
        transfer.wait_progress(Duration::from_secs(10));
        Self {
            _world: world,
            wire,
            flow,
            transfer,
            title: format!("{kinds:?}"),
            nodes,
        }
    }

    /// The time that no packet of the flow arrived after `since`; panics if it exceeds `limit`.
    fn expect_gap(&self, what: &str, since: Instant, limit: Duration) {
        let gap = self
            .flow
            .wait_arrival(since + Duration::from_millis(50), limit);
        eprintln!("{}: {what}: a gap of {gap:?}", self.title);
        // TCP itself waits up to twice the gap before it tries again. Two tincds may restart their tunnel once more
        // meanwhile (seen: no byte in 26 s after a gap of 3 s).
        self.transfer
            .wait_progress(4 * gap + Duration::from_secs(60));
    }

    fn finish(mut self) {
        for node in &mut self.nodes {
            node.assert_runs();
        }
        self.transfer.stop();
        let rate = self.transfer.finish();
        let stream = self.flow.finish();
        eprintln!("{}: {rate:.0} Mbit/s over it all, {stream:?}", self.title);
        let all: Vec<&Node> = seeing(&self.nodes).collect();
        wait_reachable(&all, 5);
    }
}

/// X1, X2, X6: nodes and wires fail and come back.
fn outages(kinds: [Kind; 5]) {
    let mut mesh = Mesh::start(kinds, "60");
    let sender = kinds[0];

    // X6: UDP between the pair is blocked. A tincd notices only by UDPDiscoveryTimeout, 30 s.
    mesh.wire
        .block_udp(&mesh.nodes[0].host, &mesh.nodes[4].host);
    let limit = if sender == Meshd { 5 } else { 35 };
    mesh.expect_gap("UDP blocked", Instant::now(), bound(limit));

    // X2: kill -9 of the relay in use; the other one takes over, then it comes back.
    let relay = mesh.nodes[0].dump().node("e").unwrap().nexthop.clone();
    let relay = mesh
        .nodes
        .iter()
        .position(|node| node.name == relay)
        .unwrap();
    let killed = Instant::now();
    mesh.nodes[relay].kill();
    mesh.expect_gap(
        &format!("relay {:?} killed", mesh.nodes[relay].kind),
        killed,
        bound(10),
    );
    mesh.nodes[relay].start();
    for node in seeing(&mesh.nodes) {
        node.wait_reaches(&mesh.nodes[relay]);
    }

    // X1: the wire of e is cut for ten seconds.
    mesh.wire.cut(&mesh.nodes[4].host);
    thread::sleep(Duration::from_secs(10));
    mesh.wire.mend(&mesh.nodes[4].host);
    // As below: two real daemons may restart their tunnel at once after so long a silence (seen: "Packet
    // is 734 seqs in the future", "Failed to decode raw TCP packet from a, restarting SPTPS").
    let limit = if sender == Tinc11 && kinds[4] == Tinc11 {
        25
    } else {
        5
    };
    mesh.expect_gap("wire mended", Instant::now(), bound(limit));

    // X6: UDP is let through again.
    mesh.wire
        .unblock_udp(&mesh.nodes[0].host, &mesh.nodes[4].host);
    let unblocked = Instant::now();
    wait_direct(&mesh.nodes[0], &mesh.nodes[4]);
    let took = unblocked.elapsed();
    assert!(took < bound(30), "direct UDP only after {took:?}");
    mesh.transfer.wait_progress(Duration::from_secs(10));
    mesh.finish();
}

/// X9, X8: a node moves, and the path shrinks in silence. tinc's own timer for both is PingInterval.
fn changes(kinds: [Kind; 5]) {
    let mesh = Mesh::start(kinds, "10");
    let sender = kinds[0];

    // X9: e moves. It has something to say to a, as most who move have: a learns by it.
    let e = &mesh.nodes[4];
    e.host.add_address(&mesh.wire, 50);
    e.host.remove_address(&mesh.wire, e.host.index);
    let moved = Instant::now();
    let back = Flow::start(e, &mesh.nodes[0], &mesh.nodes[0].v4(), 100, 200);
    // Two real daemons may both begin a handshake at that moment, and then need 10 to 11 s more to get over
    // it (wire/tinc-1.1.md section 3.6; seen: "Invalid packet seqno: 0 != 1" at both).
    let limit = if kinds[0] == Tinc11 && kinds[4] == Tinc11 {
        25
    } else {
        10
    };
    mesh.expect_gap("address changed", moved, bound(limit));
    back.finish();

    // X8. A tincd notices by PingInterval and four probes a second apart. Towards a tinc 1.0 the stream went on
    // after 3.6 to 10.2 s.
    mesh.wire.swallow_udp_longer_than(1280);
    let shrunk = Instant::now();
    let limit = if sender == Meshd && kinds[4] != Tinc10 {
        5
    } else {
        20
    };
    // What is under way already may still arrive; the stall comes after it. Then TCP itself waits
    // up to twice the time before it tries again.
    thread::sleep(Duration::from_millis(500));
    mesh.transfer.wait_progress(2 * bound(limit));
    eprintln!("{}: path shrunk: {:?}", mesh.title, shrunk.elapsed());
    mesh.finish();
}

/// X8 with ICMP: a router joins the wires of a and b, and the far wire shrinks to 1280.
///
/// There is no control of this one: tinc 1.1~pre18 takes one byte off its path MTU for each packet
/// that the kernel refuses as too long, and was still stuck after a minute (seen: "pmtu 1331 (min
/// 1349 max 1331)" where 1219 would do). So only what a meshd sends is looked at.
fn shrinking_wire(kinds: [Kind; 2]) {
    let world = World::new();
    let (near, far) = (world.wire(), world.wire());
    let router = world.host("r", &[&near, &far]);
    router.forward();
    let hosts = [("a", &near), ("b", &far)].map(|(name, wire)| {
        let host = world.host(name, &[wire]);
        host.route_by(&router, wire);
        host
    });
    let mut a = Node::new(kinds[0], &hosts[0]);
    let mut b = Node::new(kinds[1], &hosts[1]);
    introduce(&[&a, &b]);
    for node in [&a, &b] {
        node.tinc(&["set", "PingInterval", "10"]);
    }
    bring_up(&mut a, &mut b);
    let from_meshds = if kinds[1] == Meshd {
        vec![(&a, &b), (&b, &a)]
    } else {
        vec![(&a, &b)]
    };
    let transfers: Vec<_> = from_meshds
        .into_iter()
        .map(|(from, to)| {
            let pause = Duration::from_millis(50);
            Transfer::start_paced(from, to, &to.v4(), u64::MAX, pause)
        })
        .collect();
    for transfer in &transfers {
        transfer.wait_progress(Duration::from_secs(10));
    }
    router.set_mtu(&far, 1280);
    hosts[1].set_mtu(&far, 1280);
    let shrunk = Instant::now();
    thread::sleep(Duration::from_millis(500));
    for transfer in transfers {
        // As above: TCP itself waits up to twice the stall.
        transfer.wait_progress(2 * bound(5));
        eprintln!("{kinds:?}: goes on after {:?}", shrunk.elapsed());
        transfer.stop();
        transfer.finish();
    }
    a.assert_runs();
    b.assert_runs();
}

#[test]
fn outages_between_meshds() {
    outages([Meshd, Tinc11, Meshd, Tinc11, Meshd]);
}

#[test]
fn outages_between_tincds() {
    outages([Tinc11, Meshd, Meshd, Meshd, Tinc11]);
}

/// All three at once: the relays are a tinc 1.0 and a meshd.
#[test]
fn outages_beside_both_tincs() {
    outages([Meshd, Tinc10, Meshd, Tinc11, Meshd]);
}

/// Packets in legacy, to a tinc 1.0 that moves. The relays are meshds: what goes by them while the path is searched
/// waits for a tincd's own search otherwise (seen: 3.6 s, and more than 12).
#[test]
fn changes_towards_tinc_1_0() {
    changes([Meshd, Meshd, Meshd, Tinc11, Tinc10]);
}

#[test]
fn changes_between_meshds() {
    changes([Meshd, Tinc11, Meshd, Tinc11, Meshd]);
}

#[test]
fn changes_between_tincds() {
    changes([Tinc11, Meshd, Meshd, Meshd, Tinc11]);
}

#[test]
fn wire_shrinks_between_meshds() {
    shrinking_wire([Meshd, Meshd]);
}

#[test]
fn wire_shrinks_between_meshd_and_tincd() {
    shrinking_wire([Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_outages() {
    outages([Tinc11; 5]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_changes() {
    changes([Tinc11; 5]);
}
