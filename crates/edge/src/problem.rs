//! Refusals in a form machines read: `application/problem+json` (RFC 9457) with a stable `code`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use skep_launch::Refusal;

use crate::body::{EdgeBody, Source};
use crate::routes::Misnamed;
use crate::sanitize::Refused;

/// A refusal on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    /// One sentence: what is wrong, and what the client can do where it can do something.
    pub(crate) detail: String,
    pub(crate) retry_after: Option<Duration>,
    /// The connection cannot be trusted to be in step any more.
    pub(crate) close: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    request_id: String,
}

impl Problem {
    pub(crate) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None, close: false }
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(crate) fn respond(self, request_id: u64) -> Response<EdgeBody> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let document = Document {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Refused"),
            status: self.status,
            code: self.code,
            detail: &self.detail,
            request_id: format!("{request_id:016x}"),
        };
        let bytes = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(EdgeBody::new(Source::Full(Bytes::from(bytes))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // Rounded up: coming back too early is what the field is to prevent.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::new(refused.status(), refused.code(), refused.to_string()).closing()
    }
}

impl From<Misnamed> for Problem {
    fn from(why: Misnamed) -> Self {
        Self::new(404, why.code(), why.to_string())
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        // Nobody is asked here whether they may see what the app wrote.
        let detail = refusal.without_log().to_string();
        let problem = Self::new(refusal.status(), refusal.code(), detail);
        match refusal {
            Refusal::UnknownApp
            | Refusal::TooManyOfOne(_)
            | Refusal::ChoiceNeeded
            | Refusal::ChoiceWithdrawn
            | Refusal::ChoiceDiffers
            | Refusal::NoIdentity
            | Refusal::ShareEnded => problem,
            Refusal::StartFailed { retry_after, .. } => problem.retry_after(*retry_after),
            Refusal::Cold => problem.retry_after(Duration::from_secs(30)),
            _ => problem.retry_after(Duration::from_secs(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_failed_is_told_without_what_the_app_wrote() {
        let refusal = Refusal::StartFailed {
            summary: "exited with status 1: no vault for hunter2".to_owned(),
            last_lines: vec!["skep: no vault for hunter2".to_owned()],
            retry_after: Duration::from_secs(1),
        };
        let problem = Problem::from(&refusal);
        assert_eq!(problem.detail, "the app could not be started: exited with status 1");
        assert_eq!((problem.status, problem.code), (503, "start-failed"));
    }
}
