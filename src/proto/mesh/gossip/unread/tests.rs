use bytes::Bytes;

use crate::mesh::gossip::unread::*;
use meshd_wire::Request;

use crate::{
    link::{Dialect, MAX_LINE},
    mesh::testing::{Net, lines_of, settings},
};

/// Every request that nodes forward, in each of its lengths. N: a fresh nonce, W: a fresh number.
const PASSED_ON: [&str; 17] = [
    "10 N n1 10.1.0.0/16",
    "10 N n1 fd00:1::/64#5",
    "10 N n1 2:0:0:0:0:1",
    "11 N n1 10.1.0.0/16",
    "12 N n1 n0 192.0.2.7 655 700000c W",
    "12 N n1 n0 192.0.2.7 655 700000c W 10.0.0.7 655",
    "13 N n1 n0",
    "14 N n1",
    "15 n1 n0",
    "15 n1 n0 15 AAAA",
    "15 n1 n0 99 AAAA",
    "16 n1 n0 AAAA -1 -1 -1 0",
    "16 n1 n0 AAAA 427 672 4 0",
    "16 n1 n0 AAAA -1 -1 -1 0 192.0.2.7 655",
    "22 n1 n0 192.0.2.7 655",
    "23 n1 n0 1400",
    "23 n1 n2 1400",
];
/// Words that replace any other word.
const WORDS: [&str; 22] = [
    "",
    "-1",
    "0",
    "+7",
    "0x",
    "0x1f",
    "ffffffffffffffffff",
    "99999999999999999999",
    "-99999999999999999999",
    "2147483648",
    "10abc",
    ".",
    "../x",
    "n1",
    "n-1",
    "unspec",
    "10.0.0.0/33",
    "10.0.0.0/8#99999999999",
    "1:2:3:4:5:6/48",
    "fe80::1%eth0",
    "\u{202e}",
    "15",
];

/// 0 is linked with 1, an honest relay: lines of 1 come from a node behind it. 2 is behind 0.
fn scene(dialect: Dialect, rate: u32) -> Net {
    let mut all = settings(3);
    for one in &mut all {
        one.meta_rate = rate;
    }
    let mut net = Net::new(all);
    net.dialect = dialect;
    net.join(0, 1);
    net.join(0, 2);
    net.run(Duration::from_secs(5));
    net
}

/// Words of a line, with N and W filled in.
fn words(template: &str, count: &mut u32) -> Vec<Vec<u8>> {
    *count += 1;
    let words = template.split(' ').map(|word| match word {
        "N" => format!("{count:x}"),
        "W" => count.to_string(),
        word => word.into(),
    });
    words.map(String::into_bytes).collect()
}

/// Every way to damage one word of these lines, or their number.
fn spoilt(template: &str, count: &mut u32) -> Vec<Bytes> {
    let mut lines = Vec::new();
    let length = template.split(' ').count();
    for at in 0..length {
        let bytes = (0..=u8::MAX).flat_map(|byte| {
            let whole = template.split(' ').nth(at).unwrap().as_bytes();
            [vec![byte], [whole, &[byte]].concat()]
        });
        let long = [63, 64, 65, 255, 256, 2048, 2049, 60_000].map(|length| vec![b'x'; length]);
        let others = WORDS.iter().map(|word| word.as_bytes().to_vec());
        for word in bytes.chain(long).chain(others) {
            let mut words = words(template, count);
            // With another number the line is another request, which another test covers.
            let head = words[0].len();
            let longer = word.get(head).is_some_and(|byte| !byte.is_ascii_digit());
            if at > 0 || word.starts_with(&words[0]) && longer {
                words[at] = word;
            }
            lines.push(words.join(&b' ').into());
        }
        let mut cut = words(template, count);
        cut.truncate(at.max(1));
        lines.push(cut.join(&b' ').into());
    }
    for extra in [
        &b" "[..],
        b" x",
        b" 1.2.3.4",
        b" x y z \xff",
        b"\n",
        b" \r",
        &[b'y'; 65_000],
    ] {
        lines.push(
            [words(template, count).join(&b' '), extra.to_vec()]
                .concat()
                .into(),
        );
    }
    for before in [&b" "[..], b"\t", b"\n", b"\r\n ", b"+", b"00"] {
        lines.push(
            [before.to_vec(), words(template, count).join(&b' ')]
                .concat()
                .into(),
        );
    }
    for blanks in [&b"\t"[..], b"\n", b"\x0b\x0c\r\n"] {
        lines.push(words(template, count).join(blanks).into());
    }
    lines
}

/// A real tinc 1.1 accepts and forwards many of these lines. None of them may end the link to it.
#[test]
fn no_line_that_is_passed_on_costs_a_link() {
    let (mut read, mut refused, mut count) = (0, 0, 0x10_000);
    for template in PASSED_ON {
        let mut net = scene(Dialect::Sptps, 1_000_000);
        for (number, line) in spoilt(template, &mut count).into_iter().enumerate() {
            let good = Request::parse(&line).is_ok() && line.len() <= MAX_LINE;
            let before = net.meshes[0].cx.counters.refused;
            let known = net.meshes[0].nodes.len();
            net.says(1, 0, line.clone());
            if number % 64 == 0 {
                net.settle();
            }
            let text = printable(&line);
            assert_eq!(net.meshes[0].peers.len(), 2, "{text} cut a link");
            if good {
                read += 1;
            } else {
                refused += 1;
                assert!(
                    net.meshes[0].cx.counters.refused > before,
                    "not counted: {text}"
                );
                assert_eq!(net.meshes[0].nodes.len(), known, "{text} made a node");
            }
        }
        net.settle();
        assert_eq!(net.wires.len(), 4, "{template}");
    }
    eprintln!("{read} lines read, {refused} refused");
    assert!(read > 1_000 && refused > 1_000, "{read}, {refused}");
}

fn is_linked_after(dialect: Dialect, line: &'static [u8]) -> bool {
    let mut net = scene(dialect, 1_000_000);
    net.says(1, 0, Bytes::from_static(line));
    net.settle();
    net.wires.len() == 4
}

/// No node forwards these lines. On a legacy link they may come from behind a line feed.
#[test]
fn a_line_of_the_neighbours_own_costs_its_link() {
    for line in [
        &b"4 655 10 c"[..],
        b"7",
        b"17 x",
        b"21",
        b"5 1 text",
        b"24 n1 n0",
        b"8\n8",
        b"0 n1 17.7",
        b"x",
        b"",
        b"\xff",
    ] {
        for (dialect, linked) in [
            (Dialect::Sptps, false),
            (Dialect::Native, false),
            (Dialect::Legacy, true),
        ] {
            let text = printable(line);
            assert_eq!(
                is_linked_after(dialect, line),
                linked,
                "{dialect:?}: {text}"
            );
        }
    }
}

/// Such lines are logged once a minute, with their number, and escaped.
#[test]
fn lines_that_are_not_read_are_logged_with_pace() {
    let mut net = scene(Dialect::Sptps, 200);
    let log = lines_of(|| {
        for n in 0..180_u32 {
            let line = [
                format!("12 {n:x} n1 n0 ").as_bytes(),
                b"\x1b[2J\xff 655 c 1",
            ]
            .concat();
            net.says(1, 0, line.into());
            net.run(Duration::from_secs(1));
        }
    });
    let log: Vec<_> = log
        .iter()
        .filter(|line| line.contains("ADD_EDGE: bad address"))
        .collect();
    assert_eq!(log.len(), 3, "{log:#?}");
    assert!(log[1].ends_with("n1 60 "), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains('\x1b')), "{log:#?}");
}

/// A relay keeps its link, however many lines of another node it forwards.
#[test]
fn a_flood_of_anothers_costs_no_link() {
    let mut net = scene(Dialect::Sptps, 200);
    for n in 0..60_u32 {
        for m in 0..2_000_u32 {
            let line = [format!("12 {n:x}{m:x} n7 n0 ").as_bytes(), b"\xff 655 c 1"].concat();
            net.says(1, 0, line.into());
        }
        net.run(Duration::from_secs(1));
    }
    assert_eq!(net.wires.len(), 4);
    assert!(net.row(0, 1).up);
}
