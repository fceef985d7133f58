//! The addresses of this machine: a connection from an address that is gone carries nothing, so it
//! ends at once, and its node is dialled again.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use meshd_os::netlink::AddressChanges;
use meshd_proto::mesh::Input;
use tokio::{sync::mpsc, time::sleep};

use crate::{Event, driver::Driver};

/// Pause between looks at the addresses, because changes come in groups.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends [`Event::AddressesChanged`] after changes, while the runtime lives.
pub(crate) fn watch(events: &mpsc::Sender<Event>) -> io::Result<()> {
    let mut changes = AddressChanges::watch()?;
    let events = events.clone();
    tokio::spawn(async move {
        while changes.next().await.is_some() {
            if events.send(Event::AddressesChanged).await.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
    });
    Ok(())
}

impl Driver {
    /// Ends the connections from addresses that are gone, and dials again. Without a connection it
    /// dials too, as a new address may be the way out.
    pub(super) fn addresses_changed(&mut self) {
        let locals = self.links.pool.locals();
        let gone: Vec<SocketAddr> = locals.iter().copied().filter(is_gone).collect();
        for address in &gone {
            tracing::info!(address = %address.ip(), "the address is gone: its links end");
            self.links.pool.address_gone(address.ip());
        }
        if !gone.is_empty() || locals.is_empty() {
            self.inbox.inputs.push(Input::Retry);
        }
    }
}

/// Returns true if this machine has no such address.
fn is_gone(address: &SocketAddr) -> bool {
    let bound = UdpSocket::bind(address);
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_machine_is_gone() {
        assert!(!is_gone(&"127.0.0.1:0".parse().unwrap()));
        assert!(is_gone(&"192.0.2.1:0".parse().unwrap()));
    }
}
