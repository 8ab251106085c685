//! What the list of apps looks like: title, logos, groups of apps.

use super::values::{self, canonical, text};
use super::{App, Draft, takes};
use crate::import::yaml::{Key, Node};

const FROM_THERE: &str = "visitors' browsers fetch it from there";
const OF_TEMPLATE: &str = "the file below `template-path`, counted from the folder of the config";

/// What is known of the look before any app is read.
#[derive(Default)]
pub(super) struct Look {
    /// Ids of `template-groups`, in order, and what is written as their titles.
    pub(super) groups: Vec<(String, String)>,
    template_path: Option<String>,
    /// The icon of apps without one of their own.
    default_icon: Option<String>,
    /// Images that stand below `template-path`, which may be said after them.
    logo: Option<(Key, String)>,
    default_logo: Option<(Key, String)>,
}

impl Draft {
    /// One text of the look; `false`: it is about something else.
    pub(super) fn look(&mut self, path: &str, key: &Key, said: &str) -> bool {
        match path {
            "proxy.title" => self.of_portal(key, "title", said),
            "proxy.notificationmessage" if said.contains('<') => {
                self.not_yet(key, "it holds markup; `portal.message` shows plain text");
            }
            "proxy.notificationmessage" => self.of_portal(key, "message", said),
            "proxy.support.mailtoaddress" => self.of_portal(key, "support", said),
            "proxy.logourl" => self.look.logo = Some((key.clone(), said.to_owned())),
            "proxy.defaultapplogourl" => self.look.default_logo = Some((key.clone(), said.to_owned())),
            "proxy.templatepath" => {
                self.look.template_path = Some(said.trim().trim_end_matches('/').to_owned());
                self.not_yet(key, "pages are Skep's own; `[portal]` has a title, a logo and sections");
            }
            "proxy.landingpage" if said.trim() == "/" => self.kept(key, "the portal"),
            _ => return false,
        }
        true
    }

    fn of_portal(&mut self, key: &Key, target: &'static str, said: &str) {
        let value = text(said.trim());
        match takes("portal", target, &value) {
            Ok(()) => {
                self.portal.insert(target, value);
                self.kept(key, &format!("`portal.{target}`"));
            }
            Err(why) => self.not_yet(key, &why),
        }
    }

    /// Once everything beside the apps was read, in whatever order.
    pub(super) fn images(&mut self) {
        if let Some((key, said)) = self.look.logo.take() {
            match self.image("portal", "logo", &said) {
                Ok((logo, how)) => {
                    self.portal.insert("logo", logo);
                    self.kept(&key, &format!("`portal.logo`; {how}"));
                }
                Err(why) => self.not_yet(&key, &why),
            }
        }
        if let Some((key, said)) = self.look.default_logo.take() {
            match self.image("apps.a", "icon", &said) {
                Ok((icon, how)) => {
                    self.look.default_icon = Some(icon);
                    self.changed(&key, &format!("became the `icon` of every app without one; {how}"));
                }
                Err(why) => self.not_yet(&key, &why),
            }
        }
    }

    /// `proxy.template-groups`: sections of the portal.
    pub(super) fn template_groups(&mut self, key: &Key, value: &Node) {
        if value.is_empty() {
            self.without_meaning(key, "it is empty");
        } else if value.items().is_empty() {
            self.wrong(key, "is no list of groups");
        }
        for group in value.items() {
            self.template_group(key, group);
        }
    }

    fn template_group(&mut self, list: &Key, group: &Node) {
        let entry = |wanted: &str| group.entries().iter().find(|(key, _)| canonical(&key.text) == wanted);
        let Some((key, id)) = entry("id").and_then(|(key, id)| Some((key, id.text()?))) else {
            self.wrong(list, "holds a group without an `id`");
            return;
        };
        if self.look.groups.iter().any(|(known, _)| known == id) {
            self.wrong(key, &format!("names a group `{id}` for the second time"));
            return;
        }
        let mut title = text(id);
        let table = format!("portal.sections.{}", values::key(id));
        if let Err(why) = takes(&table, "title", &title) {
            self.not_yet(key, &why);
            return;
        }
        self.kept(key, &format!("`[{table}]`"));
        for (name, node) in group.entries() {
            match canonical(&name.text).as_str() {
                "id" => {}
                "properties" => {
                    for (name, node) in node.entries() {
                        self.group_property(&table, name, node, &mut title);
                    }
                }
                _ => self.without_meaning(name, "a group has an id and properties"),
            }
        }
        self.look.groups.push((id.to_owned(), title));
    }

    fn group_property(&mut self, table: &str, key: &Key, value: &Node, title: &mut String) {
        let said = value.text().map(|said| text(said.trim()));
        match (canonical(&key.text).as_str(), said) {
            ("displayname", Some(said)) => match takes(table, "title", &said) {
                Ok(()) => {
                    *title = said;
                    self.kept(key, "its `title`");
                }
                Err(why) => self.not_yet(key, &why),
            },
            ("displayname", None) => self.not_yet(key, "its value is no text"),
            _ => self.without_meaning(key, "only templates of one's own read it"),
        }
    }

    /// `template-group` of an app.
    pub(super) fn section(&mut self, app: &mut App, key: &Key, said: &str) {
        let section = text(said.trim());
        if let Err(why) = takes("apps.a", "section", &section) {
            self.not_yet(key, &why);
            return;
        }
        app.keys.insert("section", section);
        if self.look.groups.iter().any(|(id, _)| id == said.trim()) {
            self.kept(key, "`section`");
        } else {
            let how = "became `section`; none of the `template-groups` is called so, and ShinyProxy lists it nowhere";
            self.changed(key, how);
        }
    }

    /// `logo-url` of an app.
    pub(super) fn icon(&mut self, app: &mut App, key: &Key, said: &str) {
        match self.image("apps.a", "icon", said) {
            Ok((icon, how)) => {
                app.keys.insert("icon", icon);
                self.kept(key, &format!("`icon`; {how}"));
            }
            Err(why) => self.not_yet(key, &why),
        }
    }

    pub(super) fn usual_icon(&self, app: &mut App) {
        if let Some(icon) = &self.look.default_icon {
            app.keys.entry("icon").or_insert_with(|| icon.clone());
        }
    }

    /// An image's address as Skep writes it, and what is to be known of it; or why it cannot be had.
    fn image(&self, table: &str, target: &'static str, said: &str) -> Result<(String, &'static str), String> {
        let said = said.trim();
        let lower = said.to_ascii_lowercase();
        let (image, how) = if lower.starts_with("http://") || lower.starts_with("https://") {
            (said.to_owned(), FROM_THERE)
        } else if lower.starts_with("file://") {
            (said["file://".len()..].to_owned(), "the file on this machine")
        } else if lower.starts_with("classpath:") {
            return Err("it lies in ShinyProxy's own archive; name a file or an address".to_owned());
        } else if let (true, Some(folder)) = (said.starts_with("/assets/"), &self.look.template_path) {
            (format!("{}{said}", folder.trim_start_matches("./")), OF_TEMPLATE)
        } else {
            return Err("ShinyProxy itself serves it; name a file or an address".to_owned());
        };
        let image = text(&image);
        takes(table, target, &image).map(|()| (image, how))
    }
}
