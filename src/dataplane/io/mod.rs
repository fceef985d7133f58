//! System calls: device, UDP, epoll, netlink, files. Only this module may contain `unsafe`.

mod control;
pub mod epoll;
pub mod fdstore;
pub mod fork;
pub mod neighbour_proxy;
pub mod sched;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod sigsys;
pub mod sockopt;
pub mod tun;
pub mod udp;
pub mod vnet;
