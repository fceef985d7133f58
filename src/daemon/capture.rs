//! `meshctl capture`: checks the request, records packets of the driver, and makes rows for the client.
//!
//! Source: cli/meshctl.md section 4.3.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use data_encoding::BASE64;

use meshd_api::{
    call,
    proto::{Captured, Capturing, ErrorCode, MAX_SNAP, PacketRow, Response},
};
use meshd_dataplane::{
    fastpath::tap::{Filter, Seen, Tap},
    io::udp,
};
use meshd_proto::{
    mesh::{Input, LinkId, reports::view::PacketKind},
    route::Mode,
};
use meshd_wire::{NodeName, Request};

use crate::{Reply, control, driver::Driver, links::Links};

/// Maximum number of packets in one answer. With those of the ring, a capture uses at most 9 MiB.
pub(super) const AT_ONCE: usize = 64;
/// Maximum number of remembered remote addresses with our local address.
const MAX_ENDS: usize = 1024;

/// Returns the filter of a request, or the error answer.
pub(super) fn filter(call: &call::Capture) -> Result<Filter, Response> {
    let call::Capture { kinds, peer, snap } = call;
    let refuse = |code, text| Err(control::error(code, text));
    let peer = match peer.as_deref().map(NodeName::new).transpose() {
        Ok(peer) => peer,
        Err(error) => return refuse(ErrorCode::Unknown, error.to_string()),
    };
    if kinds.is_empty() || !(1..=MAX_SNAP).contains(snap) {
        let text =
            format!("a capture needs a kind of packets, and 1 to {MAX_SNAP} bytes of each packet");
        return refuse(ErrorCode::Malformed, text);
    }
    let kinds = PacketKind::ALL.map(|kind| kinds.contains(&kind));
    Ok(Filter {
        kinds,
        peer,
        snap: *snap,
    })
}

impl Driver {
    /// Starts a capture for a client, unless another one runs.
    pub(super) fn capture(&mut self, tap: Arc<Tap>, reply: Reply) {
        self.end_capture();
        let known = |peer: &NodeName| self.mesh.has_node(peer);
        let refused = match &tap.filter().peer {
            _ if self.net.tap.is_some() => {
                let text = "another capture is running; only one can run at a time";
                Some((ErrorCode::Refused, text.to_owned()))
            }
            Some(peer) if !known(peer) => {
                Some((ErrorCode::Unknown, format!("no node {:?}", peer.as_str())))
            }
            _ => None,
        };
        if let Some((code, text)) = refused {
            return drop(reply.send(control::error(code, text)));
        }
        let frames = self.config.settings.route.mode != Mode::Router;
        tracing::info!(kinds = ?tap.filter().kinds, "capture started");
        self.set_capture(Some(tap));
        let _ = reply.send(Response::Capturing(Capturing { frames }));
    }

    /// Ends a capture whose client has left.
    pub(super) fn end_capture(&mut self) {
        if let Some(tap) = self.net.tap.take_if(|tap| tap.is_closed()) {
            tracing::info!(dropped = ?tap.dropped(), "capture ended");
            self.set_capture(None);
        }
    }

    fn set_capture(&mut self, tap: Option<Arc<Tap>>) {
        let inner = tap
            .as_ref()
            .is_some_and(|tap| tap.records(PacketKind::Inner));
        self.send_to_mesh(Input::Capture(inner));
        if let Some(workers) = &self.net.workers {
            workers.set_tap(tap.clone());
        }
        self.net.tap = tap;
    }
}

/// Records a request line of a link, without keys. Of an invalid line it records only the length.
pub(super) fn line(tap: &Tap, links: &Links, (link, received): (LinkId, bool), line: &[u8]) {
    if !tap.records(PacketKind::Meta) {
        return;
    }
    let Some((peer, ends)) = links.pool.ends(link) else {
        return;
    };
    let redacted = redact(line);
    let redacted = redacted.as_deref().unwrap_or(line);
    tap.show(
        PacketKind::Meta,
        (Some(peer), received),
        Some(ends),
        redacted,
    );
}

/// Returns the text in place of a line that must not be recorded as it is.
fn redact(line: &[u8]) -> Option<Vec<u8>> {
    match Request::parse(line) {
        Ok(request) => request.without_key().map(String::into_bytes),
        Err(_) => Some(format!("({} bytes, not a request)", line.len()).into_bytes()),
    }
}

/// Local addresses that the kernel chooses for sockets without one, by remote address.
#[derive(Default)]
pub(super) struct Ends(BTreeMap<IpAddr, IpAddr>);

impl Ends {
    /// Makes the client's row of a packet.
    pub(super) fn row(&mut self, seen: Seen) -> PacketRow {
        let since = seen.at.duration_since(SystemTime::UNIX_EPOCH);
        let time_ns = since.unwrap_or_default().as_nanos();
        PacketRow {
            time_ns: u64::try_from(time_ns).unwrap_or(u64::MAX),
            kind: seen.kind,
            peer: seen.peer.map(|peer| peer.to_string()),
            received: seen.received,
            local: seen.ends.map(|[local, remote]| self.local(local, remote)),
            remote: seen.ends.map(|[_, remote]| remote),
            length: seen.length,
            data: BASE64.encode(&seen.data),
        }
    }

    fn local(&mut self, local: SocketAddr, remote: SocketAddr) -> SocketAddr {
        if !local.ip().is_unspecified() {
            return local;
        }
        if self.0.len() >= MAX_ENDS {
            self.0.clear();
        }
        let known = self.0.entry(remote.ip());
        let ip = known.or_insert_with(|| udp::source(remote).unwrap_or_else(|_| local.ip()));
        SocketAddr::new(*ip, local.port())
    }
}

/// Makes an answer with these packets.
pub(super) fn captured(packets: Vec<PacketRow>, tap: &Tap) -> Captured {
    let dropped = PacketKind::ALL.into_iter().zip(tap.dropped());
    Captured {
        packets,
        dropped: dropped.filter(|(_, count)| *count > 0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_in_what_is_shown_of_a_line() {
        for (line, what) in [
            ("16 a b C0FFEE -1 -1 -1 0", Some("16 a b KEY -1 -1 -1 0")),
            ("15 a b 15 C0FFEE", Some("15 a b 15 KEY")),
            // An incomplete ANS_KEY is not a request.
            ("16 a b C0FFEE", Some("(13 bytes, not a request)")),
            ("1 94 64 0 0 C0FFEE", Some("(18 bytes, not a request)")),
            ("10 5a a 10.0.0.1", None),
        ] {
            let redacted = redact(line.as_bytes());
            assert_eq!(redacted.as_deref(), what.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn our_address_is_what_the_kernel_would_choose() {
        let mut ends = Ends::default();
        let seen = |local: &str, remote: &str| Seen {
            at: SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_500_000),
            kind: PacketKind::Outer,
            peer: None,
            received: true,
            ends: Some([local, remote].map(|addr| addr.parse().unwrap())),
            length: 9,
            data: b"abc".to_vec(),
        };
        let row = ends.row(seen("0.0.0.0:655", "127.0.0.1:656"));
        assert_eq!(row.local, Some("127.0.0.1:655".parse().unwrap()));
        assert_eq!(
            (row.time_ns, row.data.as_str(), row.length),
            (1_500_000_000, "YWJj", 9)
        );
        let row = ends.row(seen("10.0.0.9:655", "127.0.0.1:656"));
        assert_eq!(row.local, Some("10.0.0.9:655".parse().unwrap()));
    }

    #[test]
    fn bad_requests_are_refused() {
        let filter = |kinds: &[PacketKind], peer: Option<&str>, snap| {
            filter(&call::Capture {
                kinds: kinds.to_vec(),
                peer: peer.map(str::to_owned),
                snap,
            })
        };
        let all = PacketKind::ALL;
        assert!(filter(&all, Some("db_01"), 65_535).is_ok());
        assert!(filter(&all, None, 0).is_err());
        assert!(filter(&all, None, MAX_SNAP + 1).is_err());
        assert!(filter(&[], None, 100).is_err());
        assert!(filter(&all, Some("../x"), 100).is_err());
        let one = filter(&[PacketKind::Outer], None, 100).unwrap();
        assert_eq!(one.kinds, [false, true, false]);
    }
}
