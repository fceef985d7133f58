use meshd_api::{
    proto::EdgeRow,
    report::{DialFailureRow, DialReport, MtuReport, RefusedRow, UnprovenRow},
};
use meshd_proto::dialect::Dialect;
use meshd_proto::mesh::reports::facts::{DialFault, HostFile, PathKind, Rule};
use meshd_wire::{NodeName, Options};

use super::*;
use crate::why::tests::{lines, prefix, reason, report, subnet};

fn edge(from: &str, to: &str) -> EdgeRow {
    EdgeRow {
        from: from.into(),
        to: to.into(),
        host: format!("10.132.0.{}", to.len()),
        port: "655".into(),
        local_host: "l".into(),
        local_port: "2".into(),
        options: 0,
        weight: 1,
    }
}

fn both(a: &str, b: &str) -> [EdgeRow; 2] {
    [edge(a, b), edge(b, a)]
}

fn target(name: &str, subnets: &[&str]) -> Target {
    Target {
        node: NodeName::new(name).unwrap(),
        asked: None,
        subnets: subnets
            .iter()
            .map(|at| subnet(at, name, 10, true))
            .collect(),
        refused: None,
    }
}

/// A node's report about another: a healthy node, with one change.
fn says(change: impl FnOnce(&mut NodeReport)) -> There {
    let mut seen = report();
    seen.nexthop = Some("web".into());
    change(&mut seen);
    There::Says(Box::new(seen.shared()))
}

fn end(target: &Target, report: NodeReport, there: There, silent: Option<String>) -> Other {
    Other {
        there,
        there_silent_since: silent,
        ..Other::new(target.clone(), report)
    }
}

fn fine() -> There {
    says(|_| ())
}

/// Removes facts that older versions do not report.
fn older(there: There) -> There {
    match there {
        There::Says(pair) => There::Says(Box::new(PathReport {
            detail: None,
            ..*pair
        })),
        other => other,
    }
}

fn silent(seen: &mut NodeReport) {
    seen.pair.path = PathKind::Tcp;
    seen.pair.udp.confirmed = false;
    seen.pair.udp.unanswered = 9;
    seen.pair.udp.silent_seconds = Some(40.0);
    seen.pair.udp.heard_seconds = None;
    seen.pair.mtu = MtuReport::default();
    seen.pair.reason = reason("udp_no_reply", "9 UDP probes unanswered");
}

fn tinc() -> There {
    There::CannotBeAsked
}

/// A case: reports of a and b, the graph, the first broken step, and parts of the output.
type Case = (
    &'static str,
    [There; 2],
    Vec<EdgeRow>,
    Option<Step>,
    &'static [&'static str],
);

fn star() -> Vec<EdgeRow> {
    [both("web", "a"), both("web", "b")].concat()
}

fn linked() -> Vec<EdgeRow> {
    both("a", "b").to_vec()
}

fn tcp_only() -> Vec<EdgeRow> {
    let mut edges = linked();
    edges[1].options = Options::TCP_ONLY;
    edges
}

const OTHER_KEY: &str = "10.132.0.1:655: no authentication within 5 s";

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        ("fine", [fine(), fine()], star(), None, &["a to b: fine", "✓ name          a is known; b is known", "a: a -> web -> … -> b", "✓ key           a: hosts/b, ed25519 SHA256:77abcdef…, proven on its link; b: hosts/a",
            "✓ udp probe     10.132.0.22:655 answers, rtt 0.5ms", "✓ pmtu          packets of 1440 bytes pass", "a: 172.20.0.2 -> b; b: 172.20.0.1 -> a", "- local route   a: not known from here: only a knows that: `meshctl why b` there",
            "✓ firewall      a: probes of b arrive; b: probes of a arrive", "on a: `meshctl ping b`"]),
        ("no key at one end", [says(|s| { s.peer.host_file = HostFile::Missing; s.fingerprint = None; }), fine()], star(), Some(Step::Key), &["a: there is no hosts/b here; b: hosts/a", "→ On a: Copy hosts/b from b, then `meshctl reload`"]),
        ("another key at the other end", [fine(), says(|s| { s.pair.protocol = None; s.peer.link = None; s.missed = Some(DialFailureRow { fault: DialFault::Handshake, text: OTHER_KEY.into(), seconds: 2.0 }); })], star(), Some(Step::Key),
            &["b: a peer answers, but it lacks the key of hosts/a", OTHER_KEY, "→ On b: Compare the keys"]),
        ("somebody else under its name", [says(|s| { s.pair.protocol = None; s.peer.link = None; s.unproven = Some(UnprovenRow { address: "192.0.2.1:5".parse().unwrap(), text: "bad signature".into(), seconds: 2.0 }); }), fine()], star(), Some(Step::Key), &["a: a peer at 192.0.2.1:5 connected as b"]),
        ("MinProtocol", [fine(), says(|s| { s.peer.offers = Some(Dialect::Sptps); s.peer.min_protocol = Some(Dialect::Native); })], star(), Some(Step::Trust), &["b: a speaks at most sptps, and MinProtocol = native (its configuration) forbids", "On b: Install meshd on a"]),
        ("not believed", [says(|s| s.refused = vec![RefusedRow { owner: "b".into(), subnet: prefix("10.9.0.0/24"), why: "hosts/b does not list it (StrictSubnets)".into(), rule: Rule::StrictSubnets }]), fine()], star(), Some(Step::Trust),
            &["a: b announces 10.9.0.0/24, which is refused", "→ On a: If it is right, write `Subnet = 10.9.0.0/24` into hosts/b here"]),
        ("its own link fails", [says(|s| { s.peer.link = None; s.dial = Some(DialReport::default()); s.missed = Some(DialFailureRow { fault: DialFault::Refused, text: "10.132.0.2:655: refused".into(), seconds: 1.0 }); }), fine()], star(), Some(Step::MetaPath),
            &["a: reachable through others, but our own link to it fails: 10.132.0.2:655: refused", "→ On b: check that meshd"]),
        ("down for one", [says(|s| { s.pair = PathReport::default(); s.peer.up = false; s.peer.link = None; }), fine()], star(), Some(Step::MetaPath), &["a: down: no node reaches it, and nothing here dials it"]),
        ("no address", [fine(), says(|s| { s.addresses.clear(); s.peer.link = None; s.pair.udp.confirmed = false; s.pair.path = PathKind::Via; s.pair.via = Some("web".into()); })], star(), Some(Step::Endpoint), &["b: no Address in hosts/a", "On b: Write `Address = ADDRESS` of a into hosts/a"]),
        ("UDP blocked one way", [says(silent), says(|s| s.pair.udp.heard_seconds = None)], star(), Some(Step::UdpProbe), &["a: 10.132.0.22:655 no reply to 9 probes since ", "; b says: our packets do not arrive; b: 10.132.0.22:655 answers", "→ Likely a firewall between a and b. On b: `meshctl firewall --verify`"]),
        ("UDP blocked on the way back", [says(|s| { silent(s); s.pair.udp.heard_seconds = None; }), says(|s| { silent(s); s.pair.udp.heard_seconds = Some(0.4); })], star(), Some(Step::UdpProbe), &["b says: our probes arrive", "→ On a: Our probes arrive, so their answers are lost", "- firewall", "b: probes of a arrive"]),
        ("UDP blocked, and b is a tincd", [says(silent), tinc()], star(), Some(Step::UdpProbe), &["b does not run a meshd with native; b: not known from here: b runs tinc, or a meshd without native", "On both ends"]),
        ("UDP blocked, and b says nothing", [says(silent), There::Silent], star(), Some(Step::UdpProbe), &["b does not answer when asked"]),
        ("the other one", [There::Silent, says(silent)], star(), Some(Step::UdpProbe), &["a: not known from here: a does not answer when asked; b: 10.132.0.22:655 no reply", "On both ends"]),
        ("only short packets", [says(|s| s.pair.mtu.too_small = true), fine()], star(), Some(Step::PathMtu), &["a: not even packets of 512 bytes pass", "b: packets of 1440 bytes pass", "On a: The path drops"]),
        ("TCPOnly at one", [says(|s| { silent(s); s.pair.tcp_only_there = true; }), says(|s| { silent(s); s.pair.tcp_only_here = true; })], star(), None, &["a: b sets TCPOnly: no UDP; b: TCPOnly is set here"]),
        ("idle", [says(|s| { silent(s); s.pair.udp.unanswered = 0; }), fine()], star(), None, &["a: not tried: no known address, or no traffic"]),
        ("just tried", [says(|s| { silent(s); s.pair.udp.unanswered = 2; }), fine()], star(), None, &["a: just tried: no reply yet"]),
        ("an older meshd", [older(fine()), fine()], star(), None, &["a: not known from here: the meshd of a is too old to report it; b: hosts/a", "✓ udp probe     10.132.0.22:655 answers", "no fault is visible from here", "a meshd on a would report it"]),
        ("an older meshd, UDP blocked", [older(says(silent)), fine()], star(), Some(Step::UdpProbe), &["a: 10.132.0.22:655 no reply to 9 probes"]),
        ("tincds with a link", [tinc(), tinc()], linked(), None, &["no fault is visible from here", "✓ key           a: proven by the link that it has with b", "✓ meta path     a: a -> b; b: b -> a", "✓ endpoint      a: 10.132.0.1 port 655, by its link with b",
            "- trust         a: not known from here: a runs tinc", "- udp probe", "- pmtu", "✓ subnet owner  a: 172.20.0.2 -> b, seen from here", "- local route", "- firewall", "a meshd on a would report it: `meshctl why b` there"]),
        ("tincds with TCPOnly", [tinc(), tinc()], tcp_only(), None, &["- udp probe     b sets TCPOnly: no UDP"]),
        ("tincds without a link", [tinc(), tinc()], star(), None, &["- key           a: not known from here", "a: a -> web -> b", "10.132.0.1 port 655, as web sees b"]),
        ("apart", [There::Silent, There::Silent], both("web", "a").to_vec(), Some(Step::MetaPath), &["no chain of links leads to b", "One of the two must dial"]),
        ("one-sided", [There::Silent, There::Silent], vec![edge("a", "b")], Some(Step::MetaPath), &["no chain of links"]),
        ("one is down", [There::NotAsked, fine()], star(), Some(Step::MetaPath), &["a: down, seen from here", "a: not known from here: a is down", "→ Fix that first: `meshctl why a`"]),
    ]
}

fn judged([one, two]: [There; 2], edges: &[EdgeRow]) -> Verdict {
    let targets = [target("a", &["172.20.0.1"]), target("b", &["172.20.0.2"])];
    let end = |target: &Target, there: There| {
        let mut seen = report();
        seen.pair.up = !matches!(there, There::NotAsked);
        if let There::CannotBeAsked = there {
            seen.peer.offers = Some(Dialect::Sptps);
        }
        let silent = matches!(there, There::Says(_)).then(|| "03:12:44".to_owned());
        end(target, seen, there, silent)
    };
    let [a, b] = &targets;
    let sides = [
        Side::of(None, &end(a, one.clone()), b, &two, edges),
        Side::of(None, &end(b, two), a, &one, edges),
    ];
    judge_ends(None, &sides, [a, b])
}

#[test]
fn each_fault_between_two_others_has_its_first_broken_step() {
    for (what, ends, edges, broken, parts) in cases() {
        let verdict = judged(ends, &edges);
        let shown = lines(&verdict);
        let found = verdict.broken().and_then(Finding::step);
        assert_eq!(found, broken, "{what}\n{shown}");
        assert_eq!(verdict.steps.len(), 10, "{what}\n{shown}");
        for part in parts {
            assert!(shown.contains(part), "{what}: {part:?} is not in\n{shown}");
        }
        let right = judged([fine(), fine()], &star());
        let steps =
            |verdict: &Verdict| -> Vec<_> { verdict.steps.iter().map(Finding::step).collect() };
        assert_eq!(steps(&verdict), steps(&right), "{what}");
        assert!(
            verdict.steps.iter().all(|step| !step.text.is_empty()),
            "{what}\n{shown}"
        );
    }
}

#[test]
fn what_was_asked_for_is_named() {
    let mut asked = target("b", &["10.7.0.0/24"]);
    asked.asked = Some("10.7.0.9".into());
    let a = target("a", &[]);
    let end = |target| end(target, report(), fine(), None);
    let sides = [
        Side::of(None, &end(&a), &asked, &fine(), &star()),
        Side::of(None, &end(&asked), &a, &fine(), &star()),
    ];
    let verdict = judge_ends(None, &sides, [&a, &asked]);
    let shown = lines(&verdict);
    assert!(
        shown.contains("a is known; 10.7.0.9 is in 10.7.0.0/24 of b"),
        "{shown}"
    );
    assert!(
        shown.contains("a: 10.7.0.0/24 -> b (weight 10); b: a has no accepted subnet"),
        "{shown}"
    );
}

#[test]
fn what_the_other_end_finds_is_added_to_what_we_see() {
    let refuses = says(|seen| {
        seen.refused = vec![RefusedRow {
            owner: "a".into(),
            subnet: prefix("172.20.0.1"),
            why: "hosts/a does not list it (StrictSubnets)".into(),
            rule: Rule::StrictSubnets,
        }];
    });
    let (a, b) = (target("a", &["172.20.0.1"]), target("b", &["172.20.0.2"]));
    let side = |there: There| {
        let end = end(&b, report(), there, None);
        Side::of(None, &end, &a, &fine(), &star())
    };
    let ours = || Verdict {
        headline: "b: reachable by UDP".into(),
        steps: side(fine()).steps,
        advice: "nothing".into(),
    };
    let mut verdict = ours();
    add(&mut verdict, &side(fine()));
    assert_eq!(verdict, ours());
    add(&mut verdict, &side(refuses));
    let broken = verdict.broken().unwrap();
    assert_eq!(broken.step(), Some(Step::Trust));
    assert!(
        broken.text.starts_with("b says: a announces 172.20.0.1"),
        "{}",
        broken.text
    );
    assert!(
        verdict.advice.starts_with("On b: If it is right"),
        "{}",
        verdict.advice
    );
}

/// Findings of every case.
pub(crate) fn all() -> Vec<Finding> {
    let cases = cases().into_iter();
    let verdicts = cases.map(|(_, ends, edges, ..)| judged(ends, &edges));
    verdicts.flat_map(|verdict| verdict.steps).collect()
}
