//! Properties of everything that reads bytes of a wire: total, and the inverse of what writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use meshd::{
    crypto::Rng,
    wire::{
        EdgeAddress, KeyAnswer, KeyRequest, NodeId, NodeName, Options, Prefix, Request, Subnet,
        SuiteNumbers, base64, datagram::RelayHeader,
    },
};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = NodeName> {
    "[A-Za-z0-9_]{1,20}".prop_map(|text| NodeName::new(&text).expect("name characters only"))
}

fn two_names() -> impl Strategy<Value = (NodeName, NodeName)> {
    (name(), name()).prop_filter("an edge has two ends", |(a, b)| a != b)
}

fn prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        any::<[u8; 6]>().prop_map(Prefix::Mac),
        (any::<Ipv4Addr>(), 0..=32_u8).prop_map(|(a, len)| Prefix::V4(a, len)),
        (any::<Ipv6Addr>(), 0..=128_u8).prop_map(|(a, len)| Prefix::V6(a, len)),
    ]
}

fn subnet() -> impl Strategy<Value = Subnet> {
    let weight = prop_oneof![Just(10), any::<i32>()];
    (prefix(), weight).prop_map(|(prefix, weight)| Subnet { prefix, weight })
}

fn address() -> impl Strategy<Value = EdgeAddress> {
    prop_oneof![
        any::<SocketAddr>().prop_map(EdgeAddress::from),
        Just(EdgeAddress::unspec()),
        ("[!-~]{1,20}", "[!-~]{1,20}").prop_map(|(host, port)| EdgeAddress::parse(&host, &port)),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..100)
}

/// A word that is neither base64 nor hex.
fn odd_word() -> impl Strategy<Value = String> {
    "[!-~]{0,20}\\."
}

fn key_request() -> impl Strategy<Value = KeyRequest> {
    let known = prop::sample::select(vec![15, 20, 21, 32, 33, 34, 35]);
    let unknown = any::<i32>().prop_filter("no known number", |ext| !(15..=35).contains(ext));
    prop_oneof![
        Just(KeyRequest::Legacy),
        (bytes(), any::<bool>()).prop_map(|(kex, meshd)| KeyRequest::Start { kex, meshd }),
        Just(KeyRequest::ReqPubkey),
        any::<[u8; 32]>().prop_map(KeyRequest::AnsPubkey),
        bytes().prop_map(KeyRequest::Packet),
        bytes().prop_map(KeyRequest::NativeAsk),
        bytes().prop_map(KeyRequest::NativeAnswer),
        bytes().prop_map(KeyRequest::NativeConfirm),
        bytes().prop_map(KeyRequest::NativeQuery),
        (known, odd_word()).prop_map(|(ext, text)| KeyRequest::Other { ext, text }),
        (unknown, "[!-~]{0,20}").prop_map(|(ext, text)| KeyRequest::Other { ext, text }),
    ]
}

fn key_answer() -> impl Strategy<Value = KeyAnswer> {
    let suite = || any::<[i32; 4]>().prop_map(SuiteNumbers::from);
    let legacy = suite().prop_filter("not the number of SPTPS", |suite| suite.cipher != -1);
    prop_oneof![
        (bytes(), any::<i32>()).prop_map(|(datagram, compression)| KeyAnswer::Sptps {
            datagram,
            compression
        }),
        (bytes(), legacy).prop_map(|(key, suite)| KeyAnswer::Legacy { key, suite }),
        (odd_word(), suite()).prop_map(|(key, suite)| KeyAnswer::Other { key, suite }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u16>(), any::<i32>(), any::<u32>()).prop_map(|(port, weight, options)| {
            Request::Ack {
                port,
                weight,
                options: Options(options),
            }
        }),
        Just(Request::TermReq),
        Just(Request::Ping),
        Just(Request::Pong),
        (name(), subnet()).prop_map(|(owner, subnet)| Request::AddSubnet { owner, subnet }),
        (name(), subnet()).prop_map(|(owner, subnet)| Request::DelSubnet { owner, subnet }),
        (
            two_names(),
            address(),
            any::<(u32, i32)>(),
            prop::option::of(address())
        )
            .prop_map(|((from, to), address, (options, weight), local)| {
                Request::AddEdge {
                    from,
                    to,
                    address,
                    options: Options(options),
                    weight,
                    local,
                }
            }),
        two_names().prop_map(|(from, to)| Request::DelEdge { from, to }),
        name().prop_map(|origin| Request::KeyChanged { origin }),
        (name(), name(), key_request()).prop_map(|(from, to, payload)| Request::ReqKey {
            from,
            to,
            payload
        }),
        (name(), name(), key_answer(), prop::option::of(address())).prop_map(
            |(from, to, payload, address)| Request::AnsKey {
                from,
                to,
                payload,
                address,
            }
        ),
        any::<i32>().prop_map(|length| Request::Packet { length }),
        any::<i32>().prop_map(|length| Request::SptpsPacket { length }),
        (name(), name(), address()).prop_map(|(from, to, address)| Request::UdpInfo {
            from,
            to,
            address
        }),
        (name(), name(), any::<i32>()).prop_map(|(from, to, mtu)| Request::MtuInfo {
            from,
            to,
            mtu
        }),
    ]
}

proptest! {
    #[test]
    fn a_line_is_read_as_it_was_meant(request in request(), nonce in 0..1_u32 << 31) {
        let line = request.line(nonce);
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(Request::parse(line.as_bytes()), Ok(request));
    }

    #[test]
    fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Request::parse(&line);
    }

    /// A value that we parsed and print again means the same to the next node.
    #[test]
    fn what_was_read_can_be_printed(
        number in 0..25_u32,
        words in prop::collection::vec("[!-~]{1,8}|-?[0-9a-f]{1,12}|10\\.[0-9.]{5}/[0-9]{1,2}", 0..10),
    ) {
        let line = format!("{number} {}", words.join(" "));
        if let Ok(request) = Request::parse(line.as_bytes()) {
            prop_assert_eq!(Request::parse(request.line(7).as_bytes()), Ok(request));
        }
    }

    /// The same for REQ_KEY and ANS_KEY, whose payloads are decoded. A log shows none of their keys.
    #[test]
    fn payloads_of_strangers_are_printed_and_hidden(
        start in prop::sample::select(vec![
            "15 a b", "15 a b 15", "15 a b 20", "15 a b 21", "15 a b 34", "15 a b 0", "16 a b",
        ]),
        secret in "[A-Za-z0-9+/_-]{20,50}|[!-~]{20,50}|[0-9a-fA-F]{20,50}",
        rest in prop::collection::vec("meshd|-1|[0-9]{1,11}|[!-~]{1,8}", 0..7),
    ) {
        let line = format!("{start} {secret} {}", rest.join(" "));
        if let Ok(request) = Request::parse(line.as_bytes()) {
            prop_assert_eq!(Request::parse(request.line(7).as_bytes()), Ok(request.clone()));
            let shown = request.without_key().expect("both have keys");
            let mut words = shown.split(' ');
            prop_assert!(words.all(|word| word != secret), "{}", shown);
            let bare = start == "15 a b";
            prop_assert!(bare || shown.contains(" KEY"), "{}", shown);
        }
    }

    #[test]
    fn base64_gives_back_what_it_got(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(base64::decode(&base64::encode(&bytes)), Some(bytes.clone()));
        prop_assert_eq!(base64::decode(&base64::encode_url(&bytes)), Some(bytes));
    }

    #[test]
    fn base64_takes_its_own_digits_only(text in "[A-Za-z0-9+/_-]{0,20}|\\PC{0,20}") {
        let valid = text.len() % 4 != 1
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/-_".contains(&b));
        let decoded = base64::decode(&text);
        prop_assert_eq!(decoded.is_some(), valid);
        prop_assert_eq!(decoded.map_or(0, |d| d.len()), if valid { text.len() * 3 / 4 } else { 0 });
    }

    #[test]
    fn relay_headers(bytes in prop::collection::vec(any::<u8>(), 0..30), to: [u8; 6], from: [u8; 6]) {
        if let Some(header) = RelayHeader::parse(&bytes) {
            prop_assert!(bytes.starts_with(&header.to_bytes()));
        }
        let header = RelayHeader { to: NodeId(to), from: NodeId(from) };
        prop_assert_eq!(RelayHeader::parse(&header.to_bytes()), Some(header));
    }

    #[test]
    fn names_are_file_names(text in "\\PC{0,20}|[A-Za-z0-9_]{1,300}") {
        let valid = (1..=255).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_'));
        prop_assert_eq!(NodeName::new(&text).is_ok(), valid);
    }

    #[test]
    fn subnets_are_read_as_they_were_meant(subnet in subnet()) {
        prop_assert_eq!(subnet.to_string().parse(), Ok(subnet));
    }

    #[test]
    fn no_subnet_panics(text in "\\PC{0,30}") {
        let _ = text.parse::<Subnet>();
    }
}

/// T08: a million generated strings mean what they mean to `std::net`.
#[test]
fn subnets_agree_with_std() {
    let mut rng = Rng::new([8; 32]);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..1_000_000 {
        let text = subnet_text(&mut rng);
        let subnet = text.parse::<Subnet>().ok();
        // Six groups of an IPv6 address are a MAC.
        let subnet = subnet.filter(|subnet| !matches!(subnet.prefix, Prefix::Mac(_)));
        assert_eq!(subnet, reference(&text), "{text}");
        *(if subnet.is_some() {
            &mut good
        } else {
            &mut bad
        }) += 1;
    }
    assert!(good > 100_000 && bad > 100_000, "{good} good, {bad} bad");
}

/// An IP subnet, often slightly off.
fn subnet_text(rng: &mut Rng) -> String {
    let mut text = match rng.below(2) {
        0 => Ipv4Addr::from(rng.bytes()).to_string(),
        // Few set bits, so that `::` stands anywhere.
        _ => {
            let bits = u128::from_be_bytes(rng.bytes()) & u128::from_be_bytes(rng.bytes());
            let mask = (0..8).fold(0, |mask, _| {
                (mask << 16) | (u128::from(rng.below(2)) * 0xffff)
            });
            Ipv6Addr::from_bits(bits & mask).to_string()
        }
    };
    if rng.below(2) == 0 {
        text += &format!("/{}", i64::from(rng.below(140)) - 5);
    }
    if rng.below(2) == 0 {
        text += &format!("#{}", i64::from(rng.below(u32::MAX)) - (1 << 30));
    }
    if rng.below(2) == 0 {
        const INSERTS: &[u8] = b"0123456789abcdefx:./#+- %";
        let at = rng.below(text.len() as u32 + 1) as usize;
        match rng.below(3) {
            0 => text.truncate(at),
            1 if at < text.len() => {
                text.remove(at);
            }
            _ => {
                let insert = INSERTS[rng.below(INSERTS.len() as u32) as usize];
                text.insert(at, insert.into());
            }
        }
    }
    text
}

/// Meaning of the text, put together from the parsers of the standard library.
fn reference(text: &str) -> Option<Subnet> {
    let (rest, weight) = match text.find('#') {
        Some(at) => (&text[..at], number(&text[at + 1..])?),
        None => (text, 10),
    };
    let (addr, len) = match rest.find('/') {
        Some(at) => (&rest[..at], Some(number(&rest[at + 1..])?)),
        None => (rest, None),
    };
    let len = |max: u8| match len {
        Some(len) if (0..=max.into()).contains(&len) => Some(len as u8),
        Some(_) => None,
        None => Some(max),
    };
    // std refuses leading zeros; real daemons read up to three digits as decimal.
    let octets = addr
        .split('.')
        .map(|octet| match octet.trim_start_matches('0') {
            "" if octet.starts_with('0') && octet.len() <= 3 => "0",
            short if octet.len() <= 3 => short,
            _ => "x",
        });
    let unpadded = octets.collect::<Vec<_>>().join(".");
    let addr = if addr.contains(':') { addr } else { &unpadded };
    let prefix = match addr.parse() {
        Ok(IpAddr::V4(addr)) => Prefix::V4(addr, len(32)?),
        Ok(IpAddr::V6(addr)) => Prefix::V6(addr, len(128)?),
        Err(_) => return None,
    };
    Some(Subnet { prefix, weight })
}

/// A decimal as `%d` takes it, the whole of the text.
fn number(text: &str) -> Option<i32> {
    text.trim_start_matches(' ').parse().ok()
}
