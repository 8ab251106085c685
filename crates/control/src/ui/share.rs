//! The page behind a link with which somebody shares an instance of theirs.

use axum::http::StatusCode;
use skep_model::AppSpec;

use super::html::Html;
use super::page::{BIG_MARK, Frame, Page, tile};

pub(crate) struct Invitation<'a> {
    /// The variant's.
    pub(crate) spec: &'a AppSpec,
    pub(crate) owner: &'a str,
    pub(crate) token: &'a str,
    /// The visitor has an instance of their own at the same address.
    pub(crate) own: bool,
    pub(crate) portal: &'static str,
}

pub(crate) fn invitation_page(view: &Invitation<'_>) -> Page {
    let mut html = Html::with_capacity(2 * 1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">");
    tile(&mut html, view.spec);
    html.raw("<div><p class=\"eyebrow\">Shared with you</p><h1>").text(&view.spec.title);
    html.raw("</h1></div></header>\n<p class=\"says\">").text(view.owner);
    html.raw(" lets you into this very copy of the app: you see the same, and what either of you does happens for both.</p>\n");
    html.raw("<p class=\"hint\">").raw(if view.own {
        "Your own copy goes on meanwhile. To get back to it, choose “Leave” under “What is running”."
    } else {
        "To get a copy of your own instead, choose “Leave” under “What is running”."
    });
    html.raw("</p>\n<div class=\"actions\"><form method=\"post\" action=\"/_skep/share\"><input type=\"hidden\" name=\"token\" value=\"")
        .text(view.token)
        .raw("\"><button class=\"button\">Join</button></form><a class=\"button quiet\" href=\"")
        .raw(view.portal)
        .raw("\">Not now</a></div>\n</main>\n");
    Page::new(StatusCode::OK, format!("{}, shared with you", view.spec.title), Frame::Own, html)
}

pub(crate) fn void_page(portal: &'static str) -> Page {
    let mut html = Html::with_capacity(1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">").raw(BIG_MARK);
    html.raw("<div><p class=\"eyebrow\">Not shared</p><h1>This link leads nowhere</h1></div></header>\n")
        .raw("<p class=\"says\">It was never right, its time is over, its owner has stopped sharing, or the copy of the app it led \
              to has ended.</p>\n<p class=\"hint\">Ask whoever sent it for a new one.</p>\n")
        .raw("<div class=\"actions\"><a class=\"button\" href=\"")
        .raw(portal)
        .raw("\">All apps</a></div>\n</main>\n");
    Page::new(StatusCode::NOT_FOUND, "This link leads nowhere", Frame::Own, html)
}
