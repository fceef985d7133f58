//! Carries out the mesh's outputs: lines to links, packets to sockets and device, names to the resolver, events to
//! scripts.

use std::{net::SocketAddr, time::Instant};

use meshd_config::cache;
use meshd_dataplane::io::udp::{device_mtu, is_too_long};
use meshd_proto::{
    mesh::{Input, Output, reports::view::PacketKind},
    route::DropReason,
};
use meshd_wire::NodeName;

use crate::{capture, driver::Driver, resolve};

impl Driver {
    /// Carries out one output.
    pub(super) fn output(&mut self, output: Output, now: Instant) {
        match output {
            Output::SendLine { to, line } => {
                if let Some(tap) = &self.net.tap {
                    capture::line(tap, &self.links, (to, false), &line);
                }
                self.links.pool.send_line(to, &line);
            }
            Output::AskRoom { link } => {
                self.links.pool.ask_room(link);
            }
            Output::SendFrame { to, frame } => {
                let sent = self.links.pool.send_frame(to, &frame);
                self.count_unless(sent, DropReason::LinkFull);
            }
            Output::SendRelayed { to, datagram } => {
                let sent = self.links.pool.send_relayed(to, &datagram);
                self.count_unless(sent, DropReason::LinkFull);
            }
            Output::Datagram { to, datagram } => self.send_datagram(to, &datagram),
            Output::TunWrite(packet) => {
                let sent = self
                    .net
                    .tun
                    .as_ref()
                    .is_none_or(|tun| tun.write(&packet).is_ok());
                self.count_unless(sent, DropReason::SendFailed);
            }
            Output::Resolve { node, host, port } => {
                let (services, events) = (&self.vitals.services, &self.inbox.events);
                resolve::ask(node, host, port, services, events);
            }
            Output::Dial { node, addr } => self.links.pool.dial(node, addr),
            Output::CancelDial { node } => self.links.pool.cancel_dial(&node),
            Output::Close { link, why } => {
                tracing::debug!(why, "closing a link");
                self.links.pool.close(link);
            }
            Output::AskPathMtu { to } => {
                if let Ok(mtu) = device_mtu(to, &self.net.options) {
                    self.inbox.inputs.push(Input::PathMtu { to, mtu });
                }
            }
            Output::Remember { node, addr } => self.remember(&node, addr),
            Output::Seen {
                node,
                received,
                packet,
            } => {
                if let Some(tap) = &self.net.tap {
                    tap.show(PacketKind::Inner, (Some(&node), received), None, &packet);
                }
            }
            Output::Pong { token, rtt } => self.pong(token, rtt),
            Output::Notice { node, notice } => self.log_notice(&node, notice, now),
            Output::Query { node, data } => self.queried(node, &data, now),
            Output::Hook(event) => {
                if let Some(routes) = &mut self.device.routes {
                    routes.follow(&event, &self.config.settings.name);
                }
                // During the stop, changes of other nodes are ignored.
                if !self.life.leaving {
                    self.hooks.push(&event);
                }
            }
            Output::Publish(snapshot) => {
                if let Some(workers) = &self.net.workers {
                    workers.publish(snapshot);
                }
            }
        }
    }

    fn send_datagram(&mut self, to: SocketAddr, datagram: &[u8]) {
        let socket = self
            .net
            .udp
            .iter()
            .find(|s| s.local().is_ipv4() == to.is_ipv4());
        let Some(socket) = socket else {
            return self.count_unless(false, DropReason::SendFailed);
        };
        if let Some(tap) = &self.net.tap {
            let node = self.mesh.node_by_addr(to);
            let ends = Some([socket.local(), to]);
            tap.show(PacketKind::Outer, (node.as_ref(), false), ends, datagram);
        }
        let length = datagram.len();
        match socket.send(to, datagram, length) {
            Ok(()) => {}
            Err(error) if is_too_long(&error) => {
                self.inbox.inputs.push(Input::TooLong { to, length })
            }
            Err(_) => self.count_unless(false, DropReason::SendFailed),
        }
    }

    fn count_unless(&mut self, sent: bool, reason: DropReason) {
        if !sent {
            *self.net.drops.entry(reason).or_default() += 1;
        }
    }

    /// Puts an address that worked first in the node's cache file, without waiting for the disk.
    fn remember(&self, node: &NodeName, addr: SocketAddr) {
        let (base, node) = (self.config.source.base.clone(), node.clone());
        tokio::task::spawn_blocking(move || {
            let addrs = cache::read(&base, &node);
            if addrs.first() == Some(&addr) {
                return;
            }
            if let Err(error) = cache::write(&base, &node, &cache::remember(&addrs, addr)) {
                tracing::debug!(%node, %error, "cannot write the address cache");
            }
        });
    }
}
