//! Bodies of requests and answers.

use std::io;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use crate::Error;

pub(crate) type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Outgoing {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A tar archive on its way to the engine.
pub struct Upload(pub(crate) Outgoing);

impl Upload {
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(full(bytes))
    }

    /// Sent as it is read; a failing read ends the call.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self(StreamBody::new(ReaderStream::new(reader).map_ok(Frame::data)).boxed_unsync())
    }
}

/// The body of an answer that is read piece by piece. Dropping it closes the connection.
pub(crate) struct Pieces {
    pub(crate) call: String,
    pub(crate) incoming: Incoming,
    /// Moves the connection.
    pub(crate) _driver: AbortOnDropHandle<()>,
}

impl Pieces {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            match self.incoming.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => return Some(Ok(bytes)),
                    Err(_trailers) => {}
                },
                Err(error) => {
                    return Some(Err(Error::Broken { call: self.call.clone(), reason: error.to_string() }));
                }
            }
        }
    }

    /// All of it, or an error when it is longer than `most` bytes.
    pub(crate) async fn whole(mut self, most: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if all.len() + piece.len() > most {
                let reason = format!("it is longer than {} MiB", most >> 20);
                return Err(Error::Garbled { call: self.call, reason });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}
