//! Answers that go on: a bounded number of tasks, each feeding one body.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Streams open at a time. A visitor who finds no room falls back to reloading.
const MAX_STREAMS: usize = 8192;
/// Pieces a slow reader may be behind before its writer waits.
const PIECES: usize = 16;
/// How long a writer waits for a reader that takes nothing before it gives the stream up.
const STALL: Duration = Duration::from_secs(60);

/// Hands out streams.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

/// The writing end of a body.
pub(crate) struct Feed {
    pieces: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    /// Sends one piece; `false` when the reader is gone or has stalled.
    pub(crate) async fn send(&self, piece: impl Into<Bytes>) -> bool {
        matches!(tokio::time::timeout(STALL, self.pieces.send(piece.into())).await, Ok(Ok(())))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        metrics::gauge!("skep_control_followers").decrement(1);
    }
}

impl Streams {
    /// A body written by a task of its own, which ends when the reader leaves. `None`: too many are open.
    pub(crate) fn open<F>(&self, write: impl FnOnce(Feed) -> F) -> Option<Body>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        let (pieces, reader) = mpsc::channel(PIECES);
        metrics::gauge!("skep_control_followers").increment(1);
        let gone = pieces.clone();
        let writing = write(Feed { pieces, _permit: permit });
        tokio::spawn(async move {
            tokio::select! {
                () = writing => {}
                () = gone.closed() => {}
            }
        });
        let pieces = stream::unfold(reader, |mut reader| async move {
            let piece = reader.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(piece), reader))
        });
        Some(Body::from_stream(pieces))
    }
}
