//! Traffic through the mesh, checked at its other end.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::{
    node::Node,
    world::{Host, wait_until},
};

/// Size of the large transfers.
pub(crate) fn large() -> u64 {
    setting("MESHD_NET_BYTES", 1 << 30)
}

/// A number from the environment.
pub(crate) fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|e| panic!("{variable}={text}: {e}"))
    })
}

/// Pings once with this payload; says what `ping` said if there was no answer in two seconds.
pub(crate) fn try_ping(from: &Host, to: &str, size: usize, options: &[&str]) -> Result<(), String> {
    let result = from
        .command("ping")
        .args(["-n", "-c", "1", "-W", "2", "-s", &size.to_string()])
        .args(options)
        .arg(to)
        .output()
        .unwrap();
    if result.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&result.stdout).into_owned()
            + &String::from_utf8_lossy(&result.stderr))
    }
}

/// Waits until pings get through, which also makes the daemons find their paths.
pub(crate) fn wait_ping(from: &Node, to: &str, size: usize) {
    let what = format!("{} pings {to} with {size} bytes", from.name);
    wait_until(&what, crate::node::PATIENCE, || {
        try_ping(&from.host, to, size, &[])
    });
}

/// A TCP transfer through the mesh that runs beside the test.
pub(crate) struct Transfer {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<(u64, Vec<u8>)>,
    receiver: JoinHandle<(u64, Vec<u8>)>,
    started: Instant,
}

impl Transfer {
    /// Starts to send `total` bytes (or less, if it is stopped before) to `address` of `to`.
    pub(crate) fn start(from: &Node, to: &Node, address: &str, total: u64) -> Self {
        Self::start_paced(from, to, address, total, Duration::ZERO)
    }

    /// As [`Self::start`] with a pause after each mebibyte, so that it leaves the machine to others.
    pub(crate) fn start_paced(
        from: &Node,
        to: &Node,
        address: &str,
        total: u64,
        pause: Duration,
    ) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, at) = mpsc::channel();
        let ip = address.parse().unwrap();
        let receiver = to.host.inside({
            let received = received.clone();
            move || {
                let listener = TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                receive(&mut listener.accept().unwrap().0, &received)
            }
        });
        let target = at.recv_timeout(Duration::from_secs(10)).unwrap();
        let sender = from.host.inside({
            let stop = stop.clone();
            move || {
                let mut stream = TcpStream::connect(target).unwrap();
                send(&mut stream, total, pause, &stop)
            }
        });
        Self {
            received,
            stop,
            sender,
            receiver,
            started: Instant::now(),
        }
    }

    /// Bytes that have arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Panics unless more bytes arrive within `limit`.
    pub(crate) fn wait_progress(&self, limit: Duration) {
        let before = self.received();
        wait_until("the transfer goes on", limit, || {
            // More than what may wait in the receiver's own queue.
            if self.received() > before + (8 << 20) {
                Ok(())
            } else {
                Err(format!("{before} bytes, then {}", self.received()))
            }
        });
    }

    /// Ends the sending now.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end and compares both hashes. Returns megabits a second.
    pub(crate) fn finish(self) -> f64 {
        // A dead path must fail the test, not hang it: watch progress, however slow.
        let mut last = (self.received(), Instant::now());
        while !self.receiver.is_finished() {
            thread::sleep(Duration::from_millis(50));
            let now = self.received();
            if now != last.0 {
                last = (now, Instant::now());
            }
            assert!(
                last.1.elapsed() < Duration::from_secs(60),
                "the transfer has stood still at {now} bytes for a minute"
            );
        }
        let took = self.started.elapsed();
        let sent = self.sender.join().expect("the sender finished");
        let received = self.receiver.join().expect("the receiver finished");
        assert_eq!(sent.0, received.0, "bytes sent and received");
        assert!(sent.1 == received.1, "the hashes differ");
        received.0 as f64 * 8e-6 / took.as_secs_f64()
    }
}

fn send(stream: &mut TcpStream, total: u64, pause: Duration, stop: &AtomicBool) -> (u64, Vec<u8>) {
    let mut block = noise(1 << 20);
    let mut hash = Sha256::new();
    let mut sent = 0;
    while sent < total && !stop.load(Ordering::Relaxed) {
        // Every block differs, so that a repeated or swapped one changes the hash.
        block[..8].copy_from_slice(&sent.to_le_bytes());
        let size = usize::try_from(total - sent).unwrap().min(block.len());
        stream.write_all(&block[..size]).unwrap();
        hash.update(&block[..size]);
        sent += size as u64;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    (sent, hash.finalize().to_vec())
}

fn receive(stream: &mut TcpStream, received: &AtomicU64) -> (u64, Vec<u8>) {
    let mut buffer = vec![0; 1 << 18];
    let mut hash = Sha256::new();
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return (received.load(Ordering::Relaxed), hash.finalize().to_vec());
        }
        hash.update(&buffer[..count]);
        received.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Result of a stream of numbered UDP packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    /// Packets that arrived after one with a higher number.
    pub(crate) reordered: u64,
    /// The most numbers by which one of them was late.
    pub(crate) latest: u64,
    /// Longest time without an arrival.
    pub(crate) longest_gap: Duration,
}

impl Stream {
    pub(crate) fn lost(&self) -> u64 {
        self.sent - (self.received - self.duplicates)
    }
}

/// A stream of numbered UDP packets that runs beside the test.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    arrivals: Arc<Mutex<Arrivals>>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<()>,
}

#[derive(Default)]
struct Arrivals {
    seen: Vec<u64>,
    received: u64,
    duplicates: u64,
    reordered: u64,
    latest: u64,
    highest: u64,
    last: Option<Instant>,
    /// Beginning and end of every silence longer than a tenth of a second.
    gaps: Vec<(Instant, Instant)>,
    longest_gap: Duration,
}

impl Arrivals {
    fn note(&mut self, number: u64, now: Instant) {
        let (word, bit) = (usize::try_from(number / 64).unwrap(), 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.received += 1;
        if self.seen[word] & bit != 0 {
            self.duplicates += 1;
        }
        self.seen[word] |= bit;
        if number < self.highest {
            self.reordered += 1;
            self.latest = self.latest.max(self.highest - number);
        }
        self.highest = self.highest.max(number);
        if let Some(last) = self.last.replace(now) {
            let gap = now - last;
            self.longest_gap = self.longest_gap.max(gap);
            if gap > Duration::from_millis(100) {
                self.gaps.push((last, now));
            }
        }
    }
}

impl Flow {
    /// Sends `rate` packets a second of `size` bytes to `address` of `to` until it is finished.
    pub(crate) fn start(from: &Node, to: &Node, address: &str, rate: u64, size: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let arrivals = Arc::new(Mutex::new(Arrivals::default()));
        let (ready, at) = mpsc::channel();
        let ip = address.parse().unwrap();
        let receiver = to.host.inside({
            let (stop, arrivals) = (stop.clone(), arrivals.clone());
            move || {
                let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
                rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_millis(500)))
                    .unwrap();
                ready.send(socket.local_addr().unwrap()).unwrap();
                let mut buffer = [0; 2048];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(count) if count >= 8 => {
                            let number = u64::from_le_bytes(buffer[..8].try_into().unwrap());
                            arrivals.lock().unwrap().note(number, Instant::now());
                        }
                        Ok(_) => {}
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => {}
                    }
                }
            }
        });
        let target = at.recv_timeout(Duration::from_secs(10)).unwrap();
        let sender = from.host.inside({
            let stop = stop.clone();
            move || pace(target, rate, size, &stop)
        });
        Self {
            stop,
            arrivals,
            sender,
            receiver,
        }
    }

    /// Time from `since` to the first arrival after it; panics if none comes within `limit`.
    pub(crate) fn wait_arrival(&self, since: Instant, limit: Duration) -> Duration {
        wait_until("packets arrive again", limit, || {
            let arrivals = self.arrivals.lock().unwrap();
            if let Some(&(_, end)) = arrivals.gaps.iter().find(|(_, end)| *end > since) {
                return Ok(end - since);
            }
            match arrivals.last {
                Some(last) if last > since => Ok(Duration::ZERO),
                last => Err(format!(
                    "last arrival {:?} before",
                    last.map(|last| since.saturating_duration_since(last))
                )),
            }
        })
    }

    /// True if anything has arrived.
    pub(crate) fn any_arrived(&self) -> bool {
        self.arrivals.lock().unwrap().received > 0
    }

    /// Stops sending, waits for what is on its way, and counts.
    pub(crate) fn finish(self) -> Stream {
        self.finish_with_holes().0
    }

    /// As [`Self::finish`], with the runs of lost packets: number of the first and how many.
    pub(crate) fn finish_with_holes(self) -> (Stream, Vec<(u64, u64)>) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender finished");
        self.receiver.join().expect("the receiver finished");
        let arrivals = self.arrivals.lock().unwrap();
        let seen = |number: u64| {
            let word = arrivals.seen.get(usize::try_from(number / 64).unwrap());
            word.is_some_and(|word| word & (1 << (number % 64)) != 0)
        };
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for number in (0..sent).filter(|number| !seen(*number)) {
            match holes.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => holes.push((number, 1)),
            }
        }
        let stream = Stream {
            sent,
            received: arrivals.received,
            duplicates: arrivals.duplicates,
            reordered: arrivals.reordered,
            latest: arrivals.latest,
            longest_gap: arrivals.longest_gap,
        };
        (stream, holes)
    }
}

/// Sends at a steady rate. After losing the processor it does not catch up in one burst, which
/// would overflow the device's queue and count against the daemon.
fn pace(target: SocketAddr, rate: u64, size: usize, stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind(if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    })
    .unwrap();
    let mut packet = noise(size.max(8));
    let (mut sent, mut origin, mut since_origin) = (0_u64, Instant::now(), 0_u64);
    let burst = (rate / 500).max(1);
    while !stop.load(Ordering::Relaxed) {
        let due = (origin.elapsed().as_secs_f64() * rate as f64) as u64;
        if due.saturating_sub(since_origin) > 4 * burst {
            (origin, since_origin) = (Instant::now(), 0);
            continue;
        }
        let count = due.saturating_sub(since_origin);
        for _ in 0..count {
            packet[..8].copy_from_slice(&sent.to_le_bytes());
            // Refused or unreachable counts as sent and lost: that is for the test to judge.
            let _ = socket.send_to(&packet, target);
            sent += 1;
        }
        since_origin += count;
        thread::sleep(Duration::from_micros(500));
    }
    sent
}
