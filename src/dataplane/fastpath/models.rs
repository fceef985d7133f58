//! Models of packet threads beside each other and beside the driver, in every order: see
//! [`meshd_sync`].

use std::sync::{Arc, Mutex};

use super::{parked::Parked, *};
use meshd_crypto::seal::Aead;
use meshd_proto::{
    mesh::reports::view::PacketKind,
    route::{
        NodeSlot, NodeState,
        lpm::Owner,
        switch::Sighting,
        testing::{ME, addr, neighbour, now, snapshot},
    },
    tunnel::{self, RxKey, TxKey, testing},
};
use meshd_sync::model;
use meshd_wire::datagram::HEADER;

use crate::io::{
    neighbour_proxy::Station,
    vnet::{Header, MAX_PACKET, testing::Parts},
};

const ONE: NodeSlot = NodeSlot(1);
const TWO: NodeSlot = NodeSlot(2);

/// Datagrams sent to the kernel, in order.
#[derive(Default)]
struct Wire {
    /// Calls to the kernel: each is a moment for another thread.
    calls: AtomicU64,
    sent: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
}

/// The sink of a worker without sockets: datagrams gather until they are sent.
struct Batch {
    gathered: Vec<(SocketAddr, Vec<u8>)>,
    wire: Arc<Wire>,
    parked: Parked,
    dropped: usize,
}

impl Batch {
    fn new(wire: &Arc<Wire>) -> Self {
        Self {
            gathered: Vec::new(),
            wire: Arc::clone(wire),
            parked: Parked::default(),
            dropped: 0,
        }
    }
}

impl Sink for Batch {
    fn datagram(&mut self, to: SocketAddr, _most: usize, length: usize) -> &mut [u8] {
        self.gathered.push((to, vec![0; length]));
        &mut self.gathered.last_mut().unwrap().1
    }

    fn deliver(&mut self, _packet: &mut [u8], _checksums: Checksums) {
        unreachable!("nothing is for us");
    }

    fn send_off(&mut self) {
        self.wire.calls.fetch_add(1, Ordering::Relaxed);
        self.wire.sent.lock().unwrap().append(&mut self.gathered);
    }

    fn park(&mut self, to: NodeIdx, packet: &[u8]) {
        assert!(self.parked.keep(to, packet));
    }

    fn punt(&mut self, punt: Punt) {
        unreachable!("{punt:?}");
    }

    fn dropped(&mut self, _reason: DropReason) {
        self.dropped += 1;
    }
}

/// One batch of a worker that is one of several.
fn batch(sink: &mut Batch, tables: &RouteSnapshot, work: impl FnOnce(&mut Step<'_, Batch>)) {
    let mut limiter = ErrorLimiter::default();
    let parked = sink.parked.take();
    let mut step = Step::new(tables, sink, &mut limiter, now());
    step.turns = Some(Turns::default());
    for (to, packet) in parked {
        step.send_parked(to, &packet);
    }
    work(&mut step);
    step.sink.send_off();
}

fn keyed(idx: NodeSlot, tx: &Arc<TxKey>) -> NodeState {
    NodeState {
        dialect: tx.dialect(),
        tx: Some(Arc::clone(tx)),
        ..neighbour(idx)
    }
}

/// Tables of nodes with these states, from index 1 on; the first node owns the destinations of
/// [`Parts`].
fn tables<const N: usize>(states: [NodeState; N]) -> RouteSnapshot {
    snapshot(states, [("10.1.0.0/24", Owner::Node(ONE))])
}

/// Opens all sent datagrams, each with the only matching key. Returns the key's position and the
/// number.
fn opened(wire: &Wire, skip: usize, keys: &[Arc<RxKey>]) -> Vec<(usize, u64)> {
    let open = |(_, datagram): (SocketAddr, Vec<u8>)| {
        let with = |(at, key): (usize, &Arc<RxKey>)| {
            let mut record = datagram[skip..].to_vec();
            let opened = tunnel::open(std::slice::from_ref(key), &mut record);
            opened.ok().map(|opened| (at, opened.seq))
        };
        let mut fitting = keys.iter().enumerate().filter_map(with);
        let first = fitting
            .next()
            .expect("a key opens it and its number is new");
        assert_eq!(fitting.next(), None);
        first
    };
    wire.sent.lock().unwrap().drain(..).map(open).collect()
}

/// Two workers, each with a packet for both nodes, in opposite order. loom checks that there is no
/// deadlock.
#[test]
fn what_several_threads_send_to_a_node_leaves_in_order() {
    model::check(|| {
        let keys = [ONE, TWO].map(|_| testing::sptps([1, 2], 0)[0].0.clone());
        let tables = Arc::new(tables([keyed(ONE, &keys[0]), keyed(TWO, &keys[1])]));
        let wire = Arc::<Wire>::default();
        let workers = [[ONE, TWO], [TWO, ONE]].map(|order| {
            let (tables, wire) = (Arc::clone(&tables), Arc::clone(&wire));
            model::spawn(move || {
                batch(&mut Batch::new(&wire), &tables, |step| {
                    order.iter().for_each(|to| step.send(*to, &[0x45]));
                });
            })
        });
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        let wire = wire.sent.lock().unwrap();
        for to in [ONE, TWO] {
            let sent = wire.iter().filter(|datagram| datagram.0 == addr(to));
            let number = |(_, bytes): &(SocketAddr, Vec<u8>)| bytes[HEADER + 3];
            let numbers: Vec<u8> = sent.map(number).collect();
            assert_eq!(numbers, [0, 1]);
        }
    });
}

/// A worker cuts a super-packet and sends a packet, while the driver replaces the key and sends one
/// itself.
fn a_key_is_replaced([(old, old_rx), (new, new_rx)]: [(Arc<TxKey>, Arc<RxKey>); 2], skip: usize) {
    let tables = Arc::new(tables([keyed(ONE, &old)]));
    let (wire, node) = (
        Arc::<Wire>::default(),
        Arc::clone(tables.node(ONE).unwrap()),
    );
    let worker = {
        let (tables, wire) = (Arc::clone(&tables), Arc::clone(&wire));
        model::spawn(move || {
            let parts = Parts {
                payload: vec![7; 300],
                ..Parts::default()
            };
            let (header, mut packet): (Header, _) = parts.unfinished(100);
            let mut scratch = vec![0; MAX_PACKET];
            batch(&mut Batch::new(&wire), &tables, |step| {
                step.from_device_super(&header, &mut packet, &mut scratch);
                step.send(ONE, &[0x45]);
            });
        })
    };
    node.state.store(Arc::new(keyed(ONE, &new)));
    let mut ours = vec![0; skip + new.overhead()];
    new.seal(new.claim(1).unwrap(), 0, &mut ours[skip..]);
    worker.join().unwrap();
    let keys = [old_rx, new_rx];
    let sent = opened(&wire, skip, &keys);
    let [first, second, third, single] = sent[..] else {
        panic!("{sent:?}");
    };
    // One super-packet: one key, and consecutive numbers.
    let (key, number) = first;
    assert_eq!([second, third], [(key, number + 1), (key, number + 2)]);
    assert!(single.0 >= key, "back to the older key: {sent:?}");
    // No other datagram has the number of the driver.
    wire.sent.lock().unwrap().push((addr(ONE), ours));
    assert_eq!(opened(&wire, skip, &keys)[0].0, 1);
}

#[test]
fn a_packet_is_sealed_with_one_key() {
    model::check(|| a_key_is_replaced(testing::sptps([1, 2], 64), HEADER));
    model::check(|| {
        let keys = [1, 2].map(|seed| testing::native(Aead::Aes256Gcm, seed, seed.into()));
        a_key_is_replaced(keys, 0);
    });
}

/// The driver pauses a node and installs its new key: packets from the pause leave afterwards.
#[test]
fn what_is_parked_is_sent_once() {
    model::check(|| {
        let [(old, old_rx), (new, new_rx)] = testing::sptps([1, 2], 64);
        let tables = Arc::new(tables([keyed(ONE, &old)]));
        let (wire, node) = (
            Arc::<Wire>::default(),
            Arc::clone(tables.node(ONE).unwrap()),
        );
        let mut sink = Batch::new(&wire);
        let worker = {
            let tables = Arc::clone(&tables);
            model::spawn(move || {
                for _ in 0..2 {
                    batch(&mut sink, &tables, |step| step.send(ONE, &[0x45]));
                }
                sink
            })
        };
        let paused = NodeState {
            paused: true,
            ..keyed(ONE, &old)
        };
        node.state.store(Arc::new(paused));
        node.state.store(Arc::new(keyed(ONE, &new)));
        let mut sink = worker.join().unwrap();
        batch(&mut sink, &tables, |_| ());
        assert!(sink.parked.is_empty());
        assert_eq!(opened(&wire, HEADER, &[old_rx, new_rx]).len(), 2);
    });
}

/// A node is forgotten between the batches of a worker or within one.
#[test]
fn a_batch_has_one_snapshot() {
    model::check(|| {
        let (key, _) = testing::native(Aead::Aes256Gcm, 1, 7);
        let old = Arc::new(tables([keyed(ONE, &key)]));
        let shared = Arc::new(Shared {
            taps: Taps::default(),
            snapshot: ArcSwap::new(Arc::clone(&old)),
            workers: Vec::new(),
        });
        let handle = Handle {
            shared: Arc::clone(&shared),
            stop: Arc::new(EventFd::new().unwrap()),
            threads: Vec::new(),
        };
        let worker = model::spawn(move || {
            let wire = Arc::<Wire>::default();
            let mut sink = Batch::new(&wire);
            [(); 2].map(|()| {
                let tables = shared.snapshot.load();
                batch(&mut sink, &tables, |step| {
                    step.send(ONE, &[0x45]);
                    step.send(ONE, &[0x45]);
                });
                let sent = wire.sent.lock().unwrap().drain(..).count();
                assert_eq!(sent + std::mem::take(&mut sink.dropped), 2);
                sent
            })
        });
        handle.publish(Arc::new(tables([])));
        let sent = worker.join().unwrap();
        assert!([[0, 0], [2, 0], [2, 2]].contains(&sent), "{sent:?}");
        // No thread keeps the old snapshot.
        assert_eq!(Arc::strong_count(&old), 1);
        assert!(handle.shared.snapshot.load().node(ONE).is_none());
        assert!(handle.shared.snapshot.load().node(ME).is_some());
    });
}

/// Workers record lengths, and the mesh reads the longest one at any time.
#[test]
fn the_longest_record_is_told_sooner_or_later() {
    model::check(|| {
        let tables = Arc::new(tables([neighbour(ONE)]));
        let workers = [[900, 1000], [1000, 700]].map(|lengths| {
            let tables = Arc::clone(&tables);
            model::spawn(move || {
                let counters = &tables.node(ONE).unwrap().counters;
                lengths
                    .iter()
                    .for_each(|length| counters.note_length(*length));
            })
        });
        let counters = &tables.node(ONE).unwrap().counters;
        let early = counters.take_longest();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        assert_eq!(early.max(counters.take_longest()), 1000);
        assert_eq!(counters.take_longest(), 0);
    });
}

/// Workers see frames of an address, and the mesh reads the sighting at any time. No sighting is
/// invented, and none is lost.
#[test]
fn a_frame_of_an_address_is_noted_sooner_or_later() {
    model::check(|| {
        let sighting = Arc::new(Sighting::default());
        let workers = [(); 2].map(|()| {
            let sighting = Arc::clone(&sighting);
            model::spawn(move || sighting.note())
        });
        let early = sighting.take();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        assert!(early | sighting.take());
        assert!(!sighting.take());
    });
}

/// A worker learns another address of our kernel while one writes: each written header has one
/// whole address.
#[test]
fn a_frame_goes_to_one_address_or_the_other() {
    model::check(|| {
        let [before, after] = [[2, 2, 2, 2, 2, 2], [4, 4, 4, 4, 4, 4]];
        let station = Arc::new(Station::new(before));
        let asked = Arc::clone(&station);
        let worker = model::spawn(move || asked.seen(after));
        let header = station.header_for(&[0x45]);
        assert!(header[..6] == before || header[..6] == after);
        assert_eq!(header[6..11], header[..5]);
        worker.join().unwrap();
        assert_eq!(station.header_for(&[0x45])[..6], after);
    });
}

/// Two workers count, and the driver adds up at any time.
#[test]
fn no_drop_is_lost_and_none_is_counted_twice() {
    model::check(|| {
        let shared = Arc::new(Shared {
            taps: Taps::default(),
            snapshot: ArcSwap::new(Arc::new(tables([]))),
            workers: [(); 2].map(|()| PerWorker::default()).into(),
        });
        let handle = Handle {
            shared: Arc::clone(&shared),
            stop: Arc::new(EventFd::new().unwrap()),
            threads: Vec::new(),
        };
        let workers = [0, 1].map(|at| {
            let shared = Arc::clone(&shared);
            model::spawn(move || {
                let counters = &shared.workers[at].counters;
                counters.dropped(DropReason::NoKey, 2);
                counters.dropped(DropReason::NoKey, 3);
            })
        });
        let count = || handle.drops().get(&DropReason::NoKey).copied().unwrap_or(0);
        let early = count();
        let late = count();
        assert!(early <= late && late <= 10);
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        assert_eq!(count(), 10);
    });
}

/// Two workers show a packet each, while a capture with room for one begins and ends. A packet that
/// meets the capture finds room or is counted.
#[test]
fn a_capture_misses_nothing_uncounted() {
    model::check(|| {
        let filter = tap::Filter {
            kinds: [true; 3],
            peer: None,
            snap: 9,
        };
        let (tap, mut packets) = Tap::with_room(filter, 1);
        let (tap, taps) = (Arc::new(tap), Arc::new(Taps::default()));
        let worker = {
            let taps = Arc::clone(&taps);
            move || {
                let seen = taps.get();
                if let Some(tap) = &seen {
                    tap.show(PacketKind::Outer, (None, true), None, b"x");
                }
                u64::from(seen.is_some())
            }
        };
        taps.set(Some(Arc::clone(&tap)));
        let other = model::spawn(worker.clone());
        let shown = worker();
        taps.set(None);
        let shown = shown + other.join().unwrap();
        let kept = u64::from(packets.try_recv().is_ok());
        assert_eq!(kept, shown.min(1));
        assert_eq!(tap.dropped(), [0, shown - kept, 0]);
        assert_eq!(Arc::strong_count(&tap), 1, "nobody keeps it");
    });
}
