//! Socket options that rustix and socket2 lack, wholly or partly.

#![expect(unsafe_code, reason = "a raw setsockopt and getsockopt")]

use std::{
    ffi::c_int,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use libc::{
    IP_PKTINFO, IP_RECVTOS, IPPROTO_IP, IPPROTO_IPV6, IPV6_DONTFRAG, IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS, SO_PEERGROUPS, SOL_SOCKET, getsockopt, setsockopt,
};
use rustix::io::Errno;

/// Returns the supplementary groups of the peer of a Unix socket, as of its connect. Source:
/// socket(7).
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut length = u32::try_from(size_of_val(groups.as_slice())).expect("a few kB");
        // SAFETY: the descriptor is open for the whole call. The kernel writes at most `length`
        // bytes, those of `groups`, and the length itself.
        let result = unsafe {
            getsockopt(
                socket.as_fd().as_raw_fd(),
                SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let error = (result != 0).then(io::Error::last_os_error);
        let count = usize::try_from(length).expect("as wide as an address") / size_of::<u32>();
        match error {
            None => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel has returned the number of groups.
            Some(error)
                if Errno::from_io_error(&error) == Some(Errno::RANGE) && count > groups.len() =>
            {
                groups.resize(count, 0);
            }
            Some(error) => return Err(error),
        }
    }
}

/// Makes the kernel reject (`true`) or fragment (`false`) IPv6 datagrams longer than the path MTU.
pub(super) fn set_ipv6_dontfrag(socket: impl AsFd, on: bool) -> io::Result<()> {
    set(socket, IPPROTO_IPV6, IPV6_DONTFRAG, on)
}

/// Turns off the control messages about destination address and type of service of each datagram,
/// which quinn-udp requests. meshd uses neither, and each costs time. Kernels without such an
/// option send no such message.
pub(super) fn disable_control_messages(socket: impl AsFd, local: SocketAddr) {
    let (level, options) = match local {
        SocketAddr::V4(_) => (IPPROTO_IP, [IP_PKTINFO, IP_RECVTOS]),
        SocketAddr::V6(_) => (IPPROTO_IPV6, [IPV6_RECVPKTINFO, IPV6_RECVTCLASS]),
    };
    for option in options {
        let _ = set(&socket, level, option, false);
    }
}

fn set(socket: impl AsFd, level: c_int, name: c_int, on: bool) -> io::Result<()> {
    let value = c_int::from(on);
    let length = u32::try_from(size_of::<c_int>()).expect("an int is short");
    // SAFETY: the descriptor is open for the whole call. `value` is an int of `length` bytes, which
    // the kernel only reads.
    let result = unsafe {
        setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn who_connects_has_the_groups_that_proc_tells() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let words = line.unwrap().split_whitespace();
        let listed: Vec<u32> = words.map(|word| word.parse().unwrap()).collect();
        assert_eq!(peer_groups(&socket).unwrap(), listed);
        let file = fs::File::open("/dev/null").unwrap();
        assert!(peer_groups(&file).is_err(), "no socket");
    }
}
