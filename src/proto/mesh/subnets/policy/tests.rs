use std::{sync::Arc, time::Duration};

use meshd_wire::Subnet;

use crate::mesh::{
    Input,
    reports::facts::Rule,
    settings::{Settings, SubnetPolicy},
    testing::{Net, lines_of, name, settings},
};

const SECOND: Duration = Duration::from_secs(1);

/// 0 - 1 - 2 and 0 - 3: the test checks which subnets of 2 node 1 accepts, and which ones node 0
/// forwards to 3.
fn net(change: impl Fn(&mut Settings)) -> Net {
    let mut all = settings(4);
    all.iter_mut().for_each(change);
    let mut net = Net::new(all);
    net.join(0, 1);
    net.join(1, 2);
    net.join(0, 3);
    net.run(3 * SECOND);
    net
}

fn subnets(net: &Net, at: usize, of: u8) -> Vec<String> {
    let mesh = &net.meshes[at];
    let idx = mesh.nodes.find(&name(of)).unwrap();
    let subnets = mesh.nodes[idx].subnets.iter();
    subnets.map(ToString::to_string).collect()
}

fn announce(net: &mut Net, nonce: u32, subnet: &str) {
    net.says(1, 0, format!("10 {nonce:x} n1 {subnet}").into());
    net.settle();
}

/// Announcements of n1, whose host file lists 10.0.0.1, and the policies that accept them.
#[test]
fn what_host_files_give_to_others_is_refused() {
    use SubnetPolicy::{Conflict, Covered, Open};
    for (subnet, conflict, covered) in [
        ("10.0.0.1#3", true, true),
        // A subnet without an owner.
        ("10.1.0.0/16", true, false),
        ("fd00::/64", true, false),
        // Subnets of another node in any form, and of this node.
        ("10.0.0.2", false, false),
        ("10.0.0.2#-2147483648", false, false),
        ("10.0.0.2/32#1", false, false),
        ("10.0.0.0", false, false),
        ("0.0.0.0/0", false, false),
        ("::/0", false, false),
        // Wider than another node's subnet: the narrower one wins.
        ("10.0.0.0/24", true, false),
        // Underlay addresses of nodes: 192.168.7.N.
        ("192.168.0.0/16", false, false),
        ("192.168.7.3", false, false),
        ("127.0.0.0/8", false, false),
        ("127.1.2.3", false, false),
        ("126.0.0.0/7", false, false),
        ("224.0.0.0/4", false, false),
        ("239.1.1.1", false, false),
        ("fe80::/10", false, false),
        ("fe80::1", false, false),
        ("::1", false, false),
    ] {
        for (policy, taken) in [(Open, true), (Conflict, conflict), (Covered, covered)] {
            let mut net = net(|one| one.subnet_policy = policy);
            let before = subnets(&net, 0, 1).len();
            announce(&mut net, 1, subnet);
            let what = format!("{subnet} {policy:?}");
            assert_eq!(
                subnets(&net, 0, 1).len() - before,
                usize::from(taken),
                "{what}"
            );
            // A refused subnet is not forwarded, although node 3 might accept it.
            assert_eq!(
                subnets(&net, 3, 1).len() - before,
                usize::from(taken),
                "{what}"
            );
            let refused = net.meshes[0].status().subnets_refused;
            assert_eq!(refused, u64::from(!taken), "{what}");
        }
    }
}

/// T20: a thief gets none of the owner's packets, whether the owner is up or down. The operator is
/// told once.
#[test]
fn a_thief_gets_no_packet_while_the_owner_is_up_or_away() {
    for (policy, stolen) in [(SubnetPolicy::Open, true), (SubnetPolicy::Conflict, false)] {
        let mut net = net(|one| one.subnet_policy = policy);
        let log = lines_of(|| {
            for (n, subnet) in ["10.0.0.2#-5", "10.0.0.2#1", "0.0.0.0/0"]
                .iter()
                .enumerate()
            {
                announce(&mut net, n as u32 + 1, subnet);
            }
            net.run(SECOND);
        });
        let refused = log.iter().filter(|line| line.contains("subnet refused"));
        assert_eq!(refused.count(), usize::from(!stolen));
        let before = [1, 2].map(|to| net.row(0, to).traffic.tx_packets);
        for second in 0..20 {
            if second == 10 {
                net.part(1, 2);
                net.run(SECOND);
            }
            net.send(0, 2, 100);
            net.run(SECOND);
        }
        // In a tunnel with the thief, or with the owner via the thief as a relay.
        let [thief, owner] =
            [1, 2].map(|to| net.row(0, to).traffic.tx_packets - before[to as usize - 1]);
        let expected = if stolen { (20, 0) } else { (0, 10) };
        assert_eq!((thief, owner), expected, "{policy:?}");
    }
}

/// A reload that lists the subnet accepts it, and the other way round. A subnet that was withdrawn
/// in the meantime stays out.
#[test]
fn a_reload_judges_anew() {
    let mut net = net(|_| {});
    announce(&mut net, 1, "10.0.0.2");
    announce(&mut net, 2, "10.0.0.3");
    net.says(1, 0, "11 3 n1 10.0.0.3".into());
    net.settle();
    assert_eq!(subnets(&net, 0, 1), ["10.0.0.1"]);
    let old = net.meshes[0].cx.settings.clone();
    let mut given = Settings::clone(&old);
    let mut host = (*given.hosts[&name(1)]).clone();
    for line in ["10.0.0.2", "10.0.0.3"] {
        host.subnets.push(line.parse().unwrap());
    }
    given.hosts.insert(name(1), Arc::new(host));
    for (settings, expected) in [
        (Arc::new(given), &["10.0.0.1", "10.0.0.2"][..]),
        (old, &["10.0.0.1"][..]),
    ] {
        let now = net.now;
        // An honest n1 would answer that the subnet is not its own.
        net.meshes[0].handle(Input::Config(settings), now);
        assert_eq!(subnets(&net, 0, 1), expected);
    }
}

/// Subnet `n` of n1.
fn nth(n: usize) -> String {
    format!("172.{}.{}.0/24", 16 + n / 256, n % 256)
}

/// The host file of n1 lists `count` of them.
fn list(one: &mut Settings, count: usize) {
    if let Some(host) = one.hosts.get_mut(&name(1)) {
        let lines = (0..count).map(|n| nth(n).parse::<Subnet>().unwrap());
        Arc::make_mut(host).subnets.extend(lines);
    }
}

/// B4: of 2,000 subnets all are accepted if the host file lists them, else 1,024. Refused ones are
/// reported, and a reload that lists them accepts them.
#[test]
fn what_host_files_list_counts_against_no_bound() {
    for (listed, taken) in [(0, 1_024), (500, 1_524), (2_000, 2_000)] {
        let mut made = None;
        let log = lines_of(|| {
            made = Some(net(|one| {
                list(one, listed);
                if one.name == name(1) {
                    let lines = (0..2_000).map(|n| nth(n).parse::<Subnet>().unwrap());
                    one.subnets.extend(lines);
                }
            }));
        });
        let mut net = made.unwrap();
        let mesh = &net.meshes[0];
        // Besides 10.0.0.1, which is listed.
        assert_eq!(subnets(&net, 0, 1).len(), taken + 1, "{listed} listed");
        assert_eq!(subnets(&net, 3, 1).len(), taken + 1, "{listed} listed");
        let refused = mesh.refused_subnets();
        assert_eq!(refused.len(), 2_000 - taken);
        assert!(refused.iter().all(|row| row.rule == Rule::Bound));
        assert_eq!(mesh.status().refused, refused.len() as u64);
        let log = log.iter().filter(|line| line.contains("subnet refused"));
        // By n0 and n2, each once a minute. n3 hears only of subnets that n0 accepts.
        assert_eq!(log.count(), if taken < 2_000 { 2 } else { 0 });
        let mut ours = settings(4).remove(0);
        list(&mut ours, 2_000);
        net.input(0, Input::Config(Arc::new(ours)));
        net.run(SECOND);
        assert_eq!(subnets(&net, 0, 1).len(), 2_001, "{listed} listed before");
        assert_eq!(net.meshes[0].refused_subnets(), []);
        assert_eq!(net.meshes[0].subnets.aside, 0);
    }
}

/// A line of a file stands only for itself: with other weights the number would be unlimited.
#[test]
fn a_listed_subnet_with_other_weights_counts() {
    let mut net = net(|_| {});
    for weight in 0..2_000 {
        let line = format!("10 {:x} n1 10.0.0.1#{}", weight + 1, weight + 11);
        net.says(1, 0, line.into());
    }
    net.run(SECOND);
    assert_eq!(subnets(&net, 0, 1).len(), 1_025);
}
