//! A tinc 1.1 and a meshd of which one has no Ed25519 key of the other, both with RSA keys.
//!
//! Seen with 1.1~pre18, whichever node dials. "K" in a column: has the other's Ed25519 key.
//!
//! | 1.1 | we | setting | 1.1 says | outcome |
//! |---|---|---|---|---|
//! | - | - | | 17.1 | legacy link (we say 17); asked over it, 1.1 tells its key: the line for hosts/ is in log and `peers` |
//! | - | - | LearnKeys | 17.1 | UPGRADE, both store, SPTPS at once if we dial, after its 5 s if 1.1 does |
//! | K | - | | 17.7 | no link: 1.1 ends one that says 17 ("tries to roll back"); we say 17.1 once in ten minutes and hear its key: the line is in log and `peers` |
//! | K | - | LearnKeys | 17.7 | UPGRADE ("Already have Ed25519 public key"), we store, SPTPS |
//! | - | K | | 17.1 | UPGRADE, it stores, SPTPS: at once if we dial (17.7 is answered with METAKEY, then we say 17.1) |
//! | - | any | we: ExperimentalProtocol = no | 17.1 | legacy link |
//! | K | any | we: ExperimentalProtocol = no | 17.7 | no link, as above; the reason says why |
//! | any | - | 1.1: ExperimentalProtocol = no | 17.0 | legacy link; it is not asked for a key |
//! | any | K | 1.1: ExperimentalProtocol = no | 17.0 | refused unless MinProtocol = legacy, and the reason says that |
//!
//! A tinc 1.1 that we dialled ends the link on our `7`, before its own has gone out: so we wait for it.

use std::{fs, thread, time::Duration};

use rustix::process::Signal;

use crate::{
    legacy::forget_ed25519,
    node::{
        Kind::{self, Meshd, Tinc10, Tinc11},
        Node, on_one_wire,
    },
    traffic::wait_ping,
    world::{Wire, World, wait_until},
};

/// The dialler is the first, and started last.
struct Pair {
    meshd: Node,
    tinc: Node,
    dialler: Kind,
    _wire: Wire,
}

impl Pair {
    /// Two nodes, of which `knows` says whether the tinc has meshd's Ed25519 key, and meshd the tinc's.
    fn new(world: &World, dialler: Kind, knows: [bool; 2]) -> Self {
        let wire = world.wire();
        let [meshd, tinc] = on_one_wire(world, &wire, [Meshd, Tinc11]);
        for (node, of, knows) in [(&tinc, &meshd, knows[0]), (&meshd, &tinc, knows[1])] {
            if !knows {
                forget_ed25519(node, &[&of.name]);
            }
        }
        match dialler {
            Meshd => meshd.connect_to(&[&tinc.name]),
            _ => tinc.connect_to(&[&meshd.name]),
        }
        Self {
            meshd,
            tinc,
            dialler,
            _wire: wire,
        }
    }

    fn start(&mut self) {
        match self.dialler {
            Meshd => {
                self.tinc.start();
                self.meshd.start();
            }
            _ => {
                self.meshd.start();
                self.tinc.start();
            }
        }
    }

    /// Waits until packets pass over a link that speaks this.
    fn wait_link(&self, dialect: &str) {
        self.meshd.wait_reaches(&self.tinc);
        let link = self.meshd.peer(&self.tinc.name)["link"].clone();
        assert_eq!(link, dialect, "{}", self.meshd.log());
        wait_ping(&self.meshd, &self.tinc.v4(), 56);
        wait_ping(&self.tinc, &self.meshd.v6(), 1400);
    }

    /// Waits for a reason that `peers` gives, and returns it.
    fn wait_reason(&self, part: &str) -> String {
        let mut seen = String::new();
        wait_until(part, Duration::from_secs(30), || {
            let peers = self.meshd.json_of(&["peers"]);
            let rows = peers["data"].as_array().cloned().unwrap_or_default();
            let row = rows.iter().find(|row| row["name"] == *self.tinc.name);
            let reason = row.and_then(|row| row["reason"]["text"].as_str());
            seen = reason.unwrap_or_default().to_owned();
            match seen.contains(part) {
                true => Ok(()),
                false => Err(format!("{peers}")),
            }
        });
        seen
    }

    /// Puts what meshd says is to be put into the tinc's host file there.
    fn follow_advice(&self, reason: &str) {
        let line = reason.split('`').nth(1).expect("a line in backticks");
        assert_eq!(
            line,
            ed25519(&self.tinc.dir().join("hosts").join(&self.tinc.name))
        );
        assert!(self.meshd.log().contains(line), "{}", self.meshd.log());
        let path = self.meshd.dir().join("hosts").join(&self.tinc.name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{line}\n{text}")).unwrap();
        self.meshd.signal(Signal::HUP);
    }

    /// A 1.1~pre18 that was told of a record longer than those of SPTPS ends by itself within four seconds ("Could not read
    /// random numbers: Bad address"): it was, by meshd, of one from the legacy link before.
    fn assert_lives(&mut self) {
        thread::sleep(Duration::from_secs(4));
        assert!(self.tinc.ended().is_none(), "{}", self.tinc.log());
    }

    fn assert_known(&self, at: &Node, of: &Node) {
        let own = ed25519(&of.dir().join("hosts").join(&of.name));
        assert_eq!(ed25519(&at.dir().join("hosts").join(&of.name)), own);
    }
}

/// The line of a host file with its Ed25519 key; empty if there is none.
fn ed25519(path: &std::path::Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("Ed25519PublicKey"));
    line.unwrap_or_default().to_owned()
}

/// Neither has a key of the other: legacy, until the operator does as the log says; then we tell ours.
fn nobody_knows(dialler: Kind) {
    let world = World::new();
    let mut pair = Pair::new(&world, dialler, [false; 2]);
    pair.start();
    pair.wait_link("legacy");
    let reason = pair.wait_reason("Ed25519PublicKey = ");
    // It was not told ours, or it would refuse legacy from now on.
    let ours = pair.tinc.dir().join("hosts").join(&pair.meshd.name);
    assert_eq!(ed25519(&ours), "");
    pair.follow_advice(&reason);
    wait_until(
        "the link speaks SPTPS",
        Duration::from_secs(30),
        || match pair.meshd.peer(&pair.tinc.name)["link"] == "sptps" {
            true => Ok(()),
            false => Err(pair.meshd.log()),
        },
    );
    pair.assert_lives();
    pair.wait_link("sptps");
    pair.assert_known(&pair.tinc, &pair.meshd);
}

#[test]
fn meshd_dials_and_neither_knows_the_other() {
    nobody_knows(Meshd);
}

#[test]
fn tinc_1_1_dials_and_neither_knows_the_other() {
    nobody_knows(Tinc11);
}

/// The tinc has our key and speaks nothing less with us. We never have its key from the wire: but the operator is
/// told it. Nobody dials in a circle.
fn tinc_knows(dialler: Kind) {
    let world = World::new();
    let mut pair = Pair::new(&world, dialler, [true, false]);
    pair.start();
    let reason = pair.wait_reason("Ed25519PublicKey = ");
    thread::sleep(Duration::from_secs(3));
    let dials = |node: &Node| {
        node.log().matches("Connection from 10.").count()
            + node.log().matches("connection accepted").count()
    };
    assert!(
        dials(&pair.tinc) + dials(&pair.meshd) <= 4,
        "{}",
        pair.meshd.log()
    );
    assert_eq!(
        ed25519(&pair.meshd.dir().join("hosts").join(&pair.tinc.name)),
        ""
    );
    pair.follow_advice(&reason);
    pair.wait_link("sptps");
}

#[test]
fn meshd_dials_a_tinc_1_1_that_knows_it() {
    tinc_knows(Meshd);
}

#[test]
fn tinc_1_1_dials_a_meshd_that_it_knows() {
    tinc_knows(Tinc11);
}

/// We have its key, and tell it ours.
#[test]
fn a_tinc_1_1_that_we_know_is_told_our_key() {
    for dialler in [Meshd, Tinc11] {
        let world = World::new();
        let mut pair = Pair::new(&world, dialler, [false, true]);
        pair.start();
        pair.wait_link("sptps");
        pair.assert_known(&pair.tinc, &pair.meshd);
        let log = pair.meshd.log();
        assert_eq!(
            log.matches("the node accepted our Ed25519 key").count(),
            1,
            "{log}"
        );
    }
}

/// LearnKeys: as two tincs 1.1 do it.
#[test]
fn keys_are_learned_where_a_setting_says_so() {
    for (dialler, known) in [(Meshd, false), (Meshd, true), (Tinc11, false)] {
        let world = World::new();
        let mut pair = Pair::new(&world, dialler, [known, false]);
        pair.meshd.tinc(&["--force", "set", "LearnKeys", "yes"]);
        pair.start();
        pair.wait_link("sptps");
        pair.assert_known(&pair.tinc, &pair.meshd);
        pair.assert_known(&pair.meshd, &pair.tinc);
        let log = pair.meshd.log();
        assert_eq!(
            log.matches("learned the node's Ed25519 key").count(),
            1,
            "{log}"
        );
        // What was written is read.
        pair.meshd.stop();
        pair.meshd.start();
        pair.wait_link("sptps");
        assert_eq!(pair.meshd.log().matches("learned the node's").count(), 1);
    }
}

/// A tinc 1.0 takes 17.1 for 17, and has no key to tell.
#[test]
fn a_tinc_1_0_has_nothing_to_tell() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc10]);
    a.tinc(&["--force", "set", "LearnKeys", "yes"]);
    crate::legacy::bring_up(&mut a, &mut b);
    assert_eq!(a.peer("b")["link"], "legacy");
    b.assert_runs();
}

/// We speak nothing but legacy, by our own choice.
#[test]
fn a_meshd_without_sptps_says_why_a_tinc_1_1_refuses_it() {
    for (dialler, knows) in [(Meshd, false), (Meshd, true), (Tinc11, true)] {
        let world = World::new();
        let mut pair = Pair::new(&world, dialler, [knows, true]);
        pair.meshd.tinc(&["set", "ExperimentalProtocol", "no"]);
        pair.start();
        match (knows, dialler) {
            (false, _) => pair.wait_link("legacy"),
            (true, Meshd) => drop(pair.wait_reason("refuses it")),
            // It has not proven who it is, so it is no peer.
            (true, _) => wait_until("the log says why", Duration::from_secs(20), || {
                match pair.meshd.log().contains("in its hosts/a refuses it") {
                    true => Ok(()),
                    false => Err(pair.meshd.log()),
                }
            }),
        }
    }
}

/// The tinc speaks nothing but legacy.
#[test]
fn a_tinc_1_1_without_sptps_is_spoken_to_in_legacy_unless_we_have_its_key() {
    for knows in [false, true] {
        let world = World::new();
        let mut pair = Pair::new(&world, Meshd, [true, knows]);
        pair.tinc.tinc(&["set", "ExperimentalProtocol", "no"]);
        pair.start();
        if knows {
            pair.wait_reason("MinProtocol = legacy in hosts/b");
        } else {
            pair.wait_link("legacy");
        }
    }
}

/// AutoConnect takes the same ways as ConnectTo.
#[test]
fn auto_connect_tells_keys_too() {
    for dialler in [Meshd, Tinc11] {
        let world = World::new();
        let mut pair = Pair::new(&world, dialler, [false, true]);
        let node = if dialler == Meshd {
            &pair.meshd
        } else {
            &pair.tinc
        };
        node.tinc(&["del", "ConnectTo"]);
        node.tinc(&["set", "AutoConnect", "yes"]);
        pair.start();
        pair.wait_link("sptps");
    }
}

#[test]
#[ignore = "control: tinc alone"]
fn control_tincs_1_1_tell_each_other_their_keys() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Tinc11, Tinc11]);
    forget_ed25519(&a, &["b"]);
    forget_ed25519(&b, &["a"]);
    crate::legacy::bring_up(&mut a, &mut b);
    assert_ne!(ed25519(&a.dir().join("hosts/b")), "");
    assert_ne!(ed25519(&b.dir().join("hosts/a")), "");
}
