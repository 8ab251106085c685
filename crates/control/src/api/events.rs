//! `events`: the journal, replayed and then live. For operators, and for users with `events.read`.
//!
//! The store is the only source, so there is neither a gap nor a double between replay and live: a new record wakes the
//! follower, which reads on from the last number it sent.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response};
use serde::{Deserialize, Serialize};
use skep_identity::{Object, Permission};
use skep_model::EventKind;
use skep_store::{Filter, Record};
use tokio::time::{interval, sleep};

use super::instances::time_text;
use super::{Problem, accepts};
use crate::control::{Control, streaming};
use crate::rights::Caller;
use crate::streams::Feed;

const PAGE: u32 = 500;
const MAX_LIMIT: u32 = 100_000;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Other writers of a shared store do not wake us; looking now and then finds their records.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const AFTER_A_FAILURE: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventParams {
    /// Only records with a greater number.
    after: Option<i64>,
    /// Instead of `after`: begin with the newest this many.
    tail: Option<u32>,
    /// At most this many records, when not following.
    limit: Option<u32>,
    #[serde(default)]
    follow: bool,
    app: Option<String>,
    kind: Option<EventKind>,
    user: Option<String>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    record: &'a Record,
    /// `at_ms` as RFC 3339 in UTC.
    at: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// One JSON object a line.
    Ndjson,
    /// Server-sent events with the number as id, so that a browser resumes by itself.
    Sse,
}

impl Format {
    fn row(self, record: &Record) -> String {
        let row = Row { record, at: time_text(record.event.at_ms) };
        let json = serde_json::to_string(&row).unwrap_or_default();
        match self {
            Self::Ndjson => json + "\n",
            Self::Sse => format!("id: {}\ndata: {json}\n\n", record.seq),
        }
    }

    fn keep_alive(self) -> &'static str {
        match self {
            Self::Ndjson => "\n",
            Self::Sse => ":\n\n",
        }
    }
}

/// `GET events?after=&tail=&limit=&follow=&app=&kind=&user=`
pub(super) async fn list(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    params: Result<Query<EventParams>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    caller.demand(Permission::EventsRead, Object::Everything)?;
    let Query(params) = params.map_err(|e| Problem::bad_query(&e.body_text()))?;
    let (format, media_type) = if accepts(&headers, "text/event-stream") {
        (Format::Sse, "text/event-stream")
    } else {
        (Format::Ndjson, "application/x-ndjson")
    };
    let filter = Filter { app: params.app, kind: params.kind, user: params.user };
    // The first page is read before the answer begins, so that a broken store is a proper error.
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let first = match (resumed.or(params.after), params.tail) {
        (None, Some(tail)) => control.journal().newest(tail.min(MAX_LIMIT), &filter).await,
        (after, _) => {
            let limit = params.limit.filter(|_| !params.follow).unwrap_or(PAGE).min(PAGE);
            control.journal().after(after.unwrap_or(0), limit, &filter).await
        }
    };
    let first = first.map_err(|e| Problem::store(&e))?;
    let after = resumed.or(params.after).unwrap_or(0);
    let last = first.last().map_or(after, |record| record.seq);
    let limit = params.limit.unwrap_or(1000).min(MAX_LIMIT);
    let rest = if params.tail.is_some() && resumed.or(params.after).is_none() { 0 } else { limit };
    let reading = Reading { filter, format, last };
    let follow = params.follow;
    let streams = control.streams().clone();
    let body = streams.open(|feed| async move {
        let sent = first.len();
        for record in &first {
            if !feed.send(format.row(record)).await {
                return;
            }
        }
        if follow {
            reading.follow(&control, &feed).await;
        } else {
            reading
                .finish(&control, &feed, rest.saturating_sub(u32::try_from(sent).unwrap_or(u32::MAX)))
                .await;
        }
    });
    Ok(streaming(media_type, body.ok_or_else(Problem::too_many_streams)?))
}

/// Where a reader is.
struct Reading {
    filter: Filter,
    format: Format,
    last: i64,
}

impl Reading {
    /// Sends the next records; how many, or `None` when the reader is gone or the store fails.
    async fn page(&mut self, control: &Control, feed: &Feed, limit: u32) -> Option<u32> {
        let records = match control.journal().after(self.last, limit, &self.filter).await {
            Ok(records) => records,
            Err(problem) => {
                tracing::warn!(%problem, "the journal could not be read for a follower");
                return None;
            }
        };
        for record in &records {
            if !feed.send(self.format.row(record)).await {
                return None;
            }
            self.last = record.seq;
        }
        u32::try_from(records.len()).ok()
    }

    async fn finish(mut self, control: &Control, feed: &Feed, mut left: u32) {
        while left > 0 {
            match self.page(control, feed, left.min(PAGE)).await {
                None | Some(0) => return,
                Some(sent) => left = left.saturating_sub(sent),
            }
        }
    }

    async fn follow(mut self, control: &Control, feed: &Feed) {
        let mut recorded = control.recorded();
        let mut keep_alive = interval(KEEP_ALIVE);
        let mut look_again = interval(LOOK_AGAIN);
        loop {
            recorded.mark_unchanged();
            match self.page(control, feed, PAGE).await {
                Some(PAGE) => continue,
                Some(_) => {}
                // The store may come back; the reader, if it is gone, ends this task.
                None => sleep(AFTER_A_FAILURE).await,
            }
            loop {
                tokio::select! {
                    changed = recorded.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        break;
                    }
                    _ = look_again.tick() => break,
                    _ = keep_alive.tick() => {
                        if !feed.send(self.format.keep_alive()).await {
                            return;
                        }
                    }
                }
            }
        }
    }
}
