//! Common parts of the gateway protocols, and the two simple ones: uwsgi and SCGI.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http1::invalid;
use crate::recorded::{latin1, Log, Recorded};
use crate::server::Connection;

/// Parameters in order.
pub(super) type Params = Vec<(String, String)>;

pub(super) fn record(params: Params, body: &[u8], connection: &Connection) -> Recorded {
    let value = |name| param(&params, name).unwrap_or_default();
    let mut request =
        Recorded::new(value("REQUEST_METHOD"), value("REQUEST_URI"), value("SERVER_PROTOCOL"))
            .with_body(body);
    request.connection = connection.id;
    request.headers = params;
    request
}

/// A CGI answer, to which uwsgi adds a status line in front.
pub(super) fn answer(request: &Recorded, start: &str) -> Vec<u8> {
    let head = format!("{start}Content-Type: application/json\r\n\r\n");
    [head.into_bytes(), request.to_json()].concat()
}

fn param<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
}

pub(super) async fn serve_uwsgi(mut stream: TcpStream, connection: Connection, log: Log) {
    if let Ok((params, body)) = read_uwsgi(&mut stream).await {
        let request = record(params, &body, &connection);
        log.push(request.clone());
        // The connection ends the answer.
        let _ = stream.write_all(&answer(&request, "HTTP/1.1 200 OK\r\n")).await;
    }
}

pub(super) async fn serve_scgi(mut stream: TcpStream, connection: Connection, log: Log) {
    if let Ok((params, body)) = read_scgi(&mut stream).await {
        let request = record(params, &body, &connection);
        log.push(request.clone());
        let _ = stream.write_all(&answer(&request, "Status: 200 OK\r\n")).await;
    }
}

async fn read_uwsgi(stream: &mut TcpStream) -> io::Result<(Params, Vec<u8>)> {
    let [_modifier1, low, high, _modifier2] = read_array(stream).await?;
    let block = read_vec(stream, usize::from(u16::from_le_bytes([low, high]))).await?;
    let mut rest = block.as_slice();
    let mut params = Params::new();
    while !rest.is_empty() {
        let mut string = || {
            let (len, after) = rest.split_first_chunk().ok_or_else(|| invalid("length"))?;
            let len = usize::from(u16::from_le_bytes(*len));
            let (text, after) = after.split_at_checked(len).ok_or_else(|| invalid("string"))?;
            rest = after;
            io::Result::Ok(latin1(text))
        };
        params.push((string()?, string()?));
    }
    let body = read_body(stream, &params).await?;
    Ok((params, body))
}

async fn read_scgi(stream: &mut TcpStream) -> io::Result<(Params, Vec<u8>)> {
    let mut len = 0;
    loop {
        match stream.read_u8().await? {
            b':' => break,
            digit @ b'0'..=b'9' => len = len * 10 + usize::from(digit - b'0'),
            _ => return Err(invalid("netstring")),
        }
    }
    let block = read_vec(stream, len).await?;
    let [b','] = read_array(stream).await? else { return Err(invalid("netstring")) };
    let mut params = Params::new();
    let mut strings = block.split(|byte| *byte == 0).map(latin1);
    while let (Some(name), Some(value)) = (strings.next(), strings.next()) {
        params.push((name, value));
    }
    let body = read_body(stream, &params).await?;
    Ok((params, body))
}

async fn read_body(stream: &mut TcpStream, params: &Params) -> io::Result<Vec<u8>> {
    let len = param(params, "CONTENT_LENGTH").filter(|len| !len.is_empty()).unwrap_or("0");
    read_vec(stream, len.parse().map_err(invalid)?).await
}

pub(super) async fn read_vec(stream: &mut TcpStream, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

pub(super) async fn read_array<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
