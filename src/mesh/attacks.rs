//! Attacks by members of the mesh, from spec/security.md section 2.2, on two or more whole nodes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    crypto::{PrivateKey, Rng},
    mesh::{
        Input, Settings,
        testing::{Net, lines_of, name, settings},
    },
    tunnel::sptps::{Tunnel, TunnelSetup},
    wire::base64,
};

const SECOND: Duration = Duration::from_secs(1);

/// 0 - 1 - 2, where 1 is the attacker, and 0 and 2 have spoken with each other.
fn line(native: bool, key_expire: Duration) -> Net {
    let mut all: Vec<Settings> = settings(3);
    for one in &mut all {
        one.native = native;
        one.key_expire = key_expire;
    }
    all[1].native = false;
    let mut net = Net::new(all);
    net.join(0, 1);
    net.join(1, 2);
    net.run(SECOND);
    net.send(0, 2, 100);
    net.run(4 * SECOND);
    net
}

/// The attacker says something to one end.
fn says(net: &mut Net, to: u8, line: &Bytes) {
    let mut links = net.wires.iter();
    let (_, (_, link)) = links
        .find(|((from, _), (end, _))| (*from, *end) == (1, to))
        .unwrap();
    let (link, line) = (*link, line.clone());
    net.input(to, Input::Line { link, line });
}

fn protocol(net: &Net, at: u8, of: u8) -> String {
    let rows = net.meshes[usize::from(at)].peers(net.now);
    let row = rows.into_iter().find(|row| row.name == name(of).as_str());
    row.unwrap().protocol
}

/// Lines that `from` itself has sent to `to` with this beginning after the names.
fn sent(net: &Net, kind: &str, from: u8, to: u8) -> usize {
    let start = format!("{kind} {} {} ", name(from), name(to));
    let lines = net.routed.iter();
    lines
        .filter(|(sender, line)| *sender == from && line.starts_with(start.as_bytes()))
        .count()
}

/// Handshake messages in the name of one end that its key has not made: whole first messages, and garbage.
fn forged(from: u8, to: u8, seed: u8, rng: &mut Rng) -> Vec<Bytes> {
    let own = PrivateKey::generate(rng);
    let setup = |name_of: u8, peer: u8| TunnelSetup {
        key: Arc::new(own.clone()),
        name: name(name_of),
        peer: name(peer),
        peer_key: own.public(),
        next_key: None,
        replay_window: 128,
    };
    let (_, kex) = Tunnel::initiate(setup(from, to), rng);
    let kex = base64::encode(&kex);
    let mut sealed = [seed; 120];
    sealed[..4].copy_from_slice(&[0, 0, 0, seed]);
    let sealed = base64::encode(&sealed);
    let (from, to) = (name(from), name(to));
    [
        format!("15 {from} {to} 15 {kex}"),
        format!("15 {from} {to} 15 {kex} meshd"),
        format!("15 {from} {to} 32 {}", base64::encode(&[seed; 112])),
        format!("15 {from} {to} 33 {sealed}"),
        format!("15 {from} {to} 34 {sealed}"),
        format!("16 {from} {to} {kex} -1 -1 -1 0"),
        format!("16 {from} {to} {sealed} -1 -1 -1 0"),
        format!("16 {from} {to} {sealed} -1 -1 -1 0 192.0.2.1 655"),
        format!("16 {from} {to} ABCDEF 0 0 4 0"),
    ]
    .map(Bytes::from)
    .into()
}

/// T25: handshakes in the name of the other end, a hundred of each kind a second, for a live pair that
/// renews its keys every ten seconds, one of them a tincd by its looks. Nothing is lost, no session is made
/// anew, and what is answered is bounded.
#[test]
fn forged_handshakes_do_not_disturb_a_live_pair() {
    for native in [false, true] {
        let mut net = line(native, 10 * SECOND);
        net.anonymous = Some(2);
        let mut rng = Rng::new([3; 32]);
        net.delivered.clear();
        net.routed.clear();
        let seconds = 30;
        let said = lines_of(|| {
            for round in 0..100 * seconds {
                let seed = u8::try_from(round % 256).unwrap();
                for (from, to) in [(0, 2), (2, 0)] {
                    for line in forged(from, to, seed, &mut rng) {
                        says(&mut net, to, &line);
                    }
                }
                net.settle();
                net.send(0, 2, 100);
                net.send(2, 0, 100);
                net.run(SECOND / 100);
            }
            net.run(SECOND);
        });
        let all = 2 * 100 * seconds;
        assert_eq!(all - net.delivered.len(), 0, "native: {native}");
        let made = said.iter().filter(|l| l.contains("established"));
        assert_eq!(made.count(), 0, "no session is made anew");
        let expected = if native { "native" } else { "sptps" };
        assert_eq!(protocol(&net, 0, 2), expected);
        for (from, to) in [(0, 2), (2, 0)] {
            // A burst of four, then one in two seconds; each renewal of the pair has up to four lines.
            let answers = sent(&net, "16", from, to) + sent(&net, "15", from, to);
            let most = 4 + seconds / 2 + 4 * seconds / 8;
            assert!(answers <= most, "{answers} of {}", 900 * seconds);
        }
        let renewed = said.iter().filter(|l| l.contains("renew")).count();
        assert!(
            renewed >= 2,
            "native: {native}, {renewed} renewals under attack"
        );
    }
}

/// T38: a peer that renews its keys as fast as it can. Some at once are taken, then one in two seconds;
/// nothing is lost, and nobody else's keys change.
#[test]
fn a_storm_of_renewals_is_slowed_down_to_one_in_two_seconds() {
    for native in [false, true] {
        let mut net = line(native, 3600 * SECOND);
        let tx = |of: u8| {
            let mesh = &net.meshes[0];
            mesh.nodes[mesh.nodes.find(&name(of)).unwrap()].keys.tx()
        };
        let (storming, other) = (tx(2).unwrap(), tx(1).unwrap());
        net.delivered.clear();
        net.routed.clear();
        let seconds = 20;
        for _ in 0..100 * seconds {
            let now = net.now;
            let mesh = &mut net.meshes[2];
            let us = mesh.nodes.find(&name(0)).unwrap();
            if native {
                let keys = &mut mesh.nodes[us].keys.native;
                keys.storm();
                mesh.ask_native(us, now);
            } else {
                mesh.renew(us, now);
            }
            net.settle();
            net.send(0, 2, 100);
            net.send(2, 0, 100);
            net.send(0, 1, 100);
            net.run(SECOND / 100);
        }
        net.run(SECOND);
        assert_eq!(300 * seconds - net.delivered.len(), 0, "native: {native}");
        // Of each renewal that is accepted: one line in native, two in SPTPS, or three.
        let answers = sent(&net, "16", 0, 2) + sent(&net, "15", 0, 2);
        let most = (4 + seconds / 2) * if native { 1 } else { 3 };
        assert!((2..=most).contains(&answers), "{answers} answers");
        let mesh = &net.meshes[0];
        let tx = |of: u8| {
            let node = mesh.nodes.find(&name(of)).unwrap();
            mesh.nodes[node].keys.tx().unwrap()
        };
        assert!(!Arc::ptr_eq(&storming, &tx(2)), "some were accepted");
        assert!(Arc::ptr_eq(&other, &tx(1)), "the others are not touched");
    }
}
