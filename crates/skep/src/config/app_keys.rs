//! The keys an app is described with, wherever they stand: `[defaults]`, a folder's own `skep.toml`, `[apps.<id>]`.
//!
//! Nothing is defaulted here: an absent key stays absent, so that layers can be laid over each other
//! ([`AppKeys::over`]) and only the last step ([`super::settle`]) fills the gaps.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use skep_model::{BackendKind, Framework, Hold, Icon, Prefix, RemoteImage, SecretFile, names_image};
use toml::de::DeValue;

use super::container_keys::ContainerKeys;
use super::document::{Placed, Section, read_text, read_texts, unexpected};
use super::parameter_keys::ParameterKeys;

/// One layer of an app's description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AppKeys {
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) icon: Option<Placed<Icon>>,
    pub(crate) section: Option<String>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) framework: Option<Framework>,
    pub(crate) prefix: Option<Prefix>,
    pub(crate) image: Option<Placed<String>>,
    pub(crate) backend: Option<Placed<BackendKind>>,
    pub(crate) container: ContainerKeys,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secrets: BTreeMap<String, SecretFile>,
    pub(crate) secrets_at: Option<Placed<()>>,
    pub(crate) seats: Option<u32>,
    pub(crate) min_seats: Option<Placed<u32>>,
    pub(crate) max_instances: Option<Placed<u32>>,
    pub(crate) per_user: Option<bool>,
    pub(crate) max_instances_per_user: Option<u32>,
    pub(crate) parameters: ParameterKeys,
    pub(crate) stop_on_logout: Option<bool>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) inactivity_timeout: Option<Option<Duration>>,
    pub(crate) max_lifetime: Option<Option<Duration>>,
    pub(crate) max_waiting: Option<u32>,
    pub(crate) health_path: Option<String>,
    pub(crate) health_strict: Option<bool>,
    pub(crate) users: Option<Vec<String>>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) anyone: Option<bool>,
    pub(crate) allowed_origins: Option<Vec<String>>,
    pub(crate) cpu_millis: Option<u32>,
    pub(crate) memory: Option<u64>,
    pub(crate) pids: Option<u32>,
    pub(crate) run_as: Option<Placed<String>>,
    pub(crate) hold: Option<Hold>,
}

impl AppKeys {
    /// Reads every app key of a section; relative file names count from `base`.
    pub(crate) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let mut keys = Self {
            title: section.parsed("title", "write a short text in quotes", one_line),
            description: section.text("description"),
            icon: section.placed("icon", ICON_MEND, |value| icon(&read_text(value)?, base)),
            section: section.parsed("section", "write a short text in quotes", one_line),
            command: section.get(
                "command",
                "write `command = [\"./server\", \"--port\", \"{port}\"]`",
                command,
            ),
            framework: section.parsed("framework", "leave it out to have it detected", str::parse),
            prefix: section.parsed("prefix", "write \"keep\" or \"strip\"", prefix),
            image: section.placed("image", "name a container image", read_text),
            backend: section.placed(
                "backend",
                "leave it out: an app with an `image` runs on Docker, others as processes",
                |value| backend(&read_text(value)?),
            ),
            seats: section.whole("seats", 1, 1_000_000),
            min_seats: section.whole_placed("min_seats", 0, 1_000_000),
            max_instances: section.whole_placed("max_instances", 1, 100_000),
            per_user: section.flag("per_user"),
            max_instances_per_user: section.whole("max_instances_per_user", 1, 1000),
            stop_on_logout: section.flag("stop_on_logout"),
            start_timeout: section.positive_duration("start_timeout"),
            idle_timeout: section.duration("idle_timeout"),
            inactivity_timeout: section.duration_or_never("inactivity_timeout"),
            max_lifetime: section.duration_or_never("max_lifetime"),
            max_waiting: section.whole("max_waiting", 0, 1_000_000),
            allowed_origins: section.parsed_list(
                "allowed_origins",
                "write `https://host` or `https://host:port`, without a path",
                origin,
            ),
            run_as: section.placed("run_as", "name a user of this machine", read_text),
            hold: section.parsed("hold", "write \"page\" or \"wait\"", hold),
            parameters: ParameterKeys::read(section),
            container: ContainerKeys::read(section, base),
            env: section.text_map("env", env_name).unwrap_or_default(),
            ..Self::default()
        };
        keys.read_secrets(section, base);
        keys.read_tables(section);
        keys
    }

    fn read_secrets(&mut self, section: &mut Section<'_, '_>, base: &Path) {
        let files = section.text_map("secrets", env_name).unwrap_or_default();
        if !files.is_empty() {
            self.secrets_at = section.placed("secrets", "", |_| Ok(()));
        }
        self.secrets = files.into_iter().map(|(name, file)| (name, base.join(file).into())).collect();
    }

    fn read_tables(&mut self, section: &mut Section<'_, '_>) {
        if let Some(mut health) = section.section("health") {
            self.health_path = health.parsed("path", "write a path like \"/healthz\"", |text| {
                let good = text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic());
                if good { Ok(text.to_owned()) } else { Err(format!("is \"{text}\", which is no URL path")) }
            });
            self.health_strict = health.flag("strict");
            health.finish();
        }
        if let Some(mut access) = section.section("access") {
            self.users = access.texts("users");
            self.groups = access.texts("groups");
            self.anyone = access.flag("anyone");
            access.finish();
        }
        if let Some(mut limits) = section.section("limits") {
            self.cpu_millis = limits.get("cpu", "write a number of CPUs like `cpu = 0.5`", cpu_millis);
            self.memory = limits.size("memory");
            if self.memory.is_some_and(|bytes| bytes < 4 << 20) {
                limits.report(
                    "memory",
                    "is less than 4 MiB, in which no app starts",
                    "write for example \"512MiB\"",
                );
            }
            self.pids = limits.whole("pids", 1, 4_194_304);
            limits.finish();
        }
    }

    /// Lays this layer over a lower one: what is set here wins; `env` and `secrets` are merged name by name.
    pub(crate) fn over(self, lower: Self) -> Self {
        let mut env = lower.env;
        env.extend(self.env);
        let mut secrets = lower.secrets;
        secrets.extend(self.secrets);
        Self {
            title: self.title.or(lower.title),
            description: self.description.or(lower.description),
            icon: self.icon.or(lower.icon),
            section: self.section.or(lower.section),
            command: self.command.or(lower.command),
            framework: self.framework.or(lower.framework),
            prefix: self.prefix.or(lower.prefix),
            image: self.image.or(lower.image),
            backend: self.backend.or(lower.backend),
            parameters: self.parameters.over(lower.parameters),
            container: self.container.over(lower.container),
            env,
            secrets,
            secrets_at: self.secrets_at.or(lower.secrets_at),
            seats: self.seats.or(lower.seats),
            min_seats: self.min_seats.or(lower.min_seats),
            max_instances: self.max_instances.or(lower.max_instances),
            per_user: self.per_user.or(lower.per_user),
            max_instances_per_user: self.max_instances_per_user.or(lower.max_instances_per_user),
            stop_on_logout: self.stop_on_logout.or(lower.stop_on_logout),
            start_timeout: self.start_timeout.or(lower.start_timeout),
            idle_timeout: self.idle_timeout.or(lower.idle_timeout),
            inactivity_timeout: self.inactivity_timeout.or(lower.inactivity_timeout),
            max_lifetime: self.max_lifetime.or(lower.max_lifetime),
            max_waiting: self.max_waiting.or(lower.max_waiting),
            health_path: self.health_path.or(lower.health_path),
            health_strict: self.health_strict.or(lower.health_strict),
            users: self.users.or(lower.users),
            groups: self.groups.or(lower.groups),
            anyone: self.anyone.or(lower.anyone),
            allowed_origins: self.allowed_origins.or(lower.allowed_origins),
            cpu_millis: self.cpu_millis.or(lower.cpu_millis),
            memory: self.memory.or(lower.memory),
            pids: self.pids.or(lower.pids),
            run_as: self.run_as.or(lower.run_as),
            hold: self.hold.or(lower.hold),
        }
    }
}

pub(crate) fn one_line(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err("must be one line of 1 to 200 characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) const ICON_MEND: &str =
    "name an image file (.png, .jpg, .webp, .gif, .svg, .ico), the https:// address of one, or an emoji";

/// An address, a file by its whole path, one that stays in the folder, or something short without ASCII letters (an emoji).
pub(super) fn icon(text: &str, base: &Path) -> Result<Icon, String> {
    let wrong = || Err(format!("is \"{text}\", neither an image file, nor the address of one, nor an emoji"));
    if text.contains("://") {
        return RemoteImage::parse(text).map_or_else(wrong, |image| Ok(Icon::Remote(image)));
    }
    let path = Path::new(text);
    if names_image(text) {
        let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let hidden = text.split('/').any(|part| part.starts_with('.'));
        return match path.is_absolute() {
            true => Ok(Icon::File(path.to_owned())),
            false if inside && !hidden => Ok(Icon::Within { dir: base.to_owned(), name: text.to_owned() }),
            false => wrong(),
        };
    }
    let emoji = !text.is_empty() && text.chars().count() <= 8 && !text.is_ascii();
    if emoji { Ok(Icon::Emoji(text.to_owned())) } else { wrong() }
}

fn command(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let words = match value {
        DeValue::String(text) => split_words(text)?,
        DeValue::Array(_) => read_texts(value)?,
        other => return Err(unexpected(other, "a list of texts")),
    };
    if words.first().is_none_or(|program| program.is_empty()) {
        return Err("names no program".to_owned());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("holds a NUL character".to_owned());
    }
    Ok(words)
}

/// Words as a shell would split them: spaces separate, quotes and backslashes protect. No variables, no globs.
fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => match chars.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("ends with a backslash".to_owned()),
            },
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("has an opening quote without a closing one".to_owned());
    }
    words.extend(word);
    Ok(words)
}

pub(crate) fn prefix(text: &str) -> Result<Prefix, String> {
    match text {
        "keep" => Ok(Prefix::Keep),
        "strip" => Ok(Prefix::Strip),
        _ => Err(format!("is \"{text}\"")),
    }
}

fn hold(text: &str) -> Result<Hold, String> {
    match text {
        "page" => Ok(Hold::Page),
        "wait" => Ok(Hold::Wait),
        _ => Err(format!("is \"{text}\"")),
    }
}

fn backend(text: &str) -> Result<BackendKind, String> {
    match text {
        "process" => Ok(BackendKind::Process),
        "docker" => Ok(BackendKind::Docker),
        "swarm" => Ok(BackendKind::Swarm),
        _ => Err(format!("is \"{text}\", expected \"process\", \"docker\" or \"swarm\"")),
    }
}

fn env_name(name: &str) -> Result<(), String> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(())
    } else {
        Err("is no name of an environment variable".to_owned())
    }
}

/// Lower-cased scheme and authority, nothing after them.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("is \"{text}\", which is no origin");
    let lower = text.to_ascii_lowercase();
    let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")).ok_or_else(wrong)?;
    let good = !rest.is_empty()
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'));
    if good { Ok(lower) } else { Err(wrong()) }
}

/// CPUs in thousandths, from a whole number or a fraction.
pub(super) fn cpu_millis(value: &DeValue<'_>) -> Result<u32, String> {
    let wrong = || unexpected(value, "a number of CPUs from 0.01 to 4096");
    let text = match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return Err(wrong()),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let part: u32 = digits.parse().map_err(|_| wrong())?;
    let millis = whole.checked_mul(1000).and_then(|m| m.checked_add(part)).ok_or_else(wrong)?;
    if (10..=4_096_000).contains(&millis) { Ok(millis) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_would() {
        let split = |text| split_words(text).unwrap();
        assert_eq!(split("python3 app.py --port {port}"), ["python3", "app.py", "--port", "{port}"]);
        assert_eq!(split(r#"a 'b c' "d \"e" f\ g ''"#), ["a", "b c", "d \"e", "f g", ""]);
        assert!(split_words("a 'b").is_err());
        assert!(split_words("a \\").is_err());
    }

    #[test]
    fn origins_have_no_path() {
        assert_eq!(origin("https://Example.org:8443").unwrap(), "https://example.org:8443");
        for bad in ["example.org", "https://", "https://a/b", "ftp://a", "https://a b"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
