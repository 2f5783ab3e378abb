//! Address of a server that another server names: Sentinel names the master, and a node of a Redis
//! Cluster the node that has a key.

use std::net::{IpAddr, SocketAddr};

/// Longest host, as in DNS.
const MAX_HOST: usize = 255;

/// Address of a server. The host is an address or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    host: Box<str>,
    port: u16,
}

impl Node {
    /// Takes a host and a port, as Sentinel answers them. `None` unless the host is an IP address or
    /// has the characters of a name, and the port is from 1 to 65535.
    pub fn new(host: &str, port: &str) -> Option<Self> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_host = (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_name);
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port > 0 && is_number)?;
        let is_valid = is_host || host.parse::<IpAddr>().is_ok();
        is_valid.then(|| Self { host: host.into(), port })
    }

    /// Reads `HOST:PORT`, as of a `MOVED`. The address of IPv6 has no brackets there.
    pub fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Self::new(host, port)
    }

    /// The host, for the verification of its certificate.
    pub const fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The address, unless the host is a name.
    pub fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        for (text, address) in [
            ("10.0.0.5:6379", Some("10.0.0.5:6379")),
            ("::1:6379", Some("[::1]:6379")),
            ("2001:db8::7:1", Some("[2001:db8::7]:1")),
            ("redis-1.internal:65535", None),
        ] {
            let node = Node::read(text).unwrap();
            assert_eq!(node.address().map(|own| own.to_string()).as_deref(), address, "{text}");
            assert_eq!(format!("{}:{}", node.host(), node.port()), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("{}:1", "a".repeat(256));
        for text in [
            "", ":", "a", "a:", ":6379", "a:0", "a:65536", "a:-1", "a:+1", "a:1x", "a b:1",
            "a/b:1", "a@b:1", "[::1]:1", "a\n:1", "\u{e9}:1", &long,
        ] {
            assert_eq!(Node::read(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Some(node) = Node::read(&text) {
                prop_assert_eq!(Node::new(node.host(), &node.port().to_string()), Some(node));
            }
        }
    }
}
