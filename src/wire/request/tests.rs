//! The verdict table for malformed lines, and the lexical rules of wire/tinc-1.0.md section 1.1.

use super::*;

/// Values that a field accepts. The columns of [`VALUES`] are in this order.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Hex,
    Name,
    Subnet,
    Word,
    Decimal,
    /// Any value leaves the line valid.
    Free,
}
use Kind::{Decimal, Free, Hex, Name, Subnet as Net, Word};

/// Kind, name in error messages, a valid value.
type Field = (Kind, &'static str, &'static str);

const NONCE: Field = (Hex, "nonce", "1f2e3d4c");
const OWNER: Field = (Name, "owner", "alpha");
const SUBNET: Field = (Net, "subnet", "10.1.0.0/16");
const FROM: Field = (Name, "from", "alpha");
const TO: Field = (Name, "to", "beta");
const HOST: Field = (Word, "address", "192.0.2.7");
const PORT: Field = (Word, "address", "655");

/// Every request with its fields, in each of its lengths.
const REQUESTS: &[(&str, &str, &[Field])] = &[
    (
        "4",
        "ACK",
        &[
            (Word, "port", "655"),
            (Decimal, "weight", "37"),
            (Hex, "options", "700000c"),
        ],
    ),
    ("7", "TERMREQ", &[]),
    ("8", "PING", &[]),
    ("9", "PONG", &[]),
    ("10", "ADD_SUBNET", &[NONCE, OWNER, SUBNET]),
    ("11", "DEL_SUBNET", &[NONCE, OWNER, SUBNET]),
    (
        "12",
        "ADD_EDGE",
        &[
            NONCE,
            FROM,
            TO,
            HOST,
            PORT,
            (Hex, "options", "c"),
            (Decimal, "weight", "37"),
        ],
    ),
    (
        "12",
        "ADD_EDGE",
        &[
            NONCE,
            FROM,
            TO,
            HOST,
            PORT,
            (Hex, "options", "c"),
            (Decimal, "weight", "37"),
            (Word, "local address", "10.0.0.7"),
            (Word, "local address", "655"),
        ],
    ),
    ("13", "DEL_EDGE", &[NONCE, FROM, TO]),
    ("14", "KEY_CHANGED", &[NONCE, (Name, "origin", "alpha")]),
    ("15", "REQ_KEY", &[FROM, TO]),
    (
        "15",
        "REQ_KEY",
        &[FROM, TO, (Free, "extension", "15"), (Free, "text", "AAAA")],
    ),
    (
        "16",
        "ANS_KEY",
        &[
            FROM,
            TO,
            (Word, "key", "AAAA"),
            (Decimal, "cipher", "-1"),
            (Decimal, "digest", "-1"),
            (Decimal, "MAC length", "-1"),
            (Decimal, "compression", "0"),
        ],
    ),
    (
        "16",
        "ANS_KEY",
        &[
            FROM,
            TO,
            (Word, "key", "AAAA"),
            (Decimal, "cipher", "-1"),
            (Decimal, "digest", "-1"),
            (Decimal, "MAC length", "-1"),
            (Decimal, "compression", "0"),
            (Free, "address", "192.0.2.7"),
            (Free, "address", "655"),
        ],
    ),
    ("17", "PACKET", &[(Decimal, "length", "1400")]),
    ("21", "SPTPS_PACKET", &[(Decimal, "length", "1400")]),
    ("22", "UDP_INFO", &[FROM, TO, HOST, PORT]),
    ("23", "MTU_INFO", &[FROM, TO, (Decimal, "MTU", "1400")]),
];

/// Replacement values: base, number of repetitions, and the verdict for each [`Kind`]. `+`: the
/// line is valid. `-`: that field is rejected. Blank: not tested, because the rest of the word
/// becomes the next field.
const VALUES: &[(&[u8], usize, &str)] = &[
    // x n s w d f
    (b"0", 1, "++-+++"),
    (b"00", 1, "++-+++"),
    (b"1", 1, "++-+++"),
    (b"-0", 1, "+--+++"),
    (b"-1", 1, "+--+++"),
    (b"+1", 1, "+--+++"),
    (b"2147483647", 1, "++-+++"),
    (b"2147483648", 1, "++-+++"),
    (b"-2147483649", 1, "+--+++"),
    (b"4294967296", 1, "++-+++"),
    (b"18446744073709551616", 1, "++-+++"),
    (b"-18446744073709551616", 1, "+--+++"),
    (b"1", 255, "++-+++"),
    (b"1", 256, "+--+++"),
    (b"1", 2048, "+--+++"),
    (b"1", 2049, "+---++"),
    (b"0x1f", 1, "++-+ +"),
    (b"0XAB", 1, "++-+ +"),
    (b"0x", 1, "++-+ +"),
    (b"abcdef", 1, "++-+-+"),
    (b"ABCDEF", 1, "++-+-+"),
    (b"AbCdEf", 1, "++-+-+"),
    (b"a", 255, "++-+-+"),
    (b"a", 256, "+--+-+"),
    (b"a", 2048, "+--+-+"),
    (b"a", 2049, "+----+"),
    (b"z", 1, "-+-+-+"),
    (b"z", 255, "-+-+-+"),
    (b"z", 256, "---+-+"),
    (b"z", 2048, "---+-+"),
    (b"z", 2049, "-----+"),
    (b"x1", 1, "-+-+-+"),
    (b"_", 1, "-+-+-+"),
    (b"-", 1, "---+-+"),
    (b"+", 1, "---+-+"),
    (b"+-1", 1, "---+-+"),
    (b".", 1, "---+-+"),
    (b"..", 1, "---+-+"),
    (b"/", 1, "---+-+"),
    (b"../x", 1, "---+-+"),
    (b"?x", 1, "---+-+"),
    (b"^x", 1, "---+-+"),
    (b"%n%s%x", 1, "---+-+"),
    (b"$(id)", 1, "---+-+"),
    (b"\"'`;|", 1, "---+-+"),
    (b"x-up", 1, "---+-+"),
    (b"<control>", 1, "---+-+"),
    (b"unspec", 1, "-+-+-+"),
    (b"::/0", 1, "--++-+"),
    (b"::1%eth0", 1, "---+-+"),
    (b"10.0.0.0/8#-5", 1, " -++ +"),
    (b"10.0.0.0/33", 1, " --+ +"),
    (b"10.0.0.0/-1", 1, " --+ +"),
    (b"10.0.0.0/8#5x", 1, " --+ +"),
    (b"10.0.0.0/8#2147483648", 1, " --+ +"),
    (b"1:2:3:4:5:6", 1, " -++ +"),
    (b"1:2:3:4:5:6/48", 1, " --+ +"),
    (b"\xc3\xa9", 1, "---+-+"),
    (b"\xef\xbb\xbf1", 1, "---+-+"),
    (b"\xe3\x80\x80", 1, "---+-+"),
    (b"\xff", 1, "-----+"),
    (b"\xc3", 1, "-----+"),
    (b"\x1b[2J", 1, "---+-+"),
    (b"\x7f", 1, "---+-+"),
];

#[test]
fn every_field_of_every_request_with_every_value() {
    let mut rows = 0;
    for (number, request, fields) in REQUESTS {
        for (at, (kind, field, _)) in fields.iter().enumerate() {
            for (base, times, verdicts) in VALUES {
                let line = line(number, fields, at, &base.repeat(*times));
                let shown = String::from_utf8_lossy(&line);
                let verdict = Request::parse(&line);
                match verdicts.as_bytes()[*kind as usize] {
                    b'+' => assert!(verdict.is_ok(), "{verdict:?}: {shown}"),
                    b'-' => assert_eq!(verdict, bad(request, field), "{shown}"),
                    _ => continue,
                }
                rows += 1;
            }
            for control in [&b"1\0"[..], b"\0", b"alpha\0", b"1\n2"] {
                let line = line(number, fields, at, control);
                assert_eq!(Request::parse(&line), bad(request, CONTROL));
                rows += 1;
            }
        }
    }
    assert!(rows >= 2000, "{rows} rows");
}

#[test]
fn missing_fields_are_named() {
    for (number, request, fields) in REQUESTS {
        for end in 0..fields.len() {
            let line = line(number, &fields[..end], end, b"");
            let optional = match (*request, end) {
                ("REQ_KEY", 2..) | ("ANS_KEY", 7..) | ("ADD_EDGE", 7) => true,
                (_, end) => fields[end].0 == Free,
            };
            let verdict = Request::parse(&line);
            if optional {
                assert!(verdict.is_ok(), "{verdict:?}");
            } else {
                assert_eq!(verdict, bad(request, fields[end].1), "{end}");
            }
        }
    }
}

#[test]
fn words_after_the_last_field_are_not_looked_at() {
    let long = format!(" {}", "x".repeat(5000));
    for (number, request, fields) in REQUESTS {
        let plain = line(number, fields, fields.len(), b"");
        let full = !matches!(
            (*request, fields.len()),
            ("ADD_EDGE" | "ANS_KEY", 7) | ("REQ_KEY", 2)
        );
        for extra in [&b" \t \r"[..], b" a b", b" -1 \xff", long.as_bytes()] {
            if full || extra.trim_ascii().is_empty() {
                let line = [&plain, extra].concat();
                assert_eq!(Request::parse(&line), Request::parse(&plain), "{request}");
            }
        }
    }
}

#[test]
fn any_white_space_separates() {
    for (number, _, fields) in REQUESTS {
        let plain = line(number, fields, fields.len(), b"");
        for blanks in [" ", "\t", "  ", " \t\r\x0b\x0c "] {
            let text = String::from_utf8(plain.clone()).unwrap();
            let text = format!("{blanks}{}{blanks}", text.replace(' ', blanks));
            let verdict = Request::parse(text.as_bytes());
            assert_eq!(verdict, Request::parse(&plain), "{text:?}");
            assert!(verdict.is_ok());
        }
    }
}

#[test]
fn numbers_wrap_as_on_linux() {
    for (text, value) in [
        ("2147483647", i32::MAX),
        ("2147483648", i32::MIN),
        ("-2147483649", i32::MAX),
        ("4294967296", 0),
        ("18446744073709551616", -1),
        ("-18446744073709551616", 0),
        ("-0", 0),
        ("+7", 7),
    ] {
        let parsed = Request::parse(format!("17 {text}").as_bytes());
        assert_eq!(parsed, Ok(Request::Packet { length: value }), "{text}");
    }
    for (text, value) in [
        ("0X7C", 0x7c),
        ("-1", u32::MAX),
        ("100000000", 0),
        ("ffffffffffffffff1", u32::MAX),
        ("-ffffffffffffffff1", u32::MAX),
        ("0x", 0),
    ] {
        let Ok(Request::Ack { options, .. }) = Request::parse(format!("4 0 0 {text}").as_bytes())
        else {
            panic!("{text}");
        };
        assert_eq!(options.0, value, "{text}");
    }
    for (text, value) in [
        ("70000", 4464),
        ("x", 0),
        ("655x", 655),
        ("+655", 655),
        ("-1", 65535),
    ] {
        let Ok(Request::Ack { port, .. }) = Request::parse(format!("4 {text} 0 0").as_bytes())
        else {
            panic!("{text}");
        };
        assert_eq!(port, value, "{text}");
    }
}

#[test]
fn the_rest_of_a_number_is_the_next_field() {
    let parsed = Request::parse(b"4 655 10abc").unwrap();
    assert_eq!(parsed, Request::parse(b"4 655 10 abc").unwrap());
    assert!(Request::parse(b"17 1400.5").is_ok());
    assert!(Request::parse(b"12 1 a b 192.0.2.7 655 c 7x").is_err());
    assert!(Request::parse(b"12 1 a b 192.0.2.7 655 cz 7").is_err());
}

#[test]
fn only_requests_of_an_active_link_are_known() {
    let all = "655 1 c alpha beta 1 1 1 1";
    for word in [
        "",
        " ",
        "x",
        "-8",
        "0",
        "1",
        "2",
        "3",
        "5",
        "6",
        "18",
        "19",
        "20",
        "24",
        "32",
        "99999",
        "8589934594",
        "é",
        "\u{1b}",
    ] {
        let line = format!("{word} {all}");
        let first = line.split_whitespace().next().unwrap();
        let error = Err(RequestError::Unknown(first.into()));
        // After an empty word the next word is the number: 655.
        assert_eq!(Request::parse(line.as_bytes()), error, "{word}");
    }
    let long = Request::parse(&[b'9'; 3000]);
    assert_eq!(long, Err(RequestError::Unknown("9".repeat(32))));
    assert_eq!(
        Request::parse(b""),
        Err(RequestError::Unknown(String::new()))
    );
}

#[test]
fn seven_fields_of_add_edge_are_an_error_and_equal_ends_too() {
    let six = b"12 1 a b 192.0.2.7 655 c 7".to_vec();
    assert!(Request::parse(&six).is_ok());
    assert!(Request::parse(&[&six[..], b" 10.0.0.1"].concat()).is_err());
    assert!(Request::parse(&[&six[..], b" 10.0.0.1 655"].concat()).is_ok());
    assert!(Request::parse(&[&six[..], b" 10.0.0.1 655 x"].concat()).is_ok());
    for line in ["12 1 a a 192.0.2.7 655 c 7", "13 1 a a"] {
        assert!(Request::parse(line.as_bytes()).is_err(), "{line}");
    }
}

/// Payload of a REQ_KEY, or of an ANS_KEY for [`answer`].
fn asked(line: &str) -> KeyRequest {
    match Request::parse(line.as_bytes()) {
        Ok(Request::ReqKey { payload, .. }) => payload,
        other => panic!("{line}: {other:?}"),
    }
}

fn answer(line: &str) -> KeyAnswer {
    match Request::parse(line.as_bytes()) {
        Ok(Request::AnsKey { payload, .. }) => payload,
        other => panic!("{line}: {other:?}"),
    }
}

fn other(ext: i32, text: &str) -> KeyRequest {
    let text = text.into();
    KeyRequest::Other { ext, text }
}

#[test]
fn every_extension_of_req_key_is_decoded() {
    let start = |meshd| KeyRequest::Start {
        kex: vec![0; 3],
        meshd,
    };
    let (three, key) = (|| vec![0; 3], "A".repeat(43));
    let long = "A".repeat(MAX_WORD + 1);
    for (words, expected) in [
        ("", KeyRequest::Legacy),
        (" x", KeyRequest::Legacy),
        (" 0", other(0, "")),
        (" 0 x", other(0, "x")),
        (" -5 x y", other(-5, "x")),
        (" 100 AAAA", other(100, "AAAA")),
        (" 15 AAAA", start(false)),
        (" 15 AAAA meshd", start(true)),
        (" 15 AAAA of a meshd", start(true)),
        (" 15 AAAA meshd 2", start(false)),
        (" 15 meshd", other(15, "meshd")),
        (" 15 AA.A meshd", other(15, "AA.A")),
        (" 19", KeyRequest::ReqPubkey),
        (" 19 unread", KeyRequest::ReqPubkey),
        (&format!(" 20 {key}"), KeyRequest::AnsPubkey([0; 32])),
        (&format!(" 20 {key}A"), other(20, &format!("{key}A"))),
        (" 20 AAAA", other(20, "AAAA")),
        (" 21 AAAA", KeyRequest::Packet(three())),
        (" 21 A", other(21, "A")),
        (" 21", KeyRequest::Packet(Vec::new())),
        (&format!(" 21 {long}"), KeyRequest::Packet(Vec::new())),
        (" 32 AAAA", KeyRequest::NativeAsk(three())),
        (" 33 AAAA", KeyRequest::NativeAnswer(three())),
        (" 34 AAAA", KeyRequest::NativeConfirm(three())),
        (" 35 AAAA", KeyRequest::NativeQuery(three())),
        (" 35 A=A", other(35, "A=A")),
    ] {
        assert_eq!(asked(&format!("15 a b{words}")), expected, "{words:.20}");
    }
}

#[test]
fn keys_of_both_dialects_are_told_apart_by_the_cipher() {
    let suite = |numbers: [i32; 4]| SuiteNumbers::from(numbers);
    let bad = |key: &str, numbers| KeyAnswer::Other {
        key: key.into(),
        suite: suite(numbers),
    };
    let sptps = KeyAnswer::Sptps {
        datagram: vec![0; 3],
        compression: 9,
    };
    let legacy = KeyAnswer::Legacy {
        key: vec![0xc0, 0xff, 0xee],
        suite: suite([427, 672, 4, 0]),
    };
    for (words, expected, suite) in [
        ("AAAA -1 -1 -1 9", sptps.clone(), None),
        ("AAAA -1 5 5 9", sptps, None),
        ("A -1 -1 -1 9", bad("A", [-1, -1, -1, 9]), None),
        ("C0ffEE 427 672 4 0", legacy, Some(suite([427, 672, 4, 0]))),
        (
            "C0F 0 1 2 3",
            bad("C0F", [0, 1, 2, 3]),
            Some(suite([0, 1, 2, 3])),
        ),
        (
            "KEY 0 1 2 3",
            bad("KEY", [0, 1, 2, 3]),
            Some(suite([0, 1, 2, 3])),
        ),
    ] {
        let payload = answer(&format!("16 a b {words}"));
        assert_eq!(payload, expected, "{words}");
        assert_eq!(payload.suite(), suite, "{words}");
    }
}

#[test]
fn lines_are_printed_as_tinc_prints_them() {
    for line in [
        "4 655 37 700000c",
        "10 1f pya 10.1.0.0/16",
        "10 1f pya fd00::1#5",
        "12 0 pya pre18 192.0.2.7 655 700000c 37 10.0.0.7 655",
        "12 7fffffff pya pre18 unspec unspec 0 -3",
        "15 pya pre18",
        "16 pya pre18 AAAA -1 -1 -1 0 192.0.2.7 655",
        "22 pya pre18 fd00::1 655",
        "23 pya pre18 1518",
    ] {
        let request = Request::parse(line.as_bytes()).unwrap();
        let nonce = line.split(' ').nth(1).unwrap();
        let nonce = if request.flooded() { nonce } else { "0" };
        assert_eq!(request.line(u32::from_str_radix(nonce, 16).unwrap()), line);
    }
}

/// Returns the line of `fields` with the one at `at` replaced.
fn line(number: &str, fields: &[Field], at: usize, value: &[u8]) -> Vec<u8> {
    let mut line = number.as_bytes().to_vec();
    for (i, (_, _, good)) in fields.iter().enumerate() {
        line.push(b' ');
        line.extend(if i == at { value } else { good.as_bytes() });
    }
    line
}

fn bad(request: &'static str, field: &'static str) -> Result<Request, RequestError> {
    let of_link = ["ACK", "TERMREQ", "PING", "PONG", "PACKET", "SPTPS_PACKET"];
    Err(match of_link.contains(&request) {
        true => RequestError::OfLink { request, field },
        false => RequestError::PassedOn { request, field },
    })
}

/// A line that may have been forwarded costs only itself; a line that only the neighbour can have
/// written costs the link.
#[test]
fn the_error_tells_whose_fault_it_is() {
    let cost = |line: &str| Request::parse(line.as_bytes()).map_err(|why| why.costs_line_only());
    for (number, request, fields) in REQUESTS {
        if fields.is_empty() {
            continue;
        }
        let passed_on = !["ACK", "PACKET", "SPTPS_PACKET"].contains(request);
        for line in [
            (*number).to_owned(),
            format!(" +{number} \n"),
            format!("0{number} \0"),
        ] {
            assert_eq!(cost(&line), Err(passed_on), "{line:?}");
        }
        let good = Request::parse(&line(number, fields, fields.len(), b"")).unwrap();
        assert_eq!(good.passed_on(), passed_on, "{request}");
    }
    for line in ["", "x", "5 1 text", "24 a b", "-12 1 a b", "8\n8", "8 \0"] {
        assert_eq!(cost(line), Err(false), "{line:?}");
    }
}

#[test]
fn what_is_secret_is_not_shown() {
    for (line, shown) in [
        ("16 a b C0FFEE 427 672 4 0", Some("16 a b KEY 427 672 4 0")),
        (
            "16 a \t b C0FFEE 427 672 4 0 10.0.0.1 655 C0FFEE",
            Some("16 a b KEY 427 672 4 0 10.0.0.1 655"),
        ),
        ("15 a b 15 C0FFEE", Some("15 a b 15 KEY")),
        ("15 a b 21 C0FFEE C0FFEE", Some("15 a b 21 KEY")),
        ("15 a b", Some("15 a b")),
        ("15 a b C0FFEE", Some("15 a b")),
        ("15 a b 0 C0FFEE", Some("15 a b 0 KEY")),
        ("15 a b 15 C0FFEE meshd", Some("15 a b 15 KEY meshd")),
        ("15 a b 35 C.FFEE", Some("15 a b 35 KEY")),
        ("16 a b C0FFEE -1 -1 -1 9", Some("16 a b KEY -1 -1 -1 9")),
        ("8", None),
        ("13 5a a b", None),
    ] {
        let request = Request::parse(line.as_bytes()).unwrap();
        assert_eq!(request.without_key().as_deref(), shown, "{line}");
    }
}
