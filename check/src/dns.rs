//! Addresses of a host as the module finds them: system names first, then the name servers of
//! the `resolver` directive, or those of the system.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use authgear::resolver::endpoint::Url;
use authgear::resolver::system_names;
use simple_dns::rdata::RData;
use simple_dns::{Name, Packet, PacketFlag, Question, CLASS, QTYPE, RCODE, TYPE};

/// Largest answer over UDP.
const MAX_ANSWER: usize = 4096;

/// Addresses of the host of `url`, or the reason why there are none.
pub fn addresses(
    url: &Url,
    servers: &[&str],
    timeout: Duration,
) -> Result<Vec<SocketAddr>, String> {
    let at = |ip: IpAddr| SocketAddr::new(ip, url.port());
    if let Some(ip) = url.ip() {
        return Ok(vec![at(ip)]);
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let known = system_names::addresses(url.host(), &hosts);
    if !known.is_empty() {
        return Ok(known.into_iter().map(at).collect());
    }
    if servers.is_empty() {
        let found =
            (url.host(), url.port()).to_socket_addrs().map_err(|error| error.to_string())?;
        return non_empty(found.collect());
    }
    let mut failure = String::new();
    for server in servers {
        match ask(server, url.host(), timeout) {
            Ok(found) => return non_empty(found.into_iter().map(at).collect()),
            Err(error) => failure = format!("name server {server}: {error}"),
        }
    }
    Err(failure)
}

fn non_empty(found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    if found.is_empty() {
        Err("the name has no address".into())
    } else {
        Ok(found)
    }
}

/// Asks a name server for the addresses of a host.
fn ask(server: &str, host: &str, timeout: Duration) -> Result<Vec<IpAddr>, String> {
    const DNS_PORT: u16 = 53;
    let mut candidates = match server.to_socket_addrs() {
        Ok(found) => Ok(found),
        Err(_) => (server.trim_matches(['[', ']']), DNS_PORT).to_socket_addrs(),
    }
    .map_err(|error| error.to_string())?;
    let server = candidates.next().ok_or("no address")?;
    let mut found = query(server, host, TYPE::A, timeout)?;
    found.extend(query(server, host, TYPE::AAAA, timeout)?);
    Ok(found)
}

fn query(
    server: SocketAddr,
    host: &str,
    kind: TYPE,
    timeout: Duration,
) -> Result<Vec<IpAddr>, String> {
    let id = std::process::id() as u16;
    let name = Name::new(host).map_err(|error| error.to_string())?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), CLASS::IN.into(), false));
    let bytes = packet.build_bytes_vec().map_err(|error| error.to_string())?;
    let received = exchange(server, &bytes, timeout).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    })?;
    let answer = Packet::parse(&received).map_err(|_| "the answer is malformed".to_owned())?;
    if answer.id() != id {
        return Err("the answer is to another question".into());
    }
    match answer.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Err("the name does not exist".into()),
        code => return Err(format!("the answer is {code:?}")),
    }
    let address = |record: &simple_dns::ResourceRecord<'_>| match &record.rdata {
        RData::A(a) => Some(IpAddr::V4(a.address.into())),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.address.into())),
        _ => None,
    };
    Ok(answer.answers.iter().filter_map(address).collect())
}

fn exchange(server: SocketAddr, question: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(server)?;
    socket.send(question)?;
    let mut answer = vec![0; MAX_ANSWER];
    let size = socket.recv(&mut answer)?;
    answer.truncate(size);
    Ok(answer)
}
