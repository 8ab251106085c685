//! The portal: the apps one may open.
//!
//! With thousands of apps the cards are most of the work, so each is rendered once per list of apps; a request only puts
//! the state between the pieces.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use axum::http::StatusCode;
use skep_model::{AppId, AppSpec, Framework, Icon};

use super::assets::PORTAL_SCRIPT;
use super::html::Html;
use super::page::{BIG_MARK, Frame, MAX_ORIGINS, Page, origin_of, tile};
use crate::personal::{Own, specs_of};
use crate::portal::PortalConfig;

/// The rendered cards of one list of apps.
#[derive(Default)]
pub(crate) struct Cards {
    /// The list they were rendered from, to notice a change.
    apps: Vec<Arc<AppSpec>>,
    look: Arc<PortalConfig>,
    cards: Vec<Card>,
    /// The headings, in order. Cards without a section come after all of them.
    headings: Vec<String>,
}

struct Card {
    spec: Arc<AppSpec>,
    /// Everything between `<li>` and the state.
    before: Html,
    /// Which heading it stands under; as many as there are: none.
    section: usize,
    /// Lower-case words to search in.
    haystack: String,
}

/// What one request adds.
pub(crate) struct PortalView<'a> {
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
    pub(crate) fn fit(&self, apps: &[Arc<AppSpec>], look: &Arc<PortalConfig>) -> bool {
        let same = self.apps.len() == apps.len() && Arc::ptr_eq(&self.look, look);
        same && self.apps.iter().zip(apps).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    pub(crate) fn render(apps: Vec<Arc<AppSpec>>, look: Arc<PortalConfig>) -> Self {
        let named: BTreeSet<&str> = apps.iter().filter_map(|spec| spec.section.as_deref()).collect();
        let configured = look.sections.iter().map(|section| (section.name.as_str(), section.title.as_str()));
        let known: HashSet<&str> = configured.clone().map(|(name, _)| name).collect();
        let others = named.into_iter().filter(|name| !known.contains(name)).map(|name| (name, name));
        let sections: Vec<(&str, &str)> = configured.chain(others).collect();
        let mut cards: Vec<Card> = apps
            .iter()
            .map(|spec| {
                let place = |name: &str| sections.iter().position(|(section, _)| *section == name);
                let section = spec.section.as_deref().and_then(place).unwrap_or(sections.len());
                Card::render(Arc::clone(spec), section, sections.get(section).map(|(_, title)| *title))
            })
            .collect();
        cards.sort_by_cached_key(|card| (card.section, card.spec.title.to_lowercase(), card.spec.id.clone()));
        let headings = sections.into_iter().map(|(_, title)| title.to_owned()).collect();
        Self { apps, look, cards, headings }
    }

    /// The whole page, with the apps this visitor may open.
    pub(crate) fn page(&self, view: &PortalView<'_>, may_open: impl Fn(&AppSpec) -> bool) -> Page {
        let words: Vec<String> = view.query.to_lowercase().split_whitespace().map(str::to_owned).collect();
        let mut parts: Vec<Part> = Vec::new();
        // The servers of the images that are shown, and of no others: their names are known to those who may open the apps.
        let mut origins: BTreeSet<String> = origin_of(self.look.logo.as_ref()).into_iter().collect();
        let (mut total, mut hits) = (0, 0);
        for card in self.cards.iter().filter(|card| may_open(&card.spec)) {
            if origins.len() < MAX_ORIGINS {
                origins.extend(origin_of(card.spec.icon.as_ref()));
            }
            let hit = words.iter().all(|word| card.haystack.contains(word.as_str()));
            total += 1;
            hits += u64::from(hit);
            if parts.last().is_none_or(|part| part.section != card.section) {
                parts.push(Part { section: card.section, list: Html::with_capacity(4096), hits: 0 });
            }
            let Some(Part { list, hits, .. }) = parts.last_mut() else { continue };
            *hits += u64::from(hit);
            // The others stay in the page, hidden, so that the script can go on filtering.
            list.raw(if hit { "<li>" } else { "<li hidden>" }).add(&card.before);
            list.raw(state(&card.spec, view.running)).raw("</u></a>");
            if let Some(favourites) = &view.own.favourites {
                star(list, &card.spec, favourites.contains(&card.spec.id));
            }
            list.raw("</li>\n");
        }
        let size: usize = parts.iter().map(|part| part.list.len()).sum();
        let mut html = Html::with_capacity(size + 4096);
        html.raw("<a class=\"skip\" href=\"#apps\">Skip to the apps</a>\n<div class=\"wide\">\n");
        html.raw("<header><div class=\"top\"><h1>");
        logo(&mut html, self.look.logo.as_ref());
        html.text(&self.look.title)
            .raw("</h1><nav aria-label=\"Pages\"><a href=\"/_skep/apps\">What is running</a>");
        match view.visitor {
            Visitor::Anybody => {}
            Visitor::LoggedOut => drop(html.raw(" <a href=\"/_skep/login\">Log in</a>")),
            Visitor::User(name) => drop(html.raw(" <a href=\"/_skep/account\">").text(name).raw("</a>")),
        }
        html.raw("</nav></div>\n");
        if let Some(message) = &self.look.message {
            html.raw("<p class=\"message\" role=\"note\">").text(message).raw("</p>\n");
        }
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
            self.list(&mut html, &parts);
        }
        html.raw("</main>\n<footer class=\"foot\"><span>Published with Skep</span>");
        if let Some(address) = &self.look.support {
            html.raw("<a href=\"mailto:").text(address).raw("\">Ask for help</a>");
        }
        html.raw("</footer>\n</div>\n");
        let script = (total > 0).then_some(&*PORTAL_SCRIPT);
        Page {
            layout: "portal",
            script,
            origins,
            ..Page::new(StatusCode::OK, self.look.title.as_str(), Frame::Own, html)
        }
    }
}

/// The cards under one heading.
struct Part {
    section: usize,
    list: Html,
    hits: u64,
}

impl Cards {
    /// The cards: one list, or one for each section there is something in.
    fn list(&self, html: &mut Html, parts: &[Part]) {
        if parts.iter().all(|part| part.section == self.headings.len()) {
            html.raw("<ul class=\"grid\" id=\"apps\" tabindex=\"-1\" aria-label=\"Apps\">\n");
            for part in parts {
                html.add(&part.list);
            }
            html.raw("</ul>\n");
            return;
        }
        html.raw("<div id=\"apps\" tabindex=\"-1\">\n");
        for (number, part) in (0..).zip(parts) {
            html.raw("<section class=\"part\"").raw(if part.hits == 0 { " hidden" } else { "" });
            html.raw("><h2 id=\"part-").number(number).raw("\">");
            html.text(self.headings.get(part.section).map_or("Other apps", String::as_str));
            html.raw("</h2>\n<ul class=\"grid\" aria-labelledby=\"part-").number(number).raw("\">\n");
            html.add(&part.list).raw("</ul></section>\n");
        }
        html.raw("</div>\n");
    }

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

/// The portal's logo, or Skep's mark. Its heading says in words what it is.
fn logo(html: &mut Html, icon: Option<&Icon>) {
    match icon {
        Some(Icon::Within { .. } | Icon::File(_)) => {
            html.raw("<img class=\"logo\" src=\"/_skep/logo\" alt=\"\">");
        }
        Some(Icon::Remote(image)) => {
            html.raw("<img class=\"logo\" src=\"").text(image.url());
            html.raw("\" alt=\"\" referrerpolicy=\"no-referrer\">");
        }
        Some(Icon::Emoji(_)) | None => drop(html.raw(BIG_MARK)),
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
    fn render(spec: Arc<AppSpec>, section: usize, heading: Option<&str>) -> Self {
        let mut before = Html::with_capacity(400);
        before.raw("<a class=\"app\" href=\"").text(spec.mount.as_str()).raw("\">");
        tile(&mut before, &spec);
        before.raw("<b>").text(&spec.title).raw("</b>");
        before.raw("<i>").text(&spec.description).raw("</i><u>");
        if spec.framework != Framework::Command {
            before.raw("<span>").raw(spec.framework.title()).raw("</span>");
        }
        let words = [&spec.title, &spec.description, spec.id.as_str(), spec.framework.title()];
        let haystack = format!("{} {}", words.join(" "), heading.unwrap_or_default()).to_lowercase();
        Self { spec, before, section, haystack }
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
