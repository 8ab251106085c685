//! What a caller may do.

use axum::http::{HeaderMap, header};
use skep_model::{AppSpec, Principal};

/// Who calls, as established before any handler runs.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) rights: Rights,
    pub(crate) request_id: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Rights {
    /// Through the control socket or the admin listener: everything.
    Operator,
    /// Through the edge.
    Visitor { principal: Principal, login: bool },
}

impl Caller {
    pub(crate) fn is_operator(&self) -> bool {
        matches!(self.rights, Rights::Operator)
    }

    /// Whether the caller may open (and see) an app.
    pub(crate) fn may_open(&self, spec: &AppSpec) -> bool {
        match &self.rights {
            Rights::Operator => true,
            Rights::Visitor { principal, login } => may_open(spec, principal, *login),
        }
    }
}

/// Without a login configured everybody uses everything; with one, an app whose access names nobody is for all users
/// who are logged in.
fn may_open(spec: &AppSpec, principal: &Principal, login: bool) -> bool {
    let access = &spec.access;
    if !login || access.anyone {
        return true;
    }
    match principal {
        Principal::Anonymous | Principal::Guest(_) => false,
        Principal::User { name, groups } => {
            let for_all = access.users.is_empty() && access.groups.is_empty();
            for_all
                || access.users.iter().any(|user| user == name.as_str())
                || access.groups.iter().any(|group| groups.contains(group))
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
