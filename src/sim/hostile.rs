//! Hostile nodes: beside what the program says, they send lines made at random from the grammar of
//! all statements, about themselves, their neighbours, others and names that do not exist.

use bytes::Bytes;

use meshd_crypto::Rng;
use meshd_proto::link::LinkId;

use crate::{conn::Chunk, plan, world::World};

/// Options that edges have, or that change how packets travel (wire/tinc-1.1.md section 3.5).
const OPTIONS: [&str; 9] = [
    "0", "c", "1", "2", "3", "700000c", "700000f", "ffffffff", "100000c",
];
const WEIGHTS: [&str; 8] = [
    "0",
    "1",
    "9",
    "100",
    "100000",
    "-1",
    "-2147483648",
    "2147483647",
];
const WORDS: [&str; 6] = ["unspec", "unknown", "999.1.1.1", "::", "a%b", "-"];
/// Extended requests of REQ_KEY: none, both handshakes, a packet, native ones, unknown ones.
const KINDS: [&str; 9] = ["", "15", "16", "19", "20", "21", "33", "34", "35"];
/// Numbers of an algorithm that nobody has, that everybody has, and of none.
const SUITES: [&str; 4] = ["-1 -1 -1 0", "427 672 4 0", "0 0 0 0", "91 64 4 11"];

impl World {
    /// Makes a node hostile: it may say what it wants from now on.
    pub fn turn_hostile(&mut self, node: usize) {
        self.hostile.insert(node);
    }

    /// Sends one random line from a hostile node, to all neighbours or to one.
    pub fn lie(&mut self, node: usize, rng: &mut Rng) {
        let line = Bytes::from(self.any_line(node, rng));
        let links: Vec<LinkId> = self.nodes[node]
            .links
            .iter()
            .filter(|(_, link)| link.up)
            .map(|(id, _)| id)
            .collect();
        if links.is_empty() {
            return;
        }
        self.say(&format!("n{node} lies: {}", line.escape_ascii()));
        let one = links[below(rng, links.len())];
        let to_all = rng.below(2) == 0;
        for id in links.into_iter().filter(|id| to_all || *id == one) {
            self.send_on(node, id, Chunk::Line(line.clone()));
        }
        self.serve(node);
        self.arm(node);
    }

    fn any_line(&self, me: usize, rng: &mut Rng) -> String {
        let nonce = format!("{:x}", rng.below(1 << 31));
        let (a, b) = (self.any_name(me, rng), self.any_name(me, rng));
        match rng.below(100) {
            0..20 => self.any_edge(me, &nonce, rng),
            20..38 => format!("13 {nonce} {a} {b}"),
            38..50 => format!("10 {nonce} {a} {}", self.any_subnet(rng)),
            50..64 => format!("11 {nonce} {a} {}", self.any_subnet(rng)),
            64..72 => format!("14 {nonce} {a}"),
            72..80 => {
                let (kind, length) = (one(rng, &KINDS), below(rng, 90));
                format!("15 {a} {b} {kind} {}", noise(rng, length))
            }
            80..86 => {
                let (suite, length) = (one(rng, &SUITES), below(rng, 90));
                let address = self.any_address(rng);
                format!("16 {a} {b} {} {suite} {address}", noise(rng, length + 1))
            }
            86..91 => format!("22 {a} {b} {}", self.any_address(rng)),
            91..96 => format!(
                "23 {a} {b} {}",
                one(rng, &["0", "512", "1400", "99999", "-1"])
            ),
            96..98 => "8".into(),
            _ => {
                let number = 10 + rng.below(7);
                let length = below(rng, 60);
                format!("{number} {nonce} {}", noise(rng, length))
            }
        }
    }

    /// An edge; half of them are of this node, as only those are believed at once.
    fn any_edge(&self, me: usize, nonce: &str, rng: &mut Rng) -> String {
        let from = match rng.below(2) {
            0 => plan::name(me).to_string(),
            _ => self.any_name(me, rng),
        };
        let to = self.any_name(me, rng);
        let (options, weight) = (one(rng, &OPTIONS), one(rng, &WEIGHTS));
        let address = self.any_address(rng);
        let local = match rng.below(2) {
            0 => String::new(),
            _ => self.any_address(rng),
        };
        format!("12 {nonce} {from} {to} {address} {options} {weight} {local}")
    }

    fn any_name(&self, me: usize, rng: &mut Rng) -> String {
        match rng.below(10) {
            0..2 => plan::name(me).to_string(),
            2..9 => plan::name(below(rng, self.nodes.len())).to_string(),
            _ => format!("x{}", rng.below(20)),
        }
    }

    fn any_address(&self, rng: &mut Rng) -> String {
        let port = one(rng, &["655", "1", "0", "65535", "70000"]);
        match rng.below(3) {
            0 => format!("{} {port}", one(rng, &WORDS)),
            _ => format!(
                "{} {port}",
                self.net.public_ip(below(rng, self.nodes.len()))
            ),
        }
    }

    fn any_subnet(&self, rng: &mut Rng) -> String {
        let ip = plan::mesh_ip(below(rng, self.nodes.len()));
        match rng.below(8) {
            0..3 => ip.to_string(),
            3 => format!("{ip}#{}", one(rng, &["0", "1", "9", "-5", "1000"])),
            4 => one(rng, &["10.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "::/0"]).into(),
            5 => format!("fd00::{:x}", rng.below(500)),
            6 => format!("2:0:0:0:0:{:x}", rng.below(200)),
            _ => format!("10.9.{}.0/24", rng.below(200)),
        }
    }
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    rng.below(u32::try_from(bound).unwrap_or(u32::MAX)) as usize
}

fn one<'a>(rng: &mut Rng, all: &[&'a str]) -> &'a str {
    all[below(rng, all.len())]
}

/// A word of this length, in the alphabet of keys.
fn noise(rng: &mut Rng, length: usize) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = (0..length).map(|_| char::from(alphabet[below(rng, alphabet.len())]));
    letters.collect()
}
