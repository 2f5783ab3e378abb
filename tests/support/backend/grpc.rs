//! gRPC: unary calls over HTTP/2.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::recorded::{latin1, Log, Recorded};
use crate::server::Connection;

pub(super) async fn serve(stream: TcpStream, connection: Connection, log: Log) {
    let call = service_fn(|request| answer(request, connection.id, log.clone()));
    let serving = http2::Builder::new(TokioExecutor::new());
    // Ends when nginx leaves, cleanly or not.
    let _ = serving.serve_connection(TokioIo::new(stream), call).await;
}

async fn answer(
    request: Request<Incoming>,
    connection: u64,
    log: Log,
) -> hyper::Result<Response<impl Body<Data = Bytes, Error = Infallible>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let mut recorded = Recorded::new(head.method.as_str(), target, "HTTP/2.0").with_body(&body);
    let header =
        |(name, value): (_, &HeaderValue)| (ToString::to_string(name), latin1(value.as_bytes()));
    recorded.headers = head.headers.iter().map(header).collect();
    recorded.connection = connection;
    log.push(recorded.clone());

    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(message(&recorded.to_json()));
    let body = body.with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    Ok(response)
}

/// A gRPC message: not compressed, its length, its bytes.
fn message(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).expect("a short message");
    [&[0], &len.to_be_bytes()[..], bytes].concat()
}
