//! The test's side of the wire.

mod h2;
mod http1;
mod request;
mod response;
mod websocket;

pub use h2::{H2Pending, H2};
pub use http1::{Connection, Pending};
pub use request::{get, Request};
pub use response::Response;
pub use websocket::WebSocket;
