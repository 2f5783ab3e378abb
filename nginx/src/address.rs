//! Socket addresses.

use core::ptr;
use std::net::SocketAddr;

use nginx_sys::{sockaddr, socklen_t};
use socket2::{SockAddr, SockAddrStorage};

/// Converts `address`. `None` if it is no IP address.
///
/// # Safety
///
/// `address` points to `len` bytes.
pub(crate) unsafe fn socket_addr(address: *const sockaddr, len: socklen_t) -> Option<SocketAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let len = (len as usize).min(size_of::<SockAddrStorage>());
    // SAFETY: the storage is larger than any address of the families nginx resolves to.
    let address = unsafe {
        ptr::copy_nonoverlapping(
            address.cast::<u8>(),
            ptr::from_mut(&mut storage).cast::<u8>(),
            len,
        );
        SockAddr::new(storage, len as _)
    };
    address.as_socket()
}
