//! The administrator's addresses: polls and their closing, tickets, logs. All need the token from the key file
//! (`ballot token admin`).

use http::{Method, StatusCode};
use serde::Deserialize;

use super::Results;
use crate::http::{self as web, Call, Problem, Reply};
use crate::ids::{LogId, PollId};
use crate::polls::RawPoll;
use crate::store::StoreError;
use crate::ticket::Ticket;

const MAX_BODY: usize = 1 << 20;
const BODY: std::time::Duration = std::time::Duration::from_secs(10);
const MAX_TICKETS: u64 = 1_000_000;

pub(super) fn refused(error: &StoreError) -> Problem {
    match error {
        StoreError::Refused(what) => Problem::new(StatusCode::CONFLICT, "refused", what.clone()),
        other => {
            tracing::warn!(error = %other, "the database did not answer");
            let detail = "the database does not answer; try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database", detail)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketOrder {
    count: u64,
    /// What links start with, such as `https://vote.example/polls/board`.
    #[serde(default)]
    link: String,
}

impl Results {
    pub(super) async fn admin(&self, call: Call, parts: &[&str]) -> Result<Reply, Problem> {
        if !web::bears(call.headers(), self.keys.admin_token()) {
            let detail = "show the administrator's token (ballot token admin) as Authorization: Bearer";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "not_admin", detail));
        }
        let method = call.method().clone();
        match (&method, parts) {
            (&Method::GET, ["polls"]) => {
                let polls = self.store.all_polls().await.map_err(|e| refused(&e))?;
                let polls: Vec<_> =
                    polls.iter().map(|(p, f)| serde_json::json!({ "poll": p, "final": f })).collect();
                Ok(web::json(StatusCode::OK, &polls))
            }
            (&Method::POST, ["polls"]) => self.define(call).await,
            (&Method::POST, ["polls", id, "close"]) => self.close(id).await,
            (&Method::POST, ["polls", id, "tickets"]) => self.tickets(call, id).await,
            (&Method::GET, ["polls", id, "recount"]) => {
                let id = PollId::try_from(*id).map_err(|_| Problem::not_found())?;
                let rows = self.store.recount(&id).await.map_err(|e| refused(&e))?;
                let agree = rows.values().all(|(tallied, counted)| tallied == counted);
                let late = self.store.late(&id).await.map_err(|e| refused(&e))?;
                Ok(web::json(
                    StatusCode::OK,
                    &serde_json::json!({ "options": rows, "agree": agree, "late": late }),
                ))
            }
            (&Method::GET, ["logs"]) => {
                Ok(web::json(StatusCode::OK, &self.store.logs().await.map_err(|e| refused(&e))?))
            }
            (&Method::POST, ["logs", id, what @ ("retire" | "restore")]) => {
                let log = LogId::from_hex(id).ok_or_else(Problem::not_found)?;
                self.store.retire(log, *what == "retire").await.map_err(|e| refused(&e))?;
                Ok(web::json(StatusCode::OK, &serde_json::json!({ "log": id, "retired": *what == "retire" })))
            }
            _ => Err(Problem::not_found()),
        }
    }

    async fn define(&self, call: Call) -> Result<Reply, Problem> {
        let body = web::read_body(call.into_body(), MAX_BODY, BODY).await?;
        let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, "bad_poll", what);
        let raw: RawPoll = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
        let poll = raw.check().map_err(bad)?;
        self.store.put_poll(&poll, self.world.now_ms()).await.map_err(|e| refused(&e))?;
        Ok(web::json(StatusCode::CREATED, &poll))
    }

    /// Closes a poll a moment from now: late enough that every front has heard of it before.
    async fn close(&self, id: &str) -> Result<Reply, Problem> {
        let id = PollId::try_from(id).map_err(|_| Problem::not_found())?;
        let found = self.store.poll(&id).await.map_err(|e| refused(&e))?;
        let (mut poll, _) = found.ok_or_else(Problem::not_found)?;
        let at = self.world.now_ms() + CLOSING_MS;
        if poll.closes_ms > at {
            poll.closes_ms = at;
            self.store.put_poll(&poll, self.world.now_ms()).await.map_err(|e| refused(&e))?;
        }
        Ok(web::json(StatusCode::OK, &poll))
    }

    async fn tickets(&self, call: Call, id: &str) -> Result<Reply, Problem> {
        let id = PollId::try_from(id).map_err(|_| Problem::not_found())?;
        let body = web::read_body(call.into_body(), MAX_BODY, BODY).await?;
        let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, "bad_order", what);
        let order: TicketOrder = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
        if order.count > MAX_TICKETS {
            return Err(bad(format!("at most {MAX_TICKETS} tickets at a time")));
        }
        let mut text = String::from("ticket,link\n");
        for _ in 0..order.count {
            let mut number = [0; 10];
            self.world.fill(&mut number);
            let code = Ticket { id: number }.code(&self.keys, &id);
            text.push_str(&format!("{code},{}?ticket={code}\n", order.link));
        }
        Ok(web::csv(text))
    }
}

/// How long a poll that is closed by hand stays open, in milliseconds.
const CLOSING_MS: u64 = 3_000;
