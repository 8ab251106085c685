//! Starting an instance with what its owner chose.
//!
//! The page takes the place of the app and posts to an address of ours; there the claim is made, with the choice, and the visitor
//! is sent on with the seat it got. So what the edge claims afterwards starts nothing of its own accord.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use axum::{Extension, Router};
use skep_edge::Client;
use skep_identity::{CHOICE_COOKIE, SEAT_COOKIE, SeatCookie};
use skep_launch::{Claim, ClaimKind, InstancePhase, InstanceView, Outcome, Refusal};
use skep_model::{AppSpec, Choice, InstanceName, Principal, Variant};

use crate::api::Problem;
use crate::control::Control;
use crate::login::forms::see_other;
use crate::personal::is_own;
use crate::rights::{Caller, Rights};
use crate::ui;
use crate::ui::choose::{ChooseView, Running};

/// How long a browser remembers what was chosen, seconds.
const REMEMBERED_S: u32 = 180 * 24 * 3600;

pub(crate) fn routes() -> Router<Control> {
    Router::new().route("/_skep/apps/choose", axum::routing::post(start))
}

/// The page in place of an app that asks first.
pub(crate) fn page(
    control: &Control,
    spec: &AppSpec,
    name: Option<&InstanceName>,
    who: &Principal,
    (uri, headers): (&Uri, &HeaderMap),
) -> Response<Body> {
    let mut wished = last_choice(headers);
    let withdrawn = !wished.is_empty() && spec.parameters.check(who, &wished).is_err();
    // The address may bring values: what it says counts before what was chosen last.
    wished.extend(pairs(uri.query().unwrap_or_default()));
    let selected = spec.parameters.preselected(who, &wished);
    let view = ChooseView {
        spec,
        who,
        selected: &selected,
        to: uri.path_and_query().map_or("/", |to| to.as_str()),
        name: name.map_or("", InstanceName::as_str),
        problem: withdrawn.then(|| WITHDRAWN.to_owned()),
        portal: control.portal_path(),
        status: StatusCode::OK,
    };
    ui::choose::page(&view).respond()
}

/// Above the form, where the last choice cannot be made again.
const WITHDRAWN: &str = "What was chosen here last is not offered any more. Choose again.";
const LINE_FULL: &str = "So many people are waiting for this app that the line is full. What you chose is kept: try again in a moment.";

async fn start(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    body: String,
) -> Response<Body> {
    let fields = pairs(&body);
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let spec = field("app").parse().ok().and_then(|id| control.app(&id));
    let Some(spec) = spec.filter(|spec| caller.may_open(spec) && !spec.parameters.is_empty()) else {
        return Problem::unknown_app(field("app")).response();
    };
    let name: Option<InstanceName> = match field("name") {
        "" => None,
        name => match name.parse() {
            Ok(name) => Some(name),
            Err(_) => {
                return Problem::new(StatusCode::BAD_REQUEST, "bad-instance-name", "that is no name")
                    .response();
            }
        },
    };
    let who = match &caller.rights {
        Rights::Visitor { principal, .. } => principal.clone(),
        Rights::Operator => Principal::Anonymous,
    };
    let mount = spec.mount_of(name.as_ref());
    let to = Some(field("to")).filter(|to| leads_into(mount.as_str(), to)).unwrap_or(mount.as_str());
    let choice: Choice = fields
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("p.")?.to_owned(), value.clone())))
        .collect();
    let variant = Variant { name: name.clone(), ..Variant::default() };
    let named = spec.of_variant(&variant);
    let again = |problem: String, status| {
        let selected = spec.parameters.preselected(&who, &choice);
        let view = ChooseView {
            spec: &named,
            who: &who,
            selected: &selected,
            to,
            name: field("name"),
            problem: Some(problem),
            portal: control.portal_path(),
            status,
        };
        ui::choose::page(&view).respond()
    };
    if let Err(problem) = spec.parameters.check(&who, &choice) {
        return again(sentence(&problem.to_string()), StatusCode::BAD_REQUEST);
    }
    let secure = if client.https { "; Secure" } else { "" };
    let remembered = format!(
        "{CHOICE_COOKIE}={}; Path={mount}; HttpOnly; SameSite=Lax; Max-Age={REMEMBERED_S}{secure}",
        written(&choice)
    );
    let claim = Claim {
        app: spec.id.clone(),
        name: name.clone(),
        joins: None,
        chosen: Some(choice.clone()),
        key: None,
        principal: who.clone(),
        kind: ClaimKind::Page,
    };
    // The place in the line is the page's, not this request's.
    let key = match control.handle().claim(claim) {
        Outcome::Waiting(waiting) => waiting.key(),
        Outcome::Granted(lease) => lease.key(),
        Outcome::Refused(refusal) => {
            let answer = match refusal {
                Refusal::LineFull => {
                    let mut full = again(LINE_FULL.to_owned(), StatusCode::SERVICE_UNAVAILABLE);
                    full.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("15"));
                    full
                }
                Refusal::ChoiceDiffers => running_already(&control, &caller, &named, (name.as_ref(), to)),
                Refusal::ChoiceNeeded => again(WITHDRAWN.to_owned(), StatusCode::CONFLICT),
                // The address says why, with a page of its own.
                _ => see_other(to, None),
            };
            return with_cookie(answer, &remembered);
        }
    };
    let mut response = see_other(to, Some(&remembered));
    let seat = SeatCookie { seat: key.seat, instance: key.instance };
    if let Ok(sealed) = control.seats().seal(&spec.id, name.as_ref(), &seat) {
        let cookie = format!("{SEAT_COOKIE}={sealed}; Path={mount}; HttpOnly; SameSite=Lax{secure}");
        response = with_cookie(response, &cookie);
    }
    response
}

fn with_cookie(mut response: Response<Body>, cookie: &str) -> Response<Body> {
    let cookie = HeaderValue::try_from(cookie).ok().map(|cookie| (header::SET_COOKIE, cookie));
    response.headers_mut().extend(cookie);
    response
}

/// The choice was not used: there is an instance already, started with another.
fn running_already(
    control: &Control,
    caller: &Caller,
    spec: &AppSpec,
    (name, to): (Option<&InstanceName>, &str),
) -> Response<Body> {
    let fresh = |phase| matches!(phase, InstancePhase::Starting | InstancePhase::Ready);
    let meant = |view: &InstanceView| {
        view.app == spec.id && is_own(caller, view) && view.variant.name.as_ref() == name && fresh(view.phase)
    };
    let there = control.handle().instances().into_iter().find(meant);
    let words =
        there.as_ref().map(|view| ui::choose::in_words(spec, &view.variant.chosen)).unwrap_or_default();
    let id = there.map(|view| view.id.to_string());
    let portal = control.portal_path();
    ui::choose::running_page(&Running { spec, to, words: &words, id: id.as_deref(), portal }).respond()
}

fn leads_into(mount: &str, to: &str) -> bool {
    let plain = to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    plain && to.starts_with(mount) && !to.starts_with("//") && to.len() <= 8192
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// What this browser chose last at this address.
fn last_choice(headers: &HeaderMap) -> Choice {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = texts.flat_map(|text| skep_identity::cookies::values(text, CHOICE_COOKIE));
    values.next().map(pairs).unwrap_or_default()
}

/// Pairs as forms send them. Few: a form of ours has no more.
fn pairs(text: &str) -> Choice {
    let pairs = form_urlencoded::parse(text.as_bytes()).take(64);
    pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn written(choice: &Choice) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(choice).finish()
}
