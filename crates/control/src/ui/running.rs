//! What is running now: first what is the visitor's own, then the rest, without names and process ids unless the visitor
//! manages it.

use std::sync::Arc;

use axum::http::StatusCode;
use skep_launch::{InstancePhase, InstanceView};
use skep_model::{AppSpec, InstanceName, Principal};

use super::html::{Html, spoken_ms};
use super::page::{BIG_MARK, Frame, Page};

/// One instance, as one visitor sees it.
pub(crate) struct Row {
    /// The variant's, where the visitor may know which it is.
    pub(crate) spec: Arc<AppSpec>,
    pub(crate) view: InstanceView,
    /// It is the visitor's alone.
    pub(crate) own: bool,
    /// The link to it, while its owner shares it, and until when (milliseconds since the Unix epoch).
    pub(crate) link: Option<(String, i64)>,
    /// Until when it is shared, for its owner and who manages it.
    pub(crate) shared_until_ms: Option<i64>,
    /// The visitor uses it now.
    pub(crate) here: bool,
    pub(crate) may_stop: bool,
    pub(crate) manages: bool,
}

/// The form for one more instance.
#[derive(Default)]
pub(crate) struct Another {
    /// The apps it is offered for.
    pub(crate) apps: Vec<Arc<AppSpec>>,
    /// What was sent before, when that was no good, and why it was not.
    pub(crate) chosen: String,
    pub(crate) name: String,
    pub(crate) problem: Option<&'static str>,
}

pub(crate) struct RunningView<'a> {
    pub(crate) rows: &'a [Row],
    pub(crate) another: &'a Another,
    /// The instance the visitor is a guest on, and whose it is.
    pub(crate) guest_at: Option<(&'a AppSpec, &'a str)>,
    /// Whether owners may share.
    pub(crate) shares: bool,
    /// What the addresses of apps begin with, where apps have another host than this page.
    pub(crate) apps_at: &'a str,
    pub(crate) now_ms: i64,
    pub(crate) portal: &'static str,
}

pub(crate) fn page(view: &RunningView<'_>, status: StatusCode) -> Page {
    let mut html = Html::with_capacity(4 * 1024);
    html.raw("<div class=\"wide\">\n<header class=\"top\"><h1>").raw(BIG_MARK).raw("What is running</h1>");
    html.raw("<nav aria-label=\"Pages\"><a href=\"")
        .raw(view.portal)
        .raw("\">All apps</a></nav></header>\n<main>\n");
    let (own, rest): (Vec<&Row>, Vec<&Row>) = view.rows.iter().partition(|row| row.own);
    if view.rows.is_empty() {
        html.raw("<div class=\"card empty\">").raw(BIG_MARK);
        html.raw("<h2>All quiet</h2><p class=\"hint\">No app is running. Each starts when somebody opens it.</p></div>");
    }
    if let Some((spec, owner)) = view.guest_at {
        guest(&mut html, spec, owner);
    }
    table(&mut html, "Yours", &own, view);
    another(&mut html, view.another);
    let heading = if own.is_empty() { "Everybody's" } else { "Everybody else's" };
    table(&mut html, heading, &rest, view);
    html.raw("</main>\n<footer class=\"foot\"><span>Published with Skep</span></footer>\n</div>\n");
    Page {
        layout: "portal",
        form_to: view.apps_at.to_owned(),
        ..Page::new(status, "What is running", Frame::Own, html)
    }
}

/// Which columns say something.
struct Columns {
    people: bool,
    user: bool,
    idle: bool,
    node: bool,
    action: bool,
}

fn table(html: &mut Html, heading: &'static str, rows: &[&Row], view: &RunningView<'_>) {
    if rows.is_empty() {
        return;
    }
    let columns = Columns {
        people: rows.iter().any(|row| !row.own),
        user: rows.iter().any(|row| row.manages && !row.own && row.view.owner.is_some()),
        idle: rows.iter().any(|row| row.view.idle_since_ms.is_some()),
        node: rows.iter().any(|row| (row.own || row.manages) && row.view.node != "local"),
        action: rows.iter().any(|row| row.may_stop),
    };
    html.raw("<section class=\"part\"><h2>").raw(heading);
    html.raw("</h2>\n<div class=\"sheet\"><table><thead><tr><th scope=\"col\">App</th><th scope=\"col\">State</th>");
    for (shown, name) in [
        (columns.people, "People"),
        (columns.user, "Whose"),
        (true, "Running for"),
        (columns.idle, "Idle for"),
        (columns.node, "Node"),
        (columns.action, "Action"),
    ] {
        if shown {
            html.raw("<th scope=\"col\">").raw(name).raw("</th>");
        }
    }
    html.raw("</tr></thead>\n<tbody>\n");
    for row in rows {
        cells(html, row, &columns, view);
    }
    html.raw("</tbody></table></div></section>\n");
}

fn cells(html: &mut Html, row: &Row, columns: &Columns, page: &RunningView<'_>) {
    let (Row { spec, view, .. }, now_ms) = (row, page.now_ms);
    let state = match view.phase {
        InstancePhase::Starting => "<span class=\"state\">Starting</span>",
        InstancePhase::Ready => "<span class=\"state on\">Running</span>",
        InstancePhase::Draining => "<span class=\"state\">Finishing</span>",
        InstancePhase::Stopping => "<span class=\"state\">Stopping</span>",
    };
    html.raw("<tr><th scope=\"row\">");
    // Somebody else's is not behind its address for anybody else.
    if row.own || view.owner.is_none() {
        html.raw("<a href=\"").text(spec.mount.as_str()).raw("\">").text(&spec.title).raw("</a>");
    } else {
        html.text(&spec.title);
    }
    html.raw(if row.here { " <span class=\"tag\">you are here</span>" } else { "" });
    if row.own || row.manages {
        let words = super::choose::in_words(spec, &view.variant.chosen);
        if !words.is_empty() {
            html.raw("<p class=\"hint chosen\">").text(&words).raw("</p>");
        }
    }
    if let Some((link, until_ms)) = &row.link {
        let left_ms = u64::try_from(until_ms - now_ms).unwrap_or(0);
        html.raw("<label class=\"shared\"><span>Shared for another ").text(&spoken_ms(left_ms));
        html.raw("; whoever may open the app joins you with this link</span><input readonly value=\"");
        html.text(link).raw("\"></label>");
    } else if let Some(until_ms) = row.shared_until_ms {
        let left_ms = u64::try_from(until_ms - now_ms).unwrap_or(0);
        html.raw("<p class=\"hint\">Shared by its owner for another ").text(&spoken_ms(left_ms)).raw("</p>");
    }
    html.raw("</th><td>").raw(state).raw("</td>");
    if columns.people {
        html.raw("<td data-column=\"People\">").number(view.taken.into());
        html.raw(" of ").number(view.seats.into()).raw("</td>");
    }
    if columns.user {
        cell(html, "Whose", &whose(row));
    }
    let since = |at_ms: i64| spoken_ms(u64::try_from(now_ms - at_ms).unwrap_or(0));
    cell(html, "Running for", &since(view.started_at_ms));
    if columns.idle {
        cell(html, "Idle for", &view.idle_since_ms.map(since).unwrap_or_default());
    }
    if columns.node {
        let known = row.own || row.manages;
        cell(html, "Node", if known { &view.node } else { "" });
    }
    if columns.action {
        html.raw("<td class=\"does\">");
        let offers = row.own && view.phase == InstancePhase::Ready && crate::share::has_room(view);
        let share = match (offers, row.shared_until_ms) {
            (_, Some(_)) => Some(("/_skep/apps/unshare", "Stop sharing")),
            (true, None) if page.shares => Some(("/_skep/apps/share", "Share")),
            _ => None,
        };
        let end = row.may_stop && !matches!(view.phase, InstancePhase::Stopping);
        let end = end.then_some(("/_skep/apps/stop", "End"));
        for (action, label) in share.into_iter().chain(end) {
            html.raw("<form method=\"post\" action=\"").raw(action);
            html.raw("\"><button class=\"button quiet low\" name=\"instance\" value=\"");
            html.text(&view.id.to_string()).raw("\">").raw(label);
            html.raw("<span class=\"only-read\"> ").text(&spec.title).raw("</span></button></form>");
        }
        html.raw("</td>");
    }
    html.raw("</tr>\n");
}

fn guest(html: &mut Html, spec: &AppSpec, owner: &str) {
    html.raw("<section class=\"part\"><h2>You are a guest</h2>\n<p class=\"hint\">").text(owner);
    html.raw(" shares ").text(&spec.title);
    html.raw(" with you. Once you leave, its address leads to your own copy again.</p>\n<div class=\"actions\"><a class=\"button\" href=\"");
    html.text(spec.mount.as_str()).raw("\">Open it</a><form method=\"post\" action=\"/_skep/share/leave\">");
    html.raw("<button class=\"button quiet\">Leave</button></form></div></section>\n");
}

/// An empty one is left out where cells stand below each other.
fn cell(html: &mut Html, column: &'static str, text: &str) {
    if text.is_empty() {
        html.raw("<td></td>");
    } else {
        html.raw("<td data-column=\"").raw(column).raw("\">").text(text).raw("</td>");
    }
}

/// For whoever manages the app.
fn whose(row: &Row) -> String {
    match &row.view.owner {
        Some(Principal::User { name, .. }) if row.manages => name.to_string(),
        Some(Principal::Guest(id)) if row.manages => id.to_string(),
        _ => String::new(),
    }
}

fn another(html: &mut Html, another: &Another) {
    let Some(first) = another.apps.first() else { return };
    html.raw("<section class=\"part\"><h2>Open another one</h2>\n<p class=\"hint\">Of an app that everybody has for themselves \
              you can have several, each with a name and a state of its own.</p>\n");
    if let Some(problem) = another.problem {
        html.raw("<p class=\"notice\" role=\"alert\">").raw(problem).raw("</p>\n");
    }
    html.raw("<form action=\"/_skep/apps/open\" class=\"fields row\">");
    html.raw("<div><label for=\"app\">App</label>\n<select id=\"app\" name=\"app\">");
    for spec in &another.apps {
        html.raw("<option value=\"").text(spec.id.as_str()).raw("\"");
        html.raw(if spec.id.as_str() == another.chosen { " selected" } else { "" });
        html.raw(">").text(&spec.title).raw("</option>");
    }
    html.raw("</select></div>\n<div><label for=\"name\">Name</label>\n<input id=\"name\" name=\"name\" required autocomplete=\"off\" \
              autocapitalize=\"none\" spellcheck=\"false\" maxlength=\"")
        .number(InstanceName::MAX_LEN as u64)
        .raw("\" value=\"")
        .text(&another.name)
        .raw("\"></div>\n<button class=\"button\">Open</button></form>\n<p class=\"hint\">Its address is <code>")
        .text(&first.named_stem())
        .raw("name/</code>, which you can bookmark.</p></section>\n");
}
