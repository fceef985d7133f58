use std::sync::Arc;

use crate::mesh::{Settings, subnets::sources::*};
use meshd_wire::ether;

use crate::{
    link::Dialect,
    mesh::{
        Input, LinkReport,
        settings::Host,
        testing::{Net, lines_of, name, settings},
    },
    route::SourceCheck,
};

/// A member n1 beside the honest n2, both neighbours of n0; the links of n1 speak `dialect`.
fn net(dialect: Dialect, change: impl FnMut(&mut Settings)) -> Net {
    let mut all = settings(3);
    all.iter_mut().for_each(change);
    let mut net = Net::new(all);
    net.join(2, 0);
    net.dialect = dialect;
    net.join(1, 0);
    net.run(Duration::from_secs(5));
    net
}

/// Sends a frame of n1 over its link to n0 with the address of n2. Returns true if n0's device gets
/// it.
fn spoof(net: &mut Net, from: u8) -> bool {
    let packet = crate::mesh::testing::packet(from, 0, 100);
    let frame = [&ether::made_up(&packet), &*packet].concat().into();
    let link = *net.link_of(0, 1);
    net.delivered.clear();
    net.input(0, Input::Link(LinkReport::Frame { link, frame }));
    net.settle();
    !net.delivered.is_empty()
}

fn change_host(one: &mut Settings, of: u8, change: impl Fn(&mut Host)) {
    if let Some(host) = one.hosts.get_mut(&name(of)) {
        change(Arc::make_mut(host));
    }
}

/// A7: in every dialect of the member, and with any announcements.
#[test]
fn a_member_sends_from_its_own_addresses_in_every_dialect() {
    for dialect in [Dialect::Sptps, Dialect::Native] {
        let mut net = net(dialect, |_| ());
        assert!(spoof(&mut net, 1), "{dialect:?}: its own");
        assert!(!spoof(&mut net, 2), "{dialect:?}: another's");
        assert!(!spoof(&mut net, 0), "{dialect:?}: ours");
        assert!(!spoof(&mut net, 77), "{dialect:?}: nobody's");
        for line in ["10 1 n1 10.0.0.0/24", "10 2 n1 10.0.0.2"] {
            net.says(1, 0, line.into());
            net.settle();
        }
        assert!(!spoof(&mut net, 2), "{dialect:?}: {line}", line = "wider");
        assert!(
            spoof(&mut net, 77),
            "{dialect:?}: announced, and nobody else's"
        );
        net.part(2, 0);
        net.run(Duration::from_secs(2));
        assert!(!spoof(&mut net, 2), "{dialect:?}: while its owner is down");
    }
}

/// Host files with keys only: a node may send from any address that no other node owns.
#[test]
fn host_files_without_subnets_go_on_working() {
    let mut net = net(Dialect::Sptps, |one| {
        for of in 0..3 {
            change_host(one, of, |host| host.subnets.clear());
        }
    });
    assert!(spoof(&mut net, 1), "announced");
    assert!(spoof(&mut net, 77), "nobody's");
    assert!(!spoof(&mut net, 2), "announced by another");
    assert!(!spoof(&mut net, 0), "ours");
}

/// The operator is told once, with the remedy. With the remedy the packets pass.
#[test]
fn what_is_dropped_is_told_and_a_host_file_lets_it_pass() {
    let mut net = net(Dialect::Sptps, |_| ());
    let log = lines_of(|| {
        for _ in 0..5 {
            assert!(!spoof(&mut net, 2));
            net.run(Duration::from_secs(2));
        }
    });
    let log: Vec<_> = log
        .iter()
        .filter(|line| line.contains("SourceCheck"))
        .collect();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("hosts/n1"), "{log:?}");
    let mut settings = Settings::clone(&net.meshes[0].cx.settings);
    change_host(&mut settings, 1, |host| {
        host.source_check = Some(SourceCheck::No)
    });
    net.input(0, Input::Config(Arc::new(settings)));
    net.settle();
    assert!(spoof(&mut net, 2) && spoof(&mut net, 77));
}
