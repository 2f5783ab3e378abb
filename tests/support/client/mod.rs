//! The clients of the tests.

mod h2;
mod h3;
mod http1;
mod request;
mod response;
mod websocket;

pub use h2::{H2Pending, H2};
pub use h3::{H3Pending, H3};
pub use http1::{Connection, Pending};
pub use request::{get, Request};
pub use response::Response;
pub use websocket::WebSocket;
