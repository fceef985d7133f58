use std::{sync::Arc, time::Duration};

use meshd_crypto::{PrivateKey, Rng};

use crate::mesh::{
    Input, LinkReport, Notice,
    reports::facts::HostFile,
    sessions::legacy::tests::net,
    settings::Settings,
    testing::{Net, name},
};

const SECOND: Duration = Duration::from_secs(1);

/// 0 - 1 - 2 in legacy; each link looks like that of a tinc 1.1.
fn line(change: impl Fn(usize, &mut Settings)) -> Net {
    let mut net = net(3, change);
    net.join(0, 1);
    net.join(1, 2);
    net.run(3 * SECOND);
    net
}

fn key(seed: u8) -> String {
    let key = PrivateKey::generate(&mut Rng::new([seed; 32]));
    key.public().to_string()
}

fn received_key(net: &Net, of: u8) -> Option<String> {
    let host = net.row(0, of).host;
    host.received_key.map(|key| key.to_string())
}

/// A key received in an answer is reported to the operator once, and to nobody else.
#[test]
fn a_neighbour_tells_its_key_to_the_operator() {
    let mut net = line(|_, _| ());
    let asked = |line: &[u8]| line == b"15 n0 n1 19";
    assert_eq!(net.routed.iter().filter(|(_, line)| asked(line)).count(), 1);
    // A key sent in legacy would be stored, and legacy refused from then on.
    assert!(
        !net.routed
            .iter()
            .any(|(_, line)| line.starts_with(b"15 n1 n0 20"))
    );
    net.notices.clear();
    for seed in [1, 1, 2] {
        net.says(1, 0, format!("15 n1 n0 20 {}", key(seed)).into());
        net.settle();
    }
    net.says(1, 0, "15 n1 n0 20 rubbish".into());
    net.settle();
    let notice = (0, name(1), Notice::KeySent);
    assert_eq!(net.notices, [notice.clone(), notice], "a key is said once");
    assert_eq!(received_key(&net, 1), Some(key(2)));
    assert!(net.meshes[0].cx.settings.hosts[&name(1)].key.is_none());
    // A relay's answer in the name of another node does not count.
    net.says(1, 0, format!("15 n2 n0 20 {}", key(3)).into());
    net.settle();
    assert_eq!(received_key(&net, 2), None);
}

/// No node is asked if its key is known, or if only legacy is wanted.
#[test]
fn nobody_is_asked_for_what_is_of_no_use() {
    let change = |n: usize, one: &mut Settings| one.sptps = n != 0;
    let net = line(change);
    assert!(
        !net.routed
            .iter()
            .any(|(_, line)| line.starts_with(b"15 n0 n1 19"))
    );
}

/// A node of which no other node has announced anything.
#[test]
fn a_key_from_an_upgrade_makes_its_node_known() {
    let mut net = net(2, |_, _| ());
    assert!(!net.meshes[0].has_node(&name(1)));
    let own = PrivateKey::generate(&mut Rng::new([5; 32])).public();
    let (now, node) = (net.now, name(1));
    net.meshes[0].handle(Input::Link(LinkReport::KeyReceived { node, key: own }), now);
    assert_eq!(received_key(&net, 1), Some(key(5)));
    // With the key in its host file there is nothing more to report.
    let mut settings = Settings::clone(&net.meshes[0].cx.settings);
    Arc::make_mut(settings.hosts.get_mut(&name(1)).unwrap()).key = Some(own);
    net.meshes[0].handle(Input::Config(Arc::new(settings)), now);
    assert_eq!(net.row(0, 1).host.file, HostFile::Key);
}

/// A tincd exits if an SPTPS reply names a record longer than any of SPTPS.
#[test]
fn the_longest_record_is_forgotten_with_its_session() {
    let mut net = net(2, |_, _| ());
    net.join(0, 1);
    net.run(3 * SECOND);
    let idx = net.meshes[0].nodes.find(&name(1)).unwrap();
    let shared = net.meshes[0].nodes[idx].shared.clone();
    shared.counters.note_length(1451);
    net.part(0, 1);
    assert_eq!(shared.counters.take_longest(), 0);
}
