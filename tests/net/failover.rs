//! Two owners of one subnet, and subnets that come and go by a reload.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::mpsc,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    dump::wait_agree,
    node::{
        Kind::{self, Meshd, Tinc11},
        Node, PATIENCE, on_one_wire,
    },
    world::{World, wait_until},
};

const SERVICE: &str = "10.30.0.1";
const SERVICE6: &str = "fd30::1";
const PORT: u16 = 7777;

/// Makes the host of a node answer UDP to the service's addresses with the node's name.
fn serve(node: &Node) {
    node.host.ip(&format!("address add {SERVICE}/32 dev lo"));
    node.host
        .ip(&format!("-6 address add {SERVICE6}/128 dev lo nodad"));
    let (ready, at) = mpsc::channel();
    for address in [SERVICE, SERVICE6] {
        let (name, ready) = (node.name.clone(), ready.clone());
        let ip = address.parse().unwrap();
        // Ends with the test process: it only answers inside its namespace.
        node.host.inside(move || {
            let socket = UdpSocket::bind(SocketAddr::new(ip, PORT)).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            while let Ok((_, who)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), who);
            }
        });
    }
    for _ in 0..2 {
        at.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}

/// The node that answers at an address.
fn ask(node: &Node, address: &str) -> Result<String, String> {
    let target = SocketAddr::new(address.parse().unwrap(), PORT);
    let own = if target.is_ipv4() {
        node.v4()
    } else {
        node.v6()
    };
    let own = SocketAddr::new(own.parse().unwrap(), 0);
    node.host
        .inside(move || {
            let socket = UdpSocket::bind(own).map_err(|e| e.to_string())?;
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            socket
                .send_to(b"who", target)
                .map_err(|e| format!("send: {e}"))?;
            let mut buffer = [0; 64];
            let (count, _) = socket
                .recv_from(&mut buffer)
                .map_err(|e| format!("receive: {e}"))?;
            Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
        })
        .join()
        .unwrap()
}

fn wait_answer(node: &Node, address: &str, owner: &str) {
    wait_until(
        &format!("{owner} answers {} at {address}", node.name),
        PATIENCE,
        || match ask(node, address) {
            Ok(name) if name == owner => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

/// Traffic from a goes to b, the better owner; to c while b is away; to b again.
fn two_owners(kinds: [Kind; 3]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, kinds);
    for (node, weight) in [(&b, 5), (&c, 15)] {
        node.tinc(&["add", "Subnet", &format!("10.30.0.0/24#{weight}")]);
        node.tinc(&["add", "Subnet", &format!("fd30::/64#{weight}")]);
        serve(node);
    }
    for net in ["10.30.0.0/24", "-6 fd30::/64"] {
        let script = fs::read_to_string(a.dir().join("tinc-up")).unwrap();
        let (family, net) = net.rsplit_once(' ').unwrap_or(("", net));
        fs::write(
            a.dir().join("tinc-up"),
            format!("{script}ip {family} route add {net} dev $INTERFACE\n"),
        )
        .unwrap();
    }
    for node in [&b, &c] {
        node.introduce_to(&[&a, &b, &c]);
    }
    a.connect_to(&["b", "c"]);
    b.connect_to(&["c"]);
    for node in [&mut c, &mut b, &mut a] {
        node.start();
    }
    for node in [&a, &b] {
        node.wait_reaches(&c);
    }
    a.wait_reaches(&b);
    wait_answer(&a, SERVICE, "b");
    wait_answer(&a, SERVICE6, "b");

    b.kill();
    wait_answer(&a, SERVICE, "c");
    wait_answer(&a, SERVICE6, "c");

    b.start();
    a.wait_reaches(&b);
    wait_answer(&a, SERVICE, "b");
    wait_answer(&a, SERVICE6, "b");
    wait_agree(&[&a, &b, &c]);
}

/// A line added to b's own host file announces a subnet, taking it out withdraws it; traffic to
/// others never notices.
fn live_subnet(kinds: [Kind; 2]) {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, kinds);
    let pid = |node: &Node| node.pid();
    a.connect_to(&["b"]);
    b.start();
    a.start();
    a.wait_reaches(&b);
    serve(&b);
    a.host.ip("route add 10.30.0.0/24 dev mesh0");
    let file = b.dir().join("hosts/b");
    let before = fs::read_to_string(&file).unwrap();
    let subnet = ("10.30.0.0/24".to_owned(), "b".to_owned());
    let pids = (pid(&a), pid(&b));
    for _ in 0..3 {
        fs::write(&file, format!("{before}Subnet = 10.30.0.0/24\n")).unwrap();
        b.signal(Signal::HUP);
        for node in [&a, &b] {
            node.wait_dump("has the new subnet", |dump| dump.subnets.contains(&subnet));
        }
        wait_answer(&a, SERVICE, "b");
        fs::write(&file, &before).unwrap();
        b.signal(Signal::HUP);
        for node in [&a, &b] {
            node.wait_dump("has lost the subnet", |dump| {
                !dump.subnets.contains(&subnet)
            });
        }
    }
    a.assert_runs();
    b.assert_runs();
    assert_eq!(pids, (pid(&a), pid(&b)));
    wait_agree(&[&a, &b]);
}

#[test]
fn meshd_fails_over_between_tincds() {
    two_owners([Meshd, Tinc11, Tinc11]);
}

#[test]
fn tincd_fails_over_between_meshds() {
    two_owners([Tinc11, Meshd, Meshd]);
}

#[test]
fn meshd_fails_over_between_both() {
    two_owners([Meshd, Meshd, Tinc11]);
}

#[test]
fn meshd_announces_live() {
    live_subnet([Tinc11, Meshd]);
}

#[test]
fn meshd_follows_live() {
    live_subnet([Meshd, Tinc11]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_two_owners() {
    two_owners([Tinc11; 3]);
}

#[test]
#[ignore = "control: tinc alone"]
fn control_live_subnet() {
    live_subnet([Tinc11; 2]);
}
