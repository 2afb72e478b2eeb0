//! Sockets, TLS, and driving a protocol machine over them.
//! (stub)

mod address;
mod stream;

pub use address::Address;
pub use stream::{Plain, Stream};
