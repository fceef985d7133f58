//! The rolling move: six droplets of tinc 1.0.36 on one shared wire become meshds one after another, with the same
//! directories and keys, and go back; then they become meshds for good, get Ed25519 keys, and legacy is forbidden.
//! A TCP stream and the replication of two MariaDB masters run through a relay the whole time.

use std::{fs, time::Duration};

use rustix::process::Signal;

use crate::{
    mariadb::Masters,
    node::{
        Kind::{self, Meshd, Tinc10},
        Node, PATIENCE, introduce, on_one_wire,
    },
    traffic::{Flow, Transfer, try_ping, wait_ping},
    world::{Wire, World, wait_until},
};

/// The relay: all others connect to it, and the first and the last hear each other only through it.
const RELAY: usize = 2;
/// Packets a second to a node that changes its daemon.
const RATE: u64 = 200;
/// Extra time that a change of daemons may take beside tincd's own restart: two samples of timers in seconds.
const SLACK: Duration = Duration::from_millis(1_500);

/// Six nodes as tinc 1.0 users have them: RSA keys only.
fn droplets(world: &World, wire: &Wire) -> Vec<Node> {
    let nodes = on_one_wire(world, wire, [Tinc10; 6]);
    nodes.iter().for_each(Node::without_key);
    let relay = nodes[RELAY].name.clone();
    for node in nodes.iter().filter(|node| node.name != relay) {
        node.connect_to(&[&relay]);
    }
    nodes.into()
}

/// Traffic that runs through the mesh the whole time.
struct Load {
    stream: Transfer,
    /// `None` where there is no MariaDB.
    masters: Option<Masters>,
}

impl Load {
    /// Panics unless stream and replication go on.
    fn wait_progress(&self) {
        self.stream.wait_progress(PATIENCE);
        self.masters.iter().for_each(Masters::wait_progress);
    }

    fn finish(self) {
        self.stream.stop();
        self.stream.finish();
        self.masters.into_iter().for_each(Masters::finish);
    }
}

/// Each node in turn stops its daemon and starts one of this kind. How long each was out of reach, longest first.
fn change(nodes: &mut [Node], kind: Kind, load: &Load) -> Vec<Duration> {
    let mut silences = Vec::new();
    for at in 0..nodes.len() {
        // From a node that hears it directly.
        let from = if at == 1 { 3 } else { 1 };
        let flow = Flow::start(&nodes[from], &nodes[at], &nodes[at].v4(), RATE, 200);
        wait_until("packets arrive before the change", PATIENCE, || {
            let arrived = flow.any_arrived();
            arrived.then_some(()).ok_or_else(|| "none".to_owned())
        });
        let node = &mut nodes[at];
        node.stop();
        node.kind = kind;
        node.start();
        for other in 0..nodes.len() {
            if other != at {
                wait_ping(&nodes[at], &nodes[other].v4(), 56);
            }
        }
        if kind == Meshd {
            wait_progress_of_the_move(nodes, at);
        }
        load.wait_progress();
        silences.push(flow.finish().longest_gap);
    }
    eprintln!("{kind:?}: out of reach for {silences:.1?}");
    silences.sort();
    silences.reverse();
    silences
}

/// Panics if a node was out of reach for longer than tincd's own restarts took.
fn assert_no_longer(control: &[Duration], what: &str, silences: &[Duration]) {
    assert!(
        silences[0] <= control[0] + SLACK,
        "{what}: {silences:?}, tincd's own restarts: {control:?}"
    );
}

/// A meshd knows of each neighbour whether it runs tincd; what is behind a tincd it may not know, and then says so.
fn wait_progress_of_the_move(nodes: &[Node], at: usize) {
    let what = format!("{} tells tincds from meshds", nodes[at].name);
    wait_until(&what, PATIENCE, || {
        let (exit, rows) = nodes[at].migrate();
        let right = nodes.iter().enumerate().all(|(other, node)| {
            let row = &rows[&node.name];
            let unknown = row["runs"] == "unknown" && at != RELAY && other != RELAY;
            let is_tincd = row["runs"] == "tinc-1.0" && row["todo"]["code"] == "tinc_1_0";
            unknown || is_tincd == (node.kind == Tinc10)
        });
        let right = right && exit == Some(10);
        right.then_some(()).ok_or_else(|| format!("{rows:#?}"))
    });
}

/// Waits until every node says of all others, and of itself, that this is left to do.
fn wait_left(nodes: &[Node], others: Option<&str>, own: Option<&str>) {
    for node in nodes {
        let what = format!("{} has left {others:?}, itself {own:?}", node.name);
        wait_until(&what, PATIENCE, || {
            let (exit, rows) = node.migrate();
            let right = rows.iter().all(|(name, row)| {
                let left = if *name == node.name { own } else { others };
                row["todo"]["code"].as_str() == left
            });
            let done = others.is_none() && own.is_none();
            let right = right && exit == Some(if done { 0 } else { 10 });
            right
                .then_some(())
                .ok_or_else(|| format!("{exit:?} {rows:#?}"))
        });
    }
}

fn wait_protocol(nodes: &[Node], protocol: &str) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.name != node.name) {
            let what = format!("{} speaks {protocol} with {}", node.name, other.name);
            wait_until(&what, PATIENCE, || {
                // Somebody must want to say something.
                let _ = try_ping(&node.host, &other.v4(), 56, &[]);
                let row = node.peer(&other.name);
                let is = row["protocol"] == protocol;
                is.then_some(()).ok_or_else(|| row.to_string())
            });
        }
    }
}

#[test]
fn six_droplets_move_from_tinc_1_0_to_meshd_and_back() {
    let world = World::new();
    let wire = world.wire();
    let mut nodes = droplets(&world, &wire);
    let (first, last) = (0, nodes.len() - 1);
    wire.block_udp(&nodes[first].host, &nodes[last].host);
    wire.block_tcp(&nodes[first].host, &nodes[last].host);
    for node in &mut nodes {
        node.start();
    }
    for other in &nodes[1..] {
        wait_ping(&nodes[first], &other.v4(), 1_400);
    }
    // Until it is stopped, and slow enough to leave the machine to the daemons.
    let pause = Duration::from_millis(100);
    let address = nodes[last].v4();
    let stream = Transfer::start_paced(&nodes[first], &nodes[last], &address, 1 << 60, pause);

    let masters = Masters::start([&nodes[first], &nodes[last]]);
    let load = Load { stream, masters };

    let control = change(&mut nodes, Tinc10, &load);
    let forth = change(&mut nodes, Meshd, &load);
    wait_protocol(&nodes, "legacy");
    wait_left(&nodes, Some("no_key_there"), Some("no_own_key"));
    let back = change(&mut nodes, Tinc10, &load);
    assert_no_longer(&control, "to meshd", &forth);
    assert_no_longer(&control, "back", &back);

    // First each node has its key, then the others hear of it: who knows a node's key speaks no legacy with it.
    nodes.iter().for_each(Node::keygen);
    let keyed = change(&mut nodes, Meshd, &load);
    assert_no_longer(&control, "to meshd with keys", &keyed);
    wait_protocol(&nodes, "legacy");
    wait_left(&nodes, Some("no_key"), None);
    introduce(&nodes.iter().collect::<Vec<_>>());
    wait_left(&nodes, Some("not_reloaded"), None);
    for node in &nodes {
        node.signal(Signal::HUP);
    }
    wait_protocol(&nodes, "native");
    wait_left(&nodes, None, Some("may_fall_back"));
    load.wait_progress();
    for node in &nodes {
        let conf = node.dir().join("tinc.conf");
        let text = fs::read_to_string(&conf).unwrap();
        fs::write(conf, format!("MinProtocol = native\n{text}")).unwrap();
        node.signal(Signal::HUP);
    }
    wait_protocol(&nodes, "native");
    wait_left(&nodes, None, None);
    for node in &nodes {
        wait_ping(node, &nodes[RELAY].v4(), 1_400);
    }
    load.wait_progress();
    load.finish();
    for node in &mut nodes {
        node.assert_runs();
    }
}
