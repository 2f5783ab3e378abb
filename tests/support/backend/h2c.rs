//! HTTP/1.1 with an upgrade to HTTP/2 in clear (RFC 7540, 3.2), which many servers offer.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{grpc, http};
use crate::http1::{keeps_alive, read_request, response};
use crate::recorded::{Log, Recorded};
use crate::server::Connection;

pub(super) async fn serve(mut stream: TcpStream, connection: Connection, log: Log) {
    let mut buffer = Vec::new();
    while let Ok(Some((mut request, _))) = read_request(&mut stream, &mut buffer, || ()).await {
        request.connection = connection.id;
        log.push(request.clone());
        if asks_for_h2c(&request) {
            let headers = [
                ("Connection".to_owned(), "Upgrade".to_owned()),
                ("Upgrade".to_owned(), "h2c".to_owned()),
            ];
            if stream.write_all(&response(101, &headers, &[])).await.is_ok() {
                // The answer to the request itself, on stream 1, is left out.
                grpc::serve(stream, connection, log).await;
            }
            return;
        }
        if stream.write_all(&http::answer(&request)).await.is_err() || !keeps_alive(&request) {
            return;
        }
    }
}

fn asks_for_h2c(request: &Recorded) -> bool {
    let protocols = request.all("upgrade").into_iter().flat_map(|line| line.split(','));
    protocols.into_iter().any(|protocol| protocol.trim().eq_ignore_ascii_case("h2c"))
}
