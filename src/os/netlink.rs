//! Settings of our device by rtnetlink, in the tokio runtime.

use std::{
    io,
    net::IpAddr,
    pin::{Pin, pin},
};

use futures_util::{Stream, StreamExt as _, TryStreamExt};
use rtnetlink::{
    Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute, RouteType},
    },
};
use rustix::net::{AddressFamily, SocketType};

/// Reason why the kernel did not accept a setting.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket, or no such interface.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The kernel rejected the request.
    #[error(transparent)]
    Kernel(#[from] rtnetlink::Error),
    /// A prefix longer than its address.
    #[error("prefix length of {0}/{1} is out of range")]
    Prefix(IpAddr, u8),
}

/// Route of the kernel to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTo {
    /// Name of the interface.
    pub interface: String,
    /// Source address of the packets, if the kernel gives one.
    pub source: Option<IpAddr>,
}

/// Changes of the addresses of all interfaces.
pub struct AddressChanges(Pin<Box<dyn Stream<Item = ()> + Send>>);

impl AddressChanges {
    /// Watches from now on. Must be called within the runtime, which then serves the netlink
    /// connection.
    pub fn watch() -> io::Result<Self> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok(Self(Box::pin(messages.ready_chunks(64).map(move |_| {
            // The connection lives as long as its handle.
            let _ = &handle;
        }))))
    }

    /// Waits for the next change. Returns `None` if no more will be seen.
    pub async fn next(&mut self) -> Option<()> {
        self.0.next().await
    }
}

/// Asks the kernel for the route to an address, as `ip route get` does. Must be called within a
/// runtime. Fails if there is no route, among other errors.
pub async fn route_to(address: IpAddr) -> Result<RouteTo, NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let len = if address.is_ipv4() { 32 } else { 128 };
    let wanted = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, len)
        .map_err(|_| NetlinkError::Prefix(address, len))?
        .build();
    let mut answers = pin!(handle.route().get(wanted).execute());
    let Some(route) = answers.try_next().await? else {
        return Err(io::Error::from(io::ErrorKind::NetworkUnreachable).into());
    };
    let (mut index, mut source) = (0, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = *oif,
            RouteAttribute::PrefSource(RouteAddress::Inet(addr)) => source = Some((*addr).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(addr)) => source = Some((*addr).into()),
            _ => {}
        }
    }
    if route.header.kind != RouteType::Unicast && route.header.kind != RouteType::Local {
        return Err(io::Error::from(io::ErrorKind::NetworkUnreachable).into());
    }
    let mut links = pin!(handle.link().get().match_index(index).execute());
    let link = links.try_next().await?;
    let name = link.and_then(|link| {
        link.attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
    });
    let interface = name.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(RouteTo { interface, source })
}

/// Works as [`route_to`], without a runtime. Blocks.
pub fn route_now(address: IpAddr) -> Result<RouteTo, NetlinkError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(route_to(address))
}

/// One interface, by index.
#[derive(Debug, Clone)]
pub struct Interface {
    handle: Handle,
    index: u32,
}

impl Interface {
    /// Opens the interface `name`. Must be called within the runtime, which then serves the netlink
    /// socket.
    pub fn open(name: &str) -> Result<Self, NetlinkError> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
            .map_err(io::Error::from)?;
        let index =
            rustix::net::netdevice::name_to_index(&socket, name).map_err(io::Error::from)?;
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, index })
    }

    /// Sets the interface up, and before that its MTU if one is given (in bytes).
    pub async fn set_up(&self, mtu: Option<u32>) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(self.index).up();
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        Ok(self.handle.link().set(message.build()).execute().await?)
    }

    /// Adds an address to the interface. An existing address is no error.
    pub async fn add_address(&self, addr: IpAddr, len: u8) -> Result<(), NetlinkError> {
        let request = self.handle.address().add(self.index, addr, len).replace();
        Ok(request.execute().await?)
    }

    /// Routes a network into the interface, replacing an equal route.
    pub async fn add_route(&self, net: IpAddr, len: u8) -> Result<(), NetlinkError> {
        let request = self.handle.route().add(self.route(net, len)?).replace();
        Ok(request.execute().await?)
    }

    /// Removes such a route.
    pub async fn remove_route(&self, net: IpAddr, len: u8) -> Result<(), NetlinkError> {
        let request = self.handle.route().del(self.route(net, len)?);
        Ok(request.execute().await?)
    }

    fn route(
        &self,
        net: IpAddr,
        len: u8,
    ) -> Result<rtnetlink::packet_route::route::RouteMessage, NetlinkError> {
        Ok(RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net, len)
            .map_err(|_| NetlinkError::Prefix(net, len))?
            .output_interface(self.index)
            .build())
    }
}
