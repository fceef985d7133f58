//! From a datagram to an IP packet: who sent it, whose tunnel opens it, where it goes.

use std::{net::SocketAddr, sync::atomic::Ordering};

use bytes::Bytes;

use crate::{
    fastpath::{Sink, Step},
    mesh::event::Punt,
    route::{DropReason, ETHER, MTU, NodeShared},
    tunnel::{OpenError, Opened, SPTPS_OVERHEAD, TYPE_MAC, TYPE_PROBE},
    wire::{
        NodeId,
        datagram::{HEADER, RelayHeader},
    },
};

/// Lowest minor version whose datagrams carry ids. Source: tinc-1.1-wire.md section 4.1.
const MINOR_WITH_HEADER: u8 = 4;

impl<S: Sink> Step<'_, S> {
    /// Takes one datagram as it came from `from` (IPv4 never mapped). The buffer is used up.
    ///
    /// Source: tinc-1.1-wire.md section 4.1. Everything from an address that is not some node's
    /// confirmed one is left to the mesh.
    pub fn from_network(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        let sender = self.snapshot.by_addr.get(&from);
        let Some(sender) = sender.and_then(|idx| self.snapshot.node(*idx)) else {
            let datagram = Bytes::copy_from_slice(datagram);
            return self.sink.punt(Punt::Datagram { from, datagram });
        };
        if sender.state.load().options.minor() < MINOR_WITH_HEADER {
            return self.open(sender, from, datagram, 0);
        }
        let Some(RelayHeader { to, from: origin }) = RelayHeader::parse(datagram) else {
            return self.sink.dropped(DropReason::Malformed);
        };
        if to == NodeId::DIRECT {
            return self.open(sender, from, datagram, HEADER);
        }
        let known = |id| self.snapshot.by_id.get(&id).copied();
        let (Some(to), Some(origin)) = (known(to), known(origin)) else {
            return self.sink.dropped(DropReason::NoRelay);
        };
        if to == self.snapshot.me {
            let Some(origin) = self.snapshot.node(origin) else {
                return self.sink.dropped(DropReason::NoRelay);
            };
            return self.open(origin, from, datagram, HEADER);
        }
        let Some(record) = datagram.len().checked_sub(HEADER + SPTPS_OVERHEAD) else {
            return self.sink.dropped(DropReason::Malformed);
        };
        self.relay(origin, to, &datagram[HEADER..], record);
    }

    /// Opens what follows `skip` bytes of ids with the keys of `node`'s tunnel.
    fn open(&mut self, node: &NodeShared, from: SocketAddr, datagram: &mut [u8], skip: usize) {
        let state = node.state.load();
        if state.rx.is_empty() {
            let datagram = Bytes::copy_from_slice(datagram);
            return self.sink.punt(Punt::Datagram { from, datagram });
        }
        let sealed = &mut datagram[skip..];
        let mut opened = Err(OpenError::BadTag);
        for key in &state.rx {
            opened = key.open(sealed);
            if opened != Err(OpenError::BadTag) {
                break;
            }
        }
        match opened {
            Ok(opened) => self.opened(node, from, opened, &mut sealed[5..]),
            Err(OpenError::Short) => self.sink.dropped(DropReason::Malformed),
            Err(OpenError::BadTag) => {
                node.counters.bad_tag.fetch_add(1, Ordering::Relaxed);
                self.sink.dropped(DropReason::BadTag);
                self.sink.punt(Punt::BadTag { node: node.idx });
            }
            Err(OpenError::Replayed) => {
                node.counters.replayed.fetch_add(1, Ordering::Relaxed);
                self.sink.dropped(DropReason::Replayed);
            }
        }
    }

    /// Takes the data of one record, its tag still behind it.
    fn opened(&mut self, node: &NodeShared, from: SocketAddr, opened: Opened, record: &mut [u8]) {
        let length = record.len() - (SPTPS_OVERHEAD - 5);
        let data = &mut record[..length];
        if self.snapshot.by_addr.get(&from) == Some(&node.idx) {
            let longest = &node.counters.longest;
            longest.fetch_max(length as u64, Ordering::Relaxed);
        }
        if opened.kind == TYPE_PROBE {
            let data = Bytes::copy_from_slice(data);
            let node = node.idx;
            return self.sink.punt(Punt::Probe { node, from, data });
        }
        // We announce no compression, so compressed data is as wrong as any other type.
        if opened.kind & !TYPE_MAC != 0 {
            return self.sink.dropped(DropReason::BadType);
        }
        // A whole frame is legal in router mode too, if unusual: its header says nothing new.
        let header = if opened.kind == TYPE_MAC { ETHER } else { 0 };
        let packet = data.get_mut(header..).unwrap_or_default();
        if packet.is_empty() || packet.len() + ETHER > usize::from(MTU) {
            return self.sink.dropped(DropReason::Malformed);
        }
        node.counters.received(packet.len() + ETHER);
        self.route(node.idx, packet);
    }
}
