//! What happens in an engine, as it happens.
//!
//! The engine keeps 256 events and holds up everybody when a subscriber does not read: whoever reads here only queues, and
//! re-reads the state of things after every break.

use std::collections::VecDeque;

use serde_json::Value;

use crate::body::Pieces;
use crate::call::Call;
use crate::json_lines::JsonLines;
use crate::{Document, Engine, Error, Filters};

/// Bytes of one event. Labels make them long.
const EVENT_BYTES: usize = 1 << 20;

/// Something that happened. Its type may be one this crate has never heard of.
#[derive(Debug, Clone, PartialEq)]
pub struct Event(Document);

impl Event {
    /// `container`, `network`, `service`, …
    pub fn kind(&self) -> &str {
        self.0.text("/Type").unwrap_or_default()
    }

    /// `die`, `oom`, `exec_create: sh`, …
    pub fn action(&self) -> &str {
        self.0.text("/Action").unwrap_or_default()
    }

    /// The id of what it happened to.
    pub fn actor(&self) -> &str {
        self.0.text("/Actor/ID").unwrap_or_default()
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.0.at("/Actor/Attributes")?.as_object()?.get(name)?.as_str()
    }

    /// Nanoseconds since the Unix epoch. Not in the order of arrival.
    pub fn time_nano(&self) -> i64 {
        self.0.number("/timeNano").unwrap_or(0)
    }

    pub fn raw(&self) -> &Value {
        self.0.raw()
    }
}

/// A subscription.
pub struct Events {
    pieces: Pieces,
    lines: JsonLines,
    ready: VecDeque<Event>,
}

impl Engine {
    /// Subscribes. `since`: also what the engine still remembers from then on (seconds since the epoch, `0` for all).
    pub async fn events(&self, filters: Filters<'_>, since: Option<u64>) -> Result<Events, Error> {
        let mut call = Call::get("/events").filters(filters);
        if let Some(since) = since {
            call = call.query("since", &since.to_string());
        }
        let pieces = self.send(call).await?.pieces();
        Ok(Events { pieces, lines: JsonLines::new(EVENT_BYTES), ready: VecDeque::new() })
    }
}

impl Events {
    /// The next event; `None` when the engine ended the stream. What is no event is left out, and said in the log.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let piece = match self.pieces.next().await? {
                Ok(piece) => piece,
                Err(error) => return Some(Err(error)),
            };
            for line in self.lines.push(&piece) {
                match line {
                    Ok(value) if value.is_object() => self.ready.push_back(Event(Document(value))),
                    Ok(_) => tracing::warn!("the Docker Engine sent an event that is no object"),
                    Err(error) => tracing::warn!("an event of the Docker Engine is left out: {error}"),
                }
            }
        }
    }
}
