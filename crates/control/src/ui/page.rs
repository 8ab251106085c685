//! What all pages have in common: head, security headers, the app's tile.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use skep_model::{AppSpec, Icon};

use super::assets::{Asset, MARK, STYLE};
use super::html::Html;

/// Everything from our own origin, nothing inline. Images also as data (a favicon some browsers make up) and from where the
/// config says logos are.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; img-src 'self' data:";
/// Pages of our own refuse to be framed by others. Pages in place of an app do not: whoever embeds the app must also
/// see it start, and they hold nothing worth clicking on by mistake.
const UNFRAMED: &str = "; frame-ancestors 'self'";
/// Servers one page may have images from; a header has no room for more.
pub(crate) const MAX_ORIGINS: usize = 50;

/// Whose place a page takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A page of Skep itself.
    Own,
    /// A page shown at an app's address.
    InPlaceOfApp,
}

/// A page before it is sent.
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) title: String,
    pub(crate) body: Html,
    /// The class of `<body>`.
    pub(crate) layout: &'static str,
    pub(crate) script: Option<&'static Asset>,
    /// Seconds after which a browser without scripts loads the page again.
    pub(crate) refresh_without_script: Option<u32>,
    /// Seconds after which every browser loads the page again.
    pub(crate) refresh: Option<u32>,
    pub(crate) retry_after_seconds: Option<u64>,
    pub(crate) frame: Frame,
    /// Other servers it has images from.
    pub(crate) origins: BTreeSet<String>,
    /// Another server of ours that its forms may lead to; empty: none.
    pub(crate) form_to: String,
}

impl Page {
    pub(crate) fn new(status: StatusCode, title: impl Into<String>, frame: Frame, body: Html) -> Self {
        Self {
            status,
            title: title.into(),
            body,
            layout: "single",
            script: None,
            refresh_without_script: None,
            refresh: None,
            retry_after_seconds: None,
            frame,
            origins: BTreeSet::new(),
            form_to: String::new(),
        }
    }

    pub(crate) fn html(&self) -> String {
        let mut html = Html::with_capacity(self.body.len() + 1024);
        html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
            .raw("<meta name=\"color-scheme\" content=\"light dark\">\n")
            .raw("<meta name=\"robots\" content=\"noindex\">\n<title>")
            .text(&self.title)
            .raw("</title>\n<link rel=\"stylesheet\" href=\"")
            .text(&STYLE.url)
            .raw("\">\n<link rel=\"icon\" type=\"image/svg+xml\" href=\"")
            .text(&MARK.url)
            .raw("\">\n");
        if let Some(seconds) = self.refresh_without_script {
            html.raw("<noscript><meta http-equiv=\"refresh\" content=\"").number(seconds.into());
            html.raw("\"></noscript>\n");
        }
        if let Some(seconds) = self.refresh {
            html.raw("<meta http-equiv=\"refresh\" content=\"").number(seconds.into()).raw("\">\n");
        }
        html.raw("</head>\n<body class=\"").raw(self.layout).raw("\">\n").add(&self.body);
        if let Some(script) = self.script {
            html.raw("<script src=\"").text(&script.url).raw("\" defer></script>\n");
        }
        html.raw("</body>\n</html>\n");
        html.into_string()
    }

    fn policy(&self) -> HeaderValue {
        let mut policy = match self.form_to.as_str() {
            "" => POLICY.to_owned(),
            // Browsers hold where a form is sent on to against it as well.
            elsewhere => POLICY.replace("form-action 'self'", &format!("form-action 'self' {elsewhere}")),
        };
        for origin in self.origins.iter().take(MAX_ORIGINS) {
            policy.push(' ');
            policy.push_str(origin);
        }
        if self.frame == Frame::Own {
            policy.push_str(UNFRAMED);
        }
        HeaderValue::from_str(&policy).unwrap_or_else(|_| HeaderValue::from_static(POLICY))
    }

    pub(crate) fn respond(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.html()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // Not `no-referrer`: it would also empty the Origin of our own forms.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The mark of Skep, drawn in the current colour.
pub(crate) const BIG_MARK: &str = "<svg class=\"big-mark\" viewBox=\"0 0 32 32\" fill=\"currentColor\" aria-hidden=\"true\">\
<path d=\"M12.7 4.2a3.3 3.3 0 0 1 6.6 0c1 .3 1.9.7 2.7 1.3H10c.8-.6 1.7-1 2.7-1.3Z\"/>\
<rect x=\"7.4\" y=\"7\" width=\"17.2\" height=\"4.4\" rx=\"2.2\"/>\
<rect x=\"5.2\" y=\"12.9\" width=\"21.6\" height=\"4.4\" rx=\"2.2\"/>\
<rect x=\"3.6\" y=\"18.8\" width=\"24.8\" height=\"4.4\" rx=\"2.2\"/>\
<path d=\"M4.5 24.7h7.3v4.4H4.5a2.2 2.2 0 0 1 0-4.4ZM20.2 24.7h7.3a2.2 2.2 0 0 1 0 4.4h-7.3Z\"/></svg>";

/// The tile that stands for an app: its image, its emoji, or its initials on a colour of its own.
pub(crate) fn tile(html: &mut Html, spec: &AppSpec) {
    match &spec.icon {
        Some(Icon::Within { .. } | Icon::File(_)) => {
            image_tile(html, spec);
            html.raw("/_skep/icons/").text(spec.id.as_str()).raw("?v=").text(&spec.revision.to_string());
            html.raw("\" alt=\"\" loading=\"lazy\"></span>");
        }
        Some(Icon::Remote(image)) => {
            image_tile(html, spec);
            html.text(image.url());
            html.raw("\" alt=\"\" loading=\"lazy\" referrerpolicy=\"no-referrer\"></span>");
        }
        Some(Icon::Emoji(emoji)) => {
            html.raw("<span class=\"tile emoji\" aria-hidden=\"true\">").text(emoji).raw("</span>");
        }
        None => {
            html.raw("<span class=\"tile ").raw(colour(spec)).raw("\" aria-hidden=\"true\">");
            html.text(&initials(&spec.title)).raw("</span>");
        }
    }
}

/// Up to the image's address. The initials are for when it cannot be had.
fn image_tile(html: &mut Html, spec: &AppSpec) {
    html.raw("<span class=\"tile image ").raw(colour(spec)).raw("\" data-short=\"");
    html.text(&initials(&spec.title)).raw("\" aria-hidden=\"true\"><img src=\"");
}

/// Always the same for the same app.
fn colour(spec: &AppSpec) -> &'static str {
    let sum = spec.id.as_str().bytes().fold(7u32, |sum, byte| sum * 31 % 9973 + u32::from(byte));
    ["t0", "t1", "t2", "t3", "t4", "t5"][(sum % 6) as usize]
}

/// The server an image comes from, when that is not this one.
pub(crate) fn origin_of(icon: Option<&Icon>) -> Option<String> {
    match icon {
        Some(Icon::Remote(image)) => Some(image.origin().to_owned()),
        _ => None,
    }
}

/// One or two letters: the first of the first two words.
fn initials(title: &str) -> String {
    let letters = title.split_whitespace().filter_map(|word| word.chars().find(|c| c.is_alphanumeric()));
    letters.take(2).flat_map(char::to_uppercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initials_are_letters_of_the_first_words() {
        for (title, expected) in
            [("Sales report", "SR"), ("(old) atlas of x", "OA"), ("élan", "É"), ("—", "")]
        {
            assert_eq!(initials(title), expected);
        }
    }
}
