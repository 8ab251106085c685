//! What the directives of shiny-server.conf become in Skep's config.
//!
//! Both servers have layers: what stands at the top or in `server` becomes `[defaults]`, what stands in a `location` with one
//! app becomes `[apps.<id>]`. Nothing is dropped silently: each directive gets a line in the report.

use std::collections::BTreeMap;
use std::path::Path;

use skep_model::AppId;

use super::shiny_conf::Directive;
use super::{Imported, Kind, Note};
use crate::config::discover::app_id;

/// Written in this order.
#[derive(Default)]
struct Draft {
    listen: Vec<String>,
    tls: Option<(String, String)>,
    access_log_file: Option<String>,
    sites: Vec<(String, Option<String>)>,
    defaults: BTreeMap<&'static str, String>,
    apps: BTreeMap<AppId, BTreeMap<&'static str, String>>,
    notes: Vec<Note>,
    locations: usize,
}

/// Where a directive's keys go.
#[derive(Clone)]
enum Scope {
    Defaults,
    App(AppId),
    /// A location with many apps, one of several: its keys have no place in Skep's config.
    Nowhere,
}

pub(super) fn import(directives: &[Directive]) -> Imported {
    let mut draft = Draft { locations: count_locations(directives), ..Draft::default() };
    for directive in directives {
        match (directive.name.as_str(), &directive.block) {
            ("server", Some(inner)) => inner.iter().for_each(|directive| draft.in_server(directive)),
            _ => draft.setting(directive, &Scope::Defaults),
        }
    }
    draft.notes.sort_by_key(|note| note.place);
    Imported { toml: draft.write(), notes: draft.notes }
}

fn count_locations(directives: &[Directive]) -> usize {
    let of =
        |d: &Directive| usize::from(d.name == "location") + d.block.as_deref().map_or(0, count_locations);
    directives.iter().map(of).sum()
}

impl Draft {
    fn in_server(&mut self, directive: &Directive) {
        let args: Vec<&str> = directive.arguments.iter().map(String::as_str).collect();
        match (directive.name.as_str(), args.as_slice()) {
            ("location", [path]) => self.location(directive, path),
            ("listen", [port]) => self.listen(directive, port, "0.0.0.0"),
            ("listen", [port, host]) => self.listen(directive, port, host),
            ("ssl", [key, cert]) => {
                self.tls = Some(((*cert).to_owned(), (*key).to_owned()));
                self.done(directive, "`server.tls`");
            }
            ("server_name", _) => self.differs(directive, "left out: Skep answers to every name"),
            _ => self.setting(directive, &Scope::Defaults),
        }
    }

    fn listen(&mut self, directive: &Directive, port: &str, host: &str) {
        let host = match host {
            "*" => "0.0.0.0".to_owned(),
            host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let Ok(address) = format!("{host}:{port}").parse::<std::net::SocketAddr>() else {
            self.wrong(directive, &format!("`{port} {host}` is no port and address"));
            return;
        };
        self.listen.push(address.to_string());
        if address.ip().is_loopback() {
            self.done(directive, "`server.listen`");
        } else {
            let text = "became `server.listen`; without a login Skep serves other machines only with --insecure-no-auth";
            self.differs(directive, text);
        }
    }

    fn location(&mut self, directive: &Directive, path: &str) {
        let inner = directive.block.as_deref().unwrap_or_default();
        let find =
            |name: &str| inner.iter().find(|d| d.name == name).and_then(|d| Some((d, d.arguments.first()?)));
        let scope = if let Some((app, dir)) = find("app_dir") {
            let mount = path.trim_end_matches('/');
            let id = app_id(Path::new(dir));
            if mount.matches('/').count() > 1 {
                let text = "left out: Skep mounts apps at `/` or at one path segment";
                self.differs(directive, text);
                return;
            }
            let mount = if mount.is_empty() { "/".to_owned() } else { format!("{mount}/") };
            if crate::config::server_keys::mount(&mount).is_err() {
                self.differs(
                    directive,
                    "left out: in Skep a path has lower-case letters, digits, `_` and `-` only",
                );
                return;
            }
            self.sites.push((dir.clone(), Some(mount)));
            self.done(app, "`[[sites]]`");
            id.map_or(Scope::Nowhere, Scope::App)
        } else if let Some((site, dir)) = find("site_dir") {
            self.sites.push((dir.clone(), None));
            if path == "/" {
                self.done(site, "`[[sites]]`");
            } else {
                let text = format!(
                    "became a `[[sites]]`, but its apps are at `/<folder>/` instead of `{path}/<folder>/`"
                );
                self.differs(site, &text);
            }
            if self.locations == 1 { Scope::Defaults } else { Scope::Nowhere }
        } else {
            Scope::Nowhere
        };
        for directive in inner {
            if !matches!(directive.name.as_str(), "app_dir" | "site_dir") {
                self.setting(directive, &scope);
            }
        }
    }

    /// Directives that may stand anywhere.
    fn setting(&mut self, directive: &Directive, scope: &Scope) {
        let args: Vec<&str> = directive.arguments.iter().map(String::as_str).collect();
        match (directive.name.as_str(), args.as_slice()) {
            ("run_as", [user, ..]) if user.starts_with(':') => {
                self.differs(directive, "left out: Skep has no per-user app folders");
            }
            ("run_as", [user, ..]) => self.key(directive, scope, "run_as", text(user)),
            ("app_init_timeout", [s]) => self.seconds(directive, scope, "start_timeout", s),
            ("app_idle_timeout", ["0"]) => self.key(directive, scope, "idle_timeout", text("365d")),
            ("app_idle_timeout", [s]) => self.seconds(directive, scope, "idle_timeout", s),
            ("app_session_timeout", ["0"]) => self.key(directive, scope, "inactivity_timeout", text("never")),
            ("app_session_timeout", [s]) => self.seconds(directive, scope, "inactivity_timeout", s),
            ("simple_scheduler", [seats]) => self.scheduler(directive, scope, seats, "1"),
            ("utilization_scheduler", [seats, _, most]) => self.scheduler(directive, scope, seats, most),
            ("access_log", [file, ..]) => {
                self.access_log_file = Some((*file).to_owned());
                self.done(directive, "`server.access_log`");
            }
            ("required_user", users @ [_, ..]) => self.key(directive, scope, "access.users", list(users)),
            ("required_group" | "members_of", groups @ [_, ..]) => {
                self.key(directive, scope, "access.groups", list(groups))
            }
            ("location" | "server", _) => self.wrong(directive, "this block may not stand here"),
            (name, _) => match fate(name) {
                Some(why) => self.differs(directive, why),
                None => self.wrong(
                    directive,
                    &format!("`{name}` is no directive of shiny-server.conf, or it lacks arguments"),
                ),
            },
        }
    }

    fn seconds(&mut self, directive: &Directive, scope: &Scope, key: &'static str, seconds: &str) {
        match seconds.parse::<u32>() {
            Ok(seconds) if seconds > 0 => self.key(directive, scope, key, text(&format!("{seconds}s"))),
            _ => self.wrong(directive, &format!("`{seconds}` is no number of seconds")),
        }
    }

    fn scheduler(&mut self, directive: &Directive, scope: &Scope, seats: &str, most: &str) {
        match (seats.parse::<u32>(), most.parse::<u32>()) {
            (Ok(seats @ 1..), Ok(most @ 1..)) => {
                self.put(scope, "seats", seats.to_string());
                self.key(directive, scope, "max_instances", most.to_string());
            }
            _ => self.wrong(directive, "expected whole numbers above zero"),
        }
    }

    fn key(&mut self, directive: &Directive, scope: &Scope, key: &'static str, value: String) {
        let place = match scope {
            Scope::Defaults => format!("`defaults.{key}`"),
            Scope::App(id) => format!("`apps.{id}.{key}`"),
            Scope::Nowhere => {
                let text = "left out: it is set for one folder of several; set it per app in `[apps.<id>]`";
                self.differs(directive, text);
                return;
            }
        };
        self.put(scope, key, value);
        self.done(directive, &place);
    }

    fn put(&mut self, scope: &Scope, key: &'static str, value: String) {
        match scope {
            Scope::Defaults => self.defaults.insert(key, value),
            Scope::App(id) => self.apps.entry(id.clone()).or_default().insert(key, value),
            Scope::Nowhere => None,
        };
    }

    fn done(&mut self, directive: &Directive, became: &str) {
        self.note(directive, Kind::Done, &format!("became {became}"));
    }

    fn differs(&mut self, directive: &Directive, text: &str) {
        self.note(directive, Kind::Differs, text);
    }

    fn wrong(&mut self, directive: &Directive, text: &str) {
        self.note(directive, Kind::Wrong, text);
    }

    fn note(&mut self, directive: &Directive, kind: Kind, what: &str) {
        let text = format!("`{}`: {what}", directive.name);
        self.notes.push(Note { place: directive.place, kind, text });
    }

    fn write(&self) -> String {
        let mut lines = vec!["[server]".to_owned()];
        if !self.listen.is_empty() {
            let addresses: Vec<&str> = self.listen.iter().map(String::as_str).collect();
            lines.push(format!("listen = {}", list(&addresses)));
        }
        if let Some((cert, key)) = &self.tls {
            lines.push(format!("tls = {{ cert = {}, key = {} }}", text(cert), text(key)));
        }
        if let Some(file) = &self.access_log_file {
            lines.push("access_log = \"common\"".to_owned());
            lines.push(format!("access_log_file = {}", text(file)));
        }
        for (path, mount) in &self.sites {
            lines.extend([String::new(), "[[sites]]".to_owned(), format!("path = {}", text(path))]);
            lines.extend(mount.iter().map(|mount| format!("mount = {}", text(mount))));
        }
        let keys = |keys: &BTreeMap<&str, String>| {
            keys.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>()
        };
        if !self.defaults.is_empty() {
            lines.extend([String::new(), "[defaults]".to_owned()]);
            lines.extend(keys(&self.defaults));
        }
        for (id, app) in &self.apps {
            lines.extend([String::new(), format!("[apps.{id}]")]);
            lines.extend(keys(app));
        }
        lines.join("\n") + "\n"
    }
}

/// Why a directive Skep knows of has no counterpart. `None`: there is no such directive.
fn fate(name: &str) -> Option<&'static str> {
    Some(match name {
        "log_dir" | "log_file_mode" => "left out: Skep keeps logs in its data folder; see `skep logs`",
        "preserve_logs" => "left out: Skep always keeps the logs of ended instances for a while",
        "directory_index" => "left out: the portal at `/` lists the apps",
        "redirect" => "left out: Skep has no redirects of its own yet",
        "user_dirs" | "user_apps" => "left out: Skep has no per-user app folders",
        "bookmark_state_dir" => "left out: bookmarks are kept where the app says",
        "python" => "left out: each app gets the environment its requirements name",
        "allow_app_override" => "left out: a folder's own skep.toml always counts",
        "reconnect"
        | "disable_protocols"
        | "disable_websockets"
        | "sockjs_heartbeat_delay"
        | "sockjs_disconnect_delay" => "left out: apps are reached over plain WebSockets",
        "http_keepalive_timeout" | "socket_timeout" | "http_allow_compression" | "frame_options" => {
            "left out: Skep's own limits are sound for most; see `server.limits`"
        }
        "sanitize_errors" | "google_analytics_id" | "template_dir" | "secure_cookies" => {
            "left out: Skep does not change an app's pages; it belongs into the app"
        }
        "admin"
        | "auth_active_dir"
        | "auth_duration"
        | "auth_google"
        | "auth_ldap"
        | "auth_pam"
        | "auth_passwd_file"
        | "auth_proxy"
        | "set_user_from_header"
        | "auth"
        | "required_scope" => "left out: logins come with a later version of Skep",
        "license_type"
        | "server_info"
        | "exec_supervisor"
        | "r_path"
        | "application"
        | "graphite_enabled"
        | "graphite_host"
        | "graphite_port"
        | "graphite_app_enabled"
        | "metrics_user"
        | "health_check"
        | "ssl_protocols"
        | "ssl_min_version"
        | "whitelist_headers" => "left out: Skep has no counterpart",
        _ => return None,
    })
}

fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

fn list(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| text(value)).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::shiny_conf::parse;
    use super::*;
    use crate::config::ServerFile;

    fn import_text(text: &str) -> Imported {
        import(&parse(text).unwrap())
    }

    #[test]
    fn the_file_debian_ships_is_carried_over() {
        let text = "run_as shiny;\nserver {\n  listen 3838;\n  location / {\n    site_dir /srv/shiny-server;\n    \
                    log_dir /var/log/shiny-server;\n    directory_index on;\n  }\n}\n";
        let imported = import_text(text);
        let expected = "[server]\nlisten = [\"0.0.0.0:3838\"]\n\n[[sites]]\npath = \"/srv/shiny-server\"\n\n\
                        [defaults]\nrun_as = \"shiny\"\n";
        assert_eq!(imported.toml, expected);
        let kinds: Vec<Kind> = imported.notes.iter().map(|note| note.kind).collect();
        assert_eq!(kinds, [Kind::Done, Kind::Differs, Kind::Done, Kind::Differs, Kind::Differs]);
        ServerFile::parse(Path::new("skep.toml"), &imported.toml).unwrap();
    }

    #[test]
    fn schedulers_timeouts_and_single_apps() {
        let text = "app_idle_timeout 0;\nserver {\n listen 443 ::1;\n ssl /k.pem /c.pem;\n access_log /a.log default;\n \
                    location /sales { app_dir \"/srv/Sales App\"; utilization_scheduler 20 .9 3; app_init_timeout 90; }\n \
                    location /team { site_dir /srv/team; app_idle_timeout 5; }\n}\n";
        let imported = import_text(text);
        let file = ServerFile::parse(Path::new("skep.toml"), &imported.toml).unwrap();
        assert_eq!(file.server.listen[0].to_string(), "[::1]:443");
        assert_eq!(file.server.tls.unwrap().key, Path::new("/k.pem"));
        assert_eq!(file.sites.len(), 2);
        assert_eq!(file.sites[0].mount.as_ref().unwrap().value.as_str(), "/sales/");
        let (id, keys) = &file.apps[0];
        assert_eq!((id.value.as_str(), keys.seats), ("sales-app", Some(20)));
        assert_eq!(keys.max_instances.as_ref().unwrap().value, 3);
        assert_eq!(keys.start_timeout, Some(std::time::Duration::from_secs(90)));
        let told = |says: &str| imported.notes.iter().any(|note| note.text.contains(says));
        assert!(told("instead of `/team/<folder>/`") && told("it is set for one folder of several"));
    }

    #[test]
    fn unknown_directives_are_errors_with_a_place() {
        let imported = import_text("server {\n  lisen 3838;\n  listen nowhere;\n}\n");
        let wrong: Vec<_> =
            imported.notes.iter().map(|note| (note.kind, note.place.line, note.place.column)).collect();
        assert_eq!(wrong, [(Kind::Wrong, 2, 3), (Kind::Wrong, 3, 3)]);
        for nobody in ["required_user", "required_group", "members_of"] {
            let imported = import_text(&format!("server {{\n  listen 3838;\n  {nobody};\n}}\n"));
            assert!(imported.is_wrong(), "`{nobody}` of nobody is no rule that lets all in");
        }
    }
}
