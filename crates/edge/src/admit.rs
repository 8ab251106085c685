//! The admit phase: may this request be served, who asks, and may they have this app?
//!
//! A visitor without the right to an app gets the login page when a login may help, else a refusal. Nothing here waits:
//! the login cookie and the newest snapshot of users and grants say everything.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use skep_identity::cookies::{GUEST_COOKIE, login_path};
use skep_identity::{
    Admission, Decision, GuestSealer, KeyRing, LoginCookie, SHARE_COOKIE, SealedBy, Session, SessionSealer,
    Share, ShareIn, ShareSealer, WhyNot, share_cookie,
};
use skep_launch::Refusal;
use skep_model::{AppSpec, GuestId, Principal};

use crate::body::EdgeBody;
use crate::console_host::Elsewhere;
use crate::control_call::Purpose;
use crate::exchange::Exchange;
use crate::guard::Guard;
use crate::problem::Problem;
use crate::request::{Conn, Target, Visit};
use crate::routes::Route;
use crate::visit;

/// The keys of the cookies that say who somebody is.
pub(crate) struct Doors {
    pub(crate) sessions: SessionSealer,
    guests: GuestSealer,
    shares: ShareSealer,
}

impl Doors {
    pub(crate) fn new(keys: &KeyRing) -> Self {
        Self {
            sessions: SessionSealer::new(keys),
            guests: GuestSealer::new(keys),
            shares: ShareSealer::new(keys),
        }
    }
}

/// What becomes of the request.
pub(crate) enum Admitted {
    /// It is served.
    In,
    Answer(Box<Response<EdgeBody>>),
    Page(Purpose),
}

/// Says who asks (in `visit.principal`) and whether they may. `cookies` go with the answer.
///
/// # Errors
/// The refusal.
pub(crate) fn admit(
    conn: &Conn,
    visit: &mut Visit,
    target: &Target,
    exchange: &mut Option<Box<Exchange>>,
    cookies: &mut Vec<HeaderValue>,
) -> Result<Admitted, Problem> {
    // Health checks come from orchestrators that know an address only, and learn nothing but a word.
    if matches!(target, Target::Live | Target::Ready) {
        return Ok(Admitted::In);
    }
    let headers = &visit.parts.headers;
    let at_service = match target {
        Target::Service(_) | Target::Slash(_) => true,
        // What its error pages look like.
        Target::Own => visit.parts.uri.path().starts_with("/_skep/assets/"),
        _ => false,
    };
    let published = at_service && conn.worker.routes().serves_host(visit.host.host());
    visit::check_host_rule(&conn.worker.shared.hosts, &visit.host, published, visit.trusted, headers)?;
    if let Some(console) = &conn.worker.shared.console {
        let app = matches!(target, Target::Slash(_)) || target.route().is_some();
        match console.check(&visit.host, visit.client.https, &visit.parts.uri, app, visit.navigation) {
            Ok(()) => {}
            Err(Elsewhere::Moved(location)) => {
                return Ok(Admitted::Answer(Box::new(see_other(&location))));
            }
            Err(Elsewhere::Refused(problem)) => return Err(problem),
        }
    }
    let admission = conn.worker.admission();
    let session = logged_in(conn, visit, &admission, cookies);
    check_site(visit, target, session.is_some())?;
    let app = target.route().map(|route| &route.spec);
    if let Some(app) = app {
        match admission.may_open(&visit.principal, app) {
            Decision::Allowed(_) => {}
            Decision::Refused(why) => return refuse(visit, app, why),
        }
        if app.per_user && visit.principal == Principal::Anonymous {
            welcome(conn, visit, cookies);
        }
    } else if visit.principal == Principal::Anonymous
        && let Some(id) = known_guest(conn, visit)
    {
        // On pages of ours they see what is theirs.
        visit.principal = Principal::Guest(id);
    }
    let share = match target {
        Target::App(route) if route.spec.per_user => guest_of(conn, visit, route),
        _ => None,
    };
    if let Some(share) = &share {
        if !admission.is_shared(share, now_ms()) {
            cookies.extend(forget_share(visit));
            let refusal = Refusal::ShareEnded;
            if !visit.navigation {
                return Err(Problem::from(&refusal));
            }
            let (app, name) = (share.instance.app().clone(), share.name.clone());
            return Ok(Admitted::Page(Purpose::RefusedPage { app, name, refusal }));
        }
        visit.joins = Some(share.instance.clone());
    }
    // Where nobody logs in, nothing can be taken away. What ends a login must still be answered.
    let ours = app.is_none() && session.is_some() && is_safe(&visit.parts.method);
    if (share.is_some() || admission.policy.login() && (app.is_some() || ours))
        && let Some(exchange) = exchange
    {
        exchange.guard(Guard {
            session,
            app: app.map(Arc::clone),
            share,
            waits: false,
            task: tokio::task::try_id(),
        });
    }
    Ok(Admitted::In)
}

/// Adds the cookies of the admit phase to an answer, unless the answer speaks for itself: a logout must not be undone.
pub(crate) fn set_cookies(response: &mut Response<EdgeBody>, cookies: Vec<HeaderValue>) {
    if !cookies.is_empty() {
        keep_private(response.headers_mut());
    }
    for cookie in cookies {
        let name_of =
            |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
        let said = response.headers().get_all(SET_COOKIE).iter().any(|own| name_of(own) == name_of(&cookie));
        if !said {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
}

/// What carries somebody's cookie is for them alone: no cache on the way may keep it for others, whatever the app allows.
fn keep_private(headers: &mut HeaderMap) {
    let said: Vec<String> = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|part| !part.is_empty())
        .collect();
    let is = |part: &str, name: &str| part.eq_ignore_ascii_case(name);
    if said.iter().any(|part| is(part, "private") || is(part, "no-store")) {
        return;
    }
    let for_all = |part: &str| {
        let name = part.split('=').next().unwrap_or_default().trim_end();
        is(name, "public") || is(name, "s-maxage")
    };
    let kept = said.iter().map(String::as_str).filter(|part| !for_all(part));
    let said = ["private"].into_iter().chain(kept).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::try_from(said) {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// The login the visit bears, if it counts. A cookie half way to its end is renewed.
fn logged_in(
    conn: &Conn,
    visit: &mut Visit,
    admission: &Admission,
    cookies: &mut Vec<HeaderValue>,
) -> Option<(Session, SealedBy)> {
    let kind = LoginCookie::fitting(visit.client.https, visit.host.host(), admission.insecure_http)?;
    let sealer = &conn.worker.shared.doors.sessions;
    let now_ms = now_ms();
    let values = visit::cookies(&visit.parts.headers, kind.name());
    let admitted = admission.admit(sealer, kind, values, now_ms)?;
    visit.principal = admitted.principal;
    if let Some(renewed) = admitted.renewed {
        match sealer.seal(kind, &renewed) {
            Ok(sealed) => {
                let cookie = kind.set(&sealed, renewed.max_age_s(now_ms));
                cookies.extend(HeaderValue::try_from(cookie).ok());
            }
            Err(error) => tracing::warn!(%error, "a login could not be prolonged"),
        }
    }
    Some((admitted.session, admitted.by))
}

/// Requests that another site's page made the browser send.
fn check_site(visit: &Visit, target: &Target, by_cookie: bool) -> Result<(), Problem> {
    let headers = &visit.parts.headers;
    let launch = headers.contains_key(visit::SKEP_LAUNCH);
    let safe = is_safe(&visit.parts.method);
    match target {
        Target::Own => {
            visit::check_origin(headers, &visit.host, &[])?;
            visit::check_unsafe(&visit.parts.method, headers)
        }
        Target::App(_) if launch => {
            visit::check_origin(headers, &visit.host, &[])?;
            visit::check_unsafe(&visit.parts.method, headers)
        }
        Target::App(route) | Target::Site(route) | Target::Service(route)
            if visit.upgrade || (by_cookie && !safe) =>
        {
            visit::check_origin(headers, &visit.host, &route.spec.allowed_origins)
        }
        _ => Ok(()),
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn refuse(visit: &Visit, app: &Arc<AppSpec>, why: WhyNot) -> Result<Admitted, Problem> {
    match why {
        WhyNot::LogIn if visit.navigation => {
            let target = visit.parts.uri.path_and_query().map_or("/", |target| target.as_str());
            Ok(Admitted::Answer(Box::new(see_other(&login_path(target)))))
        }
        WhyNot::LogIn => {
            let detail = "this app is for people who are logged in; log in at /_skep/login";
            Err(Problem::new(401, "login-required", detail))
        }
        _ if visit.navigation => Ok(Admitted::Page(Purpose::DeniedPage { app: Arc::clone(app) })),
        _ => Err(Problem::new(403, "not-allowed", "this app is not for the user who is logged in")),
    }
}

/// Tells one visitor without a login from another. Only page loads get an identity: whoever keeps no cookies would get a
/// new one, and a new instance, with every request.
fn welcome(conn: &Conn, visit: &mut Visit, cookies: &mut Vec<HeaderValue>) {
    let sealer = &conn.worker.shared.doors.guests;
    if let Some(id) = known_guest(conn, visit) {
        visit.principal = Principal::Guest(id);
    } else if visit.navigation {
        match sealer.welcome(visit.client.https) {
            Ok((id, cookie)) => {
                visit.principal = Principal::Guest(id);
                cookies.extend(HeaderValue::try_from(cookie).ok());
            }
            Err(error) => tracing::warn!(%error, "a visitor gets no identity"),
        }
    }
}

/// Whose guest the visitor is at this address, if they were let in once.
fn guest_of(conn: &Conn, visit: &Visit, route: &Route) -> Option<Share> {
    let sealer = &conn.worker.shared.doors.shares;
    let mut found = visit::cookies(&visit.parts.headers, SHARE_COOKIE).take(4);
    let share = found.find_map(|value| sealer.open(ShareIn::Cookie(&visit.principal), value))?;
    share.is_at(&route.spec.id, route.name.as_ref()).then_some(share)
}

/// The next page load leads to what is the visitor's own.
pub(crate) fn forget_share(visit: &Visit) -> Option<HeaderValue> {
    HeaderValue::try_from(share_cookie("", visit.client.https, 0)).ok()
}

fn known_guest(conn: &Conn, visit: &Visit) -> Option<GuestId> {
    let mut known = visit::cookies(&visit.parts.headers, GUEST_COOKIE).take(4);
    known.find_map(|value| conn.worker.shared.doors.guests.open(value))
}

fn see_other(location: &str) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_somebodys_cookie_is_for_them_alone() {
        for (said, kept) in [
            ("", "private"),
            ("public, max-age=600", "private, max-age=600"),
            ("Public,s-maxage=9, immutable", "private, immutable"),
            ("no-cache=\"Set-Cookie, X\"", "private, no-cache=\"Set-Cookie, X\""),
            ("private, max-age=1", "private, max-age=1"),
            ("no-store", "no-store"),
        ] {
            let mut headers = HeaderMap::new();
            if !said.is_empty() {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(said));
            }
            keep_private(&mut headers);
            assert_eq!(headers[CACHE_CONTROL], kept, "{said}");
        }
    }
}
