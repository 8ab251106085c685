//! What is running now, for people who only use apps: no names, no process ids.

use axum::http::StatusCode;
use skep_launch::{InstancePhase, InstanceView};
use skep_model::AppSpec;

use super::html::{Html, spoken_ms};
use super::page::{BIG_MARK, Frame, Page};

/// One instance, as one visitor sees it.
pub(crate) struct Row<'a> {
    pub(crate) spec: &'a AppSpec,
    pub(crate) view: &'a InstanceView,
    /// The visitor uses it now.
    pub(crate) mine: bool,
    pub(crate) may_stop: bool,
}

pub(crate) fn page(rows: &[Row<'_>], now_ms: i64, portal: &'static str) -> Page {
    let mut html = Html::with_capacity(4 * 1024);
    html.raw("<div class=\"wide\">\n<header class=\"top\"><h1>").raw(BIG_MARK).raw("What is running</h1>");
    html.raw("<nav aria-label=\"Pages\"><a href=\"")
        .raw(portal)
        .raw("\">All apps</a></nav></header>\n<main>\n");
    if rows.is_empty() {
        html.raw("<div class=\"card empty\">").raw(BIG_MARK);
        html.raw("<h2>All quiet</h2><p class=\"hint\">No app is running. Each starts when somebody opens it.</p></div>");
    } else {
        html.raw(
            "<div class=\"sheet\"><table><thead><tr><th scope=\"col\">App</th><th scope=\"col\">State</th>",
        )
        .raw("<th scope=\"col\">People</th><th scope=\"col\">Running for</th>");
        let stops = rows.iter().any(|row| row.may_stop);
        html.raw(if stops { "<th scope=\"col\">Action</th>" } else { "" }).raw("</tr></thead>\n<tbody>\n");
        for row in rows {
            cells(&mut html, row, now_ms, stops);
        }
        html.raw("</tbody></table></div>\n");
    }
    html.raw("</main>\n<footer class=\"foot\"><span>Published with Skep</span></footer>\n</div>\n");
    Page { layout: "portal", ..Page::new(StatusCode::OK, "What is running", Frame::Own, html) }
}

fn cells(html: &mut Html, row: &Row<'_>, now_ms: i64, stops: bool) {
    let Row { spec, view, .. } = row;
    let state = match view.phase {
        InstancePhase::Starting => "<span class=\"state\">Starting</span>",
        InstancePhase::Ready => "<span class=\"state on\">Running</span>",
        InstancePhase::Draining => "<span class=\"state\">Finishing</span>",
        InstancePhase::Stopping => "<span class=\"state\">Stopping</span>",
    };
    html.raw("<tr><th scope=\"row\"><a href=\"").text(spec.mount.as_str()).raw("\">").text(&spec.title);
    html.raw("</a>").raw(if row.mine { " <span class=\"tag\">you are here</span>" } else { "" });
    html.raw("</th><td>").raw(state).raw("</td><td>").number(view.taken.into());
    html.raw(" of ").number(view.seats.into()).raw("</td><td>");
    let age_ms = u64::try_from(now_ms - view.started_at_ms).unwrap_or(0);
    html.text(&spoken_ms(age_ms)).raw("</td>");
    if stops {
        html.raw("<td>");
        if row.may_stop && !matches!(view.phase, InstancePhase::Stopping) {
            html.raw("<form method=\"post\" action=\"/_skep/apps/stop\"><button class=\"button quiet low\" name=\"instance\" value=\"");
            html.text(&view.id.to_string()).raw("\">Stop<span class=\"only-read\"> ").text(&spec.title);
            html.raw("</span></button></form>");
        }
        html.raw("</td>");
    }
    html.raw("</tr>\n");
}
