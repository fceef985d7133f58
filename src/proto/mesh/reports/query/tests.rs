use std::time::Duration;

use crate::mesh::reports::query::*;
use crate::mesh::{
    Input, LinkReport,
    reports::facts::NodeDetails,
    testing::{Net, name, settings},
};

const SECOND: Duration = Duration::from_secs(1);

/// 0 - 1 - 2, where only the ends speak native.
fn line() -> Net {
    let mut all = settings(3);
    all[0].native = true;
    all[2].native = true;
    let mut net = Net::new(all);
    net.join(0, 1);
    net.join(1, 2);
    net.run(SECOND);
    net
}

fn details(net: &Net, at: u8, of: u8) -> NodeDetails {
    let seen = net.meshes[usize::from(at)].details(&name(of), net.now);
    seen.unwrap()
}

/// Has node 0 send `data` to `node`. Returns true if exactly that arrives within three seconds.
fn ask(net: &mut Net, node: u8, data: &'static [u8]) -> bool {
    net.queries.clear();
    let data = Bytes::from_static(data);
    let expected = (node, name(0), data.clone());
    let node = name(node);
    net.input(0, Input::Ask { node, data });
    net.run(3 * SECOND);
    net.queries == [expected]
}

#[test]
fn questions_and_answers_pass_a_relay_that_cannot_read_them() {
    let mut net = line();
    net.no_udp.insert((0, 2));
    assert!(details(&net, 0, 2).may_ask && !details(&net, 0, 1).may_ask);
    assert!(ask(&mut net, 2, b"about"));
    let (node, data) = (name(0), Bytes::from_static(b"tell"));
    net.input(
        2,
        Input::Answer {
            node,
            data: data.clone(),
        },
    );
    net.run(SECOND);
    assert_eq!(net.queries.last(), Some(&(0, name(2), data)));
    let lines = net
        .native
        .iter()
        .map(|(_, line)| String::from_utf8_lossy(line));
    let ours: Vec<_> = lines.filter(|line| line.contains(" 35 ")).collect();
    assert!(!ours.is_empty());
    assert!(
        ours.iter()
            .all(|line| !line.contains("about") && line.len() < 2_100)
    );
}

#[test]
fn probes_of_the_other_end_are_counted_where_they_come_in() {
    let mut net = line();
    net.send(0, 2, 100);
    net.run(3 * SECOND);
    let there = details(&net, 2, 0).node;
    assert!(there.udp.confirmed && there.udp.heard > 0);
    assert!(there.udp.heard_ago.unwrap() < 10 * SECOND);
    assert_eq!(there.udp.silent, None);
    assert!(details(&net, 0, 2).node.udp.heard > 0);
}

#[test]
fn a_node_without_native_tunnel_is_not_asked_and_no_node_gets_more_than_one_answer_a_second() {
    let mut net = line();
    assert!(!ask(&mut net, 1, b"x"));
    assert!(ask(&mut net, 2, b"x"));
    net.queries.clear();
    for _ in 0..30 {
        let (node, data) = (name(0), Bytes::from_static(b"tell"));
        net.input(2, Input::Answer { node, data });
    }
    net.run(SECOND / 10);
    assert_eq!(net.queries.len(), BURST);
}

#[test]
fn a_question_that_is_too_long_for_a_tincd_is_not_sent() {
    let mut net = line();
    assert!(ask(&mut net, 2, &[b'x'; MAX_QUERY]));
    assert!(!ask(&mut net, 2, &[b'x'; MAX_QUERY + 1]));
}

#[test]
fn forged_and_replayed_questions_get_no_answer() {
    let mut net = line();
    assert!(ask(&mut net, 2, b"x"));
    let asked = net.native.iter().rev();
    let asked = asked
        .clone()
        .find(|(from, line)| *from == 0 && line.windows(4).any(|w| w == b" 35 "));
    let line = asked.unwrap().1.clone();
    let text = String::from_utf8(line.to_vec()).unwrap();
    let sealed = meshd_wire::base64::decode(text.split(' ').nth(4).unwrap()).unwrap();
    let idx = net.meshes[2].nodes.find(&name(0)).unwrap();
    net.queries.clear();
    net.meshes[2].handle_query(idx, sealed.clone());
    for at in 0..sealed.len() {
        let mut other = sealed.clone();
        other[at] ^= 1;
        net.meshes[2].handle_query(idx, other);
    }
    net.meshes[2].handle_query(idx, Vec::new());
    net.settle();
    assert!(net.queries.is_empty(), "{:?}", net.queries);
}

#[test]
fn who_dials_in_vain_and_who_comes_without_proof_is_kept_for_the_operator() {
    let mut all = settings(2);
    all[0].connect_to = vec![name(1)];
    let mut net = Net::new(all);
    net.dial = false;
    net.run(SECOND);
    let seen = details(&net, 0, 1).node;
    let missed = seen.dial.failure.unwrap();
    assert_eq!(
        missed.fault,
        crate::mesh::reports::facts::DialFault::Refused
    );
    assert!(missed.error.ends_with(": refused"), "{}", missed.error);
    assert!(seen.dial.wanted.unwrap().next > Some(Duration::ZERO));
    assert!(!seen.up && seen.dial.unproven.is_none());
    let (addr, why) = ("192.0.2.9:7".parse().unwrap(), "no".to_owned());
    for node in [name(1), NodeName::new("stranger").unwrap()] {
        let why = why.clone();
        net.input(0, Input::Link(LinkReport::Unproven { node, addr, why }));
    }
    let seen = details(&net, 0, 1).node.dial.unproven.unwrap();
    assert_eq!(
        (seen.address, seen.error.as_str()),
        ("192.0.2.9:7".parse().unwrap(), "no")
    );
    assert!(!net.meshes[0].has_node(&NodeName::new("stranger").unwrap()));
}
