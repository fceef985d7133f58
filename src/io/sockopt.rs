//! The one socket option that neither rustix nor socket2 knows.

#![expect(unsafe_code, reason = "a raw setsockopt")]

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsFd, AsRawFd},
};

const IPPROTO_IPV6: c_int = 41;
/// linux/in6.h
const IPV6_DONTFRAG: c_int = 62;

unsafe extern "C" {
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32)
    -> c_int;
}

/// Whether the kernel refuses (`true`) or fragments (`false`) IPv6 datagrams longer than the path MTU.
pub(super) fn set_ipv6_dontfrag(socket: impl AsFd, on: bool) -> io::Result<()> {
    let value = c_int::from(on);
    let length = u32::try_from(size_of::<c_int>()).expect("an int is short");
    // SAFETY: the descriptor is open for the whole call, and `value` is an int of `length` bytes that
    // the kernel only reads.
    let result = unsafe {
        setsockopt(
            socket.as_fd().as_raw_fd(),
            IPPROTO_IPV6,
            IPV6_DONTFRAG,
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
