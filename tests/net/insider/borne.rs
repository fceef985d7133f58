//! Lines that a real tinc 1.1 accepts of a member and passes on: none of them costs its neighbour the link to it.

use super::*;

/// A line with N replaced by a fresh nonce, W by a fresh weight.
fn filled(template: &[u8], weight: &mut u32) -> Vec<u8> {
    *weight += 1;
    let line = lines::replace(template, b"N", format!("{:x}", fresh_nonce()).as_bytes());
    lines::replace(&line, b"W", weight.to_string().as_bytes())
}

/// Line that `c` sends to its neighbour `b`, a tinc, so that `b` forwards it to `a`.
fn passed_on() -> Vec<Vec<u8>> {
    let mut templates = Vec::new();
    // All that is no blank and no end of a string is a word. (N and W are ours.)
    for byte in (1..=u8::MAX).filter(|byte| !matches!(byte, 9..=13 | b' ' | b'N' | b'W')) {
        for template in [
            "12 N c b * 655 700000c W",
            "12 N c b 10.77.1.9 * 700000c W",
            "12 N c b 10.77.1.9 655 700000c W * 655",
            "12 N c b 10.77.1.9 655 700000c W 10.77.1.9 *",
            "14 N c *",
            "15 c a 99 *",
            "16 c a * -1 -1 -1 0",
            "16 c a xx -1 -1 -1 0 * 655",
        ] {
            templates.push(lines::replace(template.as_bytes(), b"*", &[byte]));
        }
    }
    // A line feed is a blank, wherever it stands; and nobody looks at what stands behind the last word.
    for template in [
        "12 N c b 10.77.1.9 655 700000c W",
        "14 N c",
        "15 c a 99 x",
        "16 c a xx -1 -1 -1 0 10.77.1.9 655",
    ] {
        let words: Vec<&[u8]> = template.split(' ').map(str::as_bytes).collect();
        for blank in [&b"\n"[..], b"\t", b"\r\n"] {
            for at in 0..words.len() {
                let (before, behind) = (words[..at].join(&b' '), words[at..].join(&b' '));
                templates.push([&before, blank, &behind].concat());
            }
        }
        // A real daemon takes an edge without a local address, or with all of it.
        let local = match words[0] {
            b"12" => " 10.77.1.9 655 ",
            _ => " ",
        };
        // What is routed it writes anew, and ends the link where that is too long for it.
        let lengths: &[usize] = match words[0] {
            b"15" | b"16" => &[64, 1_000],
            _ => &[64, 2_000, 2_160, 2_200, 4_000, 60_000],
        };
        for &length in lengths {
            templates.push([template.as_bytes(), local.as_bytes(), &vec![b'x'; length]].concat());
        }
    }
    let odd = [
        "+12 N c b 10.77.1.9 655 700000c W",
        "012 N c b 10.77.1.9 655 700000c W",
        "4294967308 N c b 10.77.1.9 655 700000c W",
        "12 N c b 10.77.1.9 655 ffffffffffffffffff W",
        "12 N c b 10.77.1.9 655 700000c 99999999999999999999",
        "10 N c 10.66.0.9#99999999999",
        "10 N c 10.66.0.8#2147483648",
        "10 N c 10.66.2.3/8",
        "23 c a 99999999",
        "16 c a xx 999 999 999 999",
    ];
    templates.extend(odd.map(|line| line.as_bytes().to_vec()));
    let mut weight = 10;
    templates
        .iter()
        .map(|line| filled(line, &mut weight))
        .collect()
}

/// Lines that a tinc 1.0 forwards: it checks no more than the names of what is routed, and an edge may have a word too many.
fn passed_on_in_legacy() -> Vec<Vec<u8>> {
    let mut templates = vec![b"12 N c b 10.77.1.9 655 c W 10.77.1.3".to_vec()];
    for byte in (1..=u8::MAX).filter(|byte| !matches!(byte, 9..=13 | b' ' | b'N' | b'W')) {
        for template in ["14 N c *", "15 c a *", "16 c a * 427 672 4 0"] {
            templates.push(lines::replace(template.as_bytes(), b"*", &[byte]));
        }
    }
    let mut weight = 10;
    templates
        .iter()
        .map(|line| filled(line, &mut weight))
        .collect()
}

#[test]
fn what_a_tinc_1_1_passes_on_costs_no_link() {
    costs_no_link(Scene::new(Meshd), passed_on());
}

#[test]
fn what_a_tinc_1_0_passes_on_costs_no_link() {
    costs_no_link(Scene::among(Tinc10, World::new()), passed_on_in_legacy());
}

fn costs_no_link(mut scene: Scene, all: Vec<Vec<u8>>) {
    let mut member = Member::reachable(&scene.m, &scene.p, &scene.wire);
    scene.v.wait_reaches(&scene.m);
    for lines in all.chunks(200) {
        lines.iter().for_each(|line| member.say(line));
        assert!(
            member.is_alive(),
            "the tinc refused one of {:?}",
            lines
                .iter()
                .map(|line| line.escape_ascii().to_string())
                .collect::<Vec<_>>()
        );
    }
    // The last word has come through all the same.
    member.flood(10, "c 10.66.0.0/16#3");
    let subnet = ("10.66.0.0/16#3".to_owned(), "c".to_owned());
    scene
        .v
        .wait_dump("has our subnet", |dump| dump.subnets.contains(&subnet));
    let log = scene.v.log();
    assert!(!log.contains("link down node=b"), "{log}");
    assert!(
        log.contains("ignored a line that it has passed on"),
        "{log}"
    );
    assert_log_is_clean(&log);
    eprintln!("{} lines", all.len());
    scene.assert_unharmed(32);
}
