//! A scripted member of the mesh: it has a key that the others trust, and says what the test wants.
//! Its framing is its own, so that it can also break the framing.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use meshd::{
    crypto::{
        PrivateKey, PublicKey, Rng,
        aead::{self, TAG},
        sptps::{Kex, Key, Offer, Parties, Role, link_label},
    },
    wire::NodeName,
};

use crate::{
    node::Node,
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

/// An authenticated meta connection to a victim, driven by hand.
pub(crate) struct Member {
    stream: TcpStream,
    tx: Key,
    rx: Key,
    tx_seq: u32,
    rx_seq: u32,
    input: Vec<u8>,
    /// The next record is a frame, announced by 17.
    frame_due: bool,
    /// Bytes outside of records that are still to come, announced by 21.
    raw_due: usize,
    closed: bool,
    nonce: u32,
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
            tx: Key::default(),
            rx: Key::default(),
            tx_seq: 2,
            rx_seq: 2,
            input: Vec::new(),
            frame_due: false,
            raw_due: 0,
            closed: false,
            nonce: 0,
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
        member.say("4 655 10 700000c");
        assert!(member.is_alive(), "{} closed after ACK", victim.name);
        member
    }

    /// As [`Self::active`], then its own edge and subnet, so that the mesh reaches it.
    pub(crate) fn reachable(node: &Node, victim: &Node, wire: &Wire) -> Self {
        let mut member = Self::active(node, victim, wire);
        let (name, peer) = (&node.name, &victim.name);
        let edge = format!(
            "{name} {peer} {} 655 700000c 10",
            wire.v4(victim.host.index)
        );
        let subnet = format!("{name} {}", node.v4());
        member.flood(12, &edge);
        member.flood(10, &subnet);
        assert!(member.is_alive());
        member
    }

    fn authenticate(&mut self, node: &Node) {
        let (name, victim) = (self.name.clone(), self.victim.clone());
        self.write(format!("0 {name} 17.7\n").as_bytes());
        let line = loop {
            if let Some(at) = self.input.iter().position(|byte| *byte == b'\n') {
                break self.input.drain(..=at).collect::<Vec<_>>();
            }
            assert!(self.fill(), "{victim} answered nothing to our ID line");
        };
        // A meshd offers its own protocol after the version; we do not.
        let line = String::from_utf8_lossy(&line);
        assert!(line.starts_with(&format!("0 {victim} 17.7")), "{line}");
        let mut seed = [0; 32];
        fs::File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut seed)
            .unwrap();
        let parsed = |name: &str| name.parse::<NodeName>().unwrap();
        let parties = Parties {
            role: Role::Initiator,
            key: Arc::new(private_key(node)),
            peer_key: public_key(node, &victim),
            next_key: None,
            label: link_label(&parsed(&name), &parsed(&victim)),
        };
        let offer = Offer::new(&mut Rng::new(seed));
        let kex = *offer.kex();
        self.write_clear(&kex);
        let theirs = Kex::parse(&self.read_clear()).unwrap();
        let agreement = offer.with(theirs);
        self.write_clear(&agreement.sign(&parties));
        agreement.verify(&self.read_clear(), &parties).unwrap();
        let keys = agreement.keys(&parties);
        (self.tx, self.rx) = (keys.tx, keys.rx);
    }

    fn write_clear(&mut self, message: &[u8]) {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        self.write(&[&length, &[128][..], message].concat());
    }

    fn read_clear(&mut self) -> Vec<u8> {
        loop {
            if let Some((length, rest)) = self.input.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if rest.len() > length {
                    assert_eq!(rest[0], 128, "record type");
                    let record = self.input.drain(..3 + length).skip(3).collect();
                    return record;
                }
            }
            assert!(self.fill(), "closed in the handshake");
        }
    }

    /// Sends one request line.
    pub(crate) fn say(&mut self, line: impl AsRef<[u8]>) {
        let data = [line.as_ref(), b"\n"].concat();
        self.record(0, &data);
    }

    /// Sends `NUMBER NONCE REST` with a nonce of its own.
    pub(crate) fn flood(&mut self, number: u8, rest: &str) {
        self.nonce += 1;
        let nonce = self.nonce;
        self.say(format!("{number} {nonce:x} {rest}"));
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
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let mut body = [&[kind], data, &[0; TAG]].concat();
        aead::seal(&self.tx, self.tx_seq, &mut body);
        self.tx_seq += 1;
        [&length[..], &body].concat()
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
        loop {
            if self.raw_due > 0 {
                let count = self.raw_due.min(self.input.len());
                self.input.drain(..count);
                self.raw_due -= count;
                if self.raw_due > 0 {
                    return;
                }
            }
            let Some((length, rest)) = self.input.split_first_chunk::<2>() else {
                return;
            };
            let length = usize::from(u16::from_be_bytes(*length));
            let whole = 1 + length + TAG;
            if rest.len() < whole {
                return;
            }
            let mut body = rest[..whole].to_vec();
            self.input.drain(..2 + whole);
            aead::open(&self.rx, self.rx_seq, &mut body).expect("the victim seals as it should");
            self.rx_seq += 1;
            if std::mem::take(&mut self.frame_due) {
                continue;
            }
            let line = String::from_utf8_lossy(&body[1..=length])
                .trim_end()
                .to_owned();
            let mut words = line.split(' ');
            match (words.next(), words.next()) {
                (Some("8"), None) => self.say("9"),
                (Some("17"), Some(_)) => self.frame_due = true,
                (Some("21"), Some(count)) => self.raw_due = count.parse().unwrap(),
                _ => {}
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

    /// Whether the victim still answers on this connection.
    pub(crate) fn is_alive(&mut self) -> bool {
        !self.closed && self.ping(Duration::from_secs(10)).is_some()
    }

    /// Whether the victim is seen to have ended the connection within `limit`.
    pub(crate) fn is_closed(&mut self, limit: Duration) -> bool {
        self.hears(limit, |_| false);
        self.closed
    }
}

fn private_key(node: &Node) -> PrivateKey {
    let text = fs::read_to_string(node.dir().join("ed25519_key.priv")).unwrap();
    PrivateKey::from_pem(&text).unwrap()
}

fn public_key(node: &Node, other: &str) -> PublicKey {
    let text = fs::read_to_string(node.dir().join("hosts").join(other)).unwrap();
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("Ed25519PublicKey = "))
        .unwrap();
    PublicKey::from_base64(key.trim()).unwrap()
}
