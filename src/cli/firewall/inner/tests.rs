use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn host(subnets: &[&str], role: &str) -> Arc<Host> {
    Arc::new(Host {
        subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
        labels: [("role".to_owned(), role.to_owned())].into(),
        ..Host::default()
    })
}

fn hosts() -> Hosts {
    [
        (name("db_01"), host(&["172.20.0.21"], "db")),
        (
            name("web_01"),
            host(&["172.20.0.11", "fd00::11", "02:00:00:00:00:01"], "web"),
        ),
        (name("web_02"), host(&["10.7.0.0/24"], "web")),
    ]
    .into()
}

fn inner(lines: &[&str]) -> Inner {
    let hosts = hosts();
    let rules = lines.iter().map(|line| {
        let (from, to) = line.rsplit_once(' ').unwrap();
        let line = Allow {
            from: Whom::parse(from).unwrap(),
            to: What::parse(to).unwrap(),
        };
        rule_of(&hosts, &line)
    });
    Inner {
        interface: "mesh0".into(),
        rules: rules.collect(),
    }
}

const LINES: [&str; 4] = [
    "role=web tcp/3306",
    "db_01 udp/5000-5009",
    "* icmp",
    "role=none tcp/1",
];

#[test]
fn nft_gets_a_chain_that_ends_in_drop() {
    assert_eq!(
        inner(&LINES).nft(),
        "\
\tset allow0_ip {
\t\ttype ipv4_addr
\t\tflags interval
\t\tauto-merge
\t\telements = { 172.20.0.11, 10.7.0.0/24 }
\t}
\tset allow0_ip6 {
\t\ttype ipv6_addr
\t\tflags interval
\t\tauto-merge
\t\telements = { fd00::11 }
\t}
\tset allow1_ip {
\t\ttype ipv4_addr
\t\tflags interval
\t\tauto-merge
\t\telements = { 172.20.0.21 }
\t}
\tchain mesh {
\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
\t\tip saddr @allow0_ip tcp dport 3306 accept
\t\tip6 saddr @allow0_ip6 tcp dport 3306 accept
\t\tip saddr @allow1_ip udp dport 5000-5009 accept
\t\tmeta l4proto { icmp, ipv6-icmp } accept
\t\tdrop
\t}
"
        .replace(
            "172.20.0.11, 10.7.0.0/24",
            &of_family(inner(&LINES).rules[0].from.as_ref().unwrap(), true).join(", ")
        )
    );
}

#[test]
fn ufw_gets_a_line_for_each_subnet_and_ends_by_denying() {
    let text = inner(&LINES).ufw("comment 'meshd priv'");
    for line in [
        "ufw allow in on mesh0 from 172.20.0.11 to any port 3306 proto tcp comment 'meshd priv'\n",
        "ufw route allow in on mesh0 from 10.7.0.0/24 to any port 3306 proto tcp comment 'meshd priv'\n",
        "ufw allow in on mesh0 from 172.20.0.21 to any port 5000:5009 proto udp comment 'meshd priv'\n",
        "# icmp from any: ",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(
        text.ends_with("ufw deny in on mesh0 comment 'meshd priv'\nufw route deny in on mesh0 comment 'meshd priv'\n"),
        "{text}"
    );
    let text = inner(&["* *"]).ufw("# x");
    assert_eq!(
        text,
        "ufw allow in on mesh0 from any to any # x\nufw route allow in on mesh0 from any to any # x\n"
    );
}

#[test]
fn firewalld_gets_a_zone_that_drops() {
    let text = inner(&LINES).firewalld("meshd_priv");
    for part in [
        "--delete-zone=meshd_priv ",
        "--new-zone=meshd_priv\n",
        "--set-target=DROP",
        "--add-interface=mesh0",
        "'rule family=\"ipv6\" source address=\"fd00::11\" port port=\"3306\" protocol=\"tcp\" accept'",
        "'rule family=\"ipv4\" source address=\"0.0.0.0/0\" protocol value=\"icmp\" accept'",
        "'rule family=\"ipv6\" source address=\"::/0\" protocol value=\"ipv6-icmp\" accept'",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn each_node_is_looked_at_with_what_it_may_and_what_it_may_not_reach() {
    let cases = inner(&LINES).cases(&hosts());
    let shown: Vec<String> = cases
        .iter()
        .map(|case| {
            format!(
                "{} {} {}/{} {}",
                case.node, case.address, case.protocol, case.port, case.wanted
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "db_01 172.20.0.21 tcp/1 false",
            "db_01 172.20.0.21 tcp/2 false",
            "db_01 172.20.0.21 tcp/3306 false",
            "db_01 172.20.0.21 udp/5000 true",
            "web_01 172.20.0.11 tcp/1 false",
            "web_01 172.20.0.11 tcp/2 false",
            "web_01 172.20.0.11 tcp/3306 true",
            "web_01 172.20.0.11 udp/5000 false",
            "web_02 10.7.0.1 tcp/1 false",
            "web_02 10.7.0.1 tcp/2 false",
            "web_02 10.7.0.1 tcp/3306 true",
            "web_02 10.7.0.1 udp/5000 false",
        ]
    );
    assert!(
        inner(&["* *"])
            .cases(&hosts())
            .iter()
            .all(|case| case.wanted)
    );
}
