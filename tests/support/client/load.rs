//! Many requests at a time over HTTP/2.

use std::io;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::h2::H2;
use super::request::Request;
use super::response::Response;
use crate::net::ToAddr;
use crate::runtime::runtime;

/// How one request of a load fared.
#[derive(Debug)]
pub struct Fared {
    /// When it was due, from the beginning of the load.
    pub due: Duration,
    /// From when it was due to its answer.
    pub took: Duration,
    pub answer: io::Result<Response>,
}

impl Fared {
    /// The status of the answer, or 0 if there was none.
    pub fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |answer| answer.status)
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.answer.as_ref().ok()?.header(name)
    }
}

/// Sends requests at a fixed rate, whether or not earlier ones are answered, and waits for all
/// answers. The order is that of `requests`.
#[track_caller]
pub fn open_loop(to: &impl ToAddr, requests: &[Request], per_second: f64) -> Vec<Fared> {
    let connection = H2::open(to);
    let begin = Instant::now();
    let mut sent = JoinSet::new();
    runtime().block_on(async {
        for (n, request) in requests.iter().enumerate() {
            let due = Duration::from_secs_f64(n as f64 / per_second);
            let at = begin + due;
            tokio::time::sleep_until(at.into()).await;
            let answer = connection.answer(request);
            sent.spawn(async move {
                let answer = answer.await;
                (n, Fared { due, took: at.elapsed(), answer })
            });
        }
        in_order(sent).await
    })
}

/// Sends requests, at most `at_once` at a time, and waits for all answers. The order is that of
/// `requests`.
#[track_caller]
pub fn closed_loop(to: &impl ToAddr, requests: &[Request], at_once: usize) -> Vec<Fared> {
    let connection = H2::open(to);
    let begin = Instant::now();
    let (mut sent, mut fared) = (JoinSet::new(), Vec::new());
    runtime().block_on(async {
        for (n, request) in requests.iter().enumerate() {
            if sent.len() >= at_once {
                fared.extend(sent.join_next().await.map(|one| one.expect("a request")));
            }
            let (answer, due) = (connection.answer(request), begin.elapsed());
            sent.spawn(async move {
                let answer = answer.await;
                (n, Fared { due, took: begin.elapsed() - due, answer })
            });
        }
        while let Some(one) = sent.join_next().await {
            fared.push(one.expect("a request"));
        }
    });
    fared.sort_by_key(|(n, _)| *n);
    fared.into_iter().map(|(_, fared)| fared).collect()
}

async fn in_order(mut sent: JoinSet<(usize, Fared)>) -> Vec<Fared> {
    let mut fared = Vec::with_capacity(sent.len());
    while let Some(one) = sent.join_next().await {
        fared.push(one.expect("a request"));
    }
    fared.sort_by_key(|(n, _)| *n);
    fared.into_iter().map(|(_, fared)| fared).collect()
}
