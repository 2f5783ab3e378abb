//! HTTP/1.1 with Authgear's servers (RFC 9112): the bytes of a request, and the answer in the bytes
//! of a connection.
//!
//! httparse reads heads and sizes of chunks. The rest is the end of an answer: where it is
//! ambiguous, the answer is an error, as it is to nginx. What follows could otherwise be taken for
//! the answer to the next request on the connection, which is another user's.

pub mod answer;
pub mod request;
