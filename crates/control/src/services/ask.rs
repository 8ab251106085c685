//! What is asked for on behalf of an ordinary service: by its labels, or by the server's config. Pure.

use std::time::Duration;

use serde_json::{Map, Value};
use skep_edge::Spread;
use skep_model::{
    Access, AppId, AppSpec, BackendKind, Framework, Health, Hold, Limits, Place, Prefix, Revision, Source,
};

/// Where a service says that it wants to be published. All further labels begin with `skep.`, too.
pub const ROUTE_LABEL: &str = "skep.route";

const LABELS: [&str; 12] = [
    ROUTE_LABEL,
    "skep.port",
    "skep.id",
    "skep.title",
    "skep.balance",
    "skep.sticky",
    "skep.wake",
    "skep.strip",
    "skep.access.users",
    "skep.access.groups",
    "skep.access.anyone",
    "skep.allowed_origins",
];

/// A service and how it is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAsk {
    /// Its name in logs and figures.
    pub id: AppId,
    /// The service's name in the Swarm.
    pub service: String,
    pub place: Place,
    /// The port its tasks answer at.
    pub port: u16,
    pub title: Option<String>,
    pub spread: Spread,
    pub sticky: bool,
    /// Scaled to zero, it is scaled to so many tasks by the first request.
    pub wake: Option<u32>,
    pub prefix: Prefix,
    pub access: Access,
    pub allowed_origins: Vec<String>,
    /// How long a request waits for a first task.
    pub patience: Duration,
}

/// When nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A service that is woken must be scheduled and boot.
pub const WAKE_PATIENCE: Duration = Duration::from_secs(60);

impl ServiceAsk {
    /// What the labels of the service `service` say; `None` when it does not want to be published.
    ///
    /// # Errors
    /// The label that is wrong, and how to mend it.
    pub(super) fn of_labels(service: &str, labels: &Map<String, Value>) -> Option<Result<Self, String>> {
        let text = |name: &str| labels.get(name).and_then(Value::as_str).map(str::trim);
        let place = text(ROUTE_LABEL)?;
        // A misspelt rule must not be no rule.
        let unknown =
            labels.keys().find(|name| name.starts_with("skep.") && !LABELS.contains(&name.as_str()));
        let asked = match unknown {
            Some(name) => Err(format!("there is no label `{name}`; there are {}", LABELS.join(", "))),
            None => Self::read(service, place, &text),
        };
        Some(asked.map_err(|wrong| format!("the service `{service}`: {wrong}")))
    }

    fn read<'a>(service: &str, place: &str, text: &impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let place = place.parse::<Place>().map_err(|bad| format!("label `{ROUTE_LABEL}`: {bad}"))?;
        let port = text("skep.port").ok_or("label `skep.port` is missing: the port its tasks answer at")?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or("label `skep.port` is no port from 1 to 65535")?;
        let flag = |name: &str| match text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(format!("label `{name}` is neither `true` nor `false`")),
        };
        // Said and empty is a mistake (a variable that is not set), and would open what it was to close.
        let list = |name: &str| -> Result<Vec<String>, String> {
            let Some(said) = text(name) else { return Ok(Vec::new()) };
            let words: Vec<String> = said.split(',').map(|word| word.trim().to_owned()).collect();
            if words.iter().any(String::is_empty) {
                return Err(format!("label `{name}` holds an empty name"));
            }
            Ok(words)
        };
        let spread = match text("skep.balance") {
            None | Some("round-robin") => Spread::RoundRobin,
            Some("least-load") => Spread::LeastLoad,
            Some(_) => {
                return Err("label `skep.balance` is neither `round-robin` nor `least-load`".to_owned());
            }
        };
        let wake = match text("skep.wake") {
            None | Some("false") => None,
            Some("true") => Some(1),
            Some(number) => match number.parse::<u32>() {
                Ok(tasks @ 1..=1000) => Some(tasks),
                _ => return Err("label `skep.wake` is neither `true` nor a number of tasks".to_owned()),
            },
        };
        let access = Access {
            users: list("skep.access.users")?,
            groups: list("skep.access.groups")?,
            anyone: flag("skep.access.anyone")?,
        };
        let id = match text("skep.id") {
            Some(id) => id.parse().map_err(|bad| format!("label `skep.id`: {bad}"))?,
            None => id_of(service)?,
        };
        Ok(Self {
            id,
            service: service.to_owned(),
            place,
            port,
            title: text("skep.title").filter(|title| !title.is_empty()).map(str::to_owned),
            spread,
            sticky: flag("skep.sticky")?,
            wake,
            prefix: if flag("skep.strip")? { Prefix::Strip } else { Prefix::Keep },
            access,
            allowed_origins: list("skep.allowed_origins")?,
            patience: if wake.is_some() { WAKE_PATIENCE } else { PATIENCE },
        })
    }

    /// As the edge knows it: an app without instances of ours.
    pub(super) fn spec(&self) -> AppSpec {
        AppSpec {
            id: self.id.clone(),
            mount: self.place.mount.clone(),
            title: self.title.clone().unwrap_or_else(|| self.service.clone()),
            description: String::new(),
            icon: None,
            section: None,
            framework: Framework::Command,
            prefix: self.prefix,
            source: Source::Service(self.service.clone()),
            backend: BackendKind::Swarm,
            revision: Revision(0),
            command: None,
            env: Default::default(),
            secrets: Default::default(),
            seats: 1,
            min_seats: 0,
            max_instances: 1,
            per_user: false,
            max_instances_per_user: 1,
            parameters: skep_model::Parameters::default(),
            stop_on_logout: false,
            start_timeout: self.patience,
            idle_timeout: Duration::ZERO,
            inactivity_timeout: None,
            max_lifetime: None,
            max_waiting: 1,
            health: Health { path: "/".to_owned(), strict: false },
            access: self.access.clone(),
            allowed_origins: self.allowed_origins.clone(),
            limits: Limits::default(),
            run_as: None,
            hold: Hold::Wait,
        }
    }
}

/// A service's name as an id: `Shop_Web.2` → `shop_web-2`.
fn id_of(service: &str) -> Result<AppId, String> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '-') => c,
        _ => '-',
    };
    let text: String = service.chars().map(plain).take(60).collect();
    let id = text.trim_start_matches(['_', '-']).parse();
    id.map_err(|_| "its name makes no id; give it one with the label `skep.id`".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(labels: Value) -> Option<Result<ServiceAsk, String>> {
        ServiceAsk::of_labels("stack_Web.1", labels.as_object().unwrap())
    }

    #[test]
    fn labels_say_where_and_how() {
        assert_eq!(read(json!({"skep.port": "80"})), None);
        let ask = read(json!({"skep.route": "shop.example.org", "skep.port": "80"})).unwrap().unwrap();
        assert_eq!(
            (ask.id.as_str(), ask.place.to_string().as_str(), ask.port),
            ("stack_web-1", "shop.example.org/", 80)
        );
        assert_eq!(
            (ask.spread, ask.sticky, ask.wake, ask.prefix),
            (Spread::RoundRobin, false, None, Prefix::Keep)
        );
        assert_eq!(ask.access, Access::default(), "whoever is logged in");
        let ask = read(json!({
            "skep.route": "/shop/", "skep.port": " 8080 ", "skep.balance": "least-load", "skep.sticky": "true", "skep.wake": "3",
            "skep.strip": "true", "skep.access.users": "ada, bob", "skep.access.groups": "staff", "skep.access.anyone": "false",
            "skep.title": "The shop", "other": 7,
        }));
        let ask = ask.unwrap().unwrap();
        assert_eq!(
            (ask.spread, ask.sticky, ask.wake, ask.prefix),
            (Spread::LeastLoad, true, Some(3), Prefix::Strip)
        );
        assert_eq!(ask.access.users, ["ada", "bob"]);
        assert_eq!((ask.spec().title.as_str(), ask.spec().mount.as_str()), ("The shop", "/shop/"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value, says) in [
            ("skep.route", "https://shop", "label `skep.route`: `https://shop` is no place"),
            ("skep.port", "0", "`skep.port` is no port"),
            ("skep.sticky", "yes", "`skep.sticky` is neither"),
            ("skep.access.anyone", "1", "`skep.access.anyone` is neither"),
            ("skep.balance", "random", "`skep.balance` is neither"),
            ("skep.wake", "0", "`skep.wake` is neither"),
            ("skep.access.groups", "", "`skep.access.groups` holds an empty name"),
            ("skep.access.users", "ada,", "`skep.access.users` holds an empty name"),
            ("skep.access.group", "staff", "there is no label `skep.access.group`"),
        ] {
            let mut labels = json!({"skep.route": "/shop/", "skep.port": "80"});
            labels[name] = value.into();
            let said = read(labels).unwrap().unwrap_err();
            assert!(said.contains(says) && said.contains("stack_Web.1"), "{said}");
        }
        assert!(
            read(json!({"skep.route": "/shop/"})).unwrap().unwrap_err().contains("`skep.port` is missing")
        );
    }

    #[test]
    fn a_name_is_an_id_or_there_is_a_label() {
        for (name, id) in [("web", "web"), ("__x", "x"), ("A b", "a-b")] {
            assert_eq!(id_of(name).unwrap().as_str(), id);
        }
        assert!(id_of("---").unwrap_err().contains("`skep.id`"));
        let ask = read(json!({"skep.route": "/", "skep.port": "80", "skep.id": "shop"})).unwrap().unwrap();
        assert_eq!(ask.id.as_str(), "shop");
        let said = read(json!({"skep.route": "/", "skep.port": "80", "skep.id": "_"})).unwrap().unwrap_err();
        assert!(said.contains("label `skep.id`"), "{said}");
    }
}
