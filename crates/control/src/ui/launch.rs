//! The page a visitor sees while an app starts. It is complete without a script: it then reloads itself, and each load
//! is the claim that keeps the visitor's place in the line.

use axum::http::StatusCode;
use skep_launch::{LaunchStatus, Stage};
use skep_model::AppSpec;

use super::assets::LAUNCH_SCRIPT;
use super::html::{Html, plain_line, spoken_ms};
use super::page::{Frame, Page, origin_of, tile};

const STAGES: [(Stage, &str); 5] = [
    (Stage::Queue, "A place is found"),
    (Stage::Environment, "What the app needs is prepared"),
    (Stage::Start, "The app is started"),
    (Stage::Boot, "It gives its first answer"),
    (Stage::Ready, "The page opens"),
];

/// What the page shows besides the status.
pub(crate) struct LaunchView<'a> {
    pub(crate) spec: &'a AppSpec,
    pub(crate) status: &'a LaunchStatus,
    /// The newest lines of the app's log. `None`: visitors may not see them.
    pub(crate) lines: Option<&'a [String]>,
    /// Where cancelling leads.
    pub(crate) portal: &'static str,
    pub(crate) request_id: u64,
}

/// The situation in one sentence.
pub(crate) fn says(status: &LaunchStatus) -> String {
    if status.failure.is_some() {
        return "The app could not be started.".to_owned();
    }
    match (status.stage, status.place) {
        (Stage::Queue, Some(1)) => "Every place is taken; you are next in line.".to_owned(),
        (Stage::Queue, Some(place)) => {
            format!("Every place is taken; you are number {place} of {} in line.", status.waiting.max(place))
        }
        (Stage::Queue, None) => "Looking for a free place.".to_owned(),
        (Stage::Environment, _) => "Preparing what the app needs. The first time takes longest.".to_owned(),
        (Stage::Start, _) => "The app is being started.".to_owned(),
        (Stage::Boot, _) => "The app is loading; this page opens it as soon as it answers.".to_owned(),
        (Stage::Ready, _) => "The app is ready and opens now.".to_owned(),
    }
}

/// How far along, of 100, for the first drawing.
fn progress(status: &LaunchStatus) -> u64 {
    if status.stage == Stage::Ready {
        return 100;
    }
    let usual = status.usual_ms.unwrap_or(20_000).max(1);
    (status.elapsed_ms.saturating_mul(90) / usual).min(90)
}

pub(crate) fn page(view: &LaunchView<'_>) -> Page {
    let LaunchView { spec, status, .. } = view;
    let mut html = Html::with_capacity(6 * 1024);
    html.raw("<main class=\"card\" data-launch data-elapsed=\"")
        .number(status.elapsed_ms)
        .raw("\" data-usual=\"")
        .number(status.usual_ms.unwrap_or(0))
        .raw("\">\n<header class=\"head\">");
    tile(&mut html, spec);
    html.raw("<div><p class=\"eyebrow\">Starting</p><h1>").text(&spec.title).raw("</h1></div></header>\n");
    html.raw("<p class=\"says\" id=\"says\" role=\"status\">").text(&says(status)).raw("</p>\n");
    before(&mut html, status.before.as_deref());
    html.raw("<progress id=\"bar\" max=\"100\" value=\"")
        .number(progress(status))
        .raw("\" aria-label=\"Time so far against the usual time\"></progress>\n<p class=\"time\"><span id=\"elapsed\">")
        .text(&spoken_ms(status.elapsed_ms))
        .raw("</span><span id=\"usual\">");
    if let Some(usual) = status.usual_ms {
        html.raw("usually about ").text(&spoken_ms(usual));
    }
    html.raw("</span></p>\n");
    stages(&mut html, status);
    if let Some(lines) = view.lines {
        log(&mut html, lines);
    }
    html.raw("<div class=\"actions\"><a class=\"button quiet\" href=\"")
        .raw(view.portal)
        .raw("\">Cancel</a></div>\n<p class=\"small\">Request ");
    html.text(&format!("{:016x}", view.request_id)).raw("</p>\n</main>\n");
    Page {
        script: Some(&LAUNCH_SCRIPT),
        refresh_without_script: Some(2),
        retry_after_seconds: Some(2),
        origins: origin_of(spec.icon.as_ref()).into_iter().collect(),
        ..Page::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{} is starting", spec.title),
            Frame::InPlaceOfApp,
            html,
        )
    }
}

/// Why this start is needed; hidden where nothing was lost.
fn before(html: &mut Html, reason: Option<&str>) {
    html.raw("<p class=\"hint\" id=\"before\"").raw(if reason.is_some() { ">" } else { " hidden>" });
    if let Some(reason) = reason {
        html.raw("The one before ended: ").text(&plain_line(reason, 300)).raw(".");
    }
    html.raw("</p>\n");
}

fn stages(html: &mut Html, status: &LaunchStatus) {
    html.raw("<ol class=\"stages\" id=\"stages\">\n");
    for (stage, name) in STAGES {
        let (item, read) = match stage.cmp(&status.stage) {
            std::cmp::Ordering::Less => ("<li class=\"done\">", "done: "),
            std::cmp::Ordering::Equal => ("<li class=\"now\" aria-current=\"step\">", "now: "),
            std::cmp::Ordering::Greater => ("<li>", ""),
        };
        html.raw(item)
            .raw("<span class=\"cell\" aria-hidden=\"true\"></span><span><span class=\"only-read\">")
            .raw(read)
            .raw("</span>")
            .raw(name)
            .raw("<small>");
        if stage == status.stage {
            html.text(&plain_line(&status.detail, 200));
        }
        html.raw("</small></span></li>\n");
    }
    html.raw("</ol>\n");
}

/// The box the script appends to; hidden while empty.
fn log(html: &mut Html, lines: &[String]) {
    html.raw("<details class=\"log\" id=\"log\" open")
        .raw(if lines.is_empty() { " hidden" } else { "" })
        .raw("><summary>What the app says</summary><pre class=\"lines\" id=\"lines\" tabindex=\"0\">");
    last_lines(html, lines, 12, 4 * 1024);
    html.raw("</pre></details>\n");
}

/// The last lines that fit into a number of lines and bytes of HTML, so that no log makes a page heavy.
pub(super) fn last_lines(html: &mut Html, lines: &[String], most: usize, budget: usize) {
    let mut kept = Vec::new();
    let mut used = 0;
    for line in lines.iter().rev().take(most) {
        let mut piece = Html::default();
        piece.text(&plain_line(line, 300)).raw("\n");
        used += piece.len();
        if used > budget {
            break;
        }
        kept.push(piece);
    }
    for piece in kept.iter().rev() {
        html.add(piece);
    }
}
