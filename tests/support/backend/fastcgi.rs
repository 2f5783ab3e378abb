//! FastCGI, with `fastcgi_keep_conn` or without.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::params::{answer, read_array, read_vec, record, Params};
use crate::http1::invalid;
use crate::recorded::{latin1, Log};
use crate::server::Connection;

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const KEEP_CONN: u8 = 1;

struct Record {
    kind: u8,
    id: [u8; 2],
    content: Vec<u8>,
}

pub(super) async fn serve(mut stream: TcpStream, connection: Connection, log: Log) {
    // An error is the end of a connection kept alive.
    while let Ok(true) = exchange(&mut stream, &connection, &log).await {}
}

/// Serves one request. Returns whether there may be another.
async fn exchange(stream: &mut TcpStream, connection: &Connection, log: &Log) -> io::Result<bool> {
    let begin = read_record(stream).await?;
    if begin.kind != BEGIN_REQUEST {
        return Err(invalid("no beginning"));
    }
    let keep = begin.content.get(2).is_some_and(|flags| flags & KEEP_CONN != 0);
    let params = params(&read_stream(stream, PARAMS).await?)?;
    let body = read_stream(stream, STDIN).await?;
    let request = record(params, &body, connection);
    log.push(request.clone());

    let mut bytes = Vec::new();
    for content in answer(&request, "Status: 200 OK\r\n").chunks(32 * 1024) {
        write_record(&mut bytes, STDOUT, begin.id, content);
    }
    write_record(&mut bytes, STDOUT, begin.id, &[]);
    write_record(&mut bytes, END_REQUEST, begin.id, &[0; 8]);
    stream.write_all(&bytes).await?;
    Ok(keep)
}

/// The contents of one stream, up to the empty record that ends it.
async fn read_stream(stream: &mut TcpStream, kind: u8) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let record = read_record(stream).await?;
        if record.kind != kind {
            return Err(invalid("a record of another kind"));
        }
        if record.content.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(record.content);
    }
}

async fn read_record(stream: &mut TcpStream) -> io::Result<Record> {
    let [_version, kind, id1, id0, len1, len0, padding, _reserved] = read_array(stream).await?;
    let content = read_vec(stream, usize::from(u16::from_be_bytes([len1, len0]))).await?;
    read_vec(stream, usize::from(padding)).await?;
    Ok(Record { kind, id: [id1, id0], content })
}

fn write_record(bytes: &mut Vec<u8>, kind: u8, id: [u8; 2], content: &[u8]) {
    let [len1, len0] = u16::try_from(content.len()).expect("a short record").to_be_bytes();
    bytes.extend([1, kind, id[0], id[1], len1, len0, 0, 0]);
    bytes.extend_from_slice(content);
}

fn params(mut rest: &[u8]) -> io::Result<Params> {
    let mut params = Params::new();
    while !rest.is_empty() {
        let name_len = length(&mut rest)?;
        let value_len = length(&mut rest)?;
        let (name, after) = rest.split_at_checked(name_len).ok_or_else(|| invalid("name"))?;
        let (value, after) = after.split_at_checked(value_len).ok_or_else(|| invalid("value"))?;
        params.push((latin1(name), latin1(value)));
        rest = after;
    }
    Ok(params)
}

/// One byte, or four with the top bit set.
fn length(rest: &mut &[u8]) -> io::Result<usize> {
    let (first, after) = rest.split_first().ok_or_else(|| invalid("length"))?;
    if first & 0x80 == 0 {
        *rest = after;
        return Ok(usize::from(*first));
    }
    let (bytes, after) = rest.split_first_chunk().ok_or_else(|| invalid("length"))?;
    *rest = after;
    Ok((u32::from_be_bytes(*bytes) & 0x7fff_ffff) as usize)
}
