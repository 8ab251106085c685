//! A front's addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode};

use super::vote::{Acknowledged, Incoming};
use super::{Front, OpenPoll, pages};
use crate::http::{self as web, Call, Problem, Reply, Site};
use crate::ids::LogId;
use crate::polls::Poll;
use crate::source::Source;

/// The most bytes of a ballot.
const MAX_BALLOT: usize = 4 << 10;
/// The most bytes of the polls a worker brings.
const MAX_POLLS: usize = 16 << 20;
const BODY: Duration = Duration::from_secs(10);

impl Site for Front {
    async fn answer(self: Arc<Self>, call: Call, peer: IpAddr) -> Reply {
        self.route(call, peer).await
    }
}

/// Whether the caller would rather have a page.
fn wants_page(headers: &HeaderMap) -> bool {
    web::header(headers, "accept").is_some_and(|a| a.contains("text/html"))
}

impl Front {
    /// Answers what belongs to a front.
    pub async fn route(&self, call: Call, peer: IpAddr) -> Reply {
        let path = call.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let method = call.method().clone();
        let page = wants_page(call.headers());
        let result = match (&method, parts.as_slice()) {
            (&Method::POST, ["api", "v1", "polls", id, "ballots"]) => self.post_ballot(call, peer, id).await,
            (&Method::GET | &Method::HEAD, ["polls", id]) => self.get_page(&call, peer, id),
            (&Method::POST, ["polls", id]) => self.post_form(call, peer, id).await,
            (&Method::GET | &Method::HEAD, [""]) => Ok(web::page(
                StatusCode::OK,
                pages::index(&self.catalogue.load().all(), &self.options.results_base, self.world.now_ms()),
            )),
            (&Method::GET, ["api", "v1", "polls"]) => {
                Ok(web::json(StatusCode::OK, &self.catalogue.load().all()))
            }
            (&Method::GET, ["api", "v1", "polls", id]) => {
                self.find(id).map(|p| web::json(StatusCode::OK, &p.poll))
            }
            (&Method::GET, ["assets", name]) => pages::asset(name).ok_or_else(Problem::not_found),
            (&Method::GET | &Method::HEAD, ["health"] | ["health", "ready"]) => Ok(self.health()),
            (&Method::GET | &Method::HEAD, ["health", "live"]) => Ok(web::text(StatusCode::OK, "alive\n")),
            (_, ["log", "v1", rest @ ..]) => self.internal(call, rest).await,
            (_, ["api", "v1", "polls", _, "ballots"] | ["polls", _] | ["assets", _]) => Err(Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this address does not take that method",
            )),
            _ => Err(Problem::not_found()),
        };
        result.unwrap_or_else(|problem| {
            if page && !path.starts_with("/api/") {
                web::page(problem.status, pages::problem(&problem, parts.len()))
            } else {
                problem.json()
            }
        })
    }

    fn find(&self, id: &str) -> Result<Arc<OpenPoll>, Problem> {
        let none = || match self.unready() {
            // A front that no worker has met yet does not know its polls.
            Some(why) if !self.is_enrolled() => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)
            }
            _ => Problem::new(StatusCode::NOT_FOUND, "no_such_poll", "there is no such poll"),
        };
        self.catalogue.load().get(id).cloned().ok_or_else(none)
    }

    fn health(&self) -> Reply {
        match self.unready() {
            None => web::text(StatusCode::OK, "ready\n"),
            Some(why) => web::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }

    /// The header that gives the browser its cookie.
    fn set_cookie(&self, open: &OpenPoll, headers: &HeaderMap, peer: IpAddr, value: &str) -> HeaderValue {
        let secure = if self.options.trust.is_https(headers, peer) { "; Secure" } else { "" };
        // A year: longer than any poll is open.
        let text =
            format!("{}={value}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax{secure}", open.cookie);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn get_page(&self, call: &Call, peer: IpAddr, id: &str) -> Result<Reply, Problem> {
        let open = self.find(id)?;
        let query = call.uri().query().unwrap_or_default();
        let ticket = web::parameter(query, "ticket");
        let cookie = self.greet(&open, call.headers(), peer, ticket.as_deref())?;
        let mut nonce = [0; 24];
        self.world.fill(&mut nonce);
        let sealed = cookie.as_ref().map(|c| c.seal(&self.keys, &open.poll.id, nonce));
        let mut reply = if ticket.is_some() {
            // The ticket leaves the address bar, where it could be read or bookmarked.
            let mut reply = web::page(StatusCode::SEE_OTHER, "");
            let to = HeaderValue::from_str(&open.poll.id.to_string()).map_err(|_| Problem::not_found())?;
            reply.headers_mut().insert(LOCATION, to);
            reply
        } else {
            let voted = cookie.as_ref().is_some_and(|c| c.voted > 0);
            let view = pages::View {
                poll: &open.poll,
                now_ms: self.world.now_ms(),
                voted,
                invited: cookie.is_some(),
            };
            web::page(StatusCode::OK, pages::vote(&view, &self.options.results_base))
        };
        if let Some(value) = sealed {
            reply.headers_mut().insert(SET_COOKIE, self.set_cookie(&open, call.headers(), peer, &value));
        }
        Ok(reply)
    }

    async fn post_ballot(&self, call: Call, peer: IpAddr, id: &str) -> Result<Reply, Problem> {
        let open = self.find(id)?;
        let (head, body) = call.into_parts();
        let kind = web::header(&head.headers, "content-type").unwrap_or_default();
        if !kind.starts_with("application/json") {
            let detail = "send the ballot as application/json, such as {\"option\":\"cats\"}";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
        }
        // A body for a browser that has no cookie is not worth reading.
        let body = web::read_body(body, MAX_BALLOT, BODY).await?;
        let incoming: Incoming = serde_json::from_slice(&body).map_err(|e| {
            Problem::new(StatusCode::BAD_REQUEST, "bad_ballot", format!("this is not a ballot: {e}"))
        })?;
        let done = self.vote(&open, &head.headers, peer, &incoming).await?;
        let mut reply = web::json(
            StatusCode::CREATED,
            &serde_json::json!({
                "receipt": done.receipt.to_string(), "poll": open.poll.id, "option": done.option, "at": done.at_ms,
            }),
        );
        self.acknowledge(&open, &head.headers, peer, &done, &mut reply);
        Ok(reply)
    }

    async fn post_form(&self, call: Call, peer: IpAddr, id: &str) -> Result<Reply, Problem> {
        let open = self.find(id)?;
        let (head, body) = call.into_parts();
        let body = web::read_body(body, MAX_BALLOT, BODY).await?;
        let form = std::str::from_utf8(&body).unwrap_or_default();
        let Some(option) = web::parameter(form, "option") else {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "no_choice",
                "choose one of the options, then vote",
            ));
        };
        let attempt = web::parameter(form, "attempt").and_then(|a| a.parse().ok()).unwrap_or(0);
        let ticket = web::parameter(form, "ticket").filter(|t| !t.is_empty());
        let incoming = Incoming { option, attempt, ticket };
        let done = self.vote(&open, &head.headers, peer, &incoming).await?;
        let body =
            pages::thanks(&open.poll, &done.option, &done.receipt.to_string(), &self.options.results_base);
        let mut reply = web::page(StatusCode::CREATED, body);
        self.acknowledge(&open, &head.headers, peer, &done, &mut reply);
        Ok(reply)
    }

    fn acknowledge(
        &self,
        open: &OpenPoll,
        headers: &HeaderMap,
        peer: IpAddr,
        done: &Acknowledged,
        reply: &mut Reply,
    ) {
        // A login without a cookie gets one too: it carries the epoch.
        debug_assert!(!done.cookie.is_empty() || headers.get(COOKIE).is_none());
        reply.headers_mut().insert(SET_COOKIE, self.set_cookie(open, headers, peer, &done.cookie));
    }

    /// What workers ask.
    async fn internal(&self, call: Call, parts: &[&str]) -> Result<Reply, Problem> {
        if !web::bears(call.headers(), self.keys.internal_token()) {
            let detail = "only workers with the same key file may ask this";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "not_a_worker", detail));
        }
        let failed = |what: String| Problem::new(StatusCode::CONFLICT, "log", what);
        let log = |text: &str| LogId::from_hex(text).ok_or_else(Problem::not_found);
        match (call.method(), parts) {
            (&Method::GET, ["logs"]) => {
                let survey = self.survey().await.map_err(|e| failed(e.to_string()))?;
                Ok(web::json(StatusCode::OK, &survey))
            }
            (&Method::GET, ["logs", id, "records"]) => {
                let query = call.uri().query().unwrap_or_default();
                let number = |name| web::parameter(query, name).and_then(|v| v.parse::<u64>().ok());
                let (Some(from), Some(max)) = (number("from"), number("max")) else {
                    return Err(failed("from and max must be numbers".to_owned()));
                };
                let max = usize::try_from(max).unwrap_or(usize::MAX).min(8 << 20);
                let records = self.read_records(log(id)?, from, max).await.map_err(failed)?;
                let mut reply = web::octets(records.bytes);
                for (name, value) in [("x-ballot-first", records.first), ("x-ballot-count", records.count)] {
                    reply.headers_mut().insert(name, HeaderValue::from(value));
                }
                Ok(reply)
            }
            (&Method::POST, ["logs", id, "enrolled"]) => {
                self.set_enrolled(log(id)?).map_err(|e| failed(e.to_string()))?;
                Ok(web::text(StatusCode::OK, "enrolled\n"))
            }
            (&Method::POST, ["logs", id, "finished"]) => {
                self.set_finished(log(id)?);
                Ok(web::text(StatusCode::OK, "finished\n"))
            }
            (&Method::PUT, ["polls"]) => {
                let body = web::read_body(call.into_body(), MAX_POLLS, BODY).await?;
                let polls: Vec<Poll> = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
                self.set_polls(&polls).map_err(failed)?;
                Ok(web::text(StatusCode::OK, "taken\n"))
            }
            _ => Err(Problem::not_found()),
        }
    }
}
