//! The form before an instance starts. Complete without a script.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use skep_model::{AppSpec, Choice, Principal};

use super::html::Html;
use super::page::{Frame, Page, tile};

pub(crate) struct ChooseView<'a> {
    /// The variant's.
    pub(crate) spec: &'a AppSpec,
    pub(crate) who: &'a Principal,
    pub(crate) selected: &'a Choice,
    /// The address asked for: path and query.
    pub(crate) to: &'a str,
    /// What the instance is called; empty without a name.
    pub(crate) name: &'a str,
    /// What was wrong with what was sent.
    pub(crate) problem: Option<String>,
    pub(crate) portal: &'static str,
    pub(crate) status: StatusCode,
}

pub(crate) fn page(view: &ChooseView<'_>) -> Page {
    let ChooseView { spec, who, .. } = view;
    let parameters = &spec.parameters;
    let mut html = Html::with_capacity(4 * 1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">");
    tile(&mut html, spec);
    html.raw("<div><p class=\"eyebrow\">Before it starts</p><h1>")
        .text(&spec.title)
        .raw("</h1></div></header>\n");
    if let Some(problem) = &view.problem {
        html.raw("<p class=\"notice\" role=\"alert\">").text(problem).raw("</p>\n");
    }
    let nothing = parameters.list.iter().any(|parameter| parameters.offered(parameter, who).is_empty());
    if nothing {
        html.raw("<p class=\"says\">None of what this app can be started with is open to you.</p>\n")
            .raw("<p class=\"hint\">Ask whoever looks after it.</p>\n<div class=\"actions\">");
    } else {
        html.raw("<p class=\"says\">Choose what it starts with.</p>\n<form method=\"post\" action=\"/_skep/apps/choose\" class=\"fields\">\n");
        for (name, value) in [("app", spec.id.as_str()), ("name", view.name), ("to", view.to)] {
            html.raw("<input type=\"hidden\" name=\"").raw(name).raw("\" value=\"").text(value).raw("\">\n");
        }
        for parameter in &parameters.list {
            select(&mut html, view, parameter);
        }
        together(&mut html, view);
        html.raw("<div class=\"actions\"><button class=\"button\">Start</button>");
    }
    html.raw("<a class=\"button quiet\" href=\"").raw(view.portal).raw("\">All apps</a></div>\n");
    html.raw(if nothing { "" } else { "</form>\n" }).raw("</main>\n");
    Page::new(view.status, format!("{}: choose what it starts with", spec.title), Frame::InPlaceOfApp, html)
}

fn select(html: &mut Html, view: &ChooseView<'_>, parameter: &skep_model::Parameter) {
    let id = |html: &mut Html| {
        html.raw("p-").text(&parameter.name);
    };
    html.raw("<label for=\"");
    id(html);
    html.raw("\">").text(&parameter.title).raw("</label>\n");
    if !parameter.description.is_empty() {
        html.raw("<p class=\"hint\" id=\"about-")
            .text(&parameter.name)
            .raw("\">")
            .text(&parameter.description);
        html.raw("</p>\n");
    }
    html.raw("<select id=\"");
    id(html);
    html.raw("\" name=\"p.").text(&parameter.name).raw("\"");
    if !parameter.description.is_empty() {
        html.raw(" aria-describedby=\"about-").text(&parameter.name).raw("\"");
    }
    html.raw(">");
    let selected = view.selected.get(&parameter.name);
    for offer in view.spec.parameters.offered(parameter, view.who) {
        html.raw("<option value=\"").text(&offer.value).raw("\"");
        html.raw(if selected == Some(&offer.value) { " selected" } else { "" })
            .raw(">")
            .text(&offer.title)
            .raw("</option>");
    }
    html.raw("</select>\n");
}

/// Which values go together, where that is not all with all.
fn together(html: &mut Html, view: &ChooseView<'_>) {
    let parameters = &view.spec.parameters;
    let sets = parameters.sets_of(view.who).unwrap_or_default();
    if sets.len() < 2 {
        return;
    }
    let open =
        if view.problem.is_some() { "<details class=\"log\" open>" } else { "<details class=\"log\">" };
    html.raw(open).raw("<summary>What goes together</summary><ul class=\"together\">");
    for set in sets {
        html.raw("<li>");
        for (at, parameter) in parameters.list.iter().enumerate() {
            let fits = |value: &&skep_model::ParameterValue| set.allows(&parameter.name, &value.value);
            let titles: Vec<&str> =
                parameter.values.iter().filter(fits).map(|value| value.title.as_str()).collect();
            html.raw(if at == 0 { "" } else { "; " })
                .text(&parameter.title)
                .raw(": ")
                .text(&titles.join(", "));
        }
        html.raw("</li>");
    }
    html.raw("</ul></details>\n");
}

/// An instance at the very address, started with something else than what was chosen now.
pub(crate) struct Running<'a> {
    /// The variant's.
    pub(crate) spec: &'a AppSpec,
    /// The address asked for: path and query.
    pub(crate) to: &'a str,
    /// What it was started with.
    pub(crate) words: &'a str,
    /// `None`: it waits to be started.
    pub(crate) id: Option<&'a str>,
    pub(crate) portal: &'static str,
}

pub(crate) fn running_page(view: &Running<'_>) -> Page {
    let mut html = Html::with_capacity(2 * 1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">");
    tile(&mut html, view.spec);
    html.raw("<div><p class=\"eyebrow\">Running already</p><h1>").text(&view.spec.title);
    html.raw("</h1></div></header>\n<p class=\"says\" role=\"status\">Your copy of this app ");
    html.raw(if view.id.is_some() { "runs already" } else { "is about to start" });
    if view.words.is_empty() {
        html.raw(", started otherwise than you chose now.</p>\n");
    } else {
        html.raw(" with ").text(view.words).raw(". What you chose now was not used.</p>\n");
    }
    html.raw("<p class=\"hint\">Open it as it is, or end it and start it anew; or open another one, with another name, \
              under “What runs for you”.</p>\n<div class=\"actions\"><a class=\"button\" href=\"");
    html.text(view.to).raw("\">Open it</a>");
    if let Some(id) = view.id {
        html.raw("<form method=\"post\" action=\"/_skep/apps/stop\"><button class=\"button quiet\" name=\"instance\" value=\"");
        html.text(id).raw("\">End it</button></form>");
    }
    html.raw("<a class=\"button quiet\" href=\"/_skep/apps\">What runs for you</a><a class=\"button quiet\" href=\"");
    html.raw(view.portal).raw("\">All apps</a></div>\n</main>\n");
    let title = format!("{}: running already", view.spec.title);
    Page::new(StatusCode::CONFLICT, title, Frame::InPlaceOfApp, html)
}

/// What an instance was started with, in the words of the form.
pub(crate) fn in_words(spec: &AppSpec, chosen: &BTreeMap<String, String>) -> String {
    let known = spec.parameters.list.iter().filter_map(|parameter| {
        let value = chosen.get(&parameter.name)?;
        Some(format!("{}: {}", parameter.title, spec.parameters.title_of(&parameter.name, value)))
    });
    known.collect::<Vec<_>>().join(", ")
}
