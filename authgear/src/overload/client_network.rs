//! Networks that count as one client.

use std::net::IpAddr;

/// A client for the purpose of fairness: an IPv4 address, or the /64 of an IPv6 address.
///
/// One subscriber usually has a whole /64 (RFC 6177): addresses within it cost nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientNetwork {
    /// Clients of a local socket are one client.
    #[default]
    Local,
    /// One IPv4 address.
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl ClientNetwork {
    /// Reads an address as nginx prints it (`$remote_addr`). Any other text, such as `unix:`, is
    /// the client of a local socket.
    pub fn parse(address: &[u8]) -> Self {
        let text = std::str::from_utf8(address).unwrap_or_default();
        text.parse().map(Self::of).unwrap_or_default()
    }

    /// The network of `address`. An IPv4-mapped IPv6 address is its IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }

    /// Nine bytes that identify the network.
    pub fn to_bytes(self) -> [u8; 9] {
        let (kind, number) = match self {
            Self::Local => (0, 0),
            Self::V4(address) => (4, u64::from(address)),
            Self::V6(prefix) => (6, prefix),
        };
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        [kind, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> ClientNetwork {
        ClientNetwork::parse(address.as_bytes())
    }

    #[test]
    fn addresses_of_one_ipv6_64_are_one_client() {
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("fd00::1"), network("2001:db8::1"));
    }

    #[test]
    fn each_ipv4_address_is_a_client_mapped_or_not() {
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_ne!(network("0.0.0.0"), network("unix:"));
    }

    #[test]
    fn clients_of_local_sockets_are_one_client() {
        assert_eq!(network("unix:"), network("unix:/run/a.sock"));
        assert_eq!(network("unix:"), ClientNetwork::default());
    }
}
