//! What an open exchange depends on: the login it was admitted by and the right to the app. When either goes, so does the
//! exchange, a WebSocket as well as a long answer.

use std::sync::Arc;

use skep_identity::{Admission, Session};
use skep_model::{AppSpec, Principal};

use crate::routes::{Found, RouteTable};

pub(crate) struct Guard {
    /// `None`: admitted as one of everybody.
    pub(crate) session: Option<Session>,
    /// `None`: a page of ours.
    pub(crate) app: Option<Arc<AppSpec>>,
    /// The task that ends with the exchange: its connection's, or its tunnel's.
    pub(crate) task: Option<tokio::task::Id>,
}

impl Guard {
    /// Whether the exchange may go on.
    pub(crate) fn holds(&self, admission: &Admission, routes: &RouteTable, now_ms: i64) -> bool {
        let principal = match &self.session {
            None => Principal::Anonymous,
            // Its idle time is prolonged by page loads, not by an open WebSocket, so only the absolute end counts here.
            Some(session) if session.until_ms <= now_ms => return false,
            Some(session) => match admission.standing(session) {
                Some(principal) => principal,
                None => return false,
            },
        };
        let Some(app) = &self.app else { return true };
        // The rules of now; an app that is not published any more is the launcher's to end.
        let current = match routes.find(app.mount.as_str()) {
            Some(Found::App(route)) if route.spec.id == app.id => &route.spec,
            _ => app,
        };
        admission.may_open(&principal, current).is_allowed()
    }
}
