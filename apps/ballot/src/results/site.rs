//! The addresses of results.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;

use super::admin::refused;
use super::check::Checked;
use super::{Count, Results, may_see, pages};
use crate::http::{self as web, Call, Problem, Reply, Site};
use crate::polls::Poll;
use crate::receipt::Receipt;

const MAX_RECEIPT: usize = 4 << 10;
const BODY: Duration = Duration::from_secs(10);
/// Between two signs of life to a viewer, so that a dead connection is noticed.
const BEAT: Duration = Duration::from_secs(20);

impl Site for Results {
    async fn answer(self: Arc<Self>, call: Call, peer: IpAddr) -> Reply {
        self.route(call, peer).await
    }
}

/// Whether an address belongs to results rather than to a front, where one process serves both.
pub fn is_for_results(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["polls", _, "results"] | ["check"] | ["status"] | ["api", "v1", "check" | "status"] => true,
        ["api", "v1", "admin", ..] => true,
        ["api", "v1", "polls", _, what] => *what != "ballots",
        _ => false,
    }
}

fn gone() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_poll", "there is no such poll")
}

/// The current event, then each new one, each at most once, with signs of life between.
fn follow(events: watch::Receiver<Bytes>) -> impl Stream<Item = Bytes> + Send {
    stream::unfold((events, true), |(mut events, first)| async move {
        if !first {
            match tokio::time::timeout(BEAT, events.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some((Bytes::from_static(b": alive\n\n"), (events, false))),
            }
        }
        let event = events.borrow_and_update().clone();
        Some((event, (events, false)))
    })
}

impl Results {
    /// Answers what belongs to results.
    pub async fn route(&self, call: Call, _peer: IpAddr) -> Reply {
        let path = call.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let method = call.method().clone();
        let page = web::header(call.headers(), "accept").is_some_and(|a| a.contains("text/html"));
        let result = match (&method, parts.as_slice()) {
            (&Method::GET | &Method::HEAD, ["polls", id, "results"]) => {
                self.results_page(call.headers(), id).await
            }
            (&Method::GET, ["api", "v1", "polls", id, "results"]) => {
                self.visible(call.headers(), id).map(|(_, count, _)| web::json(StatusCode::OK, &count))
            }
            (&Method::GET, ["api", "v1", "polls", id, "events"]) => {
                self.visible(call.headers(), id).map(|(_, _, events)| web::events(follow(events)))
            }
            (&Method::GET, ["api", "v1", "polls", id, "statement"]) => {
                self.statement(call.headers(), id).await
            }
            (&Method::GET, ["api", "v1", "polls", id, "results.csv"]) => {
                self.export(call.headers(), id).await
            }
            (&Method::GET, ["api", "v1", "polls", id, "ballots.csv"]) => self.list(call.headers(), id).await,
            (&Method::GET | &Method::HEAD, ["check"]) => Ok(web::page(StatusCode::OK, pages::check(None))),
            (&Method::POST, ["check"]) => self.check_page(call).await,
            (&Method::POST, ["api", "v1", "check"]) => self.check_api(call).await,
            (&Method::GET, ["api", "v1", "status"]) => Ok(self.status()),
            (&Method::GET | &Method::HEAD, ["status"]) => {
                let (logs, now_ms) = (self.logs.read().clone(), self.world.now_ms());
                Ok(web::page(StatusCode::OK, pages::status(&logs, now_ms, &self.options)))
            }
            (_, ["api", "v1", "admin", rest @ ..]) => self.admin(call, rest).await,
            (&Method::GET, ["assets", name]) => {
                crate::front::pages::asset(name).ok_or_else(Problem::not_found)
            }
            (&Method::GET | &Method::HEAD, [""]) => {
                let mut polls: Vec<Poll> = self.shown.read().values().map(|s| s.poll.clone()).collect();
                polls.sort_by(|a, b| a.id.cmp(&b.id));
                Ok(web::page(StatusCode::OK, pages::index(&polls)))
            }
            (&Method::GET | &Method::HEAD, ["health"] | ["health", "ready"]) => Ok(if self.is_ready() {
                web::text(StatusCode::OK, "ready\n")
            } else {
                web::text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the database does not answer\n")
            }),
            (&Method::GET | &Method::HEAD, ["health", "live"]) => Ok(web::text(StatusCode::OK, "alive\n")),
            _ => Err(Problem::not_found()),
        };
        result.unwrap_or_else(|problem| {
            if page && !path.starts_with("/api/") {
                web::page(problem.status, crate::front::pages::problem(&problem, parts.len()))
            } else {
                problem.json()
            }
        })
    }

    fn visible(
        &self,
        headers: &HeaderMap,
        id: &str,
    ) -> Result<(Poll, Count, watch::Receiver<Bytes>), Problem> {
        let (poll, count, events) = self.of(id).ok_or_else(gone)?;
        if may_see(&poll, &count) || web::bears(headers, self.keys.admin_token()) {
            return Ok((poll, count, events));
        }
        let detail = match poll.results {
            crate::polls::Visibility::Private => "the results of this poll are not public",
            _ => "the results are shown when the poll has closed",
        };
        Err(Problem::new(StatusCode::FORBIDDEN, "not_yet", detail))
    }

    async fn results_page(&self, headers: &HeaderMap, id: &str) -> Result<Reply, Problem> {
        let (poll, count, _) = self.visible(headers, id)?;
        let statement = if count.is_final {
            self.store.statement(&poll.id).await.map_err(|e| refused(&e))?
        } else {
            None
        };
        Ok(web::page(
            StatusCode::OK,
            pages::results(&poll, &count, statement.as_ref(), &self.options.fronts_base),
        ))
    }

    async fn statement(&self, headers: &HeaderMap, id: &str) -> Result<Reply, Problem> {
        let (poll, _, _) = self.visible(headers, id)?;
        let statement = self.store.statement(&poll.id).await.map_err(|e| refused(&e))?;
        statement.map(|s| web::json(StatusCode::OK, &s)).ok_or_else(not_final)
    }

    /// The signed result as CSV: the statement's facts, one a line, the signature last.
    async fn export(&self, headers: &HeaderMap, id: &str) -> Result<Reply, Problem> {
        let (poll, _, _) = self.visible(headers, id)?;
        let statement =
            self.store.statement(&poll.id).await.map_err(|e| refused(&e))?.ok_or_else(not_final)?;
        let mut text = String::from("fact,name,value\n");
        for (option, n) in &statement.counts {
            text.push_str(&format!("count,{option},{n}\n"));
        }
        let question = statement.question.replace('"', "\"\"");
        text.push_str(&format!(
            "poll,id,{}\npoll,question,\"{question}\"\npoll,closed_ms,{}\npoll,published_ms,{}\npoll,voters,{}\n\
             proof,root,{}\nproof,public_key,{}\nproof,signature,{}\n",
            statement.poll,
            statement.closed_ms,
            statement.published_ms,
            statement.voters,
            statement.root,
            statement.public_key,
            statement.signature,
        ));
        Ok(web::csv(text))
    }

    /// The counted ballots, for anyone to recount.
    async fn list(&self, headers: &HeaderMap, id: &str) -> Result<Reply, Problem> {
        let (poll, count, _) = self.visible(headers, id)?;
        if !count.is_final {
            return Err(not_final());
        }
        let tree = self.tree(&poll.id).await.map_err(|e| refused(&e))?;
        let mut text = String::with_capacity(tree.leaves().len() * 45);
        text.push_str("ballot,option\n");
        for leaf in tree.leaves() {
            text.push_str(&format!("{},{}\n", leaf.tag, leaf.option));
        }
        Ok(web::csv(text))
    }

    async fn check_text(&self, text: &str) -> Result<Checked, Problem> {
        let receipt: Receipt = text.parse().map_err(|e: crate::receipt::NotAReceipt| {
            Problem::new(StatusCode::BAD_REQUEST, "not_a_receipt", e.to_string())
        })?;
        self.check(&receipt).await.map_err(|e| refused(&e))
    }

    async fn check_api(&self, call: Call) -> Result<Reply, Problem> {
        #[derive(serde::Deserialize)]
        struct Asked {
            receipt: String,
        }
        let body = web::read_body(call.into_body(), MAX_RECEIPT, BODY).await?;
        let asked: Asked = serde_json::from_slice(&body)
            .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "not_a_receipt", e.to_string()))?;
        Ok(web::json(StatusCode::OK, &self.check_text(&asked.receipt).await?))
    }

    async fn check_page(&self, call: Call) -> Result<Reply, Problem> {
        let body = web::read_body(call.into_body(), MAX_RECEIPT, BODY).await?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let text = web::parameter(text, "receipt").unwrap_or_default();
        let checked = self.check_text(&text).await?;
        Ok(web::page(StatusCode::OK, pages::check(Some(&checked))))
    }

    fn status(&self) -> Reply {
        let (logs, now_ms) = (self.logs.read().clone(), self.world.now_ms());
        let alarms = pages::alarms(&logs, now_ms, &self.options);
        let status = if self.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        web::json(status, &serde_json::json!({ "ready": self.is_ready(), "logs": logs, "alarms": alarms }))
    }
}

fn not_final() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_final", "the count of this poll is not final yet")
}

/// Front and results behind one address.
pub struct Both {
    pub front: Arc<crate::front::Front>,
    pub results: Arc<Results>,
}

impl Site for Both {
    async fn answer(self: Arc<Self>, call: Call, peer: IpAddr) -> Reply {
        if is_for_results(call.uri().path()) {
            self.results.route(call, peer).await
        } else {
            self.front.route(call, peer).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn viewers_get_the_current_state_and_then_each_change_once() {
        let events = watch::Sender::new(Bytes::from_static(b"one"));
        let mut viewer = Box::pin(follow(events.subscribe()));
        assert_eq!(viewer.next().await.as_deref(), Some(&b"one"[..]));
        events.send_replace(Bytes::from_static(b"two"));
        events.send_replace(Bytes::from_static(b"three"));
        assert_eq!(viewer.next().await.as_deref(), Some(&b"three"[..]), "a slow viewer skips");
        drop(events);
        assert_eq!(viewer.next().await, None);
    }
}
