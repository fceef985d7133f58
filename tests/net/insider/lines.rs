//! Lines, records and packets that no honest node sends: each costs at most the link.

use super::*;

/// A valid line of each request that a member may send, its fields apart. NONCE is made fresh.
const LINES: [&[&str]; 22] = [
    &["0", "c", "17.7"],
    &["1", "94", "64", "0", "0", "00ff"],
    &["2", "00ff"],
    &["3", "00ff"],
    &["4", "655", "10", "700000c"],
    &["5", "1", "text"],
    &["6", "1", "text"],
    &["8"],
    &["9"],
    &["10", "NONCE", "c", "10.66.0.0/24#5"],
    &["10", "NONCE", "c", "fd66::/64"],
    &["11", "NONCE", "c", "10.66.0.0/24"],
    &[
        "12",
        "NONCE",
        "c",
        "x1",
        "10.77.1.9",
        "655",
        "700000c",
        "10",
    ],
    &[
        "12",
        "NONCE",
        "c",
        "x1",
        "10.77.1.9",
        "655",
        "700000c",
        "10",
        "10.77.1.3",
        "655",
    ],
    &["13", "NONCE", "c", "x1"],
    &["14", "NONCE", "c"],
    &["15", "c", "a", "15", "AAAAAAAAAAAAAAAA"],
    &["15", "c", "a", "19"],
    &["16", "c", "a", "AAAAAAAAAAAAAAAA", "-1", "-1", "-1", "0"],
    &["22", "c", "a", "10.77.1.3", "655"],
    &["23", "c", "a", "1400"],
    &["18", "3"],
];

/// Replacement of a field.
fn bad_fields() -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = [
        "",
        "-1",
        "0",
        "1",
        "2147483647",
        "2147483648",
        "-2147483648",
        "-2147483649",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "0x10",
        "ABCDEF",
        "abcdef",
        "+1",
        "1.5",
        "nan",
        " ",
        "\t",
        "\r",
        "a\tb",
        "a\rb",
        "..",
        "/",
        "../../x",
        "<control>",
        "^",
        "?",
        "`id`",
        "$(id)",
        "%n%s",
        "ä",
        "\u{202e}",
        "0.0.0.0/0",
        "255.255.255.255",
        "::",
        "fe80::1%eth0",
        "unspec",
        "unknown",
        "MYSELF",
        "a",
        "b",
        "c",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for length in [255, 256, 1500] {
        fields.push(vec![b'a'; length]);
        fields.push(vec![b'9'; length]);
    }
    fields.push(vec![0]);
    fields.push(b"a\0b".to_vec());
    fields.push(vec![0xff, 0xfe]);
    fields
}

/// The whole table: every line with every field missing, doubled, or replaced.
fn malformed_lines() -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let mut push = |fields: &[&[u8]]| rows.push(fields.join(&b' '));
    let fields = bad_fields();
    for line in LINES {
        let line: Vec<&[u8]> = line.iter().map(|field| field.as_bytes()).collect();
        push(&line);
        for at in 0..line.len() {
            push(&[&line[..at], &line[at + 1..]].concat());
            push(&[&line[..=at], &line[at..]].concat());
            push(&line[..at]);
            for field in &fields {
                let mut changed = line.clone();
                changed[at] = field;
                push(&changed);
            }
        }
        for extra in ["1", "x y z", "-1 -1 -1"] {
            push(&[&line[..], &[extra.as_bytes()]].concat());
        }
    }
    for number in [
        "7",
        "17",
        "19",
        "20",
        "21",
        "24",
        "99",
        "-1",
        "x",
        "4294967304",
        "08",
        " 8",
    ] {
        for rest in ["", " ", " 1", " 1 2 3", " x"] {
            rows.push(format!("{number}{rest}").into_bytes());
        }
    }
    for length in [2047, 2048, 2049, 2174, 2175] {
        rows.push(vec![b'8'; length]);
        rows.push([b"12 1 c ".to_vec(), vec![b'x'; length - 7]].concat());
    }
    rows
}

fn survives_malformed_lines(victim: Kind) {
    let mut scene = Scene::new(victim);
    let flow = Flow::start(&scene.p, &scene.v, &scene.v.v4(), 100, 200);
    let rows = malformed_lines();
    assert!(rows.len() >= 2000, "{} rows", rows.len());
    let mut member = scene.member();
    let (mut ended, mut nonce) = (0, 0x1000_u32);
    for row in &rows {
        nonce += 1;
        let row = replace(row, b"NONCE", format!("{nonce:x}").as_bytes());
        member.say(&row);
        if !member.is_alive() {
            scene.v.assert_runs();
            ended += 1;
            member = scene.member();
        }
    }
    drop(member);
    eprintln!("{} rows, {ended} of them ended the link", rows.len());
    let stream = flow.finish();
    assert!(stream.lost() <= stream.sent / 1000, "{stream:?}");
    scene.assert_unharmed(64);
    // Not one of them was so well-formed that nobody had to be told.
    let log = scene.v.log();
    assert!(
        log.lines()
            .any(|line| line.contains("c") && line.to_lowercase().contains("bad ")),
        "no line of the log says what was bad"
    );
    assert_log_is_clean(&log);
}

pub(super) fn replace(line: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match line.windows(from.len()).position(|window| window == from) {
        Some(at) => [&line[..at], to, &line[at + from.len()..]].concat(),
        None => line.to_vec(),
    }
}

#[test]
fn malformed_lines_cost_at_most_the_link() {
    survives_malformed_lines(Meshd);
}

/// Records and framing that no honest node sends.
#[test]
fn broken_records_cost_at_most_the_link() {
    let mut scene = Scene::new(Meshd);
    let records: Vec<(u8, Vec<u8>)> = vec![
        (0, Vec::new()),
        (0, b"8".to_vec()),
        (0, b"8\n8\n".to_vec()),
        (0, b"\n".to_vec()),
        (0, vec![b'8'; 3000]),
        (0, vec![0; 65_000]),
        (1, b"8\n".to_vec()),
        (127, b"8\n".to_vec()),
        (128, vec![0; 65]),
        (128, Vec::new()),
        (129, b"8\n".to_vec()),
        (130, Vec::new()),
        (255, vec![1; 100]),
    ];
    for (kind, data) in records {
        let mut member = scene.member();
        member.record(kind, &data);
        member.is_alive();
        scene.v.assert_runs();
    }
    for raw in [
        vec![0; 100],
        vec![0xff; 100_000],
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
    ] {
        let mut member = scene.member();
        member.write(&raw);
        assert!(!member.is_alive(), "junk in place of a record was taken");
        scene.v.assert_runs();
    }
    // Lines before ACK, and no ACK at all.
    for line in [
        "8",
        "12 1 c a 10.77.1.9 655 700000c 10",
        "4 0 -2147483648 ffffffff",
        "4",
    ] {
        let mut member = Member::join(&scene.m, &scene.v, &scene.wire);
        member.say(line);
        member.ping(Duration::from_secs(2));
        scene.v.assert_runs();
    }
    scene.assert_unharmed(32);
}

/// T03: PACKET and SPTPS_PACKET of every suspicious length, with that many bytes after it.
#[test]
fn t03_packets_of_any_length() {
    let mut scene = Scene::new(Meshd);
    let lengths: [i64; 16] = [
        0,
        1,
        13,
        14,
        33,
        1518,
        1519,
        1673,
        1674,
        2176,
        9018,
        32767,
        32768,
        65535,
        -1,
        4_294_967_297,
    ];
    for request in [17, 21] {
        for length in lengths {
            for fill in [0, 0x45, 0xff] {
                let mut member = scene.member();
                member.say(format!("{request} {length}"));
                let payload = vec![fill; usize::try_from(length).unwrap_or(0).min(65_535)];
                match request {
                    17 => member.record(0, &payload),
                    _ => member.write(&payload),
                }
                let kept = member.is_alive();
                scene.v.assert_runs();
                // Where the link is kept the next line is still understood: that is what PONG says.
                let sound = (14..=1518).contains(&length) && request == 17
                    || (33..=1518).contains(&length) && request == 21;
                assert!(kept || !sound, "{request} {length} ended the link");
            }
        }
    }
    scene.assert_unharmed(32);
    wait_ping(&scene.p, &scene.v.v4(), 1400);
}
