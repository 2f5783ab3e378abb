//! A DNS server over UDP with the test's records.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use simple_dns::rdata::{RData, A, AAAA};
use simple_dns::{Packet, PacketFlag, ResourceRecord, CLASS, QTYPE, RCODE, TYPE};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use crate::runtime::runtime;
use crate::wait::{Gate, Watched};

/// A running server. It stops when dropped. Names without a record do not exist.
pub struct FakeDns {
    addr: SocketAddr,
    state: Arc<Watched<State>>,
    task: AbortHandle,
}

impl fmt::Debug for FakeDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeDns({})", self.addr)
    }
}

impl Drop for FakeDns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<String, Says>,
    queries: Vec<(String, TYPE)>,
}

#[derive(Clone, Debug)]
enum Says {
    Addresses(Vec<IpAddr>, u32),
    Code(RCODE),
    Nothing,
    /// The nested answer, once the gate is open.
    Held(Gate, Box<Says>),
}

impl FakeDns {
    /// Listens on this address, such as `127.0.0.1:0`, or `127.3.2.1:53` for a `resolv.conf`.
    pub fn start(addr: &str) -> Self {
        let socket = runtime().block_on(UdpSocket::bind(addr));
        let socket = socket.unwrap_or_else(|error| panic!("listen on {addr}: {error}"));
        let addr = socket.local_addr().expect("the bound address");
        let state = Arc::<Watched<State>>::default();
        let task = runtime().spawn(serve(socket, state.clone())).abort_handle();
        Self { addr, state, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the addresses of a name, of both families, and their time to live.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.say(name, Says::Addresses(addresses.to_vec(), ttl));
    }

    pub fn nxdomain(&self, name: &str) {
        self.say(name, Says::Code(RCODE::NameError));
    }

    pub fn servfail(&self, name: &str) {
        self.say(name, Says::Code(RCODE::ServerFailure));
    }

    /// Leaves queries for the name unanswered.
    pub fn swallow(&self, name: &str) {
        self.say(name, Says::Nothing);
    }

    /// As [`set`](Self::set); queries are answered once the gate is open.
    pub fn hold(&self, name: &str, gate: &Gate, addresses: &[IpAddr]) {
        let says = Says::Addresses(addresses.to_vec(), 300);
        self.say(name, Says::Held(gate.clone(), Box::new(says)));
    }

    /// The number of queries, of A and AAAA together.
    pub fn queries(&self) -> usize {
        self.state.read(|state| state.queries.len())
    }

    pub fn queries_for(&self, name: &str) -> usize {
        self.state.read(|state| state.queries.iter().filter(|(asked, _)| asked == name).count())
    }

    #[track_caller]
    pub fn wait_for_queries(&self, n: usize) {
        self.state.wait_until(&format!("{n} DNS queries"), |state| state.queries.len() >= n);
    }

    fn say(&self, name: &str, says: Says) {
        self.state.update(|state| state.names.insert(name.to_ascii_lowercase(), says));
    }
}

async fn serve(socket: UdpSocket, state: Arc<Watched<State>>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 4096];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let (query, socket, state) = (buffer[..len].to_vec(), socket.clone(), state.clone());
        tokio::spawn(async move {
            let Some((name, kind)) = question(&query) else { return };
            let mut says = state.update(|state| {
                state.queries.push((name.clone(), kind));
                state.names.get(&name).cloned().unwrap_or(Says::Code(RCODE::NameError))
            });
            while let Says::Held(gate, then) = says {
                gate.pass().await;
                says = *then;
            }
            if let Some(answer) = answer(&query, kind, says) {
                // The client may be gone.
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

fn question(query: &[u8]) -> Option<(String, TYPE)> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?;
    let QTYPE::TYPE(kind) = question.qtype else { return None };
    Some((question.qname.to_string().to_ascii_lowercase(), kind))
}

fn answer(query: &[u8], kind: TYPE, says: Says) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?.clone();
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    match says {
        Says::Nothing | Says::Held(..) => return None,
        Says::Code(code) => *reply.rcode_mut() = code,
        Says::Addresses(addresses, ttl) => {
            reply.answers = addresses
                .iter()
                .filter_map(|ip| match (ip, kind) {
                    (IpAddr::V4(ip), TYPE::A) => Some(RData::A(A::from(*ip))),
                    (IpAddr::V6(ip), TYPE::AAAA) => Some(RData::AAAA(AAAA::from(*ip))),
                    _ => None,
                })
                .map(|data| ResourceRecord::new(question.qname.clone(), CLASS::IN, ttl, data))
                .collect();
        }
    }
    reply.questions.push(question);
    reply.build_bytes_vec().ok()
}
