//! `meshctl capture`: shows packets live, as text or as a pcapng file.
//!
//! Source: cli/meshctl.md section 4.3.

mod decode;
mod headers;
mod pcapng;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use data_encoding::BASE64;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use meshd_api::{
    call,
    client::{Client, ClientError},
    proto::{Captured, PacketKind, PacketRow},
};
use meshd_os::{clock, files::open_given};
use meshd_wire::ether;

use crate::{Exit, Failure, Outcome, args::Format, context::Context, output, table::or_empty};

use headers::Streams;
use pcapng::{Interface, LINKTYPE_ETHERNET, LINKTYPE_RAW, Packet, Writer};

/// Longest delay until a signal or the end of the time has an effect.
const TURN: Duration = Duration::from_millis(200);

/// Options of the command line.
pub(super) struct CaptureOptions {
    pub(super) peer: Option<String>,
    /// At least one kind.
    pub(super) kinds: Vec<PacketKind>,
    /// A file, or `-` for standard output; text without it.
    pub(super) write: Option<PathBuf>,
    pub(super) count: Option<u64>,
    pub(super) time: Option<Duration>,
    pub(super) snap: usize,
}

/// A packet with data for text and files.
struct CapturedPacket<'a> {
    row: &'a PacketRow,
    data: Vec<u8>,
    frames: bool,
}

/// A packet for JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    kind: PacketKind,
    peer: Option<&'a str>,
    received: bool,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    length: usize,
    text: &'a str,
}

/// Destination of packets.
enum Sink {
    Text,
    File(Box<File>),
}

struct File {
    writer: Writer<Box<dyn Write>>,
    kinds: Vec<PacketKind>,
    /// True if packets begin with their IP header, and not with an Ethernet header.
    bare: bool,
    /// True if inner packets have an Ethernet header.
    frames: bool,
    streams: Streams,
}

pub(super) fn run(context: &Context, wanted: &CaptureOptions) -> Outcome {
    if wanted.write.as_deref() == Some(Path::new("-")) && output::to_terminal() {
        let text = "cannot write pcapng to a terminal; omit `-w -` for text, or use a pipe: \
                    `meshctl capture -w - | tcpdump -r -`";
        return Err(Failure::new(Exit::Usage, text));
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let mut client = context.connect()?;
    let answer = client.ask(call::Capture {
        kinds: wanted.kinds.clone(),
        peer: wanted.peer.clone(),
        snap: wanted.snap,
    })?;
    let capturing = answer.response;
    if wanted.kinds.contains(&PacketKind::Inner) {
        output::complain("inner packets are not encrypted: keep the capture private");
    }
    let mut capture = Capture {
        sink: Sink::open(wanted, capturing.frames)?,
        format: context.format,
        frames: capturing.frames,
        left: wanted.count.unwrap_or(u64::MAX),
        captured: BTreeMap::new(),
        dropped: BTreeMap::new(),
    };
    let read = capture.read(&mut client, wanted.time, &ended);
    // Captured packets are kept after any end.
    capture.close()?;
    read
}

struct Capture {
    sink: Sink,
    format: Format,
    frames: bool,
    /// Number of packets still wanted.
    left: u64,
    captured: BTreeMap<PacketKind, u64>,
    dropped: BTreeMap<PacketKind, u64>,
}

impl Capture {
    /// Reads packets until the count or the time is reached, or a signal arrives.
    fn read(&mut self, client: &mut Client, time: Option<Duration>, ended: &AtomicBool) -> Outcome {
        let start = clock::now();
        client.patience(Some(TURN))?;
        let over =
            || time.is_some_and(|time| clock::now().saturating_duration_since(start) >= time);
        while self.left > 0 && !over() && !ended.load(Ordering::Relaxed) {
            match client.receive() {
                Ok(Some(answer)) => self.take(answer.response)?,
                Ok(None) => return Err(ClientError::Closed.into()),
                Err(ClientError::Timeout) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Packets in transit still count, and the last answer holds the drop counters.
        client.finish()?;
        client.patience(Some(Duration::from_secs(2)))?;
        while let Ok(Some(answer)) = client.receive() {
            self.take(answer.response)?;
        }
        Ok(Exit::Fine)
    }

    fn take(&mut self, captured: Captured) -> Result<(), Failure> {
        let Captured { packets, dropped } = captured;
        self.dropped = dropped;
        for row in packets {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            *self.captured.entry(row.kind).or_default() += 1;
            let data = BASE64.decode(row.data.as_bytes());
            let packet = CapturedPacket {
                data: data.map_err(|_| ClientError::Type)?,
                row: &row,
                frames: self.frames,
            };
            match &mut self.sink {
                Sink::Text => packet.print(self.format)?,
                Sink::File(file) => file.write(&packet)?,
            }
        }
        Ok(())
    }

    /// Completes the file, and reports the counts.
    fn close(&mut self) -> Result<(), Failure> {
        let of = |counts: &BTreeMap<_, u64>, kind| counts.get(&kind).copied().unwrap_or_default();
        if let Sink::File(file) = &mut self.sink {
            let since = clock::wall().duration_since(SystemTime::UNIX_EPOCH);
            let now = since.unwrap_or_default().as_nanos() as u64;
            for (index, kind) in (0..).zip(file.kinds.clone()) {
                let dropped = of(&self.dropped, kind);
                let all = of(&self.captured, kind) + dropped;
                file.writer.statistics(index, now, (all, dropped))?;
            }
        }
        let [captured, dropped] =
            [&self.captured, &self.dropped].map(|all| all.values().sum::<u64>());
        output::complain(&format!("{captured} packets captured, {dropped} dropped"));
        Ok(())
    }
}

impl Sink {
    fn open(wanted: &CaptureOptions, frames: bool) -> Result<Self, Failure> {
        let out: Box<dyn Write> = match wanted.write.as_deref() {
            None => return Ok(Self::Text),
            Some(path) if path == Path::new("-") => Box::new(io::stdout()),
            Some(path) => {
                let file = open_given(path, 0o600).map_err(|error| {
                    let text = format!(
                        "cannot write {}: {error}; try `-w /tmp/mesh.pcapng`",
                        path.display()
                    );
                    Failure::new(Exit::Negative, text)
                })?;
                Box::new(file)
            }
        };
        // tcpdump (libpcap 1.10.3) cannot read a file with two link types, or with two interfaces of raw IP.
        let bare = match wanted.kinds.as_slice() {
            [PacketKind::Inner] => !frames,
            [_] => true,
            _ => false,
        };
        let link_type = if bare {
            LINKTYPE_RAW
        } else {
            LINKTYPE_ETHERNET
        };
        let interfaces = wanted.kinds.iter().map(|kind| Interface {
            name: kind.word(),
            description: match kind {
                PacketKind::Inner => "packets in the mesh",
                PacketKind::Outer => {
                    "sealed datagrams between daemons; headers are synthesized from their addresses"
                }
                PacketKind::Meta => {
                    "request lines of links, decrypted and without keys; headers are synthesized"
                }
            },
            link_type,
        });
        let interfaces: Vec<_> = interfaces.collect();
        // Includes the longest synthesized headers.
        let snap = u32::try_from(wanted.snap + 74).unwrap_or(u32::MAX);
        Ok(Self::File(Box::new(File {
            writer: Writer::new(out, &interfaces, snap)?,
            kinds: wanted.kinds.clone(),
            bare,
            frames,
            streams: Streams::default(),
        })))
    }
}

impl File {
    fn write(&mut self, captured: &CapturedPacket<'_>) -> Result<(), Failure> {
        let row = captured.row;
        let ends = row
            .local
            .zip(row.remote)
            .map(|(local, remote)| match row.received {
                true => [remote, local],
                false => [local, remote],
            });
        let packet = match (row.kind, ends) {
            (PacketKind::Outer, Some(ends)) => headers::udp(ends, row.length, &captured.data),
            (PacketKind::Meta, Some(ends)) => {
                let line = [&captured.data[..], b"\n"].concat();
                self.streams.tcp(ends, row.length + 1, &line)
            }
            _ => captured.data.clone(),
        };
        let missing = row.length.saturating_sub(captured.data.len());
        let whole = self.bare || (self.frames && row.kind == PacketKind::Inner);
        let packet = match whole {
            true => packet,
            false => [&ether::made_up(&packet)[..], &packet].concat(),
        };
        let index = self.kinds.iter().position(|kind| *kind == row.kind);
        let index = index.ok_or(ClientError::Type)?;
        let packet = Packet {
            time_ns: row.time_ns,
            comment: row.peer.as_deref().unwrap_or_default(),
            received: row.received,
            length: (packet.len() + missing) as u32,
            data: &packet,
        };
        Ok(self.writer.packet(index as u32, &packet)?)
    }
}

impl CapturedPacket<'_> {
    /// Describes the packet in a few words.
    fn text(&self) -> String {
        let row = self.row;
        match row.kind {
            PacketKind::Inner => decode::inner(&self.data, self.frames),
            PacketKind::Meta => self.data.escape_ascii().to_string(),
            PacketKind::Outer => {
                let (local, remote) = (or_empty(row.local), or_empty(row.remote));
                match row.received {
                    true => format!("{remote} > {local} UDP"),
                    false => format!("{local} > {remote} UDP"),
                }
            }
        }
    }

    fn print(&self, format: Format) -> Result<(), Failure> {
        let (row, text) = (self.row, self.text());
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(row.time_ns);
        let time = humantime::format_rfc3339_micros(time).to_string();
        let (kind, length) = (row.kind.word(), row.length);
        let direction = if row.received { "in" } else { "out" };
        let peer = row.peer.as_deref();
        output::print(|out| match format {
            Format::Json => {
                let line = Line {
                    time: &time,
                    kind: row.kind,
                    peer,
                    received: row.received,
                    local: row.local,
                    remote: row.remote,
                    length,
                    text: &text,
                };
                serde_json::to_writer(&mut *out, &line)?;
                writeln!(out)
            }
            Format::Tsv => {
                let peer = peer.unwrap_or_default();
                writeln!(out, "{time}\t{kind}\t{peer}\t{direction}\t{length}\t{text}")
            }
            Format::Table => {
                let peer = peer.unwrap_or("?");
                writeln!(out, "{time} {kind:5} {peer} {direction:3} {length} {text}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: PacketKind, data: &[u8]) -> PacketRow {
        let ends = (kind != PacketKind::Inner).then(|| {
            ["10.0.0.1:655", "10.0.0.2:656"].map(|addr| addr.parse::<SocketAddr>().unwrap())
        });
        PacketRow {
            time_ns: 1_795_343_358_123_456_789,
            kind,
            peer: Some("db_01".into()),
            received: true,
            local: ends.map(|[local, _]| local),
            remote: ends.map(|[_, remote]| remote),
            length: data.len(),
            data: BASE64.encode(data),
        }
    }

    #[test]
    fn packets_of_every_kind_have_words() {
        for (kind, data, text) in [
            (PacketKind::Inner, &b"x"[..], "no IP packet"),
            (PacketKind::Outer, b"x", "10.0.0.2:656 > 10.0.0.1:655 UDP"),
            (PacketKind::Meta, b"8 \x1b", "8 \\x1b"),
        ] {
            let row = row(kind, data);
            let (data, frames) = (data.to_vec(), false);
            let packet = CapturedPacket {
                row: &row,
                data,
                frames,
            };
            assert_eq!(packet.text(), text);
        }
    }

    /// Returns the data of all packets in a file of these kinds, from a mesh of frames or packets.
    fn written(kinds: &[PacketKind], frames: bool) -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let wanted = CaptureOptions {
            peer: None,
            kinds: kinds.to_vec(),
            write: Some(path.clone()),
            count: None,
            time: None,
            snap: 1000,
        };
        let Ok(Sink::File(mut file)) = Sink::open(&wanted, frames) else {
            panic!("a file is one");
        };
        for kind in kinds {
            let row = row(*kind, &[0x45; 30]);
            let data = vec![0x45; 30];
            let packet = CapturedPacket {
                row: &row,
                data,
                frames,
            };
            file.write(&packet).unwrap();
        }
        let file = std::fs::read(path).unwrap();
        let mut reader = pcap_file::pcapng::PcapNgReader::new(file.as_slice()).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            if let pcap_file::pcapng::Block::EnhancedPacket(packet) = block.unwrap() {
                assert_eq!(packet.original_len as usize, packet.data.len());
                packets.push(packet.data.to_vec());
            }
        }
        packets
    }

    #[test]
    fn all_packets_of_a_file_begin_with_the_same_header() {
        use PacketKind::{Inner, Meta, Outer};
        let lengths = |kinds: &[PacketKind], frames| {
            let all = written(kinds, frames).into_iter();
            all.map(|packet| packet.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[Inner], false), [30]);
        assert_eq!(lengths(&[Inner], true), [30]);
        assert_eq!(lengths(&[Outer], true), [20 + 8 + 30]);
        assert_eq!(lengths(&[Meta], false), [20 + 20 + 30 + 1]);
        assert_eq!(
            lengths(&[Inner, Outer, Meta], false),
            [14 + 30, 14 + 58, 14 + 71]
        );
        assert_eq!(lengths(&[Inner, Outer, Meta], true), [30, 14 + 58, 14 + 71]);
        assert_eq!(written(&[Inner, Outer], false)[1][12..15], [8, 0, 0x45]);
    }
}
