use super::*;
use crate::cli::why::{
    lines,
    tests::{reason, sight},
};

fn edge(from: &str, to: &str) -> EdgeRow {
    EdgeRow {
        from: from.into(),
        to: to.into(),
        host: "h".into(),
        port: "1".into(),
        local_host: "l".into(),
        local_port: "2".into(),
        options: 0,
        weight: 1,
    }
}

#[test]
fn two_others_are_judged_by_what_they_say() {
    let both = |a: &str, b: &str| [edge(a, b), edge(b, a)];
    let edges = [both("web", "a"), both("web", "b")].concat();
    let end = |name: &str, there| End {
        name: name.into(),
        up: Some(true),
        there,
    };
    let pair = |change: fn(&mut Pair)| {
        let mut pair = sight().pair;
        change(&mut pair);
        There::Says(Box::new(pair))
    };
    let tcp: fn(&mut Pair) = |pair| {
        pair.udp.unanswered = 9;
        (pair.path, pair.reason) = (
            PathKind::Tcp,
            reason("udp_no_reply", "9 UDP probes unanswered"),
        );
    };
    type Case = (
        &'static str,
        [End; 2],
        Vec<EdgeRow>,
        Option<Name>,
        &'static [&'static str],
    );
    let cases: Vec<Case> = vec![
        (
            "fine",
            [end("a", pair(|_| ())), end("b", pair(|_| ()))],
            edges.clone(),
            None,
            &[
                "a to b: fine",
                "a -> web -> b",
                "a says: b by UDP, rtt 0.5ms, packets of 1440 bytes pass",
            ],
        ),
        (
            "TCP",
            [end("a", pair(tcp)), end("b", pair(|_| ()))],
            edges.clone(),
            Some(Name::Says),
            &[
                "a says: b only over TCP: 9 UDP probes unanswered; probes of b arrive there",
                "On a: `meshctl why b`",
            ],
        ),
        (
            "the other one",
            [end("a", There::Silent), end("b", pair(tcp))],
            edges.clone(),
            Some(Name::Says),
            &["a did not answer", "On b: `meshctl why a`"],
        ),
        (
            "tincds",
            [
                end("a", There::CannotBeAsked),
                end("b", There::CannotBeAsked),
            ],
            edges.clone(),
            None,
            &["nothing wrong is seen from here", "ask on a itself"],
        ),
        (
            "one down",
            [
                End {
                    up: Some(false),
                    ..end("a", There::NotAsked)
                },
                end("b", There::Silent),
            ],
            edges.clone(),
            Some(Name::MetaPath),
            &["a is down, seen from here", "`meshctl why a`"],
        ),
        (
            "apart",
            [end("a", There::Silent), end("b", There::Silent)],
            both("web", "a").to_vec(),
            Some(Name::MetaPath),
            &["no chain of links"],
        ),
        (
            "one-sided",
            [end("a", There::Silent), end("b", There::Silent)],
            vec![edge("a", "b")],
            Some(Name::MetaPath),
            &["no chain of links"],
        ),
        (
            "idle",
            [
                end(
                    "a",
                    pair(|p| (p.path, p.reason) = (PathKind::Tcp, reason("idle", "x"))),
                ),
                end("b", pair(|_| ())),
            ],
            edges.clone(),
            None,
            &["nothing was sent to b lately"],
        ),
        (
            "as meant",
            [
                end(
                    "a",
                    pair(|p| (p.path, p.tcp_only_there) = (PathKind::Tcp, true)),
                ),
                end("b", pair(|_| ())),
            ],
            edges.clone(),
            None,
            &["over TCP, as meant"],
        ),
        (
            "down there",
            [
                end("a", pair(|p| p.path = PathKind::Down)),
                end("b", pair(|_| ())),
            ],
            edges.clone(),
            Some(Name::Says),
            &["a says: b is down"],
        ),
        (
            "relayed",
            [
                end(
                    "a",
                    pair(|p| (p.path, p.via) = (PathKind::Via, Some("web".into()))),
                ),
                end("b", pair(|_| ())),
            ],
            edges.clone(),
            Some(Name::Says),
            &["only through web"],
        ),
        (
            "short",
            [
                end("a", pair(|p| p.mtu.too_small = true)),
                end("b", pair(|_| ())),
            ],
            edges,
            Some(Name::Says),
            &["only short packets pass"],
        ),
    ];
    for (what, ends, edges, broken, parts) in cases {
        let verdict = judge("", &ends, &edges);
        let shown = lines(&verdict, true, false).join("\n");
        assert_eq!(
            verdict.broken().map(|step| step.name),
            broken,
            "{what}\n{shown}"
        );
        parts
            .iter()
            .for_each(|part| assert!(shown.contains(part), "{what}: {part}\n{shown}"));
    }
}
