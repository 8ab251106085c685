//! Pages about logging in: the login itself, the way out, one-time links, one's own account. Forms only; no script.

use axum::http::StatusCode;
use skep_identity::{MAX_PASSWORD, MIN_PASSWORD};

use super::html::{Html, spoken_ms};
use super::page::{BIG_MARK, Frame, Page};

/// What a page has to say before its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    None,
    Good(String),
    Bad(String),
}

/// The login form.
pub(crate) struct LoginView<'a> {
    pub(crate) site: &'a str,
    /// Where to go afterwards; a path of ours.
    pub(crate) to: &'a str,
    /// The name typed before.
    pub(crate) name: &'a str,
    pub(crate) stay: bool,
    pub(crate) notice: Notice,
    pub(crate) status: StatusCode,
    pub(crate) wait_seconds: Option<u64>,
}

pub(crate) fn login_page(view: &LoginView<'_>) -> Page {
    let mut html = start("Log in", view.site);
    notice(&mut html, &view.notice);
    html.raw("<form method=\"post\" action=\"/_skep/login\" class=\"fields\">\n<input type=\"hidden\" name=\"to\" value=\"")
        .text(view.to)
        .raw("\">\n");
    name_field(&mut html, view.name);
    password_field(&mut html, "password", "Password", "current-password", !view.name.is_empty());
    html.raw("<label class=\"check\"><input type=\"checkbox\" name=\"stay\" value=\"1\"");
    html.raw(if view.stay { " checked" } else { "" }).raw("> Stay signed in on this device</label>\n");
    html.raw("<div class=\"actions\"><button class=\"button\">Log in</button></div>\n</form>\n</main>\n");
    Page { retry_after_seconds: view.wait_seconds, ..Page::new(view.status, "Log in", Frame::Own, html) }
}

/// A login would travel in the clear, so there is no form.
pub(crate) fn unencrypted_page(site: &str) -> Page {
    let mut html = start("No login here", site);
    html.raw("<p class=\"says\">This connection is not encrypted: a password sent over it could be read on its way.</p>\n")
        .raw("<p class=\"hint\">Open this site with <code>https://</code>. If you run this server: give it a certificate ")
        .raw("(<code>tls.cert</code> and <code>tls.key</code>) or put it behind a proxy that has one, or start it with ")
        .raw("<code>--insecure-http-login</code> if the network itself is protected.</p>\n</main>\n");
    Page::new(StatusCode::FORBIDDEN, "No login here", Frame::Own, html)
}

/// Asks before the login ends: a link alone must not do it.
pub(crate) fn logout_page(site: &str, user: &str) -> Page {
    let mut html = start("Log out", site);
    html.raw("<p class=\"says\">You are logged in as <b>").text(user).raw("</b>.</p>\n");
    html.raw("<div class=\"actions\"><form method=\"post\" action=\"/_skep/logout\">")
        .raw("<button class=\"button\">Log out</button></form>")
        .raw("<a class=\"button quiet\" href=\"/_skep/account\">Back</a></div>\n</main>\n");
    Page::new(StatusCode::OK, "Log out", Frame::Own, html)
}

/// A one-time link's form: the first administrator's (with a name to choose), or an invitation's.
pub(crate) struct InviteView<'a> {
    pub(crate) site: &'a str,
    pub(crate) token: &'a str,
    /// The user invited; `None`: the first administrator chooses a name.
    pub(crate) user: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) notice: Notice,
    pub(crate) status: StatusCode,
}

pub(crate) fn invite_page(view: &InviteView<'_>) -> Page {
    let title = if view.user.is_some() { "Choose a password" } else { "Set up the first administrator" };
    let mut html = start(title, view.site);
    match view.user {
        Some(user) => html.raw("<p class=\"says\">Welcome, <b>").text(user).raw("</b>.</p>\n"),
        None => html
            .raw("<p class=\"says\">Nobody administers this server yet. Whoever fills this in does.</p>\n"),
    };
    notice(&mut html, &view.notice);
    html.raw("<form method=\"post\" action=\"/_skep/invite\" class=\"fields\">\n<input type=\"hidden\" name=\"token\" value=\"")
        .text(view.token)
        .raw("\">\n");
    match view.user {
        // For the browser's password store.
        Some(user) => {
            html.raw("<input type=\"hidden\" name=\"name\" autocomplete=\"username\" value=\"")
                .text(user)
                .raw("\">\n");
        }
        None => name_field(&mut html, view.name),
    }
    new_password_fields(&mut html);
    html.raw(
        "<div class=\"actions\"><button class=\"button\">Save and log in</button></div>\n</form>\n</main>\n",
    );
    Page::new(view.status, title, Frame::Own, html)
}

/// A link that does not work (any more).
pub(crate) fn void_link_page(site: &str, reason: &str, status: StatusCode) -> Page {
    let mut html = start("This link does not work", site);
    html.raw("<p class=\"says\">It says: ").text(reason).raw(".</p>\n");
    html.raw("<p class=\"hint\">Ask an administrator for a new one. On the server itself, <code>skep user passwd NAME</code> ")
        .raw("makes one.</p>\n<div class=\"actions\"><a class=\"button\" href=\"/_skep/login\">Log in</a></div>\n</main>\n");
    Page::new(status, "This link does not work", Frame::Own, html)
}

/// One's own account.
pub(crate) struct AccountView<'a> {
    pub(crate) user: &'a str,
    pub(crate) groups: &'a [String],
    pub(crate) admin: bool,
    pub(crate) portal: &'static str,
    pub(crate) notice: Notice,
    pub(crate) status: StatusCode,
    pub(crate) wait_seconds: Option<u64>,
}

pub(crate) fn account_page(view: &AccountView<'_>) -> Page {
    let mut html = start("Your account", view.user);
    notice(&mut html, &view.notice);
    html.raw("<dl class=\"facts\">");
    if view.admin {
        html.raw("<dt>Role</dt><dd>Administrator</dd>");
    }
    html.raw("<dt>Groups</dt><dd>");
    match view.groups {
        [] => drop(html.raw("none")),
        groups => drop(html.text(&groups.join(", "))),
    }
    html.raw("</dd></dl>\n<h2>Change the password</h2>\n");
    html.raw("<form method=\"post\" action=\"/_skep/account/password\" class=\"fields\">\n")
        .raw("<input type=\"hidden\" name=\"name\" autocomplete=\"username\" value=\"")
        .text(view.user)
        .raw("\">\n");
    password_field(&mut html, "current", "Password so far", "current-password", false);
    new_password_fields(&mut html);
    html.raw("<p class=\"hint\">Every other device is signed out by this.</p>\n")
        .raw("<div class=\"actions\"><button class=\"button\">Change it</button></div>\n</form>\n");
    html.raw("<h2>Sign out</h2>\n<div class=\"actions\"><form method=\"post\" action=\"/_skep/logout\">")
        .raw("<button class=\"button quiet\">Log out here</button></form>")
        .raw("<form method=\"post\" action=\"/_skep/account/sign-out\"><button class=\"button quiet\">Sign out everywhere</button></form>")
        .raw("<a class=\"button quiet\" href=\"")
        .raw(view.portal)
        .raw("\">All apps</a></div>\n</main>\n");
    Page {
        retry_after_seconds: view.wait_seconds,
        ..Page::new(view.status, "Your account", Frame::Own, html)
    }
}

/// What a visitor who must wait is told.
pub(crate) fn wait_words(seconds: u64) -> String {
    format!("Too many attempts. Try again in {}.", spoken_ms(seconds.saturating_mul(1000)))
}

fn start(title: &'static str, eyebrow: &str) -> Html {
    let mut html = Html::with_capacity(3 * 1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">")
        .raw(BIG_MARK)
        .raw("<div><p class=\"eyebrow\">");
    html.text(eyebrow).raw("</p><h1>").raw(title).raw("</h1></div></header>\n");
    html
}

fn notice(html: &mut Html, notice: &Notice) {
    match notice {
        Notice::None => {}
        Notice::Good(text) => drop(html.raw("<p class=\"good\" role=\"status\">").text(text).raw("</p>\n")),
        Notice::Bad(text) => drop(html.raw("<p class=\"notice\" role=\"alert\">").text(text).raw("</p>\n")),
    }
}

fn name_field(html: &mut Html, name: &str) {
    html.raw("<label for=\"name\">Name</label>\n<input id=\"name\" name=\"name\" autocomplete=\"username\" ")
        .raw("autocapitalize=\"none\" spellcheck=\"false\" maxlength=\"128\" required")
        .raw(if name.is_empty() { " autofocus" } else { "" })
        .raw(" value=\"")
        .text(name)
        .raw("\">\n");
}

fn password_field(
    html: &mut Html,
    id: &'static str,
    label: &'static str,
    autocomplete: &'static str,
    focus: bool,
) {
    html.raw("<label for=\"").raw(id).raw("\">").raw(label).raw("</label>\n<input id=\"").raw(id);
    html.raw("\" name=\"").raw(id).raw("\" type=\"password\" required autocomplete=\"").raw(autocomplete);
    html.raw("\" maxlength=\"").number(MAX_PASSWORD as u64).raw("\"");
    html.raw(if focus { " autofocus" } else { "" }).raw(">\n");
}

fn new_password_fields(html: &mut Html) {
    password_field(html, "new", "New password", "new-password", false);
    password_field(html, "again", "The same again", "new-password", false);
    html.raw("<p class=\"hint\">At least ")
        .number(MIN_PASSWORD as u64)
        .raw(" characters; a few words are easier to remember than signs.</p>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        let view = LoginView {
            site: "<b>",
            to: "/\"><script>",
            name: "\"><img>",
            stay: true,
            notice: Notice::Bad("<i>".to_owned()),
            status: StatusCode::UNAUTHORIZED,
            wait_seconds: None,
        };
        let html = login_page(&view).html();
        for markup in ["<b>", "<script>", "<img>", "<i>"] {
            assert!(!html.contains(markup), "{markup}");
        }
        assert!(html.contains(" checked>"));
    }

    #[test]
    fn fields_tell_browsers_what_they_are_for() {
        let view = InviteView {
            site: "Apps",
            token: "t",
            user: None,
            name: "",
            notice: Notice::None,
            status: StatusCode::OK,
        };
        let html = invite_page(&view).html();
        assert_eq!(html.matches("autocomplete=\"new-password\"").count(), 2);
        assert_eq!(html.matches("autocomplete=\"username\"").count(), 1);
        assert_eq!(html.matches("<label").count(), 3, "each field has a label");
        assert_eq!(wait_words(61), "Too many attempts. Try again in 1 min 01 s.");
    }
}
