//! Bodies: what a request carries to an app ([`RequestBody`]) and what an answer carries to the client ([`EdgeBody`]).

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use skep_launch::{Lease, Waiting};

use crate::conn::ConnState;
use crate::control_call::ReplyBody;
use crate::exchange::Exchange;
use crate::pool::Returning;
use crate::static_site::FileStream;

pub(crate) type BodyError = Box<dyn StdError + Send + Sync>;

/// Why a request's body does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokenBody {
    #[error("the client broke off its upload")]
    BrokenOff,
    #[error("the request's body is not chunked as it should be")]
    Malformed,
}

impl BrokenBody {
    fn of(error: &hyper::Error) -> Self {
        let malformed = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        };
        let source = error.source().and_then(|source| source.downcast_ref());
        if source.is_some_and(malformed) { Self::Malformed } else { Self::BrokenOff }
    }

    /// The one behind an error of the connection that should have carried the body on.
    pub(crate) fn within(error: &hyper::Error) -> Option<Self> {
        error.source()?.downcast_ref().copied()
    }
}

/// A client's request body, of which the first bytes may have been read while the request was held.
pub(crate) struct RequestBody {
    source: Option<Incoming>,
    early: VecDeque<Bytes>,
    early_len: usize,
    state: Arc<ConnState>,
    /// It was taken out of here: what becomes of it is not this one's to say.
    taken: bool,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, state: &Arc<ConnState>) -> Self {
        let source = (!incoming.is_end_stream()).then_some(incoming);
        Self { source, early: VecDeque::new(), early_len: 0, state: Arc::clone(state), taken: false }
    }

    /// A request without a body.
    pub(crate) fn empty(state: &Arc<ConnState>) -> Self {
        Self { source: None, early: VecDeque::new(), early_len: 0, state: Arc::clone(state), taken: false }
    }

    /// The body on its way; nothing of it stays here.
    pub(crate) fn take(&mut self) -> Self {
        self.taken = true;
        Self {
            source: self.source.take(),
            early: std::mem::take(&mut self.early),
            early_len: std::mem::take(&mut self.early_len),
            state: Arc::clone(&self.state),
            taken: false,
        }
    }

    pub(crate) fn state(&self) -> Arc<ConnState> {
        Arc::clone(&self.state)
    }

    /// Whether there is nothing to send, now or later.
    pub(crate) fn is_empty(&self) -> bool {
        self.source.is_none() && self.early.is_empty()
    }

    /// Bytes read before anybody asked for them.
    pub(crate) fn early_len(&self) -> usize {
        self.early_len
    }

    /// Whether more is to come from the client.
    pub(crate) fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Reads one piece ahead and keeps it.
    ///
    /// # Errors
    /// When the client broke off.
    pub(crate) async fn read_ahead(&mut self) -> Result<(), BodyError> {
        let frame = std::future::poll_fn(|cx| self.poll_source(cx)).await;
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.early_len += data.len();
                    self.early.push_back(data);
                }
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *source).poll_frame(cx));
        if frame.is_none() || source.is_end_stream() {
            self.source = None;
            self.state.note_body_over();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BrokenBody::of(&error).into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(data) = this.early.pop_front() {
            this.early_len -= data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        loop {
            match ready!(this.poll_source(cx)) {
                // Trailers are dropped: hop-by-hop as far as we are concerned.
                Some(Ok(frame)) if !frame.is_data() => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let early = self.early_len as u64;
        let rest = self.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + early);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + early);
        }
        hint
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.taken {
            self.state.note_body_over();
        }
    }
}

/// An answer's body. Carries the exchange, which ends, and is logged, when the body has been sent or dropped.
pub(crate) struct EdgeBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
    /// A place in the line that is kept while this answer goes on.
    place: Option<Box<(Option<Lease>, Option<Waiting>)>>,
}

pub(crate) enum Source {
    Empty,
    Full(Bytes),
    /// From an app; the connection goes back to the pool once it is read to its end.
    App {
        body: Incoming,
        returning: Option<Returning>,
    },
    Control(ReplyBody),
    File(FileStream),
}

impl Source {
    /// An app's answer. One that has no body is over already.
    pub(crate) fn app(body: Incoming, returning: Returning) -> Self {
        if body.is_end_stream() {
            returning.give_back();
            return Self::Empty;
        }
        Self::App { body, returning: Some(returning) }
    }
}

impl EdgeBody {
    pub(crate) fn new(source: Source) -> Self {
        Self { source, exchange: None, place: None }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Source::Empty)
    }

    pub(crate) fn keep(&mut self, lease: Option<Lease>, waiting: Option<Waiting>) {
        self.place = Some(Box::new((lease, waiting)));
    }

    pub(crate) fn attach(&mut self, exchange: Box<Exchange>) {
        self.exchange = Some(exchange);
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Empty => None,
            Source::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)))
            }
            Source::App { body, returning } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                if body.is_end_stream()
                    && !matches!(frame, Some(Err(_)))
                    && let Some(returning) = returning.take()
                {
                    returning.give_back();
                }
                frame.map(|frame| frame.map_err(BodyError::from))
            }
            Source::Control(body) => ready!(Pin::new(body).poll_frame(cx)),
            Source::File(file) => {
                ready!(file.poll_next(cx)).map(|data| data.map(Frame::data).map_err(Into::into))
            }
        };
        match (&frame, &mut this.exchange) {
            (Some(Ok(frame)), Some(exchange)) => {
                exchange.add_bytes(frame.data_ref().map_or(0, Bytes::len));
            }
            (Some(Err(error)), Some(exchange)) => exchange.note_broken(&error.to_string()),
            (None, _) => {
                this.exchange = None;
                this.place = None;
            }
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::App { body, .. } => body.is_end_stream(),
            Source::Control(body) => body.is_end_stream(),
            Source::File(file) => file.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::App { body, .. } => body.size_hint(),
            Source::Control(body) => body.size_hint(),
            Source::File(file) => SizeHint::with_exact(file.remaining()),
        }
    }
}
