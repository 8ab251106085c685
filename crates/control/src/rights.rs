//! What a caller may do.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use skep_identity::{Admission, Decision, Object, Permission, Permissions, WhyNot};
use skep_model::{AppSpec, Principal, UserName};

use crate::api::Problem;

/// Who calls, as established before any handler runs.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) rights: Rights,
    /// Nothing is managed from where apps answer when the console has a host of its own.
    pub(crate) manages: bool,
    pub(crate) request_id: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Rights {
    /// Through the control socket or the admin listener: everything.
    Operator,
    /// Through the edge.
    Visitor { principal: Principal, admission: Arc<Admission> },
}

impl Caller {
    pub(crate) fn is_operator(&self) -> bool {
        matches!(self.rights, Rights::Operator)
    }

    /// The user who is logged in.
    pub(crate) fn user(&self) -> Option<&UserName> {
        match &self.rights {
            Rights::Visitor { principal: Principal::User { name, .. }, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether the caller may open (and see) an app.
    pub(crate) fn may_open(&self, spec: &AppSpec) -> bool {
        match &self.rights {
            Rights::Operator => true,
            Rights::Visitor { principal, admission } => admission.may_open(principal, spec).is_allowed(),
        }
    }

    pub(crate) fn may(&self, what: Permission, on: Object<'_>) -> bool {
        self.demand(what, on).is_ok()
    }

    pub(crate) fn may_manage(&self, spec: &AppSpec) -> bool {
        self.manages && self.may(Permission::AppsManage, Object::App { id: &spec.id, access: &spec.access })
    }

    /// # Errors
    /// The refusal, when the caller may not.
    pub(crate) fn demand(&self, what: Permission, on: Object<'_>) -> Result<(), Problem> {
        let Rights::Visitor { principal, admission } = &self.rights else { return Ok(()) };
        match admission.policy.may(principal, what, on) {
            Decision::Allowed(_) => Ok(()),
            Decision::Refused(WhyNot::NoLoginConfigured) => Err(Problem::operators_only()),
            Decision::Refused(WhyNot::LogIn) => Err(Problem::login_required()),
            Decision::Refused(WhyNot::NotGranted) => Err(Problem::not_allowed(what.name())),
        }
    }

    /// What the caller may do to everything.
    pub(crate) fn permissions(&self) -> Permissions {
        match &self.rights {
            Rights::Operator => Permissions::all(),
            Rights::Visitor { principal, admission } => admission.policy.permissions(principal),
        }
    }
}

/// Whether a request that changes something comes from a page of our own (or from no page at all, said by the browser).
///
/// Browsers send `Sec-Fetch-Site`; older ones at least `Origin` with every POST. A request with neither comes from no
/// browser, and over the edge such a client has no business changing anything.
pub(crate) fn same_site(headers: &HeaderMap, host: &str) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let origin_host =
        text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    if origin_host.is_some_and(|origin| !origin.eq_ignore_ascii_case(host)) {
        return false;
    }
    match text(header::HeaderName::from_static("sec-fetch-site")) {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => origin_host.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_may_change_things() {
        let check = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            same_site(&headers, "apps.example:8080")
        };
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        assert!(check(&[("sec-fetch-site", "none")]));
        assert!(check(&[("origin", "http://apps.example:8080")]));
        assert!(check(&[("origin", "https://apps.example:8080"), ("sec-fetch-site", "same-origin")]));
        assert!(!check(&[]));
        assert!(!check(&[("sec-fetch-site", "same-site")]));
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("origin", "http://apps.example:8080")]));
        assert!(!check(&[("origin", "null")]));
        assert!(!check(&[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")]));
    }
}
