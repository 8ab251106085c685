//! One entry of `proxy.specs`.

use std::collections::BTreeMap;

use super::values::{
    self, Expanded, Facts, canonical, cpus, element_of, expand, expression_in, list, milliseconds, size, text,
};
use super::{App, Draft, fates, idle_timeout, server, takes};
use crate::import::Kind;
use crate::import::yaml::{Key, Node, Value};

/// Nobody is in this group unless somebody puts them there: an app whose rules cannot be carried over stays shut.
const NOBODY: &str = "access-not-carried-over";
const SHUT: &str = "only administrators may open the app until you see to it in what is written";
const NO_NETWORK: &str = "the app joins no network but Skep's own instead of this one";
/// Of a network that is not Skep's own, in which instances are kept from each other.
pub(super) const JOINED: &str =
    "became `container.networks`: joined besides Skep's own network; instances in it reach each other";

/// What can be decided only once every key of the spec was seen.
#[derive(Default)]
struct Pending<'a> {
    image: Option<String>,
    external: bool,
    /// The network it names; one that cannot be carried over is `None`: it does not join the usual one instead.
    network: Option<Option<String>>,
    connections: Vec<String>,
    /// Who may open it, by the key of Skep's; `true`: written element by element.
    named: BTreeMap<&'static str, (bool, Vec<String>)>,
    /// A list of who may open it was left out as a whole.
    shut: bool,
    /// Something that narrows who may open it, or what it may do, cannot be carried over: whoever is named, it stays shut.
    sealed: bool,
    /// Expressions about who may open it; `true`: whoever else may, must meet it, too.
    expressions: Vec<(&'a Key, bool)>,
    min_seats: Option<(&'a Key, u32)>,
    seats: Option<(&'a Key, u32)>,
    reuse: Option<(&'a Key, bool)>,
}

impl Pending<'_> {
    /// What a key narrows must not be wider where its value cannot be carried over. What is done instead, for the report.
    fn withhold(&mut self, name: &str) -> Option<&'static str> {
        match name {
            "containernetwork" => {
                self.network = Some(None);
                Some(NO_NETWORK)
            }
            "dockeruser" => {
                self.sealed = true;
                Some(SHUT)
            }
            _ => None,
        }
    }
}

impl Draft {
    /// Carries over every key of a spec but its `id`. `None`: there is nothing to run, and it was said why.
    pub(super) fn app(&mut self, mut app: App, spec: &Node) -> Option<App> {
        let mut pending = Pending::default();
        let mut seen = BTreeMap::new();
        for (key, value) in spec.entries() {
            let name = canonical(&key.text);
            if let Some(before) = seen.insert(name.clone(), &key.text) {
                self.wrong(key, &format!("is set twice, before as `{before}`"));
                continue;
            }
            match element_of(&name) {
                ("accessgroups", element) => {
                    self.access(&mut pending, "access.groups", element, key, value);
                    continue;
                }
                ("accessusers", element) => {
                    self.access(&mut pending, "access.users", element, key, value);
                    continue;
                }
                _ => {}
            }
            match name.as_str() {
                "id" => {}
                "containerenv" => self.env(&mut app, key, value),
                "containercmd" => self.command(&mut app, key, value),
                "containervolumes" => self.volumes(&mut app, key, value),
                "parameters" => self.parameters(&mut app, &mut pending, key),
                "containerimage" if value.text().is_some_and(|said| expression_in(said).is_some()) => {
                    self.chosen_image(&app, &mut pending, key, value.text().unwrap_or_default());
                }
                "labels" => self.labels(&mut app, key, value),
                "dockerdevicerequests" => self.device_requests(&mut app, key, value),
                "containernetworkconnections" => {
                    pending.connections = self.checked(key, value, "container.networks", &app.of);
                }
                "accessexpression" => pending.expressions.push((key, false)),
                "accessstrictexpression" => pending.expressions.push((key, true)),
                _ if name.trim_start_matches(['.', '[']).starts_with("access") => {
                    pending.sealed = true;
                    self.not_yet(key, &format!("no such rule about who may open it is known here; {SHUT}"));
                }
                _ => match value.text() {
                    Some(said) => self.single(&mut app, &mut pending, &name, key, said),
                    None => self.no_text(&mut pending, &name, key, value),
                },
            }
        }
        let Some(image) = pending.image.take() else {
            let why = match pending.external {
                true => "is an address elsewhere",
                false => "has no `container-image` that can be used",
            };
            self.say(spec.place, Kind::Differs, format!("`{}` {why}; the app is left out", app.id));
            return None;
        };
        app.keys.insert("image", text(&image));
        self.usual_icon(&mut app);
        self.settle(&mut app, pending);
        Some(app)
    }

    /// A key whose value is no text, where one is wanted.
    fn no_text(&mut self, pending: &mut Pending<'_>, name: &str, key: &Key, value: &Node) {
        if name == "containerprivileged" {
            self.not_yet(key, "no container is privileged");
        } else if value.is_empty() && matches!(name, "containernetwork" | "dockeruser") {
            self.without_meaning(key, "it is empty");
        } else if let Some(instead) = pending.withhold(name) {
            self.not_yet(key, &format!("its value is no text; {instead}"));
        } else {
            self.fate_of_all(key, value, fates::of_spec(name));
        }
    }

    fn single<'a>(&mut self, app: &mut App, pending: &mut Pending<'a>, name: &str, key: &'a Key, said: &str) {
        if let Some(found) = expression_in(said) {
            let instead = pending.withhold(name).map(|instead| format!("; {instead}")).unwrap_or_default();
            self.not_yet(key, &format!("`{found}` in it has no counterpart here{instead}"));
            return;
        }
        let whole = || said.trim().parse::<u32>().ok();
        match name {
            "displayname" => self.set(app, "title", text(said.trim()), key),
            "description" => self.set(app, "description", text(said.trim()), key),
            "containerimage" => match said.trim().parse::<skep_docker::Reference>() {
                Ok(_) => {
                    pending.image = Some(said.trim().to_owned());
                    self.kept(key, "`image`");
                }
                Err(error) => self.wrong(key, &error.to_string()),
            },
            "externalurl" => {
                pending.external = true;
                self.not_yet(key, "the portal lists no other addresses");
            }
            "port" => {
                let port = said.trim().parse::<u16>().ok().map(|port| port.to_string());
                self.converted(app, "container.port", port, key);
            }
            "containermemorylimit" => self.converted(app, "limits.memory", size(said).map(|s| text(&s)), key),
            "containercpulimit" => self.converted(app, "limits.cpu", cpus(said), key),
            "containermemoryrequest" if !self.swarm.is_empty() => {
                self.converted(app, "container.reserve.memory", size(said).map(|s| text(&s)), key);
            }
            "containercpurequest" if !self.swarm.is_empty() => {
                self.converted(app, "container.reserve.cpu", cpus(said), key);
            }
            "containernetwork" => match takes("apps.a", "container.networks", &list(&[said.to_owned()])) {
                Ok(()) => {
                    pending.network = Some(Some(said.to_owned()));
                    self.changed(key, JOINED);
                }
                Err(why) => {
                    let instead = pending.withhold(name).unwrap_or_default();
                    self.not_yet(key, &format!("{why}; {instead}"));
                }
            },
            "heartbeattimeout" => match idle_timeout(said) {
                Some((duration, how)) => {
                    app.keys.insert("idle_timeout", duration);
                    self.changed(key, how);
                }
                None => self.wrong(key, "is no number of milliseconds"),
            },
            "containerwaittime" => {
                self.converted(app, "start_timeout", milliseconds(said).map(|ms| text(&ms)), key);
            }
            "maxlifetime" => match values::lifetime(said) {
                Some(lifetime) => {
                    app.keys.insert("max_lifetime", text(&lifetime));
                    self.changed(key, "became `max_lifetime`: whoever is there may finish");
                }
                None => self.wrong(key, "is no number of minutes"),
            },
            "seatspercontainer" | "minimumseatsavailable" => match (name, whole()) {
                ("seatspercontainer", Some(seats @ 1..=100_000)) => pending.seats = Some((key, seats)),
                ("minimumseatsavailable", Some(seats @ 0..=100_000)) => {
                    pending.min_seats = Some((key, seats))
                }
                _ => self.wrong(key, "is no number of seats"),
            },
            "allowcontainerreuse" => pending.reuse = Some((key, said != "false")),
            "maxtotalinstances" => match said.trim().parse::<i64>() {
                Ok(..0) => self.without_meaning(key, "no limit but `max_instances` of `[defaults]`"),
                most => self.converted(app, "max_instances", most.ok().map(|most| most.to_string()), key),
            },
            "maxinstances" => {
                self.converted(app, "max_instances_per_user", values::instances_per_user(said), key);
            }
            "dockeruser" => match takes("apps.a", "container.user", &text(said)) {
                Ok(()) => self.set(app, "container.user", text(said), key),
                Err(why) => {
                    let instead = pending.withhold(name).unwrap_or_default();
                    self.not_yet(key, &format!("{why}; {instead}"));
                }
            },
            "templategroup" => self.section(app, key, said),
            "logourl" => self.icon(app, key, said),
            "stoponlogout" => match server::stop_on_logout(said) {
                Some(stops) => self.set(app, "stop_on_logout", stops.to_owned(), key),
                None => self.wrong(key, "is neither `true` nor `false`"),
            },
            "containerprivileged" if said == "false" => self.kept(key, "no container is privileged"),
            "containerprivileged" => {
                self.not_yet(key, "give back what is needed with `container.capabilities`");
            }
            "adddefaulthttpheaders" if said == "true" => {
                self.kept(key, "`X-SP-UserId` and `X-SP-UserGroups`")
            }
            "adddefaulthttpheaders" => self.not_yet(key, "the headers are sent to every app"),
            _ => self.fate(key, fates::of_spec(name)),
        }
    }

    /// What is asked before it starts. An app that asks is not started without.
    fn parameters(&mut self, app: &mut App, pending: &mut Pending<'_>, key: &Key) {
        let why = match &app.of.asked {
            None => return,
            Some(Err(why)) => why.clone(),
            Some(Ok(asked)) => {
                let (parameters, sets) = asked.write();
                app.keys.insert("parameters", parameters);
                app.keys.insert("parameter_sets", sets);
                for what in &asked.left_out {
                    self.not_yet(key, &format!("left out is {what}"));
                }
                return self
                    .changed(key, "became `parameters` and `parameter_sets` (this goes for all below it)");
            }
        };
        pending.sealed = true;
        self.not_yet(key, &format!("{why}; write `parameters` by hand; {SHUT} (this goes for all below it)"));
    }

    /// An image whose name depends on what is chosen: each that there may be must be one.
    fn chosen_image(&mut self, app: &App, pending: &mut Pending<'_>, key: &Key, said: &str) {
        let wrong = match (expand(said.trim(), &app.of), &app.of.asked) {
            (Expanded::Changed(image), Some(Ok(asked))) => {
                let names = asked.filled(&image);
                match names.iter().find_map(|name| name.parse::<skep_docker::Reference>().err()) {
                    None => {
                        pending.image = Some(image);
                        return self.changed(key, "became `image` with Skep's placeholders");
                    }
                    Some(error) => error.to_string(),
                }
            }
            (Expanded::Not(why), _) => why,
            _ => "what is in it cannot be part of an image's name".to_owned(),
        };
        self.not_yet(key, &wrong);
    }

    fn command(&mut self, app: &mut App, key: &Key, value: &Node) {
        let (mut words, mut changed) = (Vec::new(), false);
        if value.items().iter().any(|item| !matches!(item.value, Value::Text(_))) {
            self.not_yet(key, "not every word of it is a text; the image's own command is run");
            return;
        }
        for said in value.texts() {
            match expand(said, &app.of) {
                Expanded::Plain(word) => words.push(word),
                Expanded::Changed(word) => {
                    changed = true;
                    words.push(word);
                }
                // Half a command is none.
                Expanded::Not(why) => {
                    self.not_yet(key, &format!("{why}; the image's own command is run"));
                    return;
                }
            }
        }
        if words.is_empty() {
            self.says_nothing(key, value);
            return;
        }
        let command = list(&words);
        if changed {
            match takes("apps.a", "command", &command) {
                Ok(()) => {
                    app.keys.insert("command", command);
                    self.changed(key, "became `command` with Skep's placeholders");
                }
                Err(why) => self.not_yet(key, &why),
            }
        } else {
            self.set(app, "command", command, key);
        }
    }

    fn volumes(&mut self, app: &mut App, key: &Key, value: &Node) {
        let mounts = self.checked(key, value, "container.mounts", &app.of);
        if !mounts.is_empty() {
            app.keys.insert("container.mounts", list(&mounts));
        }
    }

    /// The items of a list Skep's config takes; the others are named.
    fn checked(&mut self, key: &Key, value: &Node, target: &'static str, of: &Facts) -> Vec<String> {
        let (mut good, mut changed) = (Vec::new(), false);
        for said in value.texts() {
            let taken = match expand(said, of) {
                Expanded::Plain(item) => Ok(item),
                Expanded::Changed(item) => {
                    changed = true;
                    Ok(item)
                }
                Expanded::Not(why) => Err(why),
            };
            let taken = taken
                .and_then(|item| takes("apps.a", target, &list(std::slice::from_ref(&item))).map(|()| item));
            match taken {
                Ok(item) => good.push(item),
                Err(why) => self.not_yet(key, &format!("\"{said}\" is left out: {why}")),
            }
        }
        if !good.is_empty() && target == "container.networks" {
            self.changed(key, JOINED);
        } else if !good.is_empty() && changed {
            self.changed(key, &format!("became `{target}` with Skep's placeholders"));
        } else if !good.is_empty() {
            self.kept(key, &format!("`{target}`"));
        } else if value.texts().is_empty() {
            self.says_nothing(key, value);
        }
        if value.items().iter().any(|item| item.text().is_none()) {
            self.not_yet(key, "what is no text in it is left out");
        }
        good
    }

    fn says_nothing(&mut self, key: &Key, value: &Node) {
        match value.is_empty() {
            true => self.without_meaning(key, "it is empty"),
            false => self.not_yet(key, "nothing in it can be carried over"),
        }
    }

    /// A list of who may open it, or one element of that list. Only where nothing is said at all does it stay open to all.
    fn access(
        &mut self,
        pending: &mut Pending<'_>,
        target: &'static str,
        element: bool,
        key: &Key,
        value: &Node,
    ) {
        if value.is_empty() && !element {
            self.without_meaning(key, "it is empty");
            return;
        }
        let said: Vec<&str> = match &value.value {
            // What an expression makes of its commas is not known; one element has none that part it.
            Value::Text(text) if element || expression_in(text).is_some() => vec![text.trim()],
            _ if element => Vec::new(),
            _ => value.texts(),
        };
        let (good, left_out): (Vec<&str>, Vec<&str>) = said
            .into_iter()
            .filter(|text| !text.trim().is_empty())
            .partition(|text| expression_in(text).is_none());
        for text in &left_out {
            self.not_yet(key, &format!("\"{text}\" is left out: it has no counterpart"));
        }
        if value.items().iter().any(|item| item.text().is_none()) {
            self.not_yet(key, "what is no text in it is left out");
        }
        if good.is_empty() {
            pending.shut = true;
            self.not_yet(key, "nothing in it can be carried over; whom no other rule names is kept out");
            return;
        }
        let (by_element, names) = pending.named.entry(target).or_insert_with(|| (element, Vec::new()));
        if *by_element != element {
            self.wrong(key, "is set twice: as a list, and element by element");
            return;
        }
        names.extend(good.into_iter().map(str::to_owned));
        self.kept(key, &format!("`{target}`"));
    }

    fn env(&mut self, app: &mut App, key: &Key, value: &Node) {
        if value.entries().is_empty() {
            match value.is_empty() || matches!(value.value, Value::Map(_)) {
                true => self.without_meaning(key, "it is empty"),
                false => self.wrong(key, "is no map of names and values"),
            }
        }
        for (name, node) in value.entries() {
            let said = match &node.value {
                Value::Text(text) => text.as_str(),
                Value::Null => "",
                _ => {
                    self.wrong(name, "is no text");
                    continue;
                }
            };
            let (said, changed) = match expand(said, &app.of) {
                Expanded::Plain(said) => (said, false),
                Expanded::Changed(said) => (said, true),
                Expanded::Not(why) => {
                    self.not_yet(name, &format!("{why}; what is secret belongs under `secrets`"));
                    continue;
                }
            };
            let one = BTreeMap::from([(name.text.clone(), said.clone())]);
            if let Err(why) = takes("apps.a", "env", &values::map(&one)) {
                self.not_yet(name, &why);
                continue;
            }
            app.env.insert(name.text.clone(), said);
            match changed {
                true => self.changed(name, "became an `env` with Skep's placeholders"),
                false => self.kept(name, "an `env`"),
            }
        }
    }

    fn settle(&mut self, app: &mut App, pending: Pending<'_>) {
        let shut = pending.sealed
            || pending.expressions.iter().any(|(_, strict)| *strict)
            || pending.named.is_empty() && (pending.shut || !pending.expressions.is_empty());
        if shut {
            app.keys.insert("access.groups", list(&[NOBODY.to_owned()]));
        } else {
            for (target, (_, names)) in &pending.named {
                app.keys.insert(*target, list(names));
            }
        }
        for (key, _) in &pending.expressions {
            let who = if shut {
                "only administrators may open it until `access.users` or `.groups` are written"
            } else {
                "whoever is named may open it"
            };
            self.not_yet(key, &format!("no access by expression; {who}"));
        }
        let mut networks: Vec<String> = match pending.network {
            Some(network) => network.into_iter().collect(),
            None => self.networks.clone(),
        };
        let inherited = networks == self.networks && pending.connections.is_empty();
        networks.extend(pending.connections);
        networks.dedup();
        if !inherited {
            app.keys.insert("container.networks", list(&networks));
        }
        self.seats(app, pending.min_seats, pending.seats, pending.reuse);
    }

    /// ShinyProxy shares containers among users only where `minimum-seats-available` is set.
    fn seats(
        &mut self,
        app: &mut App,
        min_seats: Option<(&Key, u32)>,
        seats: Option<(&Key, u32)>,
        reuse: Option<(&Key, bool)>,
    ) {
        let Some((min_key, min)) = min_seats else {
            for key in seats.iter().map(|(key, _)| key).chain(reuse.iter().map(|(key, _)| key)) {
                self.without_meaning(key, "without `minimum-seats-available` every user has a container");
            }
            return;
        };
        if let Some((key, false)) = reuse {
            let why =
                "no instance is kept warm for one user only; every user has one, started when they come";
            self.not_yet(min_key, why);
            self.kept(key, "`per_user`");
            if let Some((key, _)) = seats {
                self.kept(key, "`per_user`");
            }
            return;
        }
        let each = seats.map_or(1, |(_, seats)| seats);
        app.keys.insert("per_user", "false".to_owned());
        app.keys.insert("seats", each.to_string());
        if let Some((key, _)) = seats {
            self.kept(key, "`seats`, shared by whoever comes");
        }
        if let Some((key, _)) = reuse {
            self.kept(key, "a seat is given to the next visitor when one has left");
        }
        let most = app.keys.get("max_instances").or(self.defaults.get("max_instances"));
        let most: u32 = most.and_then(|most| most.parse().ok()).unwrap_or(1);
        let room = each.saturating_mul(most);
        if min > room {
            self.not_yet(
                min_key,
                &format!("{most} instances of {each} seats make only {room}; none are kept warm"),
            );
        } else {
            self.set(app, "min_seats", min.to_string(), min_key);
        }
    }

    /// Writes a value, if Skep takes it.
    pub(super) fn set(&mut self, app: &mut App, target: &'static str, value: String, key: &Key) {
        match takes("apps.a", target, &value) {
            Ok(()) => {
                app.keys.insert(target, value);
                self.kept(key, &format!("`{target}`"));
            }
            Err(why) => self.not_yet(key, &why),
        }
    }

    fn converted(&mut self, app: &mut App, target: &'static str, value: Option<String>, key: &Key) {
        match value {
            Some(value) => self.set(app, target, value, key),
            None => {
                self.not_yet(key, &format!("its value has no counterpart for `{target}`; write it by hand"))
            }
        }
    }
}
