//! Records on a stream: read exactly, write whole.
//!
//! No buffer stands between stream and reader: a header is read, then the body that it announces, and nothing else.
//! No deadlines here, the halves set them. On failure: a [`WireError`] that says whether anything had come.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    net::Stream,
    proto::link::record::{HEADER_BYTES, Kind, NONCE_BYTES, RecordError, body_len},
};

/// Why no record came.
#[derive(Debug)]
pub(super) enum WireError {
    /// The connection ended or failed.
    Closed {
        /// Whether the record had begun.
        began: bool,
        /// What the system said, if it was more than an end of stream.
        source: Option<io::Error>,
    },
    /// What came is not the record that was due.
    Record(RecordError),
}

/// Reads one whole record of the kind that is due.
pub(super) async fn read_record(stream: &mut Stream, due: Kind) -> Result<Vec<u8>, WireError> {
    let mut header = [0; HEADER_BYTES];
    read_exactly(stream, &mut header, false).await?;
    let len = body_len(header, due).map_err(WireError::Record)?;
    let mut record = vec![0; HEADER_BYTES.saturating_add(len)];
    if let Some((head, body)) = record.split_first_chunk_mut() {
        *head = header;
        read_exactly(stream, body, true).await?;
    }
    Ok(record)
}

/// Fills `octets`; `began` says whether a record had begun before them.
pub(super) async fn read_exactly(
    stream: &mut Stream,
    octets: &mut [u8],
    mut began: bool,
) -> Result<(), WireError> {
    let mut left = octets;
    while !left.is_empty() {
        match stream.read(left).await {
            Ok(0) => {
                return Err(WireError::Closed {
                    began,
                    source: None,
                });
            }
            Ok(read) => {
                began = true;
                left = left.get_mut(read..).unwrap_or_default();
            }
            Err(source) => {
                return Err(WireError::Closed {
                    began,
                    source: Some(source),
                });
            }
        }
    }
    Ok(())
}

/// Writes octets and pushes them out.
pub(super) async fn write(stream: &mut Stream, octets: &[u8]) -> io::Result<()> {
    stream.write_all(octets).await?;
    stream.flush().await
}

/// A nonce from the kernel.
pub(super) fn nonce() -> Result<[u8; NONCE_BYTES], getrandom::Error> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

/// Ready when the peer of a waiting link has closed it, or said something, which it must not: the link is over.
pub(super) fn poll_over(stream: &Stream, cx: &mut Context<'_>) -> Poll<()> {
    // Readiness may be a leftover of what was read before. Only a read that would block clears it, and only a poll
    // after that keeps the waker.
    while let Poll::Ready(ready) = poll_read_ready(stream, cx) {
        match ready.and_then(|()| try_read(stream, &mut [0])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

/// Waits until there is something to read, or the connection has ended.
pub(super) async fn readable(stream: &Stream) {
    // What failed shows again when it is read.
    let _ = poll_fn(|cx| poll_read_ready(stream, cx)).await;
}

fn poll_read_ready(stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match stream {
        Stream::Tcp(socket) => socket.poll_read_ready(cx),
        Stream::TlsClient(tls) => tls.get_ref().0.poll_read_ready(cx),
        Stream::TlsServer(tls) => tls.get_ref().0.poll_read_ready(cx),
        Stream::Unix(socket) => socket.poll_read_ready(cx),
    }
}

/// Reads below TLS: after that the stream is of no use, unless it would block.
fn try_read(stream: &Stream, octets: &mut [u8]) -> io::Result<usize> {
    match stream {
        Stream::Tcp(socket) => socket.try_read(octets),
        Stream::TlsClient(tls) => tls.get_ref().0.try_read(octets),
        Stream::TlsServer(tls) => tls.get_ref().0.try_read(octets),
        Stream::Unix(socket) => socket.try_read(octets),
    }
}
