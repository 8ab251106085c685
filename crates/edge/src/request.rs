//! What becomes of a request: five phases, in this order. **Route** (is it well formed, what is it for), **admit** (may
//! it be served at all), **claim** (a seat; awaiting it is holding the request), **forward** or **tunnel**, **log** (when
//! the exchange is dropped, so always).

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, LOCATION, SET_COOKIE};
use http::{HeaderValue, Request, Response, StatusCode, Uri, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use skep_launch::{Lease, Upstream};
use skep_model::{InstanceId, Principal};

use crate::admit::{self, Admitted};
use crate::body::{BrokenBody, EdgeBody, RequestBody, Source};
use crate::claim::{self, Claimed};
use crate::conn::ConnState;
use crate::control_call::{Client, Purpose};
use crate::exchange::Exchange;
use crate::forward::{self, Broken, Onward, Speaker};
use crate::handover;
use crate::own;
use crate::pool::{ConnectError, Returning};
use crate::problem::Problem;
use crate::routes::{Found, Misnamed, Route};
use crate::sanitize::{self, Refused, head_scan::HeadFault, host::Authority};
use crate::services;
use crate::static_site;
use crate::tunnel::Opening;
use crate::visit;
use crate::worker::Worker;

/// A client connection, as its requests see it.
pub(crate) struct Conn {
    pub(crate) worker: Rc<Worker>,
    pub(crate) state: Arc<ConnState>,
    pub(crate) served: Cell<u32>,
}

/// The client left: there is nobody to answer, and the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the client left")]
pub(crate) struct Gone;

/// Why the phases end before an answer was made.
pub(crate) enum Stop {
    Problem(Problem),
    Gone,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Problem(refused.into())
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// A routed request.
pub(crate) struct Visit {
    pub(crate) parts: request::Parts,
    pub(crate) body: RequestBody,
    pub(crate) client: Client,
    /// The name the visitor used.
    pub(crate) host: Authority,
    /// The peer is a trusted proxy.
    pub(crate) trusted: bool,
    pub(crate) upgrade: bool,
    /// A page load: its refusals are pages.
    pub(crate) navigation: bool,
    /// Who asks; anonymous until admitted.
    pub(crate) principal: Principal,
    /// Whose instance they are a guest on, here.
    pub(crate) joins: Option<InstanceId>,
}

/// What a request is for.
pub(crate) enum Target {
    Live,
    Ready,
    /// Ours: `/_skep/…`, the portal, and paths nothing is published at.
    Own,
    /// An app's URL without its last slash.
    Slash(String),
    Site(Route),
    App(Route),
    /// An address that can be no named instance's.
    Misnamed(Route, Misnamed),
    /// An ordinary service; never without one.
    Service(Route),
}

impl Target {
    /// What is published there.
    pub(crate) fn route(&self) -> Option<&Route> {
        match self {
            Self::App(route) | Self::Site(route) | Self::Service(route) | Self::Misnamed(route, _) => {
                Some(route)
            }
            Self::Live | Self::Ready | Self::Own | Self::Slash(_) => None,
        }
    }
}

/// Serves one request of a connection.
///
/// # Errors
/// [`Gone`] when the client left meanwhile; hyper then ends the connection without an answer.
pub(crate) async fn serve(
    conn: Rc<Conn>,
    request: Request<Incoming>,
    fault: Option<HeadFault>,
) -> Result<Response<EdgeBody>, Gone> {
    let mut exchange =
        Some(Exchange::begin(&conn.worker, &conn.state, request.method(), request.uri().path_and_query()));
    let request_id = exchange.as_ref().map_or(0, |exchange| exchange.request_id());
    let mut cookies = Vec::new();
    let mut response = match answer(&conn, request, fault, &mut exchange, &mut cookies).await {
        Ok(mut response) => {
            admit::set_cookies(&mut response, cookies);
            response
        }
        Err(Stop::Problem(problem)) => problem.respond(request_id),
        Err(Stop::Gone) => return Err(Gone),
    };
    conn.served.set(conn.served.get().saturating_add(1));
    if conn.must_close() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // A tunnel has taken the exchange with it.
    if let Some(mut exchange) = exchange {
        exchange.record.status = response.status().as_u16();
        response.body_mut().attach(exchange);
    }
    Ok(response)
}

impl Conn {
    fn must_close(&self) -> bool {
        self.served.get() >= self.worker.shared.limits.requests_per_connection
            || self.state.was_chunked()
            || self.worker.shared.is_leaving()
    }
}

async fn answer(
    conn: &Rc<Conn>,
    request: Request<Incoming>,
    fault: Option<HeadFault>,
    exchange: &mut Option<Box<Exchange>>,
    cookies: &mut Vec<HeaderValue>,
) -> Result<Response<EdgeBody>, Stop> {
    // route
    if let Some(fault) = fault {
        return Err(Refused::Head(fault).into());
    }
    let (mut visit, target) = route(conn, request, exchange)?;

    // After a hand-over the new process does the rest.
    if let Some(successor) = conn.worker.shared.successor.get() {
        return Box::pin(handover::pass_on(conn, *visit, successor, exchange)).await;
    }

    // admit
    match admit::admit(conn, &mut visit, &target, exchange, cookies)? {
        Admitted::In => {}
        Admitted::Answer(response) => return Ok(*response),
        Admitted::Page(purpose) => return Ok(Box::pin(own::call(conn, *visit, purpose)).await?),
    }
    let app = match target {
        Target::Live => return Ok(text(StatusCode::OK, "live\n")),
        Target::Ready if conn.worker.shared.is_ready() => return Ok(text(StatusCode::OK, "ready\n")),
        Target::Ready => return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")),
        Target::Slash(location) => return Ok(moved(&location)),
        Target::Own => return Ok(Box::pin(own::call(conn, *visit, Purpose::Own)).await?),
        Target::Site(site) => return Ok(Box::pin(static_site::serve(&site, &visit)).await),
        Target::Service(Route { service: Some(service), .. }) => {
            return Box::pin(services::serve(conn, visit, service, exchange, cookies)).await;
        }
        Target::Misnamed(route, why) => {
            if visit.navigation {
                let purpose = Purpose::MisnamedPage { app: route.spec.id.clone(), why };
                return Ok(Box::pin(own::call(conn, *visit, purpose)).await?);
            }
            return Err(Problem::from(why).into());
        }
        Target::Service(route) | Target::App(route) => route,
    };

    let mut second_try = false;
    loop {
        // claim
        let lease = match claim::claim(conn, &mut visit, &app, exchange).await? {
            Claimed::Seat(lease) => lease,
            Claimed::Answer(response) => return Ok(response),
            Claimed::Page(purpose) => {
                if visit.joins.is_some() && purpose.is_end_of_share() {
                    cookies.extend(admit::forget_share(&visit));
                }
                return Ok(Box::pin(own::call(conn, *visit, purpose)).await?);
            }
            Claimed::PassOn(successor) => {
                return Box::pin(handover::pass_on(conn, *visit, &successor, exchange)).await;
            }
        };

        // forward | tunnel. Boxed, as the other ways out are: a request that is held has no room reserved for them.
        if let Some(response) = Box::pin(forward(conn, &mut visit, lease, second_try, exchange)).await? {
            return Ok(response);
        }
        second_try = true;
    }

    // log: `exchange`, when it is dropped
}

fn route(
    conn: &Conn,
    request: Request<Incoming>,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<(Box<Visit>, Target), Stop> {
    let (mut parts, incoming) = request.into_parts();
    let checked = sanitize::check(&parts.method, &parts.uri, parts.version, &parts.headers)?;
    let whole = match checked.rewritten {
        Some(path) => path.parse().map_err(|_| Refused::BadPath)?,
        None => parts.uri.path_and_query().cloned().ok_or(Refused::BadTarget)?,
    };
    parts.uri = Uri::from(whole);
    let shared = &conn.worker.shared;
    let peer = conn.state.peer;
    let trusted =
        conn.state.listener.trust_peers || shared.trusted_proxies.iter().any(|range| range.contains(peer));
    let said = |name| visit::last_word(&parts.headers, name).filter(|_| trusted);
    let host = said("x-forwarded-host").and_then(Authority::parse).unwrap_or(checked.host);
    let https = said("x-forwarded-proto").map_or(conn.state.listener.is_tls(), |proto| proto == "https");
    let client = Client {
        ip: visit::client_ip(peer, trusted, &shared.trusted_proxies, &parts.headers),
        https,
        host: host.as_str().to_owned(),
        at_console: shared.console.as_ref().is_none_or(|console| console.answers_at(&host)),
        request_id: exchange.as_ref().map_or(0, |exchange| exchange.request_id()),
    };
    let target = find(conn, &host, &parts.uri);
    if let Some(exchange) = exchange {
        exchange.record.client = client.ip;
        if let Some(route) = target.route() {
            exchange.note_app(&route.spec.id);
        }
    }
    let navigation = visit::is_navigation(&parts.method, &parts.headers);
    let body = RequestBody::new(incoming, &conn.state);
    let upgrade = checked.upgrade;
    let principal = Principal::Anonymous;
    // Boxed: it is handed on a few times, and is large.
    let visit = Visit { parts, body, client, host, trusted, upgrade, navigation, principal, joins: None };
    Ok((Box::new(visit), target))
}

/// What is published there now.
pub(crate) fn find(conn: &Conn, host: &Authority, uri: &Uri) -> Target {
    let path = uri.path();
    match path {
        "/_skep/health/live" => return Target::Live,
        "/_skep/health/ready" => return Target::Ready,
        _ if path == "/_skep" || path.starts_with("/_skep/") => return Target::Own,
        _ => {}
    }
    match conn.worker.routes().find(host.host(), path) {
        None => Target::Own,
        Some(Found::Slash) => {
            let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
            Target::Slash(format!("{path}/{query}"))
        }
        Some(Found::Named(route)) => Target::App(route),
        Some(Found::Misnamed(route, why)) => Target::Misnamed(route, why),
        Some(Found::App(route)) if route.static_dir.is_some() => Target::Site(route.clone()),
        Some(Found::App(route)) if route.service.is_some() => Target::Service(route.clone()),
        Some(Found::App(route)) => Target::App(route.clone()),
    }
}

/// The answer; none when the instance ended before the visit could reach it: it is as it came and may claim again.
async fn forward(
    conn: &Rc<Conn>,
    visit: &mut Visit,
    lease: Lease,
    second_try: bool,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Option<Response<EdgeBody>>, Stop> {
    lease.touch();
    let upstream = Arc::clone(lease.upstream());
    let cookie = claim::cookie_for(conn, visit, &lease);
    if let Some(exchange) = exchange {
        exchange.note_instance(&upstream.instance);
        exchange.hold_lease(lease);
    }
    let lost = match carry(conn, visit, &upstream, Speaker::App, exchange).await? {
        Ok(mut response) => {
            if let Some(cookie) = cookie {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            return Ok(Some(response));
        }
        Err(lost) => lost,
    };
    let handle = &conn.worker.shared.handle;
    // An app with too many connections is busy, not broken: whoever comes next must not wait for news of its end.
    let busy = matches!(lost.broken, Broken::Connect(ConnectError::Budget(_)));
    if !busy {
        handle.suspect(&upstream.instance);
    }
    if lost.unsent && !busy && !second_try && handle.has_ended(&upstream.instance, NEWS_OF_AN_END).await {
        return Ok(None);
    }
    if let Some(exchange) = exchange {
        exchange.note_broken(&lost.broken.to_string());
    }
    if !visit.navigation {
        return Err(problem_of(&lost.broken).into());
    }
    let parts = own::copy_of(&visit.parts);
    // Why it ended says more than how its connection did.
    let summary = handle.why_ended(&upstream.instance).unwrap_or_else(|| lost.broken.to_string());
    let purpose = Purpose::BrokenPage { app: upstream.app.clone(), service: None, summary };
    Ok(Some(own::page(conn, parts, visit.client.clone(), visit.principal.clone(), purpose).await?))
}

/// How long the news that an instance has ended may take to arrive after its socket refused: usually milliseconds, more
/// where disk and processors are busy, as they may be when an app has just broken down.
const NEWS_OF_AN_END: Duration = Duration::from_secs(2);

/// A request that got no answer.
pub(crate) struct Lost {
    pub(crate) broken: Broken,
    /// Nothing of it was sent; the visit has its body again.
    pub(crate) unsent: bool,
}

impl Visit {
    /// The request as an instance sees it. The visit's own head stays as it came.
    fn onward(
        &self,
        peer: IpAddr,
        target: &Uri,
        upstream: &Upstream,
        speaker: Speaker,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let onward = Onward {
            client: &self.client,
            peer,
            trusted: self.trusted,
            prefix: upstream.prefix,
            base_path: &upstream.base_path,
            upgrade: self.upgrade,
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = target.clone();
        *request.headers_mut() = match speaker {
            Speaker::App => {
                let mut headers = forward::request_head(&self.parts.headers, &onward);
                forward::identity::tell(&mut headers, &self.principal);
                headers
            }
            Speaker::Successor => forward::relay_head(&self.parts.headers, &onward),
        };
        request
    }
}

/// Carries a request to an instance and its answer back; opens the tunnel after a `101`.
pub(crate) async fn carry(
    conn: &Rc<Conn>,
    visit: &mut Visit,
    upstream: &Upstream,
    speaker: Speaker,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Result<Response<EdgeBody>, Lost>, Stop> {
    let target = forward::target(&visit.parts.uri, upstream).ok_or(Refused::BadTarget)?;
    let limits = &conn.worker.shared.limits;
    let pool = &conn.worker.pool;
    let body = visit.body.take();
    let method = &visit.parts.method;
    let make = |body| visit.onward(conn.state.peer, &target, upstream, speaker, body);
    let sent = forward::send(pool, upstream, method, make, body, limits.answer_timeout);
    let (response, link) = match sent.await {
        Ok(answered) => answered,
        Err((Broken::Body(BrokenBody::BrokenOff), _)) => {
            // Whoever broke off is not there to be answered, and the app is not to blame.
            if let Some(exchange) = exchange {
                exchange.note_broken(&BrokenBody::BrokenOff.to_string());
            }
            return Err(Stop::Gone);
        }
        Err((Broken::Body(broken), _)) => {
            let broken = Broken::from(broken);
            return Err(Problem::new(broken.status(), broken.code(), broken.to_string()).into());
        }
        Err((broken, body)) => {
            let unsent = body.is_some();
            if let Some(body) = body {
                visit.body = body;
            }
            return Ok(Err(Lost { broken, unsent }));
        }
    };
    let upgrade = visit.upgrade;
    let switching = upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let confused = || Problem::new(502, "app-confused", "the app switched protocols unasked");
    if response.status().is_informational() && !switching {
        return Err(confused().into());
    }
    let (mut parts, incoming) = response.into_parts();
    forward::response_head(&mut parts.headers, upstream, speaker, &visit.client.host, switching);
    parts.version = http::Version::HTTP_11;
    if switching {
        // tunnel
        let client = visit.parts.extensions.remove::<OnUpgrade>();
        let (Some(client), Some(upstream)) = (client, parts.extensions.remove::<OnUpgrade>()) else {
            return Err(confused().into());
        };
        if let Some(mut exchange) = exchange.take() {
            exchange.record.status = parts.status.as_u16();
            exchange.become_tunnel();
            let tunnel = Opening { client, upstream }.run(exchange, limits.half_closed);
            conn.worker.spawn_tunnel(tunnel);
        }
        return Ok(Ok(Response::from_parts(parts, EdgeBody::empty())));
    }
    let returning = Returning::new(link, pool);
    Ok(Ok(Response::from_parts(parts, EdgeBody::new(Source::app(incoming, returning)))))
}

pub(crate) fn problem_of(broken: &Broken) -> Problem {
    Problem::new(broken.status(), broken.code(), broken.to_string()).retry_after(Duration::from_secs(2))
}

fn text(status: StatusCode, text: &'static str) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::new(Source::Full(text.as_bytes().into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 308: the method and the body are kept.
pub(crate) fn moved(location: &str) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F>(_: impl Fn(Rc<Conn>, Request<Incoming>, Option<HeadFault>) -> F) -> usize {
        size_of::<F>()
    }

    // A held request is this future, its head and its connection's buffer.
    #[test]
    fn a_requests_future_stays_small() {
        let size = size_of_future(serve);
        assert!(size <= 3 * 1024 + 512, "{size} bytes");
    }
}
