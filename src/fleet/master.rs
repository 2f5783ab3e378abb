//! The server that has the stream: that of `authgear_fleet`, the master that a Sentinel names, or the
//! node of a Redis Cluster that has the key.

use core::pin::pin;
use core::time::Duration;
use std::net::SocketAddr;

use authgear::fleet::node::Node;
use authgear::fleet::request;

use super::link::{Link, LinkError};
use crate::conf::fleet::{FleetServer, FleetSettings, Sentinels};
use crate::conf::UpstreamServer;
use nginx::{self, Elapsed, PeerAddress, SslContext, Stream};

/// Longest time of a connection to one address, and of a DNS query.
const CONNECT: Duration = Duration::from_secs(1);

/// Least time in which an answer is due.
const DUE: Duration = Duration::from_millis(500);

/// Connects to the server that has the stream, and logs in. `name` is that of the connection.
pub(super) async fn open(settings: &FleetSettings, name: &str) -> Result<Link, LinkError> {
    match &settings.server {
        FleetServer::Unix(path) => {
            let stream = open_address(PeerAddress::Unix(path.clone()), None).await?;
            log_in(settings, stream, name).await
        }
        FleetServer::Tcp(server) => {
            let stream = connect(server).await?;
            log_in_at_node(settings, stream, server, name).await
        }
        FleetServer::Sentinels(sentinels) => open_by_sentinels(settings, sentinels, name).await,
    }
}

/// Asks one Sentinel after another for the master, and connects to it. A Sentinel may name a master
/// of the past: the next one is asked then.
async fn open_by_sentinels(
    settings: &FleetSettings,
    sentinels: &Sentinels,
    name: &str,
) -> Result<Link, LinkError> {
    let mut failure = LinkError::new("no Sentinel");
    for sentinel in &sentinels.servers {
        let opened = async {
            let node = ask_sentinel(sentinel, sentinels, due(settings)).await?;
            let stream = reach(sentinel, &node).await?;
            let mut link = log_in_at_node(settings, stream, sentinel, name).await?;
            link.server().await?;
            Ok::<_, LinkError>(link)
        };
        match opened.await {
            Ok(link) => return Ok(link),
            Err(error) => {
                let at = sentinel.url.authority();
                failure = LinkError::new(format!("{error}, sentinel: {at}"));
            }
        }
    }
    Err(failure)
}

/// Logs in, at the node of a Redis Cluster that has the stream if that is another one than `by`.
async fn log_in_at_node(
    settings: &FleetSettings,
    stream: Stream,
    by: &UpstreamServer,
    name: &str,
) -> Result<Link, LinkError> {
    let mut link = log_in(settings, stream, name).await?;
    let mut bytes = Vec::new();
    request::find(&mut bytes, &settings.prefix.stream());
    // One redirection is enough: all keys of the fleet are in one slot.
    match link.ask(&bytes, Duration::ZERO).await?.moved() {
        Some(node) => log_in(settings, reach(by, &node).await?, name).await,
        None => Ok(link),
    }
}

pub(super) fn due(settings: &FleetSettings) -> Duration {
    settings.timeout.max(DUE)
}

async fn log_in(settings: &FleetSettings, stream: Stream, name: &str) -> Result<Link, LinkError> {
    stream.set_permanent();
    let mut link = Link::new(stream, due(settings));
    link.log_in(settings, name).await?;
    Ok(link)
}

async fn ask_sentinel(
    sentinel: &UpstreamServer,
    sentinels: &Sentinels,
    due: Duration,
) -> Result<Node, LinkError> {
    let mut link = Link::new(connect(sentinel).await?, due);
    let mut bytes = Vec::new();
    if let Some(password) = &sentinels.password {
        request::auth(&mut bytes, None, password);
        link.ask(&bytes, Duration::ZERO).await?.ok()?;
        bytes.clear();
    }
    request::master(&mut bytes, &sentinels.master);
    let master = link.ask(&bytes, Duration::ZERO).await?.master()?;
    master.ok_or_else(|| {
        LinkError::new(format!("the Sentinel knows no master \"{}\"", sentinels.master))
    })
}

/// Connects to a server of the configuration.
async fn connect(server: &UpstreamServer) -> Result<Stream, LinkError> {
    let tls = server.tls.as_ref().map(|tls| (&**tls, server.tls_name()));
    first_of_all(addresses(server).await?, tls).await
}

/// Connects to a server that another one named, in the way of that one.
async fn reach(by: &UpstreamServer, node: &Node) -> Result<Stream, LinkError> {
    let tls = by.tls.as_ref().map(|tls| (&**tls, node.host()));
    let addresses = match (node.address(), by.resolver()) {
        (Some(address), _) => vec![address],
        (None, Some(resolver)) => match resolver.resolve(node.host(), CONNECT).await {
            Ok(ips) => ips.into_iter().map(|ip| SocketAddr::new(ip, node.port())).collect(),
            Err(error) => return Err(unresolved(node.host(), &error.0)),
        },
        (None, None) => return Err(unresolved(node.host(), "no \"resolver\" is defined")),
    };
    first_of_all(addresses, tls).await
}

/// Connects to the first address that accepts.
async fn first_of_all(
    addresses: Vec<SocketAddr>,
    tls: Option<(&SslContext, &str)>,
) -> Result<Stream, LinkError> {
    let mut failure = LinkError::new("no address");
    for address in addresses {
        match open_address(address.into(), tls).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn open_address(
    address: PeerAddress,
    tls: Option<(&SslContext, &str)>,
) -> Result<Stream, LinkError> {
    let text = address.to_string();
    let opening = pin!(async {
        let stream = Stream::connect(address).await?;
        if let Some((tls, name)) = tls {
            stream.handshake(tls, name).await?;
        }
        Ok::<_, LinkError>(stream)
    });
    let opened = nginx::timeout(CONNECT, opening).await;
    let opened = opened.unwrap_or_else(|Elapsed| Err(LinkError::new("connect timed out")));
    opened.map_err(|error| LinkError::new(format!("{error}, address: {text}")))
}

/// Addresses of the server, as the resolver's client finds them.
async fn addresses(server: &UpstreamServer) -> Result<Vec<SocketAddr>, LinkError> {
    let Some(name_servers) = server.name_servers() else {
        return Ok(server.addresses().to_vec());
    };
    let (host, port) = (server.url.host(), server.url.port());
    match name_servers.resolve(host, CONNECT).await {
        Ok(ips) => Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
        Err(_) if !server.addresses().is_empty() => Ok(server.addresses().to_vec()),
        Err(error) => Err(unresolved(host, &error.0)),
    }
}

fn unresolved(host: &str, why: &str) -> LinkError {
    LinkError::new(format!("\"{host}\" could not be resolved ({why})"))
}
