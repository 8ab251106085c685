//! Everything outside of `proxy.specs`.

use std::collections::BTreeSet;

use skep_model::UserName;

use super::app::JOINED;
use super::values::{self, canonical, expression_in, text};
use super::{Draft, fates, idle_timeout, takes};
use crate::import::yaml::{Key, Node};
use crate::import::{Kind, Place};

/// One of `proxy.users`.
pub(super) struct User {
    place: Place,
    name: String,
    groups: Vec<String>,
}

/// Who administers.
#[derive(Default)]
pub(super) struct Admins {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Draft {
    /// One setting; `path` is where it stands, in canonical writing.
    pub(super) fn setting(&mut self, path: &str, key: &Key, value: &Node) {
        match path {
            "proxy.specs" => self.specs.push((key.clone(), value.clone())),
            // It might be a rule about who may open one of them.
            _ if path.starts_with("proxy.specs") => {
                self.wrong(key, "is not within the list of `specs`; write it there");
            }
            _ if is_authentication(path) => self.authentication(path, key, value),
            "proxy.users" => self.users(key, value),
            "proxy.templategroups" => self.template_groups(key, value),
            "proxy.admingroups" => {
                self.admins.groups.extend(plain_texts(value));
                self.changed(key, "their members are added as administrators, see `users`");
            }
            "proxy.adminusers" => {
                self.admins.users.extend(plain_texts(value));
                self.changed(key, "they are added as administrators, see `users`");
            }
            _ => match value.text() {
                Some(said) => match expression_in(said) {
                    Some(found) => {
                        self.only_here |= path == "proxy.bindaddress";
                        self.not_yet(key, &format!("`{found}` in it is not known here"));
                    }
                    None => self.one_text(path, key, said),
                },
                None if path == "proxy.bindaddress" && !value.is_empty() => {
                    self.only_here = true;
                    self.not_yet(key, "its value is no address; Skep listens on this machine only");
                }
                None => self.fate_of_all(key, value, fates::of_setting(path)),
            },
        }
    }

    fn one_text(&mut self, path: &str, key: &Key, said: &str) {
        if self.look(path, key, said) {
            return;
        }
        match path {
            "proxy.port" => match said.trim().parse() {
                Ok(port) => self.port = Some((key.clone(), port)),
                Err(_) => self.wrong(key, "is no port"),
            },
            "proxy.bindaddress" => self.host = Some((key.clone(), said.trim().to_owned())),
            "proxy.heartbeattimeout" => match idle_timeout(said) {
                Some((duration, how)) => {
                    self.defaults.insert("idle_timeout", duration);
                    self.changed(key, &format!("{how}, in `[defaults]`"));
                }
                None => self.wrong(key, "is no number of milliseconds"),
            },
            "proxy.containerwaittime" => match values::milliseconds(said) {
                Some(duration) => {
                    self.default(key, "start_timeout", text(&duration), "fetching an image does not count")
                }
                None => self.wrong(key, "is no number of milliseconds"),
            },
            "proxy.defaultproxymaxlifetime" => match values::lifetime(said) {
                Some(lifetime) => {
                    self.default(key, "max_lifetime", text(&lifetime), "whoever is there may finish");
                }
                None => self.wrong(key, "is no number of minutes"),
            },
            "proxy.defaultmaxinstances" => match values::instances_per_user(said) {
                Some(most) => self.default(key, "max_instances_per_user", most, "of each app"),
                None => self.wrong(key, "is no number of instances"),
            },
            "proxy.defaultstopproxyonlogout" => match stop_on_logout(said) {
                Some(stops) => self.default(key, "stop_on_logout", stops.to_owned(), "for every app"),
                None => self.wrong(key, "is neither `true` nor `false`"),
            },
            "proxy.maxtotalinstances" => {
                let Ok(most) = said.trim().parse::<i64>() else {
                    self.wrong(key, "is no number");
                    return;
                };
                let written = most.to_string();
                match (most, takes("server", "max_instances", &written)) {
                    (..0, _) => self.without_meaning(key, "up to `server.max_instances`, 200 if not set"),
                    (_, Ok(())) => {
                        self.server.insert("max_instances", written);
                        self.kept(key, "`server.max_instances`");
                    }
                    (_, Err(why)) => self.wrong(key, &why),
                }
            }
            "proxy.containerbackend" => match said {
                "docker" => self.kept(key, "an app with an `image` runs on Docker"),
                "docker-swarm" => {
                    self.swarm.insert("join_secret_file", text(&self.join_secret));
                    self.changed(
                        key,
                        "`[swarm]`; every node needs an agent and this secret, see docs/swarm.md",
                    );
                }
                _ => self.not_yet(key, "apps run on this machine's Docker Engine"),
            },
            "proxy.docker.url" => self.engine(key, said),
            "proxy.docker.certpath" => self.certificates(key, said),
            "proxy.docker.imagepullpolicy" => match values::pull(said) {
                Some(pull) => self.default(key, "container.pull", text(pull), "for every app"),
                None => self.wrong(key, "is no pull policy"),
            },
            "proxy.docker.defaultcontainernetwork" => {
                match takes("defaults", "container.networks", &values::list(&[said.to_owned()])) {
                    Ok(()) => {
                        self.networks = vec![said.to_owned()];
                        self.changed(key, JOINED);
                    }
                    Err(why) => self.not_yet(key, &why),
                }
            }
            "proxy.docker.privileged" if said == "false" => self.kept(key, "no container is privileged"),
            _ => self.fate(key, fates::of_setting(path)),
        }
    }

    /// Only a plain `none` leaves out the login.
    fn authentication(&mut self, path: &str, key: &Key, value: &Node) {
        if path == "proxy.authentication" && value.text() == Some("none") {
            self.kept(key, "`auth.provider`");
            return;
        }
        self.auth.insert("provider", text("local"));
        match value.text() {
            Some("simple") => self.kept(key, "`auth.provider = \"local\"`"),
            Some(other) => {
                self.not_yet(key, &format!("\"{other}\"; people log in as users of Skep's own until then"));
            }
            None => self.not_yet(key, "its value is no text; people log in as users of Skep's own"),
        }
    }

    /// Writes into `[defaults]`, if Skep takes it.
    fn default(&mut self, key: &Key, target: &'static str, value: String, aside: &str) {
        match takes("defaults", target, &value) {
            Ok(()) => {
                self.defaults.insert(target, value);
                self.kept(key, &format!("`{target}` in `[defaults]`; {aside}"));
            }
            Err(why) => self.not_yet(key, &why),
        }
    }

    fn engine(&mut self, key: &Key, url: &str) {
        let host = url.replacen("http://", "tcp://", 1).replacen("https://", "tcp://", 1);
        let host = text(host.trim_end_matches('/'));
        match takes("docker", "host", &host) {
            Ok(()) => {
                self.docker.insert("host", host);
                self.changed(key, "became `docker.host`; the engine must be this machine's");
            }
            Err(why) => self.not_yet(key, &why),
        }
    }

    fn certificates(&mut self, key: &Key, folder: &str) {
        let file = |name: &str| text(&format!("{}/{name}.pem", folder.trim_end_matches('/')));
        for (target, name) in [("tls.ca", "ca"), ("tls.cert", "cert"), ("tls.key", "key")] {
            self.docker.insert(target, file(name));
        }
        self.kept(key, "`docker.tls`: ca.pem, cert.pem and key.pem in that folder");
    }

    fn users(&mut self, key: &Key, value: &Node) {
        if value.items().is_empty() {
            self.wrong(key, "is no list of users");
        }
        for user in value.items() {
            let find = |wanted: &str| {
                user.entries().iter().find(|(key, _)| canonical(&key.text) == wanted).map(|(_, node)| node)
            };
            let Some(name) = find("name").and_then(Node::text) else {
                self.say(user.place, Kind::Wrong, "`users`: one has no `name`".to_owned());
                continue;
            };
            let groups = find("groups").map(Node::texts).unwrap_or_default();
            let groups = groups.into_iter().filter(|group| !group.is_empty()).map(str::to_owned).collect();
            self.users.push(User { place: user.place, name: name.to_owned(), groups });
        }
    }

    /// Says for each user what to type, once it is known who administers.
    pub(super) fn tell_users(&mut self) {
        for User { place, name, groups } in std::mem::take(&mut self.users) {
            if name.parse::<UserName>().is_err()
                || groups.iter().any(|group| group.parse::<UserName>().is_err())
            {
                let text = "`users`: not yet: a name or group of this one is none Skep takes".to_owned();
                self.say(place, Kind::Differs, text);
                continue;
            }
            let admin =
                self.admins.users.contains(&name) || groups.iter().any(|g| self.admins.groups.contains(g));
            let mut command = format!("skep user add {}", shell_word(&name));
            if admin {
                command.push_str(" --admin");
            }
            if !groups.is_empty() {
                command.push_str(&format!(" --groups {}", shell_word(&groups.join(","))));
            }
            let text = format!("`users`: changed: passwords are not carried over; run `{command}`");
            self.say(place, Kind::Differs, text);
        }
    }

    pub(super) fn has_login(&self) -> bool {
        self.auth.get("provider").is_some_and(|provider| provider.contains("local"))
    }

    pub(super) fn listen(&mut self) {
        let login = self.has_login();
        let (host, port) = (self.host.take(), self.port.take());
        let wanted = host.as_ref().map_or("0.0.0.0", |(_, host)| host.as_str());
        // Without a login Skep would refuse to start on an address others can reach.
        let on = if login && !self.only_here { wanted } else { "127.0.0.1" };
        let on = if on.contains(':') { format!("[{on}]") } else { on.to_owned() };
        let address =
            format!("[{}]", text(&format!("{on}:{}", port.as_ref().map_or(8080, |(_, port)| *port))));
        if let Err(why) = takes("server", "listen", &address) {
            if let Some((key, _)) = &host {
                self.wrong(key, &why);
            }
            return;
        }
        self.server.insert("listen", address);
        for key in host.iter().map(|(key, _)| key).chain(port.iter().map(|(key, _)| key)) {
            if login {
                self.kept(
                    key,
                    "`server.listen`; passwords want HTTPS: `server.tls`, or `server.trusted_proxies`",
                );
            } else {
                self.changed(key, "became `server.listen` on this machine only, as there is no login");
            }
        }
    }
}

/// A truth value as Spring reads it.
pub(super) fn stop_on_logout(said: &str) -> Option<&'static str> {
    match said.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some("true"),
        "false" | "off" | "no" | "0" => Some("false"),
        _ => None,
    }
}

/// `proxy.authentication`, and whatever is below or within it.
fn is_authentication(path: &str) -> bool {
    let rest = path.strip_prefix("proxy.authentication");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The texts of a list, without what an expression would make of others.
fn plain_texts(value: &Node) -> Vec<String> {
    let whole = value.text().and_then(expression_in).is_some();
    let texts = value.texts().into_iter().filter(|text| !whole && expression_in(text).is_none());
    texts.map(str::to_owned).collect()
}

/// One word for a shell, whatever is in it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ',' | '@' | '+');
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
