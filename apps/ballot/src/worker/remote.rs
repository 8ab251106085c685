//! A front at an address, asked over HTTP.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::client::{Answer, Client, ClientError};
use crate::ids::{LogId, Seq};
use crate::polls::Poll;
use crate::source::{Records, Source, SourceError, Survey};
use crate::spool::BoxFuture;

/// The most bytes of an answer.
const MOST: usize = 32 << 20;

pub struct Remote {
    client: Client,
    token: String,
}

impl Remote {
    pub fn new(address: String, token: &str) -> Self {
        Self { client: Client::new(address, MOST), token: format!("Bearer {token}") }
    }

    fn unreachable(&self, what: impl std::fmt::Display) -> SourceError {
        SourceError::Unreachable { front: self.name(), what: what.to_string() }
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, SourceError> {
        let headers = [("authorization", self.token.as_str())];
        let answer = self.client.send(method, path, &headers, body).await;
        let answer = answer.map_err(|e: ClientError| self.unreachable(e.what))?;
        if answer.status != StatusCode::OK {
            let what = format!("{}: {}", answer.status, answer.text());
            return Err(SourceError::Refused { front: self.name(), what });
        }
        Ok(answer)
    }
}

impl Source for Remote {
    fn name(&self) -> String {
        self.client.address().to_owned()
    }

    fn survey(&self) -> BoxFuture<'_, Result<Survey, SourceError>> {
        Box::pin(async move {
            let answer = self.send(Method::GET, "/log/v1/logs", Bytes::new()).await?;
            serde_json::from_slice(&answer.body).map_err(|e| self.unreachable(e))
        })
    }

    fn records(
        &self,
        log: LogId,
        from: Seq,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Records, SourceError>> {
        Box::pin(async move {
            let path = format!("/log/v1/logs/{log}/records?from={from}&max={max_bytes}");
            let answer = self.send(Method::GET, &path, Bytes::new()).await?;
            let number =
                |name: &str| answer.number(name).ok_or_else(|| self.unreachable(format!("no header {name}")));
            let (first, count) = (number("x-ballot-first")?, number("x-ballot-count")?);
            Ok(Records { first, count, bytes: answer.body.into() })
        })
    }

    fn enrolled(&self, log: LogId) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            self.send(Method::POST, &format!("/log/v1/logs/{log}/enrolled"), Bytes::new()).await.map(|_| ())
        })
    }

    fn finished(&self, log: LogId) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            self.send(Method::POST, &format!("/log/v1/logs/{log}/finished"), Bytes::new()).await.map(|_| ())
        })
    }

    fn put_polls<'a>(&'a self, polls: &'a [Poll]) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let body = serde_json::to_vec(polls).map_err(|e| self.unreachable(e))?;
            self.send(Method::PUT, "/log/v1/polls", Bytes::from(body)).await.map(|_| ())
        })
    }
}
