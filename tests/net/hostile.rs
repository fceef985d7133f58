//! A scripted member of the mesh: it has a key that the others trust, and says what the test wants.
//! Its framing is its own, so that it can also break the framing. It speaks what its node would: legacy in the place
//! of a tinc 1.0, SPTPS in that of any other.

mod dialect;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::{
    hostile::dialect::Dialect,
    node::{Kind, Node},
    world::{Host, Wire},
};

/// Opens a TCP connection out of `host`, from one of its addresses if that matters.
pub(crate) fn connect(host: &Host, from: Option<&str>, to: &str) -> std::io::Result<TcpStream> {
    let target = SocketAddr::new(to.parse().unwrap(), 655);
    let source = from.map(|ip| SocketAddr::new(ip.parse().unwrap(), 0));
    host.inside(move || {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(target),
            socket2::Type::STREAM,
            None,
        )?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&target.into(), Duration::from_secs(5))?;
        Ok(socket.into())
    })
    .join()
    .unwrap()
}

/// A nonce that no other line of this process has.
pub(crate) fn fresh_nonce() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0x2000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An authenticated meta connection to a victim, driven by hand.
pub(crate) struct Member {
    stream: TcpStream,
    /// `None` until keys are agreed upon.
    dialect: Option<Dialect>,
    input: Vec<u8>,
    /// Bytes that are no lines and still to come, announced by 21, or by 17 in legacy.
    raw_due: usize,
    closed: bool,
    /// Request lines heard so far.
    pub(crate) heard: Vec<String>,
    name: String,
    victim: String,
}

impl Member {
    /// Authenticates to `victim` with the identity of `node`, whose daemon must not run. Says nothing
    /// after that, not even ACK.
    pub(crate) fn join(node: &Node, victim: &Node, wire: &Wire) -> Self {
        let stream = connect(&node.host, None, &wire.v4(victim.host.index)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let mut member = Self {
            stream,
            dialect: None,
            input: Vec::new(),
            raw_due: 0,
            closed: false,
            heard: Vec::new(),
            name: node.name.clone(),
            victim: victim.name.clone(),
        };
        member.authenticate(node);
        member
    }

    /// As [`Self::join`], then ACK, so that the connection is active.
    pub(crate) fn active(node: &Node, victim: &Node, wire: &Wire) -> Self {
        let mut member = Self::join(node, victim, wire);
        member.say(format!("4 655 10 {}", options(node)));
        assert!(member.is_alive(), "{} closed after ACK", victim.name);
        member
    }

    /// As [`Self::active`], then its own edge and subnet, so that the mesh reaches it.
    pub(crate) fn reachable(node: &Node, victim: &Node, wire: &Wire) -> Self {
        let mut member = Self::active(node, victim, wire);
        let (name, peer) = (&node.name, &victim.name);
        let edge = format!(
            "{name} {peer} {} 655 {} 10",
            wire.v4(victim.host.index),
            options(node)
        );
        let subnet = format!("{name} {}", node.v4());
        member.flood(12, &edge);
        member.flood(10, &subnet);
        assert!(member.is_alive());
        member
    }

    fn authenticate(&mut self, node: &Node) {
        let minor = match node.kind {
            Kind::Tinc10 => "",
            Kind::Tinc11 | Kind::Meshd => ".7",
        };
        self.write(format!("0 {} 17{minor}\n", self.name).as_bytes());
        let line = self.read_line();
        // A meshd offers its own protocol after the version; we do not.
        let answer = format!("0 {} 17{minor}", self.victim);
        assert!(line.starts_with(&answer), "{line}");
        match node.kind {
            Kind::Tinc10 => self.handshake_legacy(node),
            Kind::Tinc11 | Kind::Meshd => self.handshake_sptps(node),
        }
    }

    /// The next line of the other side in the clear.
    fn read_line(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.input.iter().position(|byte| *byte == b'\n') {
                break at;
            }
            assert!(self.fill(), "{} ended the handshake", self.victim);
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Sends one request line.
    pub(crate) fn say(&mut self, line: impl AsRef<[u8]>) {
        let data = [line.as_ref(), b"\n"].concat();
        self.record(0, &data);
    }

    /// Sends `NUMBER NONCE REST` with a [`fresh_nonce`]: from a line that they have seen others learn nothing, while its
    /// neighbour believes what it says of itself.
    pub(crate) fn flood(&mut self, number: u8, rest: &str) {
        self.say(format!("{number} {:x} {rest}", fresh_nonce()));
    }

    /// Sends one sealed record of any type and content.
    pub(crate) fn record(&mut self, kind: u8, data: &[u8]) {
        let sealed = self.seal(kind, data);
        self.write(&sealed);
    }

    /// Sends many lines in few writes.
    pub(crate) fn say_all(&mut self, lines: impl IntoIterator<Item = String>) {
        let mut batch = Vec::new();
        for line in lines {
            let sealed = self.seal(0, format!("{line}\n").as_bytes());
            batch.extend_from_slice(&sealed);
            if batch.len() > 60_000 {
                self.write(&std::mem::take(&mut batch));
                self.drain();
                if self.closed {
                    return;
                }
            }
        }
        self.write(&batch);
    }

    /// Sends a line many times and reads nothing meanwhile; whether all of it was taken.
    pub(crate) fn shout(&mut self, line: &str, count: usize) -> bool {
        for _ in 0..count.div_ceil(1000) {
            let data = format!("{line}\n");
            let batch: Vec<u8> = (0..1000)
                .flat_map(|_| self.seal(0, data.as_bytes()))
                .collect();
            self.write(&batch);
            if self.closed {
                return false;
            }
        }
        true
    }

    fn seal(&mut self, kind: u8, data: &[u8]) -> Vec<u8> {
        let dialect = self.dialect.as_mut().expect("behind the handshake");
        dialect.seal(kind, data)
    }

    /// Sends bytes as they are. A connection that the victim has closed is noted, not an error.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).is_err() {
            self.closed = true;
        }
    }

    /// Reads some bytes; whether there were any.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.closed = true;
                false
            }
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                true
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(_) => {
                self.closed = true;
                false
            }
        }
    }

    /// Reads what is there already, so that the victim can go on writing.
    fn drain(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        while self.fill() {}
        self.stream.set_nonblocking(false).unwrap();
        self.parse();
        // A flood of our own comes back in answers; only the last ones matter.
        if self.heard.len() > 100_000 {
            self.heard.drain(..50_000);
        }
    }

    fn parse(&mut self) {
        while let Some(dialect) = &mut self.dialect
            && let Some(line) = dialect.next_line(&mut self.input, &mut self.raw_due)
        {
            if line == "8" {
                self.say("9");
            }
            self.heard.push(line);
        }
    }

    /// Reads until a line satisfies `wanted`, the connection ends, or `limit` is over.
    pub(crate) fn hears(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        self.hears_after(0, limit, wanted)
    }

    /// As [`Self::hears`], among the lines after the first `looked`.
    fn hears_after(
        &mut self,
        mut looked: usize,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> bool {
        let start = Instant::now();
        loop {
            self.parse();
            if self.heard[looked..].iter().any(|line| wanted(line)) {
                return true;
            }
            looked = self.heard.len();
            let Some(left) = limit
                .checked_sub(start.elapsed())
                .filter(|left| !left.is_zero())
            else {
                return false;
            };
            self.stream.set_read_timeout(Some(left)).unwrap();
            if self.closed {
                return false;
            }
            self.fill();
        }
    }

    /// Time until a PING is answered; `None` if the connection ends or `limit` passes first.
    pub(crate) fn ping(&mut self, limit: Duration) -> Option<Duration> {
        self.drain();
        let start = Instant::now();
        let before = self.heard.len();
        self.say("8");
        self.hears_after(before, limit, |line| line == "9")
            .then(|| start.elapsed())
    }

    /// True if the victim still answers on this connection.
    pub(crate) fn is_alive(&mut self) -> bool {
        !self.closed && self.ping(Duration::from_secs(10)).is_some()
    }

    /// True if the victim ends the connection within `limit`.
    pub(crate) fn is_closed(&mut self, limit: Duration) -> bool {
        self.hears(limit, |_| false);
        self.closed
    }
}

/// Options that a node announces, in hexadecimal digits: path MTU discovery, ClampMSS, and its minor version.
fn options(node: &Node) -> &'static str {
    match node.kind {
        Kind::Tinc10 => "c",
        Kind::Tinc11 | Kind::Meshd => "700000c",
    }
}
