//! Free ports.

use std::net::TcpListener;

/// `N` different ports of 127.0.0.1 that were free just now. Another process may take one before it is
/// used: a server that cannot listen there is started again on others.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [_; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}
