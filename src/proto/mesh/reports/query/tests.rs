use std::time::Duration;

use crate::mesh::reports::query::*;
use crate::mesh::{
    Input,
    peers::dial::DialFailure,
    reports::{path_report::NodeReport, view::PathKind},
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

fn sight(net: &Net, at: u8, of: u8) -> NodeReport {
    let seen = net.meshes[usize::from(at)].sight(&name(of), net.now);
    seen.unwrap()
}

/// Has node 0 ask `node` about `about`. Returns the answer within three seconds.
fn ask(net: &mut Net, node: u8, about: u8) -> Option<Option<PathReport>> {
    let token = net.told.len() as u64 + 100;
    let (node, about) = (name(node), name(about));
    net.input(0, Input::AskNode { node, about, token });
    net.run(3 * SECOND);
    let told = net.told.iter().find(|(_, of, _)| *of == token);
    told.map(|(_, _, pair)| pair.clone())
}

#[test]
fn the_other_end_tells_what_it_sees_through_a_relay_that_reads_nothing() {
    let mut net = line();
    net.no_udp.insert((0, 2));
    assert!(sight(&net, 0, 2).may_ask && !sight(&net, 0, 1).may_ask);
    let there = ask(&mut net, 2, 0).unwrap().unwrap();
    assert_eq!(there.path, PathKind::Via);
    assert_eq!(there.via.as_deref(), Some("n1"));
    assert!(there.up && !there.udp.confirmed);
    assert_eq!(there.udp.heard, 0);
    let third = ask(&mut net, 2, 1).unwrap().unwrap();
    assert!(third.link_like_neighbour());
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

impl PathReport {
    fn link_like_neighbour(&self) -> bool {
        self.up && self.via.is_none()
    }
}

#[test]
fn what_the_steps_of_why_need_is_told_and_left_out_where_it_is_too_long() {
    let mut net = line();
    let there = ask(&mut net, 2, 0).unwrap().unwrap();
    let detail = there.detail.as_deref().unwrap();
    assert_eq!(detail.host_file, crate::mesh::reports::view::HostFile::Key);
    let sight_of_2 = sight(&net, 2, 0);
    assert_eq!(detail.fingerprint, sight_of_2.fingerprint);
    assert_eq!(detail.nexthop.as_deref(), Some("n1"));
    // The view of the other end, without its private facts.
    let seen = NodeReport::of_told("n0", &there);
    assert_eq!(
        (
            seen.peer.up,
            seen.peer.offers,
            seen.peer.min_protocol,
            seen.udp_discovery
        ),
        (
            true,
            sight_of_2.peer.offers,
            sight_of_2.peer.min_protocol,
            true
        )
    );
    // The answer holds none of the operator's private facts.
    let text = serde_json::to_string(&there).unwrap();
    assert!(
        !text.contains("bytes\":0") && !text.contains("labels"),
        "{text}"
    );

    let (at, idx) = (net.now, net.meshes[2].nodes.find(&name(0)).unwrap());
    net.meshes[2].nodes[idx].dial_error = Some(DialFailure {
        fault: crate::mesh::reports::view::DialFault::Silent,
        text: "\u{1}".repeat(200),
        at,
    });
    let there = ask(&mut net, 2, 0).unwrap().unwrap();
    assert!(there.up && there.detail.is_none());
}

#[test]
fn probes_of_the_other_end_are_counted_where_they_come_in() {
    let mut net = line();
    net.send(0, 2, 100);
    net.run(3 * SECOND);
    let there = ask(&mut net, 2, 0).unwrap().unwrap();
    assert!(there.udp.confirmed && there.udp.heard > 0);
    assert!(there.udp.heard_seconds.unwrap() < 10.0);
    assert_eq!(there.udp.silent_seconds, None);
    assert!(sight(&net, 0, 2).pair.udp.heard > 0);
}

#[test]
fn who_has_no_native_tunnel_is_not_asked_and_nobody_gets_more_than_one_answer_a_second() {
    let mut net = line();
    assert_eq!(ask(&mut net, 1, 0), None);
    net.send(0, 2, 100);
    net.run(2 * SECOND);
    net.told.clear();
    for token in 0..30 {
        let (node, about) = (name(2), name(0));
        net.input(0, Input::AskNode { node, about, token });
    }
    net.run(SECOND / 10);
    assert_eq!(net.told.len(), BURST);
}

#[test]
fn forged_and_replayed_questions_get_no_answer() {
    let mut net = line();
    assert!(ask(&mut net, 2, 0).is_some());
    let asked = net.native.iter().rev();
    let asked = asked
        .clone()
        .find(|(from, line)| *from == 0 && line.windows(4).any(|w| w == b" 35 "));
    let line = asked.unwrap().1.clone();
    let text = String::from_utf8(line.to_vec()).unwrap();
    let sealed = base64::decode(text.split(' ').nth(4).unwrap()).unwrap();
    let before = net.native.len();
    let idx = net.meshes[2].nodes.find(&name(0)).unwrap();
    let now = net.now;
    net.meshes[2].handle_query(idx, sealed.clone(), now);
    for at in 0..sealed.len() {
        let mut other = sealed.clone();
        other[at] ^= 1;
        net.meshes[2].handle_query(idx, other, now);
    }
    net.meshes[2].handle_query(idx, Vec::new(), now);
    net.settle();
    assert_eq!(net.native.len(), before);
}

#[test]
fn a_question_about_nobody_is_answered_with_nothing() {
    let mut net = line();
    let now = net.now;
    let about = NodeName::new("nobody").unwrap();
    net.meshes[0].ask_node(&name(2), about, 1, now);
    net.run(3 * SECOND);
    assert_eq!(net.told, [(0, 1, None)]);
}

#[test]
fn who_dials_in_vain_and_who_comes_without_proof_is_kept_for_the_operator() {
    let mut all = settings(2);
    all[0].connect_to = vec![name(1)];
    let mut net = Net::new(all);
    net.dial = false;
    net.run(SECOND);
    let seen = sight(&net, 0, 1);
    let missed = seen.missed.unwrap();
    assert_eq!(missed.fault, crate::mesh::reports::view::DialFault::Refused);
    assert!(missed.text.ends_with(": refused"), "{}", missed.text);
    assert!(seen.dial.unwrap().next_seconds.unwrap() > 0.0);
    assert!(!seen.pair.up && seen.unproven.is_none());
    let (addr, why) = ("192.0.2.9:7".parse().unwrap(), "no".to_owned());
    for node in [name(1), NodeName::new("stranger").unwrap()] {
        let why = why.clone();
        net.input(0, Input::Unproven { node, addr, why });
    }
    let seen = sight(&net, 0, 1).unproven.unwrap();
    assert_eq!(
        (seen.address.as_str(), seen.text.as_str()),
        ("192.0.2.9:7", "no")
    );
    assert!(!net.meshes[0].has_node(&NodeName::new("stranger").unwrap()));
}
