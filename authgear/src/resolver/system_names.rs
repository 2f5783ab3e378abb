//! Host names that the system knows without a name server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest hosts file that is read, in bytes.
pub const MAX_HOSTS_FILE: usize = 1024 * 1024;

/// Addresses of `host` that need no name server: loopback for `localhost` and `*.localhost`
/// (RFC 6761 section 6.3), else those of the file `hosts` (hosts(5)). Empty if there are none.
///
/// Such a name must not go to DNS: the answer could lead credentials to another host.
pub fn addresses(host: &str, hosts: &str) -> Vec<IpAddr> {
    if is_localhost(host) {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    let mut found = Vec::new();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut fields = line.split_ascii_whitespace();
        let Some(Ok(ip)) = fields.next().map(str::parse) else { continue };
        let is_named = fields.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host));
        if is_named && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// Whether `host`, in lower case and without a trailing dot, is a name of this machine.
pub(super) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether traffic to `ip` stays on this machine or in a private network (RFC 1918, RFC 4193), or
/// on the link.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "# comment\n\
        127.0.0.1 localhost\n\
        10.0.0.7\tauthgear.test other.test # authgear.example\n\
        ::1 v6.test\n\
        10.0.0.8 AUTHGEAR.test\n\
        fe80::1%eth0 scoped.test\n\
        not-an-address authgear.test\n";

    #[test]
    fn localhost_is_loopback_whatever_the_hosts_file_says() {
        for host in ["localhost", "a.b.localhost"] {
            let found = addresses(host, "203.0.113.5 localhost a.b.localhost");
            assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{host}");
        }
        assert_eq!(addresses("notlocalhost", ""), [] as [IpAddr; 0]);
    }

    #[test]
    fn names_of_the_hosts_file_have_the_addresses_of_their_lines() {
        let of = |host| addresses(host, HOSTS).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(of("authgear.test"), ["10.0.0.7", "10.0.0.8"]);
        assert_eq!(of("v6.test"), ["::1"]);
        for absent in ["authgear.example", "scoped.test", "test", "10.0.0.7"] {
            assert!(of(absent).is_empty(), "{absent}");
        }
    }
}
