//! Addresses apps had on another server before: bookmarks go on working.
//!
//! ShinyProxy serves an app at `/app/<id>` with a frame around it, at `/app_direct/<id>` without, and a named instance of it at
//! `/app_i/<id>/<instance>` and `/app_direct_i/<id>/<instance>`. They lead to the app whose id that name makes, if there is one,
//! with the rest of the path and the query; a named instance's to the one of that name, where one may
//! have several. Absent on purpose: `/app_proxy/<uuid>`, which lives no longer than a container.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use skep_model::{AppId, AppSpec, InstanceName};

use crate::api::Problem;

/// Bytes of a name; ids are shorter.
const MAX_NAME: usize = 256;

/// What a former address means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Former<'a> {
    pub(crate) app: AppId,
    /// What the instance was called, when it had a name.
    name: Option<InstanceName>,
    /// Of the path.
    rest: &'a str,
}

pub(crate) fn address(path: &str) -> Option<Former<'_>> {
    let (kind, after) = path.strip_prefix('/')?.split_once('/')?;
    let (id, rest) = after.split_once('/').unwrap_or((after, ""));
    let (name, rest) = match kind {
        "app" | "app_direct" => ("", rest),
        "app_i" | "app_direct_i" => rest.split_once('/').unwrap_or((rest, "")),
        _ => return None,
    };
    if id.len() > MAX_NAME || name.len() > MAX_NAME {
        return None;
    }
    // The one without a name is called `_` there.
    let name = InstanceName::of_text(&decoded(name));
    Some(Former { app: AppId::of_name(&decoded(id))?, name, rest })
}

impl Former<'_> {
    pub(crate) fn leads_to(&self, spec: &AppSpec, query: Option<&str>) -> Response<Body> {
        // Below the mount, whatever it is: an address that began with two slashes would be another host's.
        let rest = self.rest.trim_start_matches(['/', '\\']);
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let several = spec.per_user && spec.max_instances_per_user > 1;
        let mount = spec.mount_of(self.name.as_ref().filter(|_| several));
        let Ok(location) = HeaderValue::try_from(format!("{mount}{rest}{query}")) else {
            return Problem::unknown_path().response();
        };
        // Not for good: whoever moves back finds no browser that remembers.
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
    }
}

/// `%20` and the like decoded; what is no UTF-8 becomes what cannot stand in an id.
fn decoded(name: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(name.len()), name.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|hex| byte == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit())) {
            Some(hex) => {
                bytes.push(u8::from_str_radix(hex, 16).unwrap_or(b'%'));
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_addresses_mean_apps() {
        let means = |path: &'static str| {
            let found = address(path)?;
            Some((found.app.to_string(), found.name.map(String::from), found.rest))
        };
        let app = |id: &str, rest: &'static str| Some((id.to_owned(), None, rest));
        let named = |id: &str, name: &str, rest| Some((id.to_owned(), Some(name.to_owned()), rest));
        assert_eq!(means("/app/01_hello"), app("01_hello", ""));
        assert_eq!(means("/app/01_hello/"), app("01_hello", ""));
        assert_eq!(means("/app_direct/Gene%20Browser/deep/link"), app("gene-browser", "deep/link"));
        assert_eq!(means("/app_i/sales/second/deep/"), named("sales", "second", "deep/"));
        assert_eq!(means("/app_direct_i/sales/My%20Own"), named("sales", "my-own", ""));
        assert_eq!(means("/app_direct_i/sales/_"), app("sales", ""));
        assert_eq!(means("/app_i/sales"), app("sales", ""));
        for none in ["/app", "/app/", "/app_proxy/x/", "/other/x", "/app/%2f%2f", "/app//x", "app/x"] {
            assert_eq!(means(none), None, "{none}");
        }
    }

    #[test]
    fn they_lead_nowhere_else() {
        let mut spec = crate::ui::tests::spec("sales", "Sales");
        let location = |spec: &AppSpec, rest: &str, query| {
            let former = Former { app: spec.id.clone(), name: "north".parse().ok(), rest };
            let response = former.leads_to(spec, query);
            response.headers().get(header::LOCATION).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(location(&spec, "deep/x", Some("a=1")).as_deref(), Some("/sales/deep/x?a=1"));
        assert_eq!(location(&spec, "//evil.example/", None).as_deref(), Some("/sales/evil.example/"));
        spec.mount = skep_model::Mount::root();
        assert_eq!(location(&spec, "/\\/evil.example/", None).as_deref(), Some("/evil.example/"));
        assert_eq!(location(&spec, "a\r\nX: y", None), None);
        spec.per_user = true;
        assert_eq!(location(&spec, "x", None).as_deref(), Some("/x"), "one each");
        spec.max_instances_per_user = 2;
        assert_eq!(
            location(&spec, "x", Some("a=1")).as_deref(),
            Some("/sales~north/x?a=1"),
            "the app at `/` by its id"
        );
    }
}
