//! A daemon that says what the test wants, for as long as the test lasts.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
};

use meshd::{
    api::{
        call::{self, Request},
        codec::{self, Lines},
        proto::{
            Answer, Change, ChangeKind, ControlError, DaemonStatus, EdgeRow, Envelope, ErrorCode,
            MAX_LINE, MeshStatus, NodeRow, Planned, Pong, Reloaded, Response, RouteRow, SubnetRow,
            ThreadRow, VERSION, When,
        },
        report::{MtuReport, NodeReport, PathReport, RefusedRow, UdpReport},
        rows::{PeerRow, Reason},
        why::{self, Disk, End, Kernel, Local, Other, PathBetween, There},
    },
    config::vars::nearness,
    diagnose::why::World,
    link::Dialect,
    mesh::reports::facts::{HostFile, PathKind, Rule},
};

use crate::{key, run};

/// A daemon that answers each request by `reply`, for as long as the test lasts.
pub(crate) struct Daemon {
    pub(crate) dir: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn new(reply: fn(Request) -> Option<Response>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), reply);
            }
        });
        Self { dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let socket = self.socket();
        let all = [&["--socket", socket.to_str().unwrap()], arguments].concat();
        run(&all)
    }
}

fn serve(mut stream: UnixStream, reply: fn(Request) -> Option<Response>) {
    let (mut lines, mut chunk) = (Lines::new(MAX_LINE), [0; 1024]);
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        lines.push(&chunk[..n]);
        while let Some(line) = lines.next_line().unwrap() {
            let envelope: Envelope = codec::decode(&line).unwrap();
            assert_eq!(envelope.v, VERSION);
            let Some(response) = reply(envelope.request) else {
                continue;
            };
            let answer = Answer {
                v: VERSION,
                net: Some("priv".into()),
                node: "web_01".into(),
                time: "2026-11-22T10:29:18Z".into(),
                response,
            };
            let _ = stream.write_all(&codec::encode(&answer).unwrap());
        }
    }
}

/// The nodes of [`healthy`].
const PEERS: [(&str, PathKind); 4] = [
    ("db_01", PathKind::Udp),
    ("cache_1", PathKind::Tcp),
    ("web_09", PathKind::Via),
    ("old_03", PathKind::Down),
];

pub(crate) fn peer(name: &str, path: PathKind) -> PeerRow {
    PeerRow {
        name: name.into(),
        subnets: ["172.20.0.21", "10.7.0.0/24"]
            .map(|text| text.parse().unwrap())
            .into(),
        up: path != PathKind::Down,
        path,
        via: (path == PathKind::Via).then(|| "lb_01".into()),
        endpoint: (path == PathKind::Udp).then(|| "10.132.0.21:655".parse().unwrap()),
        protocol: match path {
            PathKind::Udp => Some(Dialect::Native),
            PathKind::Tcp => Some(Dialect::Sptps),
            PathKind::Via | PathKind::Down => None,
        },
        cipher: (path == PathKind::Udp).then(|| "AES-256-GCM".into()),
        link: (path == PathKind::Tcp).then_some(Dialect::Sptps),
        rtt_seconds: (path == PathKind::Udp).then_some(0.0004),
        pmtu_bytes: (path == PathKind::Udp).then_some(1451),
        rx_bytes: 1_200_000_000,
        tx_bytes: 12_345,
        rx_packets: 3,
        tx_packets: 4,
        foreign_packets: 0,
        since_seconds: Some(1_051_200.0),
        reason: (path != PathKind::Udp).then(|| Reason {
            code: "no_address".into(),
            text: format!("no Address in hosts/{name}"),
        }),
        offers: match path {
            PathKind::Udp | PathKind::Via => Some(Dialect::Native),
            PathKind::Tcp => Some(Dialect::Sptps),
            PathKind::Down => None,
        },
        min_protocol: Some(Dialect::Sptps),
        host_file: HostFile::Key,
        labels: BTreeMap::new(),
    }
}

/// View of a node of [`healthy`].
fn sight(name: &str) -> NodeReport {
    let known = PEERS.iter().find(|(known, _)| *known == name);
    let path = known.map_or(PathKind::Down, |(_, path)| *path);
    let row = peer(name, path);
    let direct = path == PathKind::Udp;
    NodeReport {
        pair: PathReport {
            up: row.up,
            path,
            via: row.via.clone(),
            protocol: row.protocol,
            rtt_seconds: row.rtt_seconds,
            udp: UdpReport {
                address: "10.132.0.31:655".parse().ok(),
                confirmed: direct,
                unanswered: if direct { 0 } else { 9 },
                silent_seconds: (!direct).then_some(40.0),
                ..UdpReport::default()
            },
            mtu: MtuReport {
                proven_bytes: row.pmtu_bytes,
                fixed: direct,
                too_small: false,
            },
            ..PathReport::default()
        },
        addresses: vec!["10.132.0.31 port 655".into()],
        listed: row.subnets.iter().map(|subnet| subnet.prefix).collect(),
        udp_discovery: true,
        may_ask: path == PathKind::Tcp,
        peer: row,
        ..NodeReport::default()
    }
}

/// The change of a whole host file.
pub(crate) fn host_file(kind: ChangeKind, file: &str) -> Change {
    Change {
        kind,
        file: Some(file.into()),
        line: None,
        key: None,
        old: None,
        new: None,
        when: When::Now,
    }
}

fn subnet(subnet: &str, owner: &str, weight: i32, active: bool) -> SubnetRow {
    let (subnet, owner) = (subnet.parse().unwrap(), Some(owner.into()));
    SubnetRow {
        subnet,
        weight,
        owner,
        reachable: true,
        active,
    }
}

fn subnets() -> Vec<SubnetRow> {
    vec![
        subnet("172.20.0.11", "web_01", 10, true),
        subnet("10.7.0.0/24", "db_01", 10, true),
        subnet("10.7.0.0/24", "cache_1", 20, false),
    ]
}

fn refused() -> RefusedRow {
    RefusedRow {
        owner: "cache_1".into(),
        subnet: "10.9.0.0/24".parse().unwrap(),
        why: "hosts/cache_1 does not list it (StrictSubnets)".into(),
        rule: Rule::StrictSubnets,
    }
}

fn edge() -> EdgeRow {
    EdgeRow {
        from: "web_01".into(),
        to: "pya".into(),
        host: "127.0.0.1".into(),
        port: "33455".into(),
        local_host: "127.0.0.1".into(),
        local_port: "6582".into(),
        options: 0x0700_000c,
        weight: 74,
    }
}

/// Answers a question about a path: only cache_1 reports its view.
fn path_between(call: &call::Why) -> PathBetween {
    let world = World {
        own: "web_01".into(),
        names: PEERS.map(|(name, _)| name.to_owned()).into(),
        subnets: subnets(),
        refused: vec![refused()],
        nearness,
    };
    let end = |typed: &str| match world.resolve(typed) {
        Err(unknown) => End::Unknown(unknown),
        Ok(target) if target.node.as_str() == "web_01" => End::Own(target),
        Ok(target) => {
            let report = sight(target.node.as_str());
            End::Other(Box::new(Other {
                silent_since: Some("03:12:44".into()),
                there: match (report.pair.up, report.may_ask) {
                    (false, _) => There::NotAsked,
                    (true, false) => There::CannotBeAsked,
                    (true, true) => There::Says(Box::default()),
                },
                local: Some(Local {
                    disk: Disk::default(),
                    kernel: Kernel::No {
                        address: "10.7.0.9".into(),
                        ours: "mesh0".into(),
                        why: "Network is unreachable".into(),
                    },
                }),
                ..Other::new(target, report)
            }))
        }
    };
    PathBetween {
        from: end(call.from.as_deref().unwrap_or("web_01")),
        to: end(&call.to),
        daemon: why::Daemon {
            pid: 7,
            config: "/etc/tinc/priv".into(),
            interface: Some("mesh0".into()),
            port: 655,
            not_listening: Vec::new(),
        },
        edges: vec![edge()],
    }
}

fn node(name: &str, host: &str) -> NodeRow {
    NodeRow {
        name: name.into(),
        id: "cd198b483cdf".into(),
        host: host.into(),
        port: "655".into(),
        options: 0x0700_000c,
        status: if host == "MYSELF" { 0x858 } else { 0xda },
        nexthop: name.into(),
        via: name.into(),
        distance: 1,
        pmtu: 1518,
        min_mtu: 1408,
        max_mtu: 1518,
        since_seconds: Some(1.0),
        rtt_us: 534,
        rx_packets: 0,
        rx_bytes: 0,
        tx_packets: 3,
        tx_bytes: 294,
    }
}

/// An answer that says no.
pub(crate) fn refuse(code: ErrorCode, text: &str) -> Response {
    Response::Error(ControlError {
        code,
        text: text.into(),
    })
}

/// A daemon in good health.
#[expect(clippy::unnecessary_wraps, reason = "some daemons do not answer")]
pub(crate) fn healthy(request: Request) -> Option<Response> {
    Some(match request {
        Request::Peers(_) => Response::Peers(PEERS.map(|(name, path)| peer(name, path)).into()),
        Request::Metrics(_) => Response::Metrics("# HELP meshd_up Up.\nmeshd_up 1\n".into()),
        Request::Status(_) => Response::Status(Box::new(DaemonStatus {
            version: "1.0.0".into(),
            pid: 7,
            uptime_seconds: 1_051_200.0,
            interface: Some("mesh0".into()),
            mtu: Some(1400),
            listen: vec!["0.0.0.0:655".into()],
            not_listening: Vec::new(),
            public_key: key(1).public().to_string(),
            offers: Some(Dialect::Native),
            min_protocol: None,
            config: "/etc/tinc/priv".into(),
            workers: 2,
            offloads: vec!["udp_gso".into(), "recvmmsg".into()],
            offloads_missing: vec!["tun_uso".into()],
            threads: vec![ThreadRow {
                name: "meshd-w0".into(),
                device: true,
                sockets: vec!["0.0.0.0:655".into()],
                beats: 9,
                beat_age_seconds: Some(7.3),
                run_seconds: Some(12.5),
                drops: BTreeMap::from([("no_route".into(), 4)]),
            }],
            drops: BTreeMap::from([("no_route".into(), 5), ("ttl".into(), 0)]),
            messages: BTreeMap::from([("PING".into(), [40, 41])]),
            meta_queue_bytes: 0,
            mesh: MeshStatus {
                nodes: 5,
                reachable: 4,
                links: 2,
                foreign_packets: 17,
                downgrades: 3,
                ..MeshStatus::default()
            },
            problems: vec!["hosts/x:1: no value".into()],
            refused_calls: BTreeMap::new(),
        })),
        Request::Routes(_) | Request::Subnets(_) => Response::Subnets(subnets()),
        Request::Route(call) => Response::Route(RouteRow {
            address: call.address,
            matches: match call.address.is_ipv4() {
                true => vec![subnet("10.7.0.0/24", "db_01", 10, true)],
                false => Vec::new(),
            },
            nexthop: Some("db_01".into()),
        }),
        Request::Nodes(_) => Response::Nodes(vec![
            NodeRow {
                status: 0x8,
                ..node("gone", "unknown")
            },
            node("pya", "127.0.0.1"),
            node("web_01", "MYSELF"),
        ]),
        Request::Edges(_) => Response::Edges(vec![edge()]),
        Request::Connections(_) => Response::Connections(Vec::new()),
        Request::Reload(_) | Request::Undo(_) => Response::Reloaded(Reloaded {
            changed: vec![host_file(ChangeKind::Removed, "hosts/db_01")],
            restart_needed: vec!["Interface".into()],
            problems: Vec::new(),
            not_taken: Vec::new(),
        }),
        Request::Stop(_) => refuse(ErrorCode::Permission, "only root may stop meshd"),
        Request::Plan(_) => Response::Plan(Box::new(Planned {
            changed: vec![
                Change {
                    kind: ChangeKind::Changed,
                    file: Some("hosts/web_01".into()),
                    line: Some(3),
                    key: Some("Port".into()),
                    old: Some("Port = 655".into()),
                    new: Some("Port = 656".into()),
                    when: When::Restart,
                },
                host_file(ChangeKind::Added, "hosts/new"),
            ],
            restart_needed: vec!["Port".into()],
            cut: vec!["db_01".into()],
            live: 30,
            may_cut: 3,
            ..Planned::default()
        })),
        Request::Confirm(_) => refuse(ErrorCode::Refused, "no reload waits"),
        Request::Retry(_) => Response::Done(true),
        Request::Ping(call) if call.node == "nobody" => {
            refuse(ErrorCode::Unknown, "no node named \"nobody\"")
        }
        Request::Ping(call) => Response::Ping(Pong {
            rtt_seconds: (call.node != "old_03").then_some(0.00051),
            path: PathKind::Udp,
            endpoint: Some("10.132.0.22:655".into()),
            pmtu_bytes: Some(1451),
        }),
        Request::Why(call) => Response::Why(Box::new(path_between(&call))),
        Request::Sight(call) => Response::Sight(Box::new(sight(&call.node))),
        Request::Refused(_) => Response::Refused(vec![refused()]),
        Request::AskNode(_) => Response::Told(Some(Box::default())),
        Request::Log(_) | Request::Capture(_) => Response::Done(false),
    })
}
