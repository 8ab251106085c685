//! The portal: the apps one may open.
//!
//! With thousands of apps the cards are most of the work, so each is rendered once per list of apps; a request only puts
//! the state between the pieces.

use std::collections::HashSet;
use std::sync::Arc;

use axum::http::StatusCode;
use skep_model::{AppId, AppSpec, Framework};

use super::assets::PORTAL_SCRIPT;
use super::html::Html;
use super::page::{BIG_MARK, Frame, Page, tile};
use crate::personal::{Own, specs_of};

/// The rendered cards of one list of apps.
#[derive(Default)]
pub(crate) struct Cards {
    /// The list they were rendered from, to notice a change.
    apps: Vec<Arc<AppSpec>>,
    cards: Vec<Card>,
}

struct Card {
    spec: Arc<AppSpec>,
    /// Everything between `<li>` and the state.
    before: Html,
    /// Lower-case words to search in.
    haystack: String,
}

/// What one request adds.
pub(crate) struct PortalView<'a> {
    pub(crate) site: &'a str,
    /// The search words, as typed.
    pub(crate) query: &'a str,
    pub(crate) running: &'a HashSet<AppId>,
    pub(crate) visitor: Visitor<'a>,
    pub(crate) own: &'a Own,
}

/// Who looks at the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor<'a> {
    /// No login is configured.
    Anybody,
    LoggedOut,
    User(&'a str),
}

impl Cards {
    /// Whether these are still the cards of this list.
    pub(crate) fn fit(&self, apps: &[Arc<AppSpec>]) -> bool {
        self.apps.len() == apps.len() && self.apps.iter().zip(apps).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    pub(crate) fn render(apps: Vec<Arc<AppSpec>>) -> Self {
        let mut cards: Vec<Card> = apps.iter().map(|spec| Card::render(Arc::clone(spec))).collect();
        cards.sort_by_cached_key(|card| (card.spec.title.to_lowercase(), card.spec.id.clone()));
        Self { apps, cards }
    }

    /// The whole page, with the apps this visitor may open.
    pub(crate) fn page(&self, view: &PortalView<'_>, may_open: impl Fn(&AppSpec) -> bool) -> Page {
        let words: Vec<String> = view.query.to_lowercase().split_whitespace().map(str::to_owned).collect();
        let mut list = Html::with_capacity(self.cards.len() * 512);
        let (mut total, mut hits) = (0, 0);
        for card in self.cards.iter().filter(|card| may_open(&card.spec)) {
            let hit = words.iter().all(|word| card.haystack.contains(word.as_str()));
            total += 1;
            hits += u64::from(hit);
            // The others stay in the page, hidden, so that the script can go on filtering.
            list.raw(if hit { "<li>" } else { "<li hidden>" }).add(&card.before);
            list.raw(state(&card.spec, view.running)).raw("</u></a>");
            if let Some(favourites) = &view.own.favourites {
                star(&mut list, &card.spec, favourites.contains(&card.spec.id));
            }
            list.raw("</li>\n");
        }
        let mut html = Html::with_capacity(list.len() + 2048);
        html.raw("<a class=\"skip\" href=\"#apps\">Skip to the apps</a>\n<div class=\"wide\">\n");
        html.raw("<header><div class=\"top\"><h1>").raw(BIG_MARK).text(view.site);
        html.raw("</h1><nav aria-label=\"Pages\"><a href=\"/_skep/apps\">What is running</a>");
        match view.visitor {
            Visitor::Anybody => {}
            Visitor::LoggedOut => drop(html.raw(" <a href=\"/_skep/login\">Log in</a>")),
            Visitor::User(name) => drop(html.raw(" <a href=\"/_skep/account\">").text(name).raw("</a>")),
        }
        html.raw("</nav></div>\n");
        if total > 0 {
            search(&mut html, view.query);
            html.raw("<p class=\"count\" id=\"count\" role=\"status\">");
            count(&mut html, hits, total, words.is_empty());
            html.raw("</p>\n");
        }
        html.raw("</header>\n<main>\n");
        if total == 0 {
            html.raw("<div class=\"card empty\">").raw(BIG_MARK);
            let words = match view.visitor {
                Visitor::User(_) => {
                    "<h2>Nothing is open to you yet</h2><p class=\"hint\">Ask whoever looks after this server \
                     to let you in.</p></div>\n"
                }
                Visitor::Anybody | Visitor::LoggedOut => {
                    "<h2>No apps yet</h2><p class=\"hint\">Put a folder with an app where this server looks, \
                      and it appears here by itself.</p></div>\n"
                }
            };
            html.raw(words);
        } else {
            if words.is_empty() {
                self.shortcuts(&mut html, view.own, &may_open);
            }
            if view.own.favourites.is_some() {
                html.raw("<form id=\"star\" method=\"post\" action=\"/_skep/favourites\"></form>\n");
            }
            html.raw("<ul class=\"grid\" id=\"apps\" tabindex=\"-1\" aria-label=\"Apps\">\n");
            html.add(&list).raw("</ul>\n");
        }
        html.raw("</main>\n<footer class=\"foot\"><span>Published with Skep</span></footer>\n</div>\n");
        let script = (total > 0).then_some(&*PORTAL_SCRIPT);
        Page { layout: "portal", script, ..Page::new(StatusCode::OK, view.site, Frame::Own, html) }
    }
}

impl Cards {
    /// Favourites, what was used last, and what runs for this person: short links above the cards.
    fn shortcuts(&self, html: &mut Html, own: &Own, may_open: &impl Fn(&AppSpec) -> bool) {
        let favourites = own.favourites.iter().flatten();
        let mut favourites = specs_of(&self.apps, favourites, may_open);
        favourites.sort_by_cached_key(|spec| spec.title.to_lowercase());
        let recent = specs_of(&self.apps, own.recent.iter(), may_open);
        for (heading, specs) in [("Favourites", favourites), ("Recently used", recent)] {
            if specs.is_empty() {
                continue;
            }
            html.raw("<section class=\"short\"><h2>").raw(heading).raw("</h2><ul>");
            for spec in specs {
                html.raw("<li><a href=\"").text(spec.mount.as_str()).raw("\">").text(&spec.title);
                let here = own.running.contains(&spec.id);
                html.raw(if here { " <em class=\"state on\">in use</em>" } else { "" }).raw("</a></li>");
            }
            html.raw("</ul></section>\n");
        }
    }
}

/// Marks the app as a favourite, or takes the mark away.
fn star(html: &mut Html, spec: &AppSpec, marked: bool) {
    let (name, pressed) = if marked { ("remove", "true") } else { ("add", "false") };
    html.raw("<button class=\"star\" form=\"star\" name=\"")
        .raw(name)
        .raw("\" value=\"")
        .text(spec.id.as_str());
    html.raw("\" aria-pressed=\"").raw(pressed).raw("\" aria-label=\"Favourite: ").text(&spec.title);
    html.raw("\"></button>");
}

impl Card {
    fn render(spec: Arc<AppSpec>) -> Self {
        let mut before = Html::with_capacity(400);
        before.raw("<a class=\"app\" href=\"").text(spec.mount.as_str()).raw("\">");
        tile(&mut before, &spec);
        before.raw("<b>").text(&spec.title).raw("</b>");
        before.raw("<i>").text(&spec.description).raw("</i><u>");
        if spec.framework != Framework::Command {
            before.raw("<span>").raw(spec.framework.title()).raw("</span>");
        }
        let haystack = format!("{} {} {} {}", spec.title, spec.description, spec.id, spec.framework.title());
        Self { spec, before, haystack: haystack.to_lowercase() }
    }
}

fn state(spec: &AppSpec, running: &HashSet<AppId>) -> &'static str {
    if spec.framework == Framework::Static {
        ""
    } else if running.contains(&spec.id) {
        "<em class=\"on\">Running</em>"
    } else {
        "<em>Starts when opened</em>"
    }
}

fn search(html: &mut Html, query: &str) {
    html.raw("<form class=\"search\" role=\"search\" action=\"\"><label class=\"only-read\" for=\"q\">Search the apps")
        .raw("</label><input id=\"q\" name=\"q\" type=\"search\" placeholder=\"Search\" autocomplete=\"off\" ")
        .raw("aria-keyshortcuts=\"/\" maxlength=\"200\" value=\"")
        .text(query)
        .raw("\"><button class=\"button quiet\">Search</button></form>\n");
}

fn count(html: &mut Html, hits: u64, total: u64, all: bool) {
    if !all {
        html.text(&thousands(hits)).raw(" of ");
    }
    html.text(&thousands(total)).raw(if total == 1 { " app" } else { " apps" });
}

/// `12345` → `12,345`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let grouped: Vec<_> = [0, 999, 1000, 2_000_000].into_iter().map(thousands).collect();
        assert_eq!(grouped, ["0", "999", "1,000", "2,000,000"]);
    }
}
