//! The way out of the event loops: what the edge does not answer itself.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use skep_launch::{Refusal, SeatKey};
use skep_model::{AppId, AppSpec, InstanceName, Principal};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

use crate::routes::Misnamed;

/// A request body on its way to the control runtime.
pub type CallBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// A response body on its way back; may stream for as long as it likes.
pub type ReplyBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// One request for the control runtime. Dropping `reply` without an answer gives the visitor a 503.
pub struct ControlCall {
    pub purpose: Purpose,
    /// As the visitor sent it: full path, our cookies still in it, sanitised head.
    pub request: http::Request<CallBody>,
    pub client: Client,
    pub principal: Principal,
    pub reply: oneshot::Sender<http::Response<ReplyBody>>,
}

/// What the answer is for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// A path under `/_skep/`, the portal at `/`, or a path nothing is published at (404).
    Own,
    /// A page load of an app that is not ready: the launch page, status 503, `Retry-After`, `no-store`. The edge adds
    /// the seat cookie.
    LaunchPage { app: AppId, name: Option<InstanceName>, seat: SeatKey },
    /// The launch page's script asks how it goes (header `Skep-Launch: follow`): newline-delimited JSON
    /// `LaunchStatus`, one line per change, ending when the app is ready or has failed.
    LaunchFollow { app: AppId, seat: SeatKey },
    /// The launch page's retry button was pressed (`Skep-Launch: retry`, POST).
    LaunchRetry { app: AppId },
    /// A page load that was refused: an error page with the refusal's status.
    RefusedPage { app: AppId, name: Option<InstanceName>, refusal: Refusal },
    /// A page load of an address that can be no named instance's: an error page, status 404.
    MisnamedPage { app: AppId, why: Misnamed },
    /// A page load of an app, or a service, this user may not open: an error page, status 403.
    DeniedPage { app: Arc<AppSpec> },
    /// A page load whose instance broke off before it answered: an error page, status 502. `service`: when it is one, which the
    /// control plane has no list of.
    BrokenPage { app: AppId, service: Option<Arc<AppSpec>>, summary: String },
    /// A page load of a service none of whose tasks is well: an error page, status 503.
    NoTaskPage { service: Arc<AppSpec> },
}

impl Purpose {
    /// The visitor was a guest on an instance that is not shared any more.
    pub(crate) fn is_end_of_share(&self) -> bool {
        matches!(self, Self::RefusedPage { refusal: Refusal::ShareEnded, .. })
    }
}

/// Who is on the other end of the connection.
#[derive(Debug, Clone)]
pub struct Client {
    /// The visitor's address: the peer's, or what a trusted proxy said.
    pub ip: IpAddr,
    /// `https` when the visitor used TLS (to us or to a trusted proxy).
    pub https: bool,
    /// The public host name and port the visitor used.
    pub host: String,
    /// The visitor came to the host the console answers at; always so where it has none of its own. Elsewhere an app's
    /// script may have sent the request, so it may do what its visitor may, but not manage anything.
    pub at_console: bool,
    /// A request id, also in the access log and on error pages.
    pub request_id: u64,
}
