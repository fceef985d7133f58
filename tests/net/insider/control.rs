//! The same attacks on the real tinc 1.0.36, which says of each that it is one.

use super::*;
use crate::traffic::try_ping;

/// A 1.0.36 `a` with an honest 1.0.36 `b`, and the identities of two scripted members.
struct Control {
    _world: World,
    wire: Wire,
    v: Node,
    _p: Node,
    m: Node,
    w: Node,
}

impl Control {
    fn new(prepare: impl FnOnce(&Node)) -> Self {
        let world = World::alone();
        let wire = world.wire();
        let [mut v, mut p, m, w] = on_one_wire(&world, &wire, [Tinc10; 4]);
        prepare(&v);
        crate::legacy::bring_up(&mut p, &mut v);
        Self {
            _world: world,
            wire,
            v,
            _p: p,
            m,
            w,
        }
    }

    fn member(&self) -> Member {
        Member::reachable(&self.m, &self.v, &self.wire)
    }

    fn witness(&self) -> Member {
        Member::active(&self.w, &self.v, &self.wire)
    }
}

/// Seen: the thief gets the packets of an owner that is up, and the announcement is passed on.
#[test]
#[ignore = "control: tinc alone"]
fn control_t20_tinc_1_0_is_robbed() {
    let control = Control::new(|_| {});
    let mut witness = control.witness();
    let mut thief = control.member();
    thief.flood(10, "c 10.20.0.2#-5");
    assert!(thief.is_alive());
    try_ping(&control.v.host, "10.20.0.2", 56, &[]).unwrap_err();
    assert!(thief.hears(Duration::from_secs(5), |line| line.starts_with("17 ")));
    let stolen = |line: &str| line.starts_with("10 ") && line.contains(" c 10.20.0.2#-5");
    assert!(
        witness.hears(Duration::from_secs(5), stolen),
        "{:?}",
        witness.heard
    );
}

/// Seen: news about its own edges that contradict it make it sleep, longer each time; nobody is answered meanwhile.
#[test]
#[ignore = "control: tinc alone"]
fn control_t22_tinc_1_0_is_frozen() {
    let control = Control::new(|_| {});
    let mut witness = control.witness();
    let mut member = control.member();
    member.say_all((0..400).flat_map(|n| {
        [
            format!("12 {:x} a x 10.77.1.99 655 c 1", 2 * n + 0x1000),
            format!("13 {:x} a b", 2 * n + 0x1001),
        ]
    }));
    // It counts, and looks at the count when pings are due.
    let start = Instant::now();
    let frozen = |time: Option<Duration>| time.is_none_or(|time| time > Duration::from_secs(1));
    let mut answer = witness.ping(Duration::from_secs(3));
    while !frozen(answer) && start.elapsed() < Duration::from_secs(15) {
        thread::sleep(Duration::from_millis(200));
        answer = witness.ping(Duration::from_secs(3));
    }
    eprintln!("after {:?} answered after {answer:?}", start.elapsed());
    assert!(frozen(answer), "{answer:?}");
}

/// Seen: names without end are held, and told to whoever joins.
#[test]
#[ignore = "control: tinc alone"]
fn control_t31_tinc_1_0_holds_phantoms() {
    let control = Control::new(|_| {});
    let mut member = control.member();
    member.say_all((1..2_000).map(|n| format!("12 {n:x} c x{n} 10.77.1.9 655 c 1")));
    assert!(member.is_alive());
    let mut witness = control.witness();
    assert!(witness.is_alive());
    let phantoms = witness
        .heard
        .iter()
        .filter(|line| line.contains(" c x"))
        .count();
    assert_eq!(phantoms, 1_999);
}

/// Seen: what stands for an address in ANS_KEY is handed to hooks as it came, and a hook that takes its time holds
/// everything up.
#[test]
#[ignore = "control: tinc alone"]
fn control_t33_tinc_1_0_hands_anything_to_hooks() {
    let control = Control::new(|v| {
        let record = v.host.world().dir().join("record");
        v.write_script(
            "host-down",
            &format!(
                "echo \"REMOTEADDRESS=$REMOTEADDRESS\" >> {}\nsleep 1.5\n",
                record.display()
            ),
        );
    });
    let record = control.v.host.world().dir().join("record");
    let mut witness = control.witness();
    let mut member = control.member();
    let key = "AB".repeat(48);
    member.say(format!("16 c a {key} 427 672 4 0 $(touch${{IFS}}x) 655"));
    let alive = member.is_alive();
    eprintln!("alive after ANS_KEY: {alive}");
    drop(member);
    thread::sleep(Duration::from_millis(300));
    let answer = witness.ping(Duration::from_secs(5));
    eprintln!("answered after {answer:?}; {}", control.v.log());
    assert!(
        answer.is_none_or(|time| time > Duration::from_secs(1)),
        "{answer:?}"
    );
    let text = fs::read_to_string(record).unwrap();
    assert!(text.contains("REMOTEADDRESS=$(touch"), "{text}");
}
