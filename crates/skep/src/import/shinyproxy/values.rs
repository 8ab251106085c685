//! Values of application.yml in Skep's notation. Pure.

use std::collections::BTreeMap;

use super::parameters::{self, Asked};
use crate::import::yaml::Node;

/// Placeholders in one value; more than any config has.
const MAX_PLACEHOLDERS: usize = 1000;
/// Stand for the braces of a placeholder that stays as it is.
const KEPT: [char; 2] = ['\u{1}', '\u{2}'];
/// What Skep replaces in commands and environment.
const SKEPS: [&str; 8] =
    ["{port}", "{socket}", "{base_path}", "{user}", "{groups}", "{groups:upper}", "{app}", "{instance}"];

/// A key however it is written: `container-image`, `containerImage` and `container_image` are one. Letters and digits count, as
/// they do for Spring, besides what parts names (`.`) and counts them (`[0]`).
pub(super) fn canonical(key: &str) -> String {
    let counts = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '[' | ']');
    let counted: String = key.chars().filter(counts).map(|c| c.to_ascii_lowercase()).collect();
    // A key without a name must not put what is below it at the place of what is above it.
    if counted.is_empty() { "?".to_owned() } else { counted }
}

/// `accessgroups[0]` → `accessgroups` and `true`: Spring's way to write one element of a list.
pub(super) fn element_of(name: &str) -> (&str, bool) {
    let parts = name.strip_suffix(']').and_then(|name| name.split_once('['));
    match parts {
        Some((list, index)) if index.parse::<u16>().is_ok() => (list, true),
        _ => (name, false),
    }
}

/// Quoted for TOML.
pub(super) fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

pub(super) fn list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| text(value)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A key of TOML: bare where that is possible, otherwise in quotes and on one line, whatever is in it.
pub(super) fn key(name: &str) -> String {
    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return name.to_owned();
    }
    let mut quoted = "\"".to_owned();
    for c in name.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// An inline table of texts.
pub(super) fn map(values: &BTreeMap<String, String>) -> String {
    let entries: Vec<String> =
        values.iter().map(|(name, value)| format!("{} = {}", key(name), text(value))).collect();
    format!("{{ {} }}", entries.join(", "))
}

/// `90000` → `90s`
pub(super) fn milliseconds(said: &str) -> Option<String> {
    let ms: u64 = said.trim().parse().ok().filter(|ms| (1..=31_536_000_000).contains(ms))?;
    Some(if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") })
}

/// Minutes, `-1` for never.
pub(super) fn lifetime(said: &str) -> Option<String> {
    match said.trim().parse::<i64>().ok()? {
        -1 => Some("never".to_owned()),
        minutes @ 1..=525_600 => Some(format!("{minutes}m")),
        _ => None,
    }
}

/// How many instances of an app one user may have; `-1` for any number, which is as many as Skep counts.
pub(super) fn instances_per_user(said: &str) -> Option<String> {
    match said.trim().parse::<i64>().ok()? {
        -1 => Some("1000".to_owned()),
        most @ 1..=1000 => Some(most.to_string()),
        _ => None,
    }
}

pub(super) fn pull(policy: &str) -> Option<&'static str> {
    match policy.to_ascii_lowercase().as_str() {
        "ifnotpresent" => Some("missing"),
        "always" => Some("always"),
        "never" => Some("never"),
        _ => None,
    }
}

/// `512m`, `2g`, `1Gi`, `1073741824` in Skep's notation; the engine's units count in 1024s.
pub(super) fn size(said: &str) -> Option<String> {
    let said = said.trim();
    let digits = said.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = said.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => "B",
        "k" | "kb" | "ki" => "KiB",
        "m" | "mb" | "mi" => "MiB",
        "g" | "gb" | "gi" => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// CPUs: `0.5`, `2`, or thousandths: `500m`.
pub(super) fn cpus(said: &str) -> Option<String> {
    let said = said.trim();
    let number = match said.strip_suffix('m') {
        Some(millis) => millis.parse::<f64>().ok()? / 1000.0,
        None => said.parse::<f64>().ok()?,
    };
    let good = number.is_finite() && (0.01..=4096.0).contains(&number);
    good.then(|| if number.fract() == 0.0 { format!("{number:.1}") } else { format!("{number}") })
}

/// Fills in `${NAME}` and `${NAME:default}`, one within the other, too. A name that is not known and has no default stays.
pub(super) fn filled(value: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    if value.contains(KEPT) || value.matches("${").count() > MAX_PLACEHOLDERS {
        return value.to_owned();
    }
    let mut out = value.to_owned();
    // From the right, so that what is within another is filled in first.
    let mut before = out.len();
    while let Some(at) = out[..before].rfind("${") {
        before = at;
        let Some(end) = out[at..].find('}').map(|end| at + end) else { continue };
        let inside = &out[at + 2..end];
        let (name, default) = match inside.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let filling = variable(name.trim()).or_else(|| default.map(str::to_owned));
        let filling = filling.unwrap_or_else(|| format!("${}{inside}{}", KEPT[0], KEPT[1]));
        out.replace_range(at..=end, &filling);
    }
    out.replace(KEPT[0], "{").replace(KEPT[1], "}")
}

/// The first expression `#{…}` or placeholder `${…}` in a value that must have none.
pub(super) fn expression_in(value: &str) -> Option<&str> {
    let at = ["#{", "${"].iter().filter_map(|mark| value.find(mark)).min()?;
    let end = value[at..].find('}').map_or(value.len(), |end| at + end + 1);
    Some(&value[at..end])
}

/// What became of a value with expressions in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expanded {
    /// There were none.
    Plain(String),
    /// Each has a counterpart.
    Changed(String),
    /// Why it cannot be carried over.
    Not(String),
}

/// Replaces ShinyProxy's expressions `#{…}` by Skep's placeholders, where there are such.
pub(super) fn expand(value: &str, of: &Facts) -> Expanded {
    if let Some(skeps) = SKEPS.iter().chain(&["{param."]).find(|placeholder| value.contains(**placeholder)) {
        return Expanded::Not(format!("`{skeps}` in it is something Skep would replace"));
    }
    let mut out = String::new();
    let mut rest = value;
    let mut changed = false;
    while let Some(found) = expression_in(rest) {
        let at = rest.find(found).unwrap_or_default();
        let inside = found.strip_prefix("#{").and_then(|inside| inside.strip_suffix('}'));
        let Some(counterpart) = inside.and_then(|inside| counterpart(inside, of)) else {
            return Expanded::Not(match found.strip_prefix('$') {
                Some(_) => format!("`{found}` is not known here: write its value"),
                None => format!("`{found}` has no counterpart"),
            });
        };
        out.push_str(&rest[..at]);
        out.push_str(&counterpart);
        changed = true;
        rest = &rest[at + found.len()..];
    }
    out.push_str(rest);
    if changed { Expanded::Changed(out) } else { Expanded::Plain(out) }
}

fn counterpart(inside: &str, of: &Facts) -> Option<String> {
    let plain: String = inside.chars().filter(|c| !c.is_whitespace()).collect();
    let plain = plain.replace('"', "'");
    if let Some(asked) = plain.strip_prefix("proxy.getRuntimeObject('SHINYPROXY_PARAMETERS').") {
        let by_call = asked.strip_prefix("getValue('").and_then(|id| id.strip_suffix("')"));
        let by_key = || asked.strip_prefix("backendValues['").and_then(|id| id.strip_suffix("']"));
        return of.parameter(by_call.or_else(by_key)?);
    }
    let value = plain.strip_prefix("proxy.getRuntimeValue('SHINYPROXY_");
    if let Some(value) = value.and_then(|value| value.strip_suffix("')")) {
        return of.runtime_value(value);
    }
    let value = match plain.as_str() {
        "proxy.userId" | "proxy.getUserId()" | "userId" => "USERNAME",
        "T(String).join(',',groups)" | "T(java.lang.String).join(',',groups)" => "USERGROUPS",
        "proxy.id" | "proxy.getId()" => "PROXY_ID",
        "proxySpec.id" | "proxySpec.getId()" | "proxy.specId" | "proxy.getSpecId()" => "SPEC_ID",
        "proxySpec.displayName" | "proxySpec.getDisplayName()" => "DISPLAY_NAME",
        _ => return None,
    };
    of.runtime_value(value)
}

/// What expressions can say of an app before it runs.
#[derive(Debug, Default)]
pub(super) struct Facts {
    id: String,
    name: String,
    image: String,
    /// What is asked before it starts, or why that cannot be carried over.
    pub(super) asked: Option<Result<Asked, String>>,
}

impl Facts {
    pub(super) fn read(id: &str, spec: &Node) -> Self {
        let said = |wanted: &str| {
            let found = spec.entries().iter().find(|(key, _)| canonical(&key.text) == wanted);
            found.and_then(|(_, node)| node.text()).map(|text| text.trim().to_owned())
        };
        Self {
            id: id.to_owned(),
            name: said("displayname").filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_owned()),
            image: said("containerimage").unwrap_or_default(),
            asked: Self::asked(spec),
        }
    }

    fn asked(spec: &Node) -> Option<Result<Asked, String>> {
        let find = |wanted: &str| spec.entries().iter().find(|(key, _)| canonical(&key.text) == wanted);
        let (_, node) = find("parameters")?;
        if find("minimumseatsavailable").is_some() {
            return Some(Err("its instances are shared, and chosen by nobody".to_owned()));
        }
        let takes = |asked: Asked| {
            let (parameters, sets) = asked.write();
            super::takes("apps.a", "parameters", &parameters)?;
            super::takes("apps.a", "parameter_sets", &sets).map(|()| asked)
        };
        Some(parameters::read(node).and_then(takes))
    }

    /// The placeholder of a parameter that can be carried over.
    fn parameter(&self, id: &str) -> Option<String> {
        let Some(Ok(asked)) = &self.asked else { return None };
        asked.definitions.iter().any(|own| own.id == id).then(|| format!("{{param.{id}}}"))
    }

    /// What ShinyProxy calls `SHINYPROXY_…`.
    fn runtime_value(&self, name: &str) -> Option<String> {
        let known = match name {
            "USERNAME" => "{user}",
            // It writes groups in capitals.
            "USERGROUPS" => "{groups:upper}",
            "PUBLIC_PATH" => "{base_path}/",
            "PROXY_ID" => "{instance}",
            "CONTAINER_INDEX" => "0",
            "SPEC_ID" => return literal(&self.id),
            "DISPLAY_NAME" => return literal(&self.name),
            "CONTAINER_IMAGE" => return literal(&self.image),
            _ => return None,
        };
        Some(known.to_owned())
    }
}

/// A text that neither Skep nor ShinyProxy replaces anything in.
fn literal(text: &str) -> Option<String> {
    let replaced =
        SKEPS.iter().any(|placeholder| text.contains(placeholder)) || expression_in(text).is_some();
    (!text.is_empty() && !replaced).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_carried_over() {
        assert_eq!(canonical("container-Image"), canonical("container_image"));
        assert_eq!(canonical("Access groups![0]"), "accessgroups[0]");
        assert_eq!((canonical("-").as_str(), canonical("é").as_str()), ("?", "?"));
        assert_eq!(element_of("accessgroups[12]"), ("accessgroups", true));
        for name in
            ["accessgroups", "accessgroups[x]", "accessgroups[]", "accessgroups[0", "accessgroups[0][1]"]
        {
            assert_eq!(element_of(name), (name, false));
        }
        assert_eq!(milliseconds("90000").as_deref(), Some("90s"));
        assert_eq!(milliseconds("1500").as_deref(), Some("1500ms"));
        assert_eq!((milliseconds("0"), milliseconds("x")), (None, None));
        assert_eq!((lifetime("-1").as_deref(), lifetime("60").as_deref()), (Some("never"), Some("60m")));
        assert_eq!((size("512m").as_deref(), size("2Gi").as_deref()), (Some("512MiB"), Some("2GiB")));
        assert_eq!((size("1024").as_deref(), size("1.5g"), size("g")), (Some("1024B"), None, None));
        assert_eq!((cpus("2").as_deref(), cpus("500m").as_deref()), (Some("2.0"), Some("0.5")));
        assert_eq!((cpus("nan"), cpus("-1")), (None, None));
    }

    #[test]
    fn whatever_a_key_and_a_value_hold_they_stay_one_key_and_one_value() {
        let odd = [
            "",
            "A",
            "A.B",
            "a b",
            "\"",
            "\\",
            "'",
            "x = 1\n[y]",
            "\u{1}\t\r\u{7f}\u{85}\u{2028}é",
            "a]\"\"\"b'''",
        ];
        for name in odd {
            for value in odd {
                let table = BTreeMap::from([(name.to_owned(), value.to_owned())]);
                let read: toml::Table = format!("env = {}", map(&table)).parse().unwrap_or_else(|wrong| {
                    panic!("{name:?} {value:?}: {wrong}");
                });
                assert_eq!(read.len(), 1);
                assert_eq!(read["env"].as_table().unwrap().len(), 1);
                assert_eq!(read["env"][name].as_str(), Some(value));
            }
        }
    }

    #[test]
    fn expressions_have_counterparts_or_are_named() {
        let plain = |text: &str| Expanded::Plain(text.to_owned());
        let changed = |text: &str| Expanded::Changed(text.to_owned());
        let of = Facts {
            id: "01_Web".to_owned(),
            name: "The {user}".to_owned(),
            image: "lab/web:1".to_owned(),
            ..Facts::default()
        };
        let expand = |text: &str| expand(text, &of);
        let not = |text: &str| match expand(text) {
            Expanded::Not(why) => why,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(expand("a $b #c $ {d} { port }"), plain("a $b #c $ {d} { port }"));
        assert_eq!(expand("#{proxy.getRuntimeValue('SHINYPROXY_USERGROUPS')}"), changed("{groups:upper}"));
        assert_eq!(expand("x #{T(String).join(',', groups)}"), changed("x {groups:upper}"));
        assert_eq!(
            expand("#{proxySpec.id}/#{proxy.getRuntimeValue('SHINYPROXY_CONTAINER_IMAGE')}"),
            changed("01_Web/lab/web:1")
        );
        assert_eq!(expand("/home/#{proxy.userId}/#{ proxy.getId() }"), changed("/home/{user}/{instance}"));
        assert_eq!(expand("#{proxy.getRuntimeValue(\"SHINYPROXY_PUBLIC_PATH\")}"), changed("{base_path}/"));
        assert!(not("x${TOKEN}").contains("`${TOKEN}` is not known"));
        for odd in [
            "#{proxySpec.displayName}",
            "#{proxy.getRuntimeValue('SHINYPROXY_REALM_ID')}",
            "#{USERNAME}",
            "#{groups}",
        ] {
            assert!(matches!(expand(odd), Expanded::Not(_)), "{odd}");
        }
        assert!(not("#{groups[0]}!").contains("`#{groups[0]}` has no counterpart"));
        assert!(not("#{proxy.userId").contains("has no counterpart"));
        assert!(not("plot({user})").contains("Skep would replace"));
    }

    #[test]
    fn variables_are_filled_in() {
        let fill = |text: &str| filled(text, &|name| (name == "A").then(|| "1".to_owned()));
        assert_eq!(fill("x${A}y${A:2}"), "x1y1");
        assert_eq!(fill("${PORT:80}-${B:}-${C}"), "80--${C}");
        assert_eq!(fill("${B:${A}}${B:${C}}"), "1${C}");
        assert_eq!(fill("${B:http://x:1/}"), "http://x:1/");
        assert_eq!(fill("${never ${A}"), "${never 1");
        assert_eq!(fill("a $ { } $A"), "a $ { } $A");
        let many = "${A}".repeat(MAX_PLACEHOLDERS + 1);
        assert_eq!(fill(&many), many);
    }
}
