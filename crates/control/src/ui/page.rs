//! What all pages have in common: head, security headers, the app's tile.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use skep_model::AppSpec;

use super::assets::{Asset, MARK, STYLE};
use super::html::Html;

/// Everything from our own origin, nothing inline. Images also as data: a favicon some browsers make up.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'";
/// Pages of our own refuse to be framed by others. Pages in place of an app do not: whoever embeds the app must also
/// see it start, and they hold nothing worth clicking on by mistake.
const POLICY_UNFRAMED: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'";

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

    pub(crate) fn respond(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.html()));
        *response.status_mut() = self.status;
        let policy = if self.frame == Frame::Own { POLICY_UNFRAMED } else { POLICY };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
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
    match spec.icon.as_deref() {
        Some(icon) if super::icon::is_file(icon) => {
            html.raw("<span class=\"tile\" aria-hidden=\"true\"><img src=\"/_skep/icons/")
                .text(spec.id.as_str())
                .raw("?v=")
                .text(&spec.revision.to_string())
                .raw("\" alt=\"\" loading=\"lazy\"></span>");
        }
        Some(emoji) if !emoji.is_empty() && emoji.chars().count() <= 8 => {
            html.raw("<span class=\"tile emoji\" aria-hidden=\"true\">").text(emoji).raw("</span>");
        }
        _ => {
            let colour = spec.id.as_str().bytes().fold(7u32, |sum, byte| sum * 31 % 9973 + u32::from(byte));
            html.raw("<span class=\"tile ")
                .raw(["t0", "t1", "t2", "t3", "t4", "t5"][(colour % 6) as usize])
                .raw("\" aria-hidden=\"true\">")
                .text(&initials(&spec.title))
                .raw("</span>");
        }
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
