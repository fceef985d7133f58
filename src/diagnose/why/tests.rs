use meshd_api::{
    proto::SubnetRow,
    report::{DialFailureRow, DialReport, MtuReport, RefusedRow, UdpReport, UnprovenRow},
    rows::{PeerRow, Reason},
};
use meshd_proto::{
    dialect::Dialect::{self, Legacy, Native, Sptps},
    mesh::reports::facts::{DialFault, HostFile, Rule},
};

use meshd_wire::{NodeName, subnet::Prefix};

use super::*;
use crate::Severity;

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn subnet(subnet: &str, owner: &str, weight: i32, active: bool) -> SubnetRow {
    SubnetRow {
        subnet: prefix(subnet),
        weight,
        owner: Some(owner.into()),
        reachable: true,
        active,
    }
}

/// A node in order, seen by our daemon.
pub(crate) fn report() -> NodeReport {
    NodeReport {
        peer: PeerRow {
            name: "db_02".into(),
            up: true,
            path: PathKind::Udp,
            protocol: Some(Native),
            link: Some(Native),
            offers: Some(Native),
            min_protocol: Some(Sptps),
            host_file: HostFile::Key,
            ..PeerRow::default()
        },
        pair: PathReport {
            up: true,
            path: PathKind::Udp,
            rtt_seconds: Some(0.0005),
            protocol: Some(Native),
            udp: UdpReport {
                address: "10.132.0.22:655".parse().ok(),
                confirmed: true,
                heard: 9,
                heard_seconds: Some(1.0),
                ..UdpReport::default()
            },
            mtu: MtuReport {
                proven_bytes: Some(1440),
                fixed: true,
                too_small: false,
            },
            ..PathReport::default()
        },
        fingerprint: Some("SHA256:77abcdefghijk".into()),
        addresses: vec!["10.132.0.22 port 655".into()],
        listed: vec![prefix("172.20.0.22")],
        udp_discovery: true,
        may_ask: true,
        ..NodeReport::default()
    }
}

pub(crate) fn facts() -> PathFacts {
    PathFacts {
        here: Here {
            node: "web_01".into(),
            net: Some("priv".into()),
            pid: None,
            main: "tinc.conf".into(),
        },
        not_listening: Vec::new(),
        target: Target {
            node: NodeName::new("db_02").unwrap(),
            asked: None,
            subnets: vec![subnet("172.20.0.22", "db_02", 10, true)],
            refused: None,
        },
        disk: Disk {
            file: Some(Ok(HostFile::Key)),
            fingerprint: Some("SHA256:77abcdefghijk".into()),
            addresses: vec!["10.132.0.22 port 655".into()],
            subnets: vec![prefix("172.20.0.22")],
            ..Disk::default()
        },
        report: Some(report()),
        there: There::NotAsked,
        silent_since: None,
        kernel: Kernel::To {
            address: "172.20.0.22".into(),
            interface: "mesh0".into(),
            ours: "mesh0".into(),
            source: Some("172.20.0.11".into()),
        },
        firewall: Firewall::Open("655/udp and 655/tcp are open here (nft)".into()),
    }
}

fn with(change: impl FnOnce(&mut PathFacts)) -> PathFacts {
    let mut facts = facts();
    change(&mut facts);
    facts
}

/// As [`facts`], with another sight.
fn seen(change: impl FnOnce(&mut NodeReport)) -> PathFacts {
    with(|facts| change(facts.report.as_mut().unwrap()))
}

/// Down, as far as the graph knows.
fn down(change: impl FnOnce(&mut NodeReport)) -> PathFacts {
    seen(|seen| {
        seen.peer.up = false;
        seen.peer.link = None;
        seen.peer.protocol = None;
        seen.pair = PathReport {
            protocol: None,
            ..PathReport::default()
        };
        change(seen);
    })
}

fn missed(fault: DialFault, text: &str) -> Option<DialFailureRow> {
    let text = text.into();
    let seconds = 3.0;
    Some(DialFailureRow {
        fault,
        text,
        seconds,
    })
}

fn dialled_later() -> Option<DialReport> {
    Some(DialReport {
        next_seconds: Some(12.0),
        now: None,
    })
}

/// No answer by UDP, so over TCP.
fn silent(change: impl FnOnce(&mut PathFacts)) -> PathFacts {
    let mut facts = seen(|seen| {
        seen.peer.path = PathKind::Tcp;
        seen.pair.path = PathKind::Tcp;
        seen.pair.udp.confirmed = false;
        seen.pair.udp.unanswered = 9;
        seen.pair.udp.silent_seconds = Some(40.0);
        seen.pair.mtu = MtuReport::default();
    });
    facts.silent_since = Some("03:12:44".into());
    change(&mut facts);
    facts
}

fn says(heard: Option<f64>) -> There {
    let mut pair = report().pair;
    pair.udp.confirmed = false;
    pair.udp.heard_seconds = heard;
    There::Says(Box::new(pair))
}

pub(crate) fn reason(code: &str, text: &str) -> Option<Reason> {
    let (code, text) = (code.into(), text.into());
    Some(Reason { code, text })
}

fn speaks(seen: &mut NodeReport, spoken: Option<Dialect>, offers: Dialect) {
    seen.peer.protocol = spoken;
    seen.pair.protocol = spoken;
    seen.peer.link = spoken;
    seen.peer.offers = Some(offers);
}

fn offline(change: impl FnOnce(&mut PathFacts)) -> PathFacts {
    let mut facts = with(|facts| {
        facts.report = None;
        facts.kernel = Kernel::Unchecked("meshd was not asked".into());
        facts.firewall = Firewall::Unchecked("meshd was not asked".into());
        facts.target.subnets[0].active = false;
    });
    change(&mut facts);
    facts
}

/// The first broken step, and parts of its sentence and of the advice; `None`: fine, with parts of everything said.
type Expected = (Option<Step>, &'static [&'static str]);

/// Returns a verdict as `meshctl why` prints it.
pub(crate) fn lines(verdict: &Verdict) -> String {
    let mut lines = vec![verdict.headline.clone()];
    lines.extend(verdict.steps.iter().map(|step| {
        let mark = match step.severity {
            Severity::Fine => "✓",
            Severity::Note => "-",
            Severity::Warning | Severity::Critical => "✗",
        };
        let label = step.step().unwrap().label();
        format!(" {mark} {label:12}  {}", step.text)
    }));
    lines.push(format!(" → {}", verdict.advice));
    lines.join("\n")
}

fn check(what: &str, facts: &PathFacts, (broken, parts): Expected) {
    let verdict = judge(facts);
    let shown = lines(&verdict);
    let found = verdict.broken().and_then(Finding::step);
    assert_eq!(found, broken, "{what}:\n{shown}");
    for part in parts {
        assert!(shown.contains(part), "{what}: {part:?} is not in\n{shown}");
    }
    assert!(!verdict.advice.is_empty(), "{what}");
    assert_eq!(verdict.steps.len(), 10, "{what}");
}

/// Findings of every case.
pub(crate) fn all() -> Vec<Finding> {
    let cases = cases().into_iter();
    let mut all: Vec<Finding> = cases.flat_map(|(_, facts, _)| facts.steps()).collect();
    let ours = ourselves(&facts().here, &facts().target);
    let unknown = unknown(
        "x",
        &Unknown {
            text: "there is no node \"x\"".into(),
            remedy: String::new(),
        },
    );
    all.extend(
        [ours, unknown]
            .into_iter()
            .flat_map(|verdict| verdict.steps),
    );
    all
}

const NOT_PROVEN: &str = "10.132.0.22:655: no authentication within 5 s";

#[rustfmt::skip]
fn cases() -> Vec<(&'static str, PathFacts, Expected)> {
    use Step::{Endpoint, Firewall as Fire, Key, LocalRoute, MetaPath, PathMtu, SubnetOwner, Trust, UdpProbe};
    vec![
        // All is well.
        ("in order", facts(), (None, &["db_02 172.20.0.22: reachable by UDP", "✓ key", "proven on its link", "web_01 -> db_02, direct, rtt 0.5ms",
            "172.20.0.22 listed in hosts/db_02", "10.132.0.22:655 answers", "packets of 1440 bytes pass", "dev mesh0, source 172.20.0.11", "`meshctl -n priv ping db_02`"])),
        ("no neighbour, in order", seen(|s| { s.peer.link = None; s.nexthop = Some("lb_01".into()); }), (None, &["proven in its tunnel", "web_01 -> lb_01 -> … -> db_02"])),
        ("relayed, as meant", seen(|s| { s.peer.link = None; s.nexthop = Some("lb_01".into()); s.pair.path = PathKind::Via; s.pair.via = Some("lb_01".into());
            s.pair.indirect = true; s.pair.udp.confirmed = false; }), (None, &["reachable through lb_01", "web_01 -> lb_01 -> db_02", "- udp probe", "IndirectData"])),
        ("TCPOnly here", silent(|f| { f.report.as_mut().unwrap().pair.tcp_only_here = true; f.disk.tcp_only_place = Some("tinc.conf:4".into()); }),
            (None, &["over TCP, as TCPOnly says", "TCPOnly is set here (tinc.conf:4)"])),
        ("TCPOnly there", silent(|f| f.report.as_mut().unwrap().pair.tcp_only_there = true), (None, &["db_02 sets TCPOnly"])),
        ("UDPDiscovery = no", silent(|f| f.report.as_mut().unwrap().udp_discovery = false), (None, &["UDPDiscovery = no"])),
        ("a legacy peer", seen(|s| { speaks(s, Some(Legacy), Legacy); s.peer.host_file = HostFile::NoKey; s.peer.min_protocol = Some(Legacy); s.fingerprint = None; s.may_ask = false; }),
            (Some(Key), &["the present hosts/db_02 is not in force"])),
        ("a legacy peer, as its file says", with(|f| { f.disk.file = Some(Ok(HostFile::NoKey)); f.disk.fingerprint = None; let s = f.report.as_mut().unwrap();
            speaks(s, Some(Legacy), Legacy); s.peer.host_file = HostFile::NoKey; s.peer.min_protocol = Some(Legacy); s.fingerprint = None; }), (None, &["RSA, for legacy, proven on its link"])),
        ("a legacy peer by hearsay", with(|f| { f.disk.file = Some(Ok(HostFile::Missing)); f.disk.fingerprint = None; let s = f.report.as_mut().unwrap();
            speaks(s, Some(Legacy), Legacy); s.peer.link = None; s.peer.host_file = HostFile::Missing; s.peer.min_protocol = Some(Legacy); s.fingerprint = None; }), (None, &["legacy, as announced by its neighbours"])),
        ("a tincd", seen(|s| { speaks(s, Some(Sptps), Sptps); s.may_ask = false; }), (None, &["reachable by UDP"])),
        ("MTU still searched", seen(|s| s.pair.mtu = MtuReport { proven_bytes: Some(1000), fixed: false, too_small: false }), (None, &["- pmtu", "search runs; 1000 bytes pass"])),
        ("a narrow way", seen(|s| s.pair.mtu.proven_bytes = Some(1219)), (None, &["packets of 1219 bytes pass"])),
        ("a relay without subnets", with(|f| { f.target.subnets.clear(); f.kernel = Kernel::Unchecked("there is no address to look up".into()); }), (None, &["db_02: reachable by UDP", "- trust", "- subnet owner", "- local route"])),
        ("no rights to see the firewall", with(|f| f.firewall = Firewall::Unchecked("nft: not permitted".into())), (None, &["- firewall", "not checked: nft: not permitted"])),
        ("a firewall that nobody understands", with(|f| f.firewall = Firewall::Unsure("655/udp: not known".into())), (None, &["- firewall", "not known"])),
        ("closed for strangers, but it answers", with(|f| f.firewall = Firewall::Closed("655/udp is closed here".into())), (None, &["packets still pass"])),
        ("idle", silent(|f| f.report.as_mut().unwrap().pair.udp.unanswered = 0), (None, &["- udp probe", "no traffic"])),
        ("asked by address", with(|f| f.target.asked = Some("172.20.0.22".into())), (None, &["172.20.0.22 is in 172.20.0.22 of db_02", "172.20.0.22 -> db_02 (weight 10)"])),
        ("with a standby", with(|f| { f.target.asked = Some("10.7.0.9".into()); f.target.subnets = vec![subnet("10.7.0.0/24", "db_02", 10, true), subnet("10.7.0.0/24", "gw_03", 20, false)]; }),
            (None, &["10.7.0.0/24 -> db_02 (weight 10); standby gw_03 (weight 20)"])),
        ("itself the standby", with(|f| f.target.subnets.push(subnet("172.20.0.22", "gw_03", 5, true))), (None, &["172.20.0.22 goes to gw_03 (weight 5)"])),
        ("believed though not listed", seen(|s| s.listed.clear()), (None, &["announced by db_02, listed for no other node"])),
        ("host files are not ours to read", with(|f| f.disk = Disk::default()), (None, &["✓ key"])),
        // Key.
        ("no host file", with(|f| { f.disk.file = Some(Ok(HostFile::Missing)); f.disk.fingerprint = None; let s = f.report.as_mut().unwrap(); s.peer.host_file = HostFile::Missing; s.fingerprint = None; }),
            (Some(Key), &["there is no hosts/db_02 here", "Copy hosts/db_02 from db_02, then `meshctl -n priv reload`"])),
        ("a host file without key", with(|f| { f.disk.file = Some(Ok(HostFile::NoKey)); f.disk.fingerprint = None; let s = f.report.as_mut().unwrap(); s.peer.host_file = HostFile::NoKey; s.fingerprint = None; }),
            (Some(Key), &["no Ed25519PublicKey in hosts/db_02"])),
        ("it has told its key", with(|f| { f.disk.file = Some(Ok(HostFile::NoKey)); f.disk.fingerprint = None; let s = f.report.as_mut().unwrap(); s.peer.host_file = HostFile::NoKey;
            s.fingerprint = None; s.peer.reason = reason("no_key", "it says `Ed25519PublicKey = X`"); }), (Some(Key), &["it says `Ed25519PublicKey = X`"])),
        ("a broken host file", with(|f| f.disk.file = Some(Err("hosts/db_02:3: bad key".into()))), (Some(Key), &["hosts/db_02:3: bad key", "`meshctl -n priv check`"])),
        ("the file was changed and not read", with(|f| f.disk.fingerprint = Some("SHA256:other".into())), (Some(Key), &["the present hosts/db_02 is not in force", "`meshctl -n priv reload`"])),
        ("the file is new and not read", seen(|s| { s.peer.host_file = HostFile::Missing; s.fingerprint = None; }), (Some(Key), &["not in force"])),
        ("another key there, seen when we dial", down(|s| s.missed = missed(DialFault::Handshake, NOT_PROVEN)), (Some(Key), &["a peer answers, but it lacks the key", NOT_PROVEN, "Compare the keys"])),
        ("another node at that address", down(|s| s.missed = missed(DialFault::Handshake, "old_03 answered where db_02 was called")), (Some(Key), &["old_03 answered"])),
        ("another key there, seen when it dials", down(|s| s.unproven = Some(UnprovenRow { address: "10.132.0.22:40000".parse().unwrap(), text: "bad signature".into(), seconds: 2.0 })),
            (Some(Key), &["a peer at 10.132.0.22:40000 connected as db_02", "2s ago: bad signature"])),
        ("it does not know our key", down(|s| s.missed = missed(DialFault::Handshake, "db_02 does not know our Ed25519 key: put hosts/web_01 there")), (Some(Key), &["does not know our Ed25519 key"])),
        ("a stranger under its name, while it is proven", seen(|s| s.unproven = Some(UnprovenRow { address: "192.0.2.9:1".parse().unwrap(), text: "no".into(), seconds: 2.0 })), (None, &["proven on its link"])),
        ("another key behind a relay", seen(|s| { speaks(s, None, Native); s.peer.link = None; s.handshake = true; s.pair.udp.confirmed = false; s.pair.path = PathKind::Via; s.pair.via = Some("lb_01".into()); }),
            (Some(Key), &["no answer to tunnel handshakes", "Compare the keys"])),
        ("expired", down(|s| { s.peer.host_file = HostFile::NoKey; s.fingerprint = None; s.peer.reason = reason("shut_out", "expired (hosts/db_02)"); }),
            (Some(Key), &["db_02 is shut out by hosts/db_02: expired", "change Expires or Revoked in hosts/db_02"])),
        ("revoked, by the file", offline(|f| f.disk.shut_out = Some("revoked: sold".into())), (Some(Key), &["shut out by hosts/db_02: revoked: sold"])),
        // Trust.
        ("MinProtocol forbids", down(|s| { s.peer.offers = Some(Sptps); s.peer.min_protocol = Some(Native); s.missed = missed(DialFault::Handshake, "no native link"); }),
            (Some(Trust), &["speaks at most sptps, and MinProtocol = native (tinc.conf) forbids", "`MinProtocol = sptps` into hosts/db_02"])),
        ("MinProtocol of its host file forbids", with(|f| { f.disk.min_place = Some("hosts/db_02:4".into()); let s = f.report.as_mut().unwrap(); s.peer.offers = Some(Legacy); s.peer.min_protocol = Some(Sptps); }),
            (Some(Trust), &["(hosts/db_02:4)"])),
        ("MinProtocol forbids, never up", down(|s| { s.peer.offers = None; s.missed = missed(DialFault::Handshake, "MinProtocol = native, but db_02 offers no native link"); }), (Some(Trust), &["offers no native link"])),
        ("StrictSubnets", seen(|s| s.refused = vec![RefusedRow { owner: "db_02".into(), subnet: prefix("10.9.0.0/24"), why: "hosts/db_02 does not list it (StrictSubnets)".into(), rule: Rule::StrictSubnets }]),
            (Some(Trust), &["db_02 announces 10.9.0.0/24, which is refused", "(StrictSubnets)", "`Subnet = 10.9.0.0/24` into hosts/db_02"])),
        ("StrictSubnets, by address", with(|f| { f.target.asked = Some("10.9.0.1".into()); f.target.subnets.clear(); f.target.refused = Some((prefix("10.9.0.0/24"), "hosts/db_02 does not list it (StrictSubnets)".into())); }),
            (Some(Trust), &["10.9.0.1 is in 10.9.0.0/24, which db_02 announces", "Subnet = 10.9.0.0/24"])),
        ("SubnetPolicy", with(|f| { f.target.asked = Some("0.0.0.0/0".into()); f.target.refused = Some((prefix("0.0.0.0/0"), "no default route (SubnetPolicy)".into())); }), (Some(Trust), &["(SubnetPolicy)"])),
        // Meta path.
        ("nobody listens", down(|s| { s.missed = missed(DialFault::Refused, "10.132.0.22:655: Connection refused"); s.dial = dialled_later(); }),
            (Some(MetaPath), &["Connection refused (3s ago), next try in 12s", "On db_02: check that meshd (or tincd) runs"])),
        ("TCP is swallowed", down(|s| { s.missed = missed(DialFault::Silent, "10.132.0.22:655: no answer within 5 s"); s.dial = dialled_later(); }),
            (Some(MetaPath), &["no answer within 5 s", "admits our TCP", "firewall --verify"])),
        ("no way to it", down(|s| s.missed = missed(DialFault::Silent, "10.132.0.22:655: Network is unreachable")), (Some(MetaPath), &["Network is unreachable"])),
        ("nobody dials", down(|_| ()), (Some(MetaPath), &["nothing here dials it", "`ConnectTo = db_02` into tinc.conf"])),
        ("being dialled", down(|s| s.dial = Some(DialReport { next_seconds: None, now: "10.132.0.22:655".parse().ok() })), (Some(MetaPath), &["being dialled at 10.132.0.22:655", "Ask again"])),
        ("our link fails, others carry", seen(|s| { s.peer.link = None; s.nexthop = Some("lb_01".into()); s.missed = missed(DialFault::Silent, "10.132.0.22:655: no answer within 5 s"); s.dial = dialled_later(); }),
            (Some(MetaPath), &["reachable through others, but our own link to it fails", "next try in 12s"])),
        ("no link wanted, an old failure", seen(|s| { s.peer.link = None; s.missed = missed(DialFault::Silent, "old"); }), (None, &["✓ meta path"])),
        ("not listening here, down", down(|_| ()).without_socket(), (Some(MetaPath), &["this node does not listen on 192.0.2.1:655 (no interface has this address)", "Here: find the conflict"])),
        ("not listening here, over TCP", silent(|_| ()).without_socket(), (Some(UdpProbe), &["this node does not listen on 192.0.2.1:655", "correct ListenAddress in tinc.conf"])),
        ("not listening on one address, while another serves", with(|_| ()).without_socket(), (None, &["✓ udp probe"])),
        // Endpoint.
        ("no Address", down(|s| { s.addresses.clear(); s.missed = missed(DialFault::NoAddress, "none"); s.dial = dialled_later(); }),
            (Some(Endpoint), &["- meta path", "no Address in hosts/db_02, and no node supplies one", "Write `Address = ADDRESS` of db_02", "next try in 12s"])),
        ("an Address inside the mesh", down(|s| { s.addresses = vec!["172.20.0.22 port 655".into()]; s.missed = missed(DialFault::NoAddress, "none"); }), (Some(Endpoint), &["lies inside the mesh", "172.20.0.22 port 655"])),
        ("a name that does not resolve", down(|s| s.missed = missed(DialFault::Unresolved, "db.example does not resolve")), (Some(Endpoint), &["db.example does not resolve", "`getent hosts`"])),
        ("relayed for want of an Address", seen(|s| { s.peer.link = None; s.addresses.clear(); s.nexthop = Some("lb_01".into()); s.pair.path = PathKind::Via; s.pair.via = Some("lb_01".into()); s.pair.udp = UdpReport::default(); }),
            (Some(Endpoint), &["reachable, but through lb_01 (expected UDP)", "packets go through relays"])),
        ("an Address is learned", seen(|s| { s.addresses.clear(); s.learned = vec!["10.132.0.22:655".parse().unwrap()]; s.pair.udp.confirmed = false; s.pair.udp.unanswered = 0; }), (None, &["10.132.0.22:655, as seen by its neighbours"])),
        ("it has dialled us", seen(|s| { s.addresses.clear(); s.pair.udp.confirmed = false; s.pair.udp.unanswered = 0; }), (None, &["by the link that it opened"])),
        // UDP.
        ("UDP blocked", silent(|_| ()), (Some(UdpProbe), &["reachable, but over TCP (expected UDP)", "10.132.0.22:655 no reply to 9 probes since 03:12:44", "- pmtu", "not tried", "Likely a firewall between web_01 and db_02"])),
        ("its legacy key is in doubt", silent(|f| f.report.as_mut().unwrap().key_doubted = true), (None, &["meshd asks db_02 for a new key", "may have restarted"])),
        ("UDP blocked towards it", silent(|f| f.there = says(None)), (Some(UdpProbe), &["db_02 says: our packets do not arrive", "On db_02: `meshctl -n priv firewall --verify`"])),
        ("UDP blocked for a while", silent(|f| f.there = says(Some(60.0))), (Some(UdpProbe), &["our packets do not arrive"])),
        ("UDP blocked on the way back", silent(|f| f.there = says(Some(0.4))), (Some(UdpProbe), &["db_02 says: our probes arrive", "Here: `meshctl -n priv firewall --verify`"])),
        ("UDP blocked, a tincd", silent(|f| f.there = There::CannotBeAsked), (Some(UdpProbe), &["db_02 does not run a meshd with native", "On both ends"])),
        ("UDP blocked, an older meshd", silent(|f| f.there = There::Silent), (Some(UdpProbe), &["db_02 does not answer when asked"])),
        ("UDP blocked behind a relay", silent(|f| { let s = f.report.as_mut().unwrap(); s.peer.link = None; s.pair.path = PathKind::Via; s.pair.via = Some("lb_01".into()); s.nexthop = Some("lb_01".into()); }),
            (Some(UdpProbe), &["reachable, but through lb_01", "no reply to 9 probes"])),
        ("a cipher that is not used", silent(|f| f.report.as_mut().unwrap().pair.reason = reason("legacy_cipher", "aes-256-ctr is not used: packets go over TCP")), (Some(UdpProbe), &["aes-256-ctr is not used", "`Cipher = aes-256-cbc`"])),
        // MTU.
        ("only short packets pass", seen(|s| s.pair.mtu = MtuReport { proven_bytes: None, fixed: true, too_small: true }), (Some(PathMtu), &["not even packets of 512 bytes pass", "ping -M do"])),
        // Owner.
        ("all owners are down", with(|f| { f.target.asked = Some("10.7.0.9".into()); f.target.subnets = vec![SubnetRow { reachable: false, ..subnet("10.7.0.0/24", "db_02", 10, false) }]; }),
            (Some(SubnetOwner), &["10.7.0.0/24 has no reachable owner", "`meshctl -n priv routes`"])),
        // Route.
        ("the kernel sends it elsewhere", with(|f| f.kernel = Kernel::To { address: "172.20.0.22".into(), interface: "eth0".into(), ours: "mesh0".into(), source: None }),
            (Some(LocalRoute), &["the kernel sends 172.20.0.22 out of eth0, not mesh0", "`ip route replace 172.20.0.22 dev mesh0`", "InterfaceRoute = auto"])),
        ("the kernel has no route", with(|f| f.kernel = Kernel::No { address: "172.20.0.22".into(), ours: "mesh0".into(), why: "Network is unreachable".into() }),
            (Some(LocalRoute), &["no route to 172.20.0.22: Network is unreachable"])),
        ("no device", with(|f| f.kernel = Kernel::Unchecked("meshd has no device".into())), (None, &["- local route", "no device"])),
        // Firewall.
        ("closed here", down(|s| { s.peer.up = true; s.pair.up = true; s.pair.path = PathKind::Via; s.pair.via = Some("lb_01".into()); s.pair.protocol = Some(Sptps); s.peer.protocol = Some(Sptps); })
            .closed(), (Some(Fire), &["655/udp is closed here: policy drop", "firewall --format nft"])),
        // More than one: the first counts.
        ("wrong key and no route", down(|s| s.missed = missed(DialFault::Handshake, NOT_PROVEN)).closed(), (Some(Key), &["✗ firewall"])),
        ("blocked, and the firewall here says so", silent(|f| f.there = says(Some(1.0))).closed(), (Some(UdpProbe), &["✗ firewall", "our probes arrive"])),
        ("blocked, and no route", silent(|f| f.kernel = Kernel::No { address: "172.20.0.22".into(), ours: "mesh0".into(), why: "no".into() }), (Some(UdpProbe), &["✗ local route"])),
        // From the files.
        ("offline, in order", offline(|_| ()), (None, &["according to the files", "Address 10.132.0.22 port 655 in hosts/db_02", "- meta path", "Nothing is wrong in the files"])),
        ("offline, no host file", offline(|f| f.disk = Disk { file: Some(Ok(HostFile::Missing)), ..Disk::default() }), (Some(Key), &["there is no hosts/db_02 here"])),
        ("offline, a broken file", offline(|f| f.disk = Disk { file: Some(Err("hosts/db_02:3: bad key".into())), ..Disk::default() }), (Some(Key), &["hosts/db_02:3"])),
        ("offline, without key", offline(|f| f.disk.file = Some(Ok(HostFile::NoKey))), (None, &["legacy at most"])),
        ("offline, without Address", offline(|f| f.disk.addresses.clear()), (None, &["it must dial, or other nodes supply one"])),
        ("offline, by address", offline(|f| f.target.asked = Some("172.20.0.22".into())), (None, &["172.20.0.22 -> db_02 (weight 10), according to the host files"])),
        ("offline, may not read", offline(|f| f.disk = Disk::default()), (None, &["this user may not read the host files"])),
    ]
}

impl PathFacts {
    fn closed(mut self) -> Self {
        self.firewall =
            Firewall::Closed("655/udp is closed here: policy drop of inet filter input".into());
        self
    }

    fn without_socket(mut self) -> Self {
        self.not_listening = vec!["192.0.2.1:655 (no interface has this address)".into()];
        self
    }
}

#[test]
fn each_fault_and_each_mistake_has_its_first_broken_step() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (what, facts, expected) in &cases {
        check(what, facts, *expected);
    }
}
