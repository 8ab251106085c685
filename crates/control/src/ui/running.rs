//! What is running now, for people who only use apps: no names, no process ids.

use std::sync::Arc;

use axum::http::StatusCode;
use skep_launch::{InstancePhase, InstanceView};
use skep_model::AppSpec;

use super::html::{Html, spoken_ms};
use super::page::{BIG_MARK, Frame, Page};

/// `instances` of apps that are not in `apps` are left out.
pub(crate) fn page(
    apps: &[Arc<AppSpec>],
    instances: &[InstanceView],
    now_ms: i64,
    portal: &'static str,
) -> Page {
    let mut html = Html::with_capacity(4 * 1024);
    html.raw("<div class=\"wide\">\n<header class=\"top\"><h1>").raw(BIG_MARK).raw("What is running</h1>");
    html.raw("<nav aria-label=\"Pages\"><a href=\"")
        .raw(portal)
        .raw("\">All apps</a></nav></header>\n<main>\n");
    let shown: Vec<(&AppSpec, &InstanceView)> = instances
        .iter()
        .filter_map(|instance| Some((apps.iter().find(|spec| spec.id == instance.app)?.as_ref(), instance)))
        .collect();
    if shown.is_empty() {
        html.raw("<div class=\"card empty\">").raw(BIG_MARK);
        html.raw("<h2>All quiet</h2><p class=\"hint\">No app is running. Each starts when somebody opens it.</p></div>");
    } else {
        html.raw(
            "<div class=\"sheet\"><table><thead><tr><th scope=\"col\">App</th><th scope=\"col\">State</th>",
        )
        .raw("<th scope=\"col\">People</th><th scope=\"col\">Running for</th></tr></thead>\n<tbody>\n");
        for (spec, instance) in shown {
            row(&mut html, spec, instance, now_ms);
        }
        html.raw("</tbody></table></div>\n");
    }
    html.raw("</main>\n<footer class=\"foot\"><span>Published with Skep</span></footer>\n</div>\n");
    Page { layout: "portal", ..Page::new(StatusCode::OK, "What is running", Frame::Own, html) }
}

fn row(html: &mut Html, spec: &AppSpec, instance: &InstanceView, now_ms: i64) {
    let state = match instance.phase {
        InstancePhase::Starting => "<span class=\"state\">Starting</span>",
        InstancePhase::Ready => "<span class=\"state on\">Running</span>",
        InstancePhase::Draining => "<span class=\"state\">Finishing</span>",
        InstancePhase::Stopping => "<span class=\"state\">Stopping</span>",
    };
    html.raw("<tr><th scope=\"row\"><a href=\"").text(spec.mount.as_str()).raw("\">").text(&spec.title);
    html.raw("</a></th><td>").raw(state).raw("</td><td>").number(instance.taken.into());
    html.raw(" of ").number(instance.seats.into()).raw("</td><td>");
    let age_ms = u64::try_from(now_ms - instance.started_at_ms).unwrap_or(0);
    html.text(&spoken_ms(age_ms)).raw("</td></tr>\n");
}
