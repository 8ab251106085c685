//! `[routes.<id>]`: ordinary services of the Swarm, published by the config instead of by their labels.

use skep_control::services::{PATIENCE, ServiceAsk, WAKE_PATIENCE};
use skep_edge::Spread;
use skep_model::{Access, AppId, Place, Prefix};

use super::app_keys::{one_line, origin, prefix};
use super::document::Section;

/// Reads one; `None` when it says too little, which is reported.
pub(super) fn route(section: &mut Section<'_, '_>, id: AppId) -> Option<ServiceAsk> {
    let service = section.text("service");
    let place = section.parsed(
        "route",
        "write a host, a path or both: \"shop.example.org\", \"/team/shop/\"",
        |text| text.parse::<Place>().map_err(|_| format!("is \"{text}\"")),
    );
    let port: Option<u16> = section.whole("port", 1, 65_535).and_then(|port| u16::try_from(port).ok());
    for (key, missing, mend) in [
        ("service", service.is_none(), "name the service, as `docker service ls` does"),
        ("route", place.is_none(), "say where: \"shop.example.org\", \"/shop/\""),
        ("port", port.is_none(), "say at which port its tasks answer"),
    ] {
        if missing && !section.is_set(key) {
            section.report("", format!("has no `{key}`"), mend);
        }
    }
    let wake = section.whole("wake", 1, 1000);
    let mut ask = ServiceAsk {
        id,
        service: String::new(),
        place: Place { host: None, mount: skep_model::Mount::root() },
        port: 0,
        title: section.parsed("title", "write a short text in quotes", one_line),
        spread: section
            .parsed("balance", "write \"round-robin\" or \"least-load\"", |text| match text {
                "round-robin" => Ok(Spread::RoundRobin),
                "least-load" => Ok(Spread::LeastLoad),
                _ => Err(format!("is \"{text}\"")),
            })
            .unwrap_or_default(),
        sticky: section.flag("sticky").unwrap_or(false),
        wake,
        prefix: section.parsed("prefix", "write \"keep\" or \"strip\"", prefix).unwrap_or(Prefix::Keep),
        access: Access::default(),
        allowed_origins: section
            .parsed_list(
                "allowed_origins",
                "write `https://host` or `https://host:port`, without a path",
                origin,
            )
            .unwrap_or_default(),
        patience: section.positive_duration("max_wait").unwrap_or(if wake.is_some() {
            WAKE_PATIENCE
        } else {
            PATIENCE
        }),
    };
    if let Some(mut access) = section.section("access") {
        for (key, names) in [("users", &mut ask.access.users), ("groups", &mut ask.access.groups)] {
            *names = access.texts(key).unwrap_or_default();
            if names.is_empty() && access.is_set(key) {
                access.report(key, "is empty, which would be no rule", "name somebody, or leave it out");
            }
        }
        ask.access.anyone = access.flag("anyone").unwrap_or(false);
        access.finish();
    }
    Some(ServiceAsk { service: service?, place: place?, port: port?, ..ask })
}
