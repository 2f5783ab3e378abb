//! Faults of an answer.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::resolver::{date, Answer};
use crate::http1::response;
use crate::recorded::Recorded;
use crate::wait::Gate;

/// The fake's behaviour instead of, or with, its normal answer. It reads and records the request
/// first.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with a small text body.
    Status(u16),
    StatusBody(u16, Vec<u8>),
    /// 200 with exactly these header lines, and `Content-Length: 0` unless they frame the body.
    Headers(Vec<(String, String)>),
    /// These bytes, then the connection is closed.
    Raw(Vec<u8>),
    /// The connection is closed before any byte of an answer.
    CloseAtOnce,
    /// Closed after this many bytes of the normal answer.
    CloseAfter(usize),
    /// As [`Fault::CloseAtOnce`], with RST.
    Reset,
    /// Never answers. Ends when the client leaves or the fake stops.
    Hang,
    /// Sends this many bytes of the normal answer, and then nothing.
    HangAfter(usize),
    /// The normal answer as of the request, once the gate is open.
    Gate(Gate),
    /// The normal answer as of the request, in pieces of this size with a pause before each.
    Slowly {
        step: usize,
        pause: Duration,
    },
    /// The normal headers with this chunked body.
    Chunked(Vec<u8>),
    /// The normal headers with this body and its length.
    LengthBody(Vec<u8>),
    /// The normal headers with this body, which ends where the connection does.
    CloseDelimited(Vec<u8>),
    /// The normal answer with this many bytes of one more header, and of body.
    Oversized {
        header: usize,
        body: usize,
    },
    /// This status with this Location.
    Redirect(u16, String),
    /// 200 without any `x-authgear-*` header, as Authgear answers during a passing database fault.
    SilentBlank,
}

/// The state of the connection after the answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    KeepAlive,
    Close,
    Reset,
    Hang,
}

/// Returns the bytes to write, and what follows. [`Fault::Gate`] has been passed before.
pub(crate) fn apply(fault: Option<Fault>, mut answer: Answer, method: &str) -> (Vec<u8>, After) {
    let head_only = method == "HEAD";
    let bytes = |answer: Answer| {
        let answer = answer.finished(method);
        response(answer.status, &answer.headers, if head_only { &[] } else { &answer.body })
    };
    let unframed = |mut answer: Answer, framing: Option<(&str, &str)>, body: &[u8]| {
        answer.headers.push(date());
        answer.headers.extend(framing.map(|(name, value)| (name.to_owned(), value.to_owned())));
        response(answer.status, &answer.headers, if head_only { &[] } else { body })
    };
    let whole = |answer: Answer| (bytes(answer), After::KeepAlive);

    let Some(fault) = fault else { return whole(answer) };
    match fault {
        Fault::Gate(_) | Fault::Slowly { .. } => whole(answer),
        Fault::Status(status) => whole(Answer::text(status, &format!("status {status}"))),
        Fault::StatusBody(status, body) => whole(Answer { body, ..Answer::text(status, "") }),
        Fault::Headers(mut headers) => {
            let frames = |name: &str| {
                ["content-length", "transfer-encoding"].contains(&&*name.to_ascii_lowercase())
            };
            if !headers.iter().any(|(name, _)| frames(name)) {
                headers.push(("Content-Length".to_owned(), "0".to_owned()));
            }
            (response(200, &headers, &[]), After::KeepAlive)
        }
        Fault::Raw(bytes) => (bytes, After::Close),
        Fault::CloseAtOnce => (Vec::new(), After::Close),
        Fault::CloseAfter(n) => (bytes(answer).into_iter().take(n).collect(), After::Close),
        Fault::Reset => (Vec::new(), After::Reset),
        Fault::Hang => (Vec::new(), After::Hang),
        Fault::HangAfter(n) => (bytes(answer).into_iter().take(n).collect(), After::Hang),
        Fault::Chunked(body) => {
            let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
            chunked.extend_from_slice(&body);
            chunked.extend_from_slice(b"\r\n0\r\n\r\n");
            let body = if body.is_empty() { b"0\r\n\r\n".to_vec() } else { chunked };
            let framing = Some(("Transfer-Encoding", "chunked"));
            (unframed(answer, framing, &body), After::KeepAlive)
        }
        Fault::LengthBody(body) => whole(Answer { body, ..answer }),
        Fault::CloseDelimited(body) => {
            (unframed(answer, Some(("Connection", "close")), &body), After::Close)
        }
        Fault::Oversized { header, body } => {
            answer.headers.push(("X-Padding".to_owned(), "x".repeat(header)));
            answer.body = vec![b'x'; body];
            whole(answer)
        }
        Fault::Redirect(status, location) => {
            let location = vec![("Location".to_owned(), location)];
            whole(Answer::text(status, "elsewhere").with(location))
        }
        Fault::SilentBlank => whole(Answer::resolved(Vec::new())),
    }
}

/// The faults a test has injected.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    next: VecDeque<(usize, Fault)>,
    at: HashMap<String, Fault>,
    /// By a text in `Authorization`.
    credentials: Vec<(String, Fault)>,
    by_turns: Option<ByTurns>,
    always: Option<Fault>,
}

/// A fault of some of the requests with the same credentials.
#[derive(Debug)]
struct ByTurns {
    turns: Vec<bool>,
    fault: Fault,
    requests: HashMap<[String; 2], usize>,
}

impl ByTurns {
    fn take(&mut self, request: &Recorded) -> Option<Fault> {
        let credentials = ["authorization", "cookie"]
            .map(|name| request.header(name).unwrap_or_default().to_owned());
        let requests = self.requests.entry(credentials).or_default();
        let has_fault = self.turns[*requests % self.turns.len()];
        *requests += 1;
        has_fault.then(|| self.fault.clone())
    }
}

impl Faults {
    pub(crate) fn inject_by_turns(&mut self, turns: &[bool], fault: Fault) {
        self.by_turns = Some(ByTurns { turns: turns.into(), fault, requests: HashMap::new() });
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        self.always = Some(fault);
    }

    pub(crate) fn inject_at(&mut self, path: &str, fault: Fault) {
        self.at.insert(path.to_owned(), fault);
    }

    pub(crate) fn inject_for(&mut self, text: &str, fault: Fault) {
        self.credentials.push((text.to_owned(), fault));
    }

    pub(crate) fn inject_next(&mut self, n: usize, fault: Fault) {
        self.next.push_back((n, fault));
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn take(&mut self, request: &Recorded) -> Option<Fault> {
        self.next.retain(|(left, _)| *left > 0);
        if let Some((left, fault)) = self.next.front_mut() {
            *left -= 1;
            return Some(fault.clone());
        }
        if let Some(fault) = self.by_turns.as_mut().and_then(|it| it.take(request)) {
            return Some(fault);
        }
        let authorization = request.header("authorization").unwrap_or_default();
        let by_credentials = self
            .credentials
            .iter()
            .find(|(text, _)| authorization.contains(text))
            .map(|(_, it)| it);
        by_credentials.or(self.at.get(request.path())).or(self.always.as_ref()).cloned()
    }
}
