//! HTTP/1.1 and WebSocket.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http1::{keeps_alive, read_request, response};
use crate::recorded::{Log, Recorded};
use crate::server::Connection;
use crate::ws::{accept, frame, long_frame, Start, CLOSE};

pub(super) async fn serve(mut stream: TcpStream, connection: Connection, log: Log) {
    let mut buffer = Vec::new();
    while let Ok(Some((mut request, _))) = read_request(&mut stream, &mut buffer, || ()).await {
        request.connection = connection.id;
        log.push(request.clone());
        if let Some(key) = request.header("sec-websocket-key") {
            // Ends when the client leaves.
            let _ = websocket(&mut stream, key).await;
            return;
        }
        if request.target.starts_with("/events") {
            // Ends when the client leaves.
            let _ = events(&mut stream).await;
            return;
        }
        if stream.write_all(&answer(&request)).await.is_err() || !keeps_alive(&request) {
            return;
        }
    }
}

pub(super) fn answer(request: &Recorded) -> Vec<u8> {
    let body = request.to_json();
    let headers = [
        ("Content-Type".to_owned(), "application/json".to_owned()),
        ("Content-Length".to_owned(), body.len().to_string()),
    ];
    response(200, &headers, if request.method == "HEAD" { &[] } else { &body })
}

/// A response that stays open after its first event.
async fn events(stream: &mut TcpStream) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n8\r\ndata: a\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn websocket(stream: &mut TcpStream, key: &str) -> io::Result<()> {
    let headers = [
        ("Upgrade".to_owned(), "websocket".to_owned()),
        ("Connection".to_owned(), "Upgrade".to_owned()),
        ("Sec-WebSocket-Accept".to_owned(), accept(key)),
    ];
    stream.write_all(&response(101, &headers, &[])).await?;
    loop {
        let mut start = [0; Start::LEN];
        stream.read_exact(&mut start).await?;
        let start = Start::new(start);
        let mut rest = vec![0; start.rest()?];
        stream.read_exact(&mut rest).await?;
        let payload = start.payload(&rest);
        let length =
            payload.strip_prefix(b"long ").and_then(|n| str::from_utf8(n).ok()?.parse().ok());
        let echo = match length {
            Some(length) => long_frame(&vec![b'x'; length]),
            None => frame(start.opcode(), &payload, false),
        };
        stream.write_all(&echo).await?;
        if start.opcode() == CLOSE {
            return Ok(());
        }
    }
}
