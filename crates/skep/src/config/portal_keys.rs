//! `[portal]`: what the list of apps looks like.

use std::path::Path;

use skep_control::{PortalConfig, PortalSection};
use skep_model::Icon;

use super::app_keys::{ICON_MEND, icon, one_line};
use super::document::{Section, read_text};

/// Reads it; sections count in the order they are written in.
pub(super) fn portal(mut section: Section<'_, '_>, base: &Path) -> PortalConfig {
    let usual = PortalConfig::default();
    let image = |value: &toml::de::DeValue<'_>| match icon(&read_text(value)?, base)? {
        Icon::Emoji(_) => Err("is no image".to_owned()),
        image => Ok(image),
    };
    let mut portal = PortalConfig {
        title: section.parsed("title", "write a short text in quotes", one_line).unwrap_or(usual.title),
        logo: section.get("logo", ICON_MEND, image),
        message: section.parsed("message", "write a text in quotes", message),
        support: section.parsed("support", "write a mail address like \"help@example.org\"", mail_address),
        sections: Vec::new(),
    };
    let mut sections = Vec::new();
    for (name, mut keys) in section.named_sections("sections") {
        let title = keys.parsed("title", "write a short text in quotes", one_line);
        if let Err(wrong) = one_line(&name.value) {
            keys.report("", wrong, "");
        }
        keys.finish();
        let title = title.unwrap_or_else(|| name.value.clone());
        sections.push((name.at, PortalSection { name: name.value, title }));
    }
    sections.sort_by_key(|(at, _)| *at);
    portal.sections = sections.into_iter().map(|(_, section)| section).collect();
    section.finish();
    portal
}

/// Some lines of plain text.
fn message(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 2000 || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err("must be 1 to 2000 characters of plain text".to_owned());
    }
    Ok(text.to_owned())
}

/// One address, of the kind that needs no escaping in a link.
fn mail_address(text: &str) -> Result<String, String> {
    let wrong = || format!("is \"{text}\", which is no mail address");
    let text = text.trim();
    let (name, host) = text.rsplit_once('@').ok_or_else(wrong)?;
    let good = |part: &str, signs: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
    };
    let whole = text.len() <= 254 && good(name, "._+-") && good(host, ".-");
    if whole { Ok(text.to_owned()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_text_and_addresses_are_plain() {
        assert_eq!(
            message(" Down on Sunday.\nBack on Monday. ").unwrap(),
            "Down on Sunday.\nBack on Monday."
        );
        for bad in ["", "  ", "a\u{1b}[31m", &"x".repeat(2001)] {
            assert!(message(bad).is_err(), "{bad:?}");
        }
        assert_eq!(mail_address("help+apps@lab.example.org").unwrap(), "help+apps@lab.example.org");
        for bad in ["", "help", "@x", "x@", "a@b@c", "a b@c", "a@b?subject=x", "a@b\"c", "é@x.org", "a,b@c"]
        {
            assert!(mail_address(bad).is_err(), "{bad}");
        }
    }
}
