//! Pings between every two nodes, and the time until a pair answers again.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::node::Node;

/// Time between two pings of a pair.
const PERIOD: Duration = Duration::from_millis(50);
/// A pair is healed at the first of this many pings that are all answered.
const IN_A_ROW: usize = 10;
const PORT: u16 = 7777;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Every eighth ping is this long, all others have 64 bytes.
const LONG: usize = 1200;

/// One ping: the time at which it was sent, and whether an answer came.
type Ping = (Instant, bool);

/// The pings of one node to every other one, by the number of the target.
#[derive(Default)]
struct Sent {
    /// Number of the first ping that is kept.
    first: usize,
    pings: Vec<Ping>,
}

/// Pings of all pairs, which go on until this is dropped.
pub(super) struct Pings {
    sent: Vec<Arc<Mutex<Vec<Sent>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pings {
    /// Starts the pings between these nodes.
    pub(super) fn start(nodes: &[Node]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let addresses: Vec<SocketAddr> = nodes
            .iter()
            .map(|node| SocketAddr::new(node.v4().parse().unwrap(), PORT))
            .collect();
        let mut sent = Vec::new();
        let mut threads = Vec::new();
        for (me, node) in nodes.iter().enumerate() {
            let own: Arc<Mutex<Vec<Sent>>> = Arc::default();
            own.lock().unwrap().resize_with(nodes.len(), Sent::default);
            sent.push(Arc::clone(&own));
            let (stop, addresses) = (Arc::clone(&stop), addresses.clone());
            threads.push(node.host.inside(move || talk(me, &addresses, &own, &stop)));
        }
        Self {
            sent,
            stop,
            threads,
        }
    }

    /// Forgets all pings so far.
    pub(super) fn forget(&self) {
        for sent in &self.sent {
            for to in sent.lock().unwrap().iter_mut() {
                to.first += to.pings.len();
                to.pings.clear();
            }
        }
    }

    /// The time from `since` until this pair was healed, if it is.
    pub(super) fn healed(&self, from: usize, to: usize, since: Instant) -> Option<Duration> {
        let sent = self.sent[from].lock().unwrap();
        let later: Vec<Ping> = sent[to]
            .pings
            .iter()
            .filter(|(at, _)| *at >= since)
            .copied()
            .collect();
        later
            .windows(IN_A_ROW)
            .find(|row| row.iter().all(|(_, answered)| *answered))
            .map(|row| row[0].0 - since)
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sends a ping to each other node at each period, answers those of others, and notes answers.
fn talk(me: usize, addresses: &[SocketAddr], sent: &Mutex<Vec<Sent>>, stop: &AtomicBool) {
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
    let mut next = Instant::now();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        next += PERIOD;
        send_all(&socket, me, addresses, sent);
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .unwrap();
            let Ok((length, who)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            if length < 64 {
                continue;
            }
            if buffer[0] == REQUEST {
                buffer[0] = REPLY;
                let _ = socket.send_to(&buffer[..length], who);
            } else if let Some(to) = sent.lock().unwrap().get_mut(usize::from(buffer[1])) {
                let number = u64::from_be_bytes(buffer[8..16].try_into().unwrap());
                let at = (number as usize).checked_sub(to.first);
                if let Some(ping) = at.and_then(|at| to.pings.get_mut(at)) {
                    ping.1 = true;
                }
            }
        }
    }
}

fn send_all(socket: &UdpSocket, me: usize, addresses: &[SocketAddr], sent: &Mutex<Vec<Sent>>) {
    for (to, address) in addresses.iter().enumerate().filter(|(to, _)| *to != me) {
        let number = {
            let own = &mut sent.lock().unwrap()[to];
            own.pings.push((Instant::now(), false));
            own.first + own.pings.len() - 1
        };
        let mut packet = vec![0; if number.is_multiple_of(8) { LONG } else { 64 }];
        (packet[0], packet[1]) = (REQUEST, u8::try_from(to).unwrap());
        packet[8..16].copy_from_slice(&(number as u64).to_be_bytes());
        // Without a device there is no route: the ping counts as lost.
        let _ = socket.send_to(&packet, address);
    }
}
