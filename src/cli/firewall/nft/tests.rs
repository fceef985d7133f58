use serde_json::json;

use super::*;

/// As nft 1.0.6 prints it: `nft -j list ruleset` after these rules.
///
/// ```text
/// table inet filter {
///   set peers { type ipv4_addr; flags interval; elements = { 10.132.0.0/24 } }
///   chain mesh { ip saddr 10.132.0.21 accept; return; }
///   chain input { type filter hook input priority 0; policy drop;
///     iifname "lo" accept
///     ct state established,related accept
///     ct state vmap { invalid : drop }
///     iifname "eth1" tcp dport 22 accept
///     udp dport { 655, 700-710 } jump mesh
///     tcp dport 655 ip saddr @peers accept
///     udp dport 900 limit rate 5/second accept
///   }
/// }
/// ```
fn ruleset() -> Value {
    let rule = |chain: &str, handle: u64, expr: Value| json!({"rule": {"family": "inet", "table": "filter", "chain": chain, "handle": handle, "expr": expr}});
    let matches =
        |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let payload =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    json!({"nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter", "handle": 1}},
        {"set": {"family": "inet", "name": "peers", "table": "filter", "type": "ipv4_addr", "handle": 3, "flags": ["interval"],
            "elem": [{"prefix": {"addr": "10.132.0.0", "len": 24}}]}},
        {"chain": {"family": "inet", "table": "filter", "name": "mesh", "handle": 1}},
        {"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        rule("mesh", 4, json!([matches(payload("ip", "saddr"), json!("10.132.0.21")), {"accept": null}])),
        rule("mesh", 5, json!([{"return": null}])),
        rule("input", 6, json!([matches(json!({"meta": {"key": "iifname"}}), json!("lo")), {"accept": null}])),
        rule("input", 7, json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}])),
        rule("input", 9, json!([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}]]}}}])),
        rule("input", 12, json!([matches(json!({"meta": {"key": "iifname"}}), json!("eth1")), matches(payload("tcp", "dport"), json!(22)), {"accept": null}])),
        rule("input", 14, json!([matches(payload("udp", "dport"), json!({"set": [655, {"range": [700, 710]}]})), {"jump": {"target": "mesh"}}])),
        rule("input", 15, json!([matches(payload("tcp", "dport"), json!(655)), matches(payload("ip", "saddr"), json!("@peers")), {"accept": null}])),
        rule("input", 16, json!([matches(payload("udp", "dport"), json!(900)), {"limit": {"rate": 5, "burst": 5, "per": "second"}}, {"accept": null}])),
    ]})
}

#[test]
fn a_packet_has_the_fate_that_the_rules_give_it() {
    let policy = || Fate::Dropped("policy drop of inet filter input".into());
    let unknown = |handle: u64| Fate::Unknown(format!("rule {handle} of inet filter input"));
    for (protocol, port, from, fate) in [
        ("udp", 655, Some("10.132.0.21"), Fate::Accepted),
        ("udp", 705, Some("10.132.0.21"), Fate::Accepted),
        ("udp", 711, Some("10.132.0.21"), policy()),
        ("udp", 655, Some("10.132.0.22"), policy()),
        (
            "udp",
            655,
            None,
            Fate::Unknown("rule 4 of inet filter mesh".into()),
        ),
        ("udp", 655, Some("fd00::1"), policy()),
        ("tcp", 655, Some("10.132.0.99"), Fate::Accepted),
        ("tcp", 655, Some("10.133.0.99"), policy()),
        // The interface is not known.
        ("tcp", 22, Some("10.132.0.21"), unknown(12)),
        ("udp", 900, Some("10.132.0.21"), unknown(16)),
        ("tcp", 900, Some("10.132.0.21"), policy()),
    ] {
        let from_ip = from.map(|from| from.parse().unwrap());
        let packet = Packet {
            protocol,
            port,
            from: from_ip,
            interface: None,
        };
        assert_eq!(
            super::fate(&ruleset(), packet),
            fate,
            "{protocol} {port} {from:?}"
        );
    }
}

#[test]
fn the_interface_counts_where_it_is_known() {
    for (interface, fate) in [
        ("eth1", Fate::Accepted),
        (
            "eth0",
            Fate::Dropped("policy drop of inet filter input".into()),
        ),
    ] {
        let packet = Packet {
            protocol: "tcp",
            port: 22,
            from: None,
            interface: Some(interface),
        };
        assert_eq!(super::fate(&ruleset(), packet), fate);
        let mut wild = ruleset();
        wild["nftables"][10]["rule"]["expr"][0]["match"]["right"] = json!("eth1*");
        assert_eq!(super::fate(&wild, packet), fate);
        // ICMP matches do not apply to this packet.
        let mut icmp = ruleset();
        icmp["nftables"][7]["rule"]["expr"] = json!([
            {"match": {"op": "==", "left": {"payload": {"protocol": "icmpv6", "field": "type"}}, "right": "nd-neighbor-solicit"}},
            {"accept": null}
        ]);
        assert_eq!(super::fate(&icmp, packet), fate);
    }
}

#[test]
fn no_rules_and_no_sense_let_everything_in_and_never_panic() {
    let packet = Packet {
        protocol: "udp",
        port: 655,
        from: None,
        interface: None,
    };
    for ruleset in [
        json!({}),
        json!(null),
        json!({"nftables": [7, {"chain": 1}, {"rule": {"expr": 3}}]}),
        json!({"nftables": [{"metainfo": {}}]}),
    ] {
        assert_eq!(fate(&ruleset, packet), Fate::Accepted);
    }
    let mut endless = ruleset();
    let all = endless["nftables"].as_array_mut().unwrap();
    all[6]["rule"]["expr"] = json!([{"jump": {"target": "mesh"}}]);
    let packet = Packet {
        from: Some([10, 0, 0, 1].into()),
        ..packet
    };
    assert!(matches!(fate(&endless, packet), Fate::Dropped(_)));
}

/// Rules of ufw and firewalld through iptables, which nft cannot translate.
#[test]
fn what_is_not_understood_and_may_decide_leaves_it_open() {
    let mut rules = ruleset();
    let all = rules["nftables"].as_array_mut().unwrap();
    let packet = Packet {
        protocol: "tcp",
        port: 655,
        from: Some([10, 132, 0, 9].into()),
        interface: None,
    };
    let xt = json!({"xt": {"type": "match", "name": "addrtype"}});
    all[12]["rule"]["expr"] = json!([xt, {"accept": null}]);
    assert_eq!(
        fate(&rules, packet),
        Fate::Unknown("rule 15 of inet filter input".into())
    );
    // Dropped, whether that rule matches or not.
    rules["nftables"][12]["rule"]["expr"] = json!([xt, {"drop": null}]);
    assert_eq!(
        fate(&rules, packet),
        Fate::Dropped("policy drop of inet filter input".into())
    );
}
