//! The claim phase: a seat for this request, or what it gets instead.
//!
//! A page load of a cold app gets the launch page (unless its app says `hold = "wait"`); everything else is held until
//! there is a seat, a refusal, or nobody left who asked. A held request whose client left never reaches the app: the
//! wait is abandoned as soon as the socket says so, and before a held request is let go the kernel is asked once more.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderValue, Method, Response, StatusCode};
use skep_identity::{SEAT_COOKIE, SeatCookie};
use skep_launch::{Claim, ClaimKind, Lease, Outcome, Refusal, SeatKey, Upstream};
use skep_model::{AppId, Hold, InstanceName, SeatId};

use crate::body::{BodyError, EdgeBody};
use crate::control_call::Purpose;
use crate::exchange::Exchange;
use crate::forward;
use crate::own;
use crate::problem::Problem;
use crate::request::{Conn, Gone, Stop, Visit};
use crate::routes::Route;
use crate::visit;

/// What a claim came to.
pub(crate) enum Claimed {
    Seat(Lease),
    Answer(Response<EdgeBody>),
    /// A page of ours instead of the app's, made from the visit.
    Page(Purpose),
    /// The server was handed over while the request waited.
    PassOn(Arc<Upstream>),
}

/// Claims a seat for the visit, and waits for it where that is the rule.
pub(crate) async fn claim(
    conn: &Rc<Conn>,
    visit: &mut Visit,
    route: &Route,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Claimed, Stop> {
    let (app, name) = (&route.spec.id, route.name.as_ref());
    let key = seat_key(conn, visit, app, name);
    if let Some(asked) = visit.parts.headers.get(visit::SKEP_LAUNCH).cloned() {
        return Box::pin(launch_page_asks(conn, visit, route, key, &asked)).await;
    }
    let kind = kind_of(visit, route);
    // Lent, not copied: names and groups are texts.
    let principal = std::mem::take(&mut visit.principal);
    let joins = visit.joins.clone();
    let claim = Claim { app: app.clone(), name: name.cloned(), joins, chosen: None, key, principal, kind };
    let outcome = conn.worker.shared.handle.claim(&claim);
    visit.principal = claim.principal;
    let waiting = match outcome {
        Outcome::Granted(lease) => return Ok(Claimed::Seat(lease)),
        Outcome::Refused(refusal) => return refused(conn, visit, route, refusal),
        Outcome::Waiting(waiting) => waiting,
    };
    if kind == ClaimKind::Page {
        // The place in the line is the page's, not the request's: `waiting` may go.
        return Box::pin(launch_page(conn, visit, route, waiting.key())).await;
    }
    let since = Instant::now();
    let result = hold(conn, visit, waiting.granted()).await;
    if let Some(exchange) = exchange {
        exchange.note_held(since);
    }
    match result? {
        Ok(lease) => Ok(Claimed::Seat(lease)),
        Err(refusal) => refused(conn, visit, route, refusal),
    }
}

fn kind_of(visit: &Visit, route: &Route) -> ClaimKind {
    if visit.upgrade {
        ClaimKind::Tunnel
    } else if visit::must_not_wake(&visit.parts.headers) {
        ClaimKind::WarmOnly
    } else if !visit.navigation {
        ClaimKind::Held
    } else if route.spec.hold == Hold::Page {
        ClaimKind::Page
    } else {
        ClaimKind::HeldPage
    }
}

pub(crate) fn seat_key(
    conn: &Conn,
    visit: &Visit,
    app: &AppId,
    name: Option<&InstanceName>,
) -> Option<SeatKey> {
    let sealer = &conn.worker.shared.seats;
    // A root app's cookie and another app's arrive side by side: the one that opens for this address is it.
    let mut cookies = visit::cookies(&visit.parts.headers, SEAT_COOKIE).take(4);
    let cookie = cookies.find_map(|text| sealer.open(app, name, text))?;
    Some(SeatKey { seat: cookie.seat, instance: cookie.instance })
}

/// A refusal: a page for page loads, a problem document for the rest.
fn refused(conn: &Conn, visit: &Visit, route: &Route, refusal: Refusal) -> Result<Claimed, Stop> {
    if refusal == Refusal::ShuttingDown
        && let Some(successor) = conn.worker.shared.successor.get()
    {
        return Ok(Claimed::PassOn(Arc::clone(successor)));
    }
    if visit.navigation && refusal != Refusal::Cold {
        return Ok(Claimed::Page(Purpose::RefusedPage {
            app: route.spec.id.clone(),
            name: route.name.clone(),
            refusal,
        }));
    }
    Err(Problem::from(&refusal).into())
}

async fn launch_page(
    conn: &Rc<Conn>,
    visit: &mut Visit,
    route: &Route,
    seat: SeatKey,
) -> Result<Claimed, Stop> {
    let (app, name) = (route.spec.id.clone(), route.name.clone());
    let cookie = seal(conn, visit, &app, name.as_ref(), &seat);
    let purpose = Purpose::LaunchPage { app, name, seat };
    let parts = own::copy_of(&visit.parts);
    let mut response = own::page(conn, parts, visit.client.clone(), visit.principal.clone(), purpose).await?;
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    if !response.headers().contains_key(http::header::RETRY_AFTER) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    Ok(Claimed::Answer(response))
}

/// The launch page's own script asks how it goes, or its retry button was pressed.
async fn launch_page_asks(
    conn: &Rc<Conn>,
    visit: &mut Visit,
    route: &Route,
    key: Option<SeatKey>,
    asked: &HeaderValue,
) -> Result<Claimed, Stop> {
    let (app, name) = (&route.spec.id, route.name.as_ref());
    if asked == "retry" && visit.parts.method == Method::POST {
        return Ok(Claimed::Page(Purpose::LaunchRetry { app: app.clone() }));
    }
    if asked != "follow" || visit.parts.method != Method::GET {
        let detail = "`Skep-Launch` is `follow` with GET, or `retry` with POST";
        return Err(Problem::new(400, "bad-launch-header", detail).into());
    }
    // Asking again keeps the place in the line; without a cookie it takes one.
    let (principal, kind) = (visit.principal.clone(), ClaimKind::Page);
    let joins = visit.joins.clone();
    let claim = Claim { app: app.clone(), name: name.cloned(), joins, chosen: None, key, principal, kind };
    let (seat, lease, waiting) = match conn.worker.shared.handle.claim(claim) {
        Outcome::Granted(lease) => (lease.key(), Some(lease), None),
        Outcome::Waiting(waiting) => (waiting.key(), None, Some(waiting)),
        Outcome::Refused(refusal) => return Err(Problem::from(&refusal).into()),
    };
    let cookie = seal(conn, visit, app, name, &seat);
    let purpose = Purpose::LaunchFollow { app: app.clone(), seat };
    let parts = own::copy_of(&visit.parts);
    let mut response = own::page(conn, parts, visit.client.clone(), visit.principal.clone(), purpose).await?;
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    // The place is kept for as long as somebody follows.
    response.body_mut().keep(lease, waiting);
    Ok(Claimed::Answer(response))
}

/// Waits for a place to send the request to, reading a little of the body meanwhile, until the client leaves.
pub(crate) async fn hold<T, E>(
    conn: &Conn,
    visit: &mut Visit,
    place: impl Future<Output = Result<T, E>>,
) -> Result<Result<T, E>, Gone> {
    tokio::pin!(place);
    let departed = conn.state.departed();
    tokio::pin!(departed);
    let room = conn.worker.shared.limits.held_body;
    // `100 Continue` is sent by reading: a client that waits for it keeps its body until the app is there.
    let may_read = !forward::expects_continue(&visit.parts.headers);
    let result = loop {
        let read = may_read && visit.body.is_open() && visit.body.early_len() < room;
        tokio::select! {
            biased;
            () = &mut departed => return Err(Gone),
            result = &mut place => break result,
            read = visit.body.read_ahead(), if read => {
                read.map_err(|_: BodyError| Gone)?;
            }
        }
    };
    if conn.state.has_departed() {
        return Err(Gone);
    }
    if result.is_ok() && may_read && visit.body.is_open() {
        confirm(conn, visit).await?;
    }
    Ok(result)
}

/// How long a client with more to send must be silent to be taken for one that is there.
const QUIET: Duration = Duration::from_millis(50);
/// Bytes read to find out.
const PROBE: usize = 4 * 1024 * 1024;

/// Makes sure that whoever sends a body larger than what was read ahead is still there. Bytes it had sent before it left
/// can lie between us and the news that it did: they are read until the news comes, the body ends, the client falls
/// silent (a departed one's kernel would go on sending), or enough have been read.
async fn confirm(conn: &Conn, visit: &mut Visit) -> Result<(), Gone> {
    let departed = conn.state.departed();
    tokio::pin!(departed);
    while visit.body.is_open() && visit.body.early_len() < PROBE {
        let step = async {
            tokio::select! {
                biased;
                () = &mut departed => Err(Gone),
                read = visit.body.read_ahead() => read.map_err(|_| Gone),
            }
        };
        match tokio::time::timeout(QUIET, step).await {
            Ok(step) => step?,
            Err(_) => break,
        }
    }
    // The end of a body and the end of the connection may travel in separate packets.
    if !visit.body.is_open() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if conn.state.has_departed() { Err(Gone) } else { Ok(()) }
}

/// The seat cookie to set along with an app's answer: for page loads, and when a cookie that came must be replaced.
pub(crate) fn cookie_for(conn: &Conn, visit: &Visit, lease: &Lease) -> Option<HeaderValue> {
    let has_one = || visit::cookies(&visit.parts.headers, SEAT_COOKIE).next().is_some();
    if lease.key_is_new() && (visit.navigation || has_one()) {
        let Upstream { app, name, .. } = &**lease.upstream();
        return seal(conn, visit, app, name.as_ref(), &lease.key());
    }
    None
}

/// The cookie that brings a visitor of a service back to the same task.
pub(crate) fn stick(conn: &Conn, visit: &Visit, upstream: &Upstream) -> Option<HeaderValue> {
    // Nothing is taken here: the seat's place in the cookie stays empty.
    let key = SeatKey { seat: SeatId(0), instance: Some(upstream.instance.clone()) };
    seal(conn, visit, &upstream.app, None, &key)
}

fn seal(
    conn: &Conn,
    visit: &Visit,
    app: &AppId,
    name: Option<&InstanceName>,
    key: &SeatKey,
) -> Option<HeaderValue> {
    let cookie = SeatCookie { seat: key.seat, instance: key.instance.clone() };
    let sealed = match conn.worker.shared.seats.seal(app, name, &cookie) {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::error!(%error, "a seat cookie cannot be sealed");
            return None;
        }
    };
    let routes = conn.worker.routes();
    let path = routes.mount_of(app, name)?;
    let secure = if visit.client.https { "; Secure" } else { "" };
    let text = format!("{SEAT_COOKIE}={sealed}; Path={path}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).ok()
}
