//! System calls: device, UDP, epoll, netlink, files. The only module where `unsafe` may stand.

mod control;
pub mod epoll;
pub mod fork;
pub mod kept;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod refused;
pub mod sched;
pub mod sockopt;
pub mod station;
pub mod tun;
pub mod udp;
pub mod vnet;
