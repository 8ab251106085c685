//! Errors as `application/problem+json` with a stable `code`.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Why a call was not done. `code` is what programs may rely on; the texts are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), retry_after_seconds: None }
    }

    pub(crate) fn unknown_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-path",
            "The API has nothing at this path; /_skep/api/v1/openapi.json lists what it has.",
        )
    }

    pub(crate) fn unknown_app(id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        Self::new(StatusCode::NOT_FOUND, "unknown-app", format!("There is no app `{id}`."))
    }

    pub(crate) fn unknown_instance(id: &str) -> Self {
        let id: String = id.chars().take(120).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-instance",
            format!("There is no instance `{id}`; `skep ps` lists those there are."),
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "This path does not know this method; the Allow header lists those it knows.",
        )
    }

    pub(crate) fn operators_only() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "operators-only",
            "Only the control socket may do this: use the `skep` command on the server.",
        )
    }

    pub(crate) fn login_required() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "login-required",
            "This is for users who are logged in; log in at /_skep/login.",
        )
    }

    pub(crate) fn not_allowed(permission: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "not-allowed",
            format!("This needs the permission `{permission}`, which you do not have here."),
        )
    }

    pub(crate) fn slow_down(wait: std::time::Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let detail = format!("Too many wrong passwords. Try again in {seconds} seconds.");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", detail).retry_after(seconds)
    }

    pub(crate) fn cross_site() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "cross-site",
            "A request that changes something must come from a page of this server.",
        )
    }

    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The server is stopping.")
    }

    pub(crate) fn bad_query(reason: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-query", format!("The query cannot be read: {reason}."))
    }

    pub(crate) fn still_stopping() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "still-stopping",
            "Stopping was ordered and goes on; visitors are still being seen off. Ask again later.",
        )
    }

    pub(crate) fn store(problem: &skep_store::StoreError) -> Self {
        tracing::warn!(%problem, "the store failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", "The store cannot be used right now.")
            .retry_after(5)
    }

    pub(crate) fn too_many_streams() -> Self {
        let detail = "Too many streams are open; ask again later.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-streams", detail).retry_after(5)
    }

    pub(crate) fn backend(problem: &skep_launch::BackendError, instance: &str) -> Self {
        match problem {
            skep_launch::BackendError::Unknown => Self::unknown_instance(instance),
            other => {
                tracing::warn!(problem = %other, instance, "a backend refused");
                Self::new(StatusCode::BAD_GATEWAY, "backend-failed", other.to_string())
            }
        }
    }

    fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string() + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.response()
    }
}
