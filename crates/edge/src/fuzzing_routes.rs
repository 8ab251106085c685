//! Finding the app of a path, against a model that is slow and plain.

#![allow(clippy::expect_used, reason = "a broken promise shall end the fuzzer")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use skep_model::{
    Access, AppId, AppSpec, BackendKind, Framework, Health, Hold, Limits, Mount, Prefix, Revision, Source,
};
use tokio::sync::watch;

use crate::routes::{Found, RouteTable};
use crate::services::ServiceRoute;

/// The name one of the services is published under.
const SHOP: &str = "shop.example.org";
/// Ids and mount paths; the last two are services, the very last one under a name of its own.
const PLACES: [(&str, &str); 5] =
    [("home", "/"), ("a", "/a/"), ("own", "/own/"), ("deep", "/a/b/c/"), ("shop", "/a/")];

fn spec(id: &str, mount: &str) -> AppSpec {
    let id: AppId = id.parse().expect("an id");
    AppSpec {
        mount: Mount::of_path(mount).expect("a path"),
        title: String::new(),
        description: String::new(),
        icon: None,
        section: None,
        framework: Framework::Command,
        prefix: Prefix::Strip,
        source: Source::Folder { dir: "/nowhere".into(), entry: None },
        backend: BackendKind::Process,
        revision: Revision(1),
        command: None,
        env: Default::default(),
        secrets: Default::default(),
        seats: 1,
        min_seats: 0,
        max_instances: 1,
        per_user: id.as_str() == "own",
        max_instances_per_user: 3,
        parameters: Default::default(),
        stop_on_logout: false,
        start_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        inactivity_timeout: None,
        max_lifetime: None,
        max_waiting: 1,
        health: Health { path: "/".to_owned(), strict: false },
        access: Access::default(),
        allowed_origins: Vec::new(),
        limits: Limits::default(),
        run_as: None,
        hold: Hold::Page,
        id,
    }
}

fn service(spec: AppSpec, host: Option<&str>) -> Arc<ServiceRoute> {
    let targets = watch::channel(Arc::from(Vec::new())).1;
    Arc::new(ServiceRoute::new(Arc::new(spec), host.map(str::to_owned), targets))
}

fn table() -> &'static RouteTable {
    static TABLE: OnceLock<RouteTable> = OnceLock::new();
    TABLE.get_or_init(|| {
        let [home, a, own, deep, shop] = PLACES.map(|(id, mount)| spec(id, mount));
        let apps = [home, a, own].map(Arc::new);
        RouteTable::with_services(&apps, &[service(deep, None), service(shop, Some(SHOP))])
    })
}

/// The longest mount path that the path lies in; `None` for one without its last slash.
fn longest(path: &str, places: &[(&'static str, &str)]) -> Option<&'static str> {
    let within = places.iter().filter(|(_, mount)| path.starts_with(mount) || format!("{path}/") == **mount);
    let (id, mount) = within.max_by_key(|(_, mount)| mount.len())?;
    path.starts_with(mount).then_some(*id)
}

/// `path` is normal and begins with a slash.
pub(crate) fn check(path: &str) {
    for host in ["apps.example.org", SHOP, "SHOP.example.ORG"] {
        let of_the_shop = host.eq_ignore_ascii_case(SHOP);
        let found = table().find(host, path);
        let id = match &found {
            Some(Found::App(route)) => Some(route.spec.id.as_str()),
            Some(Found::Named(route) | Found::Misnamed(route, _)) => Some(route.spec.id.as_str()),
            Some(Found::Slash) | None => None,
        };
        assert!(of_the_shop || id != Some("shop"), "{path} leads to another name's service");
        if path.contains('~') {
            continue;
        }
        let (general, own) = PLACES.split_at(PLACES.len() - 1);
        let at_the_shop = of_the_shop
            .then(|| own.iter().any(|(_, mount)| path.starts_with(mount) || format!("{path}/") == *mount));
        let expected = longest(path, if at_the_shop == Some(true) { own } else { general });
        assert_eq!(id, expected, "{path} at {host}: {found:?}");
    }
}
