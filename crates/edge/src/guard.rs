//! What an open exchange depends on: the login it was admitted by, the right to the app, an owner's leave. When one goes, so
//! does the exchange, a WebSocket as well as a long answer.

use std::sync::Arc;

use skep_identity::{Admission, SealedBy, Session, SessionSealer, Share};
use skep_model::{AppSpec, Principal, Source};

use crate::routes::RouteTable;

pub(crate) struct Guard {
    /// The login, and the key its cookie was sealed with. `None`: admitted as one of everybody.
    pub(crate) session: Option<(Session, SealedBy)>,
    /// `None`: a page of ours.
    pub(crate) app: Option<Arc<AppSpec>>,
    /// Set for a guest on somebody else's instance.
    pub(crate) share: Option<Share>,
    /// Nothing was given yet: that the app is withdrawn, or another's now, is for the answer to say.
    pub(crate) waits: bool,
    /// The task that ends with the exchange: its connection's, or its tunnel's.
    pub(crate) task: Option<tokio::task::Id>,
}

impl Guard {
    /// Whether the exchange may go on.
    pub(crate) fn holds(
        &self,
        admission: &Admission,
        sessions: &SessionSealer,
        routes: &RouteTable,
        now_ms: i64,
    ) -> bool {
        let principal = match &self.session {
            None => Principal::Anonymous,
            // Its idle time is prolonged by page loads, not by an open WebSocket, so only the absolute end counts here.
            Some((session, by)) if session.until_ms <= now_ms || !sessions.has(*by) => return false,
            Some((session, _)) => match admission.standing(session) {
                Some(principal) => principal,
                None => return false,
            },
        };
        if self.share.as_ref().is_some_and(|share| !admission.is_shared(share, now_ms)) {
            return false;
        }
        let Some(app) = self.app.as_ref().filter(|_| !self.waits) else { return true };
        // The rules of now; an app that is not published any more is the launcher's to end, a service nobody's.
        let current = match routes.published(&app.id) {
            Some(current) => current,
            None if matches!(app.source, Source::Service(_)) => return false,
            None => app,
        };
        admission.may_open(&principal, current).is_allowed()
    }
}
