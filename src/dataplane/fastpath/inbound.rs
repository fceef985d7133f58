//! From datagrams to packets: finds the sender, opens the datagram, and routes the packet.

use std::{net::SocketAddr, sync::atomic::Ordering};

use bytes::Bytes;

use meshd_proto::{
    mesh::event::Punt,
    route::{DropReason, MTU, NodeShared, NodeSlot},
    tunnel::{self, OpenError, Opened, SPTPS_OVERHEAD, TYPE_PROBE, TYPE_VOUCHED},
};
use meshd_wire::{
    NodeId,
    datagram::{HEADER, RelayHeader},
};

use crate::{
    fastpath::{Sink, Step},
    io::vnet::Checksums,
};

/// Packets of one node in one message, counted together at the end.
#[derive(Default)]
struct Tally {
    packets: usize,
    bytes: usize,
    /// Longest record received directly from the node.
    longest: usize,
}

impl Tally {
    fn settle(&self, node: &NodeShared) {
        if self.packets > 0 {
            node.counters.received(self.packets, self.bytes);
        }
        node.counters.note_length(self.longest);
    }
}

impl<S: Sink> Step<'_, S> {
    /// Handles the datagrams of one message from `from` (IPv4 never mapped). Each has `stride`
    /// bytes (at least 1); the last may be shorter. The buffer is overwritten.
    ///
    /// Source: wire/tinc-1.1.md section 4.1, proto/native-link.md section 3.3. A datagram from an
    /// address that is not a node's confirmed one goes to the mesh.
    pub fn from_network(&mut self, from: SocketAddr, message: &mut [u8], stride: usize) {
        if message.is_empty() {
            return self.sink.dropped(DropReason::Malformed);
        }
        let sender = self.snapshot.by_addr.get(&from).copied();
        let mut datagrams = message.chunks_mut(stride);
        let mut next = datagrams.next();
        while let Some(datagram) = next.take() {
            next = match tunnel::index_of(datagram) {
                Some(index) => self.native(index, sender, from, datagram, &mut datagrams),
                None => self.by_ids(sender, from, datagram),
            };
            if next.is_none() {
                next = datagrams.next();
            }
        }
    }

    /// Handles a datagram that names the session `index`, and the following ones that name the same
    /// session. Returns the first datagram that does not.
    fn native<'d>(
        &mut self,
        index: u32,
        sender: Option<NodeSlot>,
        from: SocketAddr,
        datagram: &'d mut [u8],
        others: &mut impl Iterator<Item = &'d mut [u8]>,
    ) -> Option<&'d mut [u8]> {
        let owner = NodeSlot::of_session(index);
        let Some(node) = self.snapshot.node(owner) else {
            return self.by_ids(sender, from, datagram);
        };
        let state = node.state.load();
        let Some(key) = state.rx.iter().find(|key| key.is_named_by(datagram)) else {
            return self.by_ids(sender, from, datagram);
        };
        if sender != Some(owner) {
            self.punt_datagram(from, datagram);
            return None;
        }
        let mut window = key.window();
        let mut tally = Tally::default();
        let mut next = Some(datagram);
        while let Some(datagram) = next.take_if(|datagram| key.is_named_by(datagram)) {
            match key.open_in(&mut window, datagram) {
                Ok(opened) => self.opened(node, (sender, from), opened, datagram, &mut tally),
                Err(error) => self.refused(node, error),
            }
            next = others.next();
        }
        tally.settle(node);
        next
    }

    /// Handles a datagram of a real daemon, or one from a relay.
    fn by_ids<'d>(
        &mut self,
        sender: Option<NodeSlot>,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Option<&'d mut [u8]> {
        let Some(node) = sender.and_then(|idx| self.snapshot.node(idx)) else {
            self.punt_datagram(from, datagram);
            return None;
        };
        let (by, from) = (node.idx.slot(), (sender, from));
        if !node.state.load().options.has_ids() {
            self.open(node, from, datagram, 0);
            return None;
        }
        let Some(RelayHeader { to, from: origin }) = RelayHeader::parse(datagram) else {
            self.sink.dropped(DropReason::Malformed);
            return None;
        };
        if to == NodeId::DIRECT {
            self.open(node, from, datagram, HEADER);
            return None;
        }
        let known = |id| self.snapshot.by_id.get(&id).copied();
        let (Some(to), Some(origin)) = (known(to), known(origin)) else {
            self.sink.dropped(DropReason::NoRelay);
            return None;
        };
        // Drop datagrams in our own name (T29).
        if origin == self.snapshot.me {
            self.sink.dropped(DropReason::NoRelay);
            return None;
        }
        if to == self.snapshot.me {
            match self.snapshot.node(origin) {
                Some(origin) => self.open(origin, from, datagram, HEADER),
                None => self.sink.dropped(DropReason::NoRelay),
            }
            return None;
        }
        match datagram.len().checked_sub(HEADER + SPTPS_OVERHEAD) {
            Some(record) => self.relay((origin, to), by, &datagram[HEADER..], record),
            None => self.sink.dropped(DropReason::Malformed),
        }
        None
    }

    /// Opens the data behind `skip` bytes of ids with the keys of `node`'s tunnel.
    fn open(
        &mut self,
        node: &NodeShared,
        from: (Option<NodeSlot>, SocketAddr),
        datagram: &mut [u8],
        skip: usize,
    ) {
        let state = node.state.load();
        if state.rx.is_empty() {
            return self.punt_datagram(from.1, datagram);
        }
        let sealed = &mut datagram[skip..];
        match tunnel::open(&state.rx, sealed) {
            Ok(opened) => {
                let mut tally = Tally::default();
                self.opened(node, from, opened, sealed, &mut tally);
                tally.settle(node);
            }
            Err(error) => self.refused(node, error),
        }
    }

    fn punt_datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        let datagram = Bytes::copy_from_slice(datagram);
        self.sink.punt(Punt::Datagram { from, datagram });
    }

    fn refused(&mut self, node: &NodeShared, error: OpenError) {
        match error {
            OpenError::Short => self.sink.dropped(DropReason::Malformed),
            OpenError::BadTag => {
                node.counters.bad_tag.fetch_add(1, Ordering::Relaxed);
                self.sink.dropped(DropReason::BadTag);
                self.sink.punt(Punt::BadTag { node: node.idx });
            }
            OpenError::Replayed => {
                node.counters.replayed.fetch_add(1, Ordering::Relaxed);
                self.sink.dropped(DropReason::Replayed);
            }
        }
    }

    /// Handles one opened record.
    fn opened(
        &mut self,
        node: &NodeShared,
        (sender, from): (Option<NodeSlot>, SocketAddr),
        opened: Opened,
        datagram: &mut [u8],
        tally: &mut Tally,
    ) {
        let mode = self.snapshot.settings.mode;
        let opened = mode.seen(opened);
        let length = datagram.len();
        let mut data = &mut datagram[opened.data(length)];
        if sender == Some(node.idx.slot()) {
            tally.longest = tally.longest.max(data.len());
        }
        // Compressed data that we have not requested is as invalid as any other type.
        let mut unpacked;
        let mut kind = opened.kind;
        if opened.is_packed() {
            let Some((kind_inside, frame)) = opened.unpack(data) else {
                return self.sink.dropped(DropReason::Malformed);
            };
            (kind, unpacked) = (kind_inside, frame);
            data = &mut unpacked;
        }
        if kind == TYPE_PROBE {
            let data = opened.probe(Bytes::copy_from_slice(data));
            let node = node.idx;
            return self.sink.punt(Punt::Probe { node, from, data });
        }
        let (kind, checksums) = match opened.caps().vouches && kind & TYPE_VOUCHED != 0 {
            true => (kind & !TYPE_VOUCHED, Checksums::Vouched),
            false => (kind, Checksums::Complete),
        };
        let Some(skip) = mode.packet_at(kind) else {
            return self.sink.dropped(DropReason::BadType);
        };
        let packet = data.get_mut(skip..).unwrap_or_default();
        let length = mode.frame_len(packet.len());
        if packet.is_empty() || length > usize::from(MTU) {
            return self.sink.dropped(DropReason::Malformed);
        }
        tally.packets += 1;
        tally.bytes += length;
        self.sink.show(node, true, packet, checksums);
        self.route(node.idx.slot(), packet, checksums);
    }
}
