//! The clients of the tests.

mod h2;
mod h2_frames;
mod h3;
mod http1;
mod load;
mod request;
mod response;
mod websocket;

pub use h2::{H2Pending, H2};
pub use h2_frames::{H2Frames, HeaderBlock};
pub use h3::{H3Pending, H3};
pub use http1::{Connection, Pending};
pub use load::{closed_loop, open_loop, Fared};
pub use request::{get, Request};
pub use response::Response;
pub use websocket::WebSocket;
