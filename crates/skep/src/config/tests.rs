//! Config as a whole: folders and files in, specs and messages out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use skep_model::{BackendKind, Framework, Icon, Source};

use super::*;

fn messages(text: &str) -> Vec<String> {
    match ServerFile::parse(Path::new("skep.toml"), text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn load(dir: &Path) -> Config {
    Loader::new(None, vec![dir.to_owned()]).load(&Dirty::All).unwrap()
}

fn ids(config: &Config) -> Vec<&str> {
    config.apps.iter().map(|app| app.id.as_str()).collect()
}

#[test]
fn every_mistake_has_a_place_a_key_and_a_mend() {
    let text = r#"
[server]
listen = "nowhere"
trusted_proxies = ["10.0.0.0/8", "10.0.0.0/99"]
acess_log = "json"
tls.cert = "a.pem"

[auth]
provider = "oidc"

[[sites]]
mount = "/a/b/"

[defaults]
idle_timeout = "5 minutes"
title = "x"

[apps.sales]
seats = "ten"
idel_timeout = "5m"
limits.memory = "lots"
env = { "1X" = "a" }

[apps.Bad]
"#;
    let expected = [
        "skep.toml:3:10: `server.listen`: is \"nowhere\", which is no address with a port; write an address and port like \
         \"127.0.0.1:8080\" or \"[::]:443\"",
        "skep.toml:4:34: `server.trusted_proxies`: is \"10.0.0.0/99\", which is no address or network; write an address \
         or a network like \"10.0.0.0/8\"",
        "skep.toml:5:1: `server.acess_log`: is not a key Skep knows; did you mean `access_log`?",
        "skep.toml:6:12: `server.tls.cert`: has no `tls.key` beside it; name the file of its private key",
        "skep.toml:9:12: `auth.provider`: is \"oidc\", which this version of Skep does not have; write \"none\" or \
         \"local\"; other providers come with a later version",
        "skep.toml:11:1: `sites[0]`: has no `path`; name an app's folder, or a folder of apps",
        "skep.toml:12:9: `sites[0].mount`: is \"/a/b/\"; a mount has one part made of a-z, 0-9, `_` and `-`, starting with \
         a letter or a digit; write \"/\" or \"/name/\"",
        "skep.toml:15:16: `defaults.idle_timeout`: is \"5 minutes\", which is no duration; write a duration like \
         `idle_timeout = \"5m\"` or \"1h30m\"",
        "skep.toml:16:9: `defaults.title`: belongs to one app and cannot be a default; set it in `[apps.<id>]`",
        "skep.toml:19:9: `apps.sales.seats`: is \"ten\", expected a whole number from 1 to 1000000; write a whole number \
         from 1 to 1000000",
        "skep.toml:20:1: `apps.sales.idel_timeout`: is not a key Skep knows; did you mean `idle_timeout`?",
        "skep.toml:21:17: `apps.sales.limits.memory`: is \"lots\", which is no size; write a size like `memory = \"512MiB\"`",
        "skep.toml:22:9: `apps.sales.env.1X`: is no name of an environment variable; give it another name",
        "skep.toml:24:7: `apps.Bad`: `Bad` is not an app id: use 1 to 63 of a-z, 0-9, `_` and `-`, starting with a letter or \
         a digit (for example `sales-report`)",
    ];
    let found = messages(text);
    for (line, expected) in expected.iter().enumerate() {
        assert_eq!(found.get(line).map(String::as_str), Some(*expected), "all: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn broken_toml_is_placed_too() {
    let found = messages("[server]\nlisten = \n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("skep.toml:2:"), "{found:?}");
    assert!(found[0].contains("is not valid TOML"), "{found:?}");
    let found = messages("[server]\nworkers = 1\nworkers = 2\n");
    assert!(found[0].starts_with("skep.toml:3:"), "{found:?}");
}

#[test]
fn a_good_file_is_read_in_full() {
    let text = r#"
[server]
listen = ["0.0.0.0:80", "[::]:443"]
public_url = "https://Apps.example.org:8443/"
tls = { cert = "c.pem", key = "k.pem" }
access_log = "common"
limits = { header_timeout = "10s" }
[auth]
provider = "none"
[[sites]]
path = "apps"
[defaults]
seats = 7
[apps.one]
command = "run --port {port}"
access.anyone = true
limits = { cpu = 0.5, memory = "1GiB", pids = 100 }
inactivity_timeout = "never"
hold = "wait"
"#;
    let file = ServerFile::parse(Path::new("/etc/skep/skep.toml"), text).unwrap();
    assert_eq!(file.server.listen.len(), 2);
    assert_eq!(file.server.public_url.as_ref().unwrap().host(), "apps.example.org");
    assert_eq!(file.server.tls.as_ref().unwrap().cert, Path::new("/etc/skep/c.pem"));
    assert_eq!(file.server.limits.header_timeout, Duration::from_secs(10));
    assert_eq!(file.sites[0].path, Path::new("/etc/skep/apps"));
    assert_eq!(file.defaults.seats, Some(7));
    let (id, keys) = &file.apps[0];
    assert_eq!(id.value.as_str(), "one");
    assert_eq!(keys.command.as_ref().unwrap()[..], ["run", "--port", "{port}"]);
    assert_eq!((keys.cpu_millis, keys.memory, keys.pids), (Some(500), Some(1 << 30), Some(100)));
    assert_eq!(keys.inactivity_timeout, Some(None));
}

#[test]
fn layers_win_in_their_order_and_merge_env() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "apps/one/skep.toml",
        "command = [\"own\"]\nseats = 3\nenv = { A = \"own\", B = \"own\" }\n",
    );
    write(dir.path(), "apps/two/skep.toml", "command = [\"two\"]\n");
    let config = "[[sites]]\npath = \"apps\"\n[defaults]\nseats = 2\nmax_waiting = 9\nenv = { A = \"low\", C = \"low\" }\n\
                  [apps.one]\nenv = { B = \"top\" }\ntitle = \"One!\"\n[apps.tow]\nseats = 1\n";
    write(dir.path(), "skep.toml", config);
    let config = Loader::new(Some(dir.path().join("skep.toml")), vec![]).load(&Dirty::All).unwrap();
    assert_eq!(ids(&config), ["one", "two"]);
    let (one, two) = (&config.apps[0], &config.apps[1]);
    assert_eq!((one.seats, two.seats, one.max_waiting), (3, 2, 9));
    assert_eq!((one.title.as_str(), two.title.as_str()), ("One!", "Two"));
    assert_eq!(one.framework, Framework::Command);
    let env: Vec<_> = one.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("A", "own"), ("B", "top"), ("C", "low")]);
    assert_eq!(config.warnings.len(), 1);
    assert!(
        config.warnings[0].ends_with("`apps.tow`: describes an app that is not there; did you mean `two`?")
    );
}

#[test]
fn folders_become_ids_and_collisions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["Sales Report", "sales-report", "_hidden", ".git", "Ünïcode  App!", "ok"] {
        write(dir.path(), &format!("{name}/skep.toml"), "command = [\"x\"]\n");
    }
    write(dir.path(), "notes/readme.md", "nothing here");
    let config = load(dir.path());
    assert_eq!(ids(&config), ["n-code-app", "ok", "sales-report"]);
    let kept = &config.apps[2].source;
    assert!(matches!(kept, Source::Folder { dir, .. } if dir.ends_with("sales-report")));
    let (folder, _) = &config.unrecognised[0];
    assert_eq!((folder, config.unrecognised.len()), (&dir.path().join("notes"), 1));
    assert_eq!(config.refused.len(), 1);
    let message = config.refused[0].to_string();
    assert!(message.contains("Sales Report: makes the app id `sales-report`"), "{message}");
}

#[test]
fn a_path_that_is_an_app_is_mounted_at_the_root() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "My App/skep.toml", "command = [\"x\"]\n");
    let config = load(&dir.path().join("My App"));
    assert_eq!(config.apps[0].mount.as_str(), "/");
    assert_eq!(config.apps[0].id.as_str(), "my-app");
}

#[test]
fn one_broken_folder_keeps_no_other_from_being_published_and_a_good_state_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "good/skep.toml", "command = [\"x\"]\nseats = 4\n");
    write(dir.path(), "bad/skep.toml", "command = [\"x\"]\nseat = 4\n");
    let mut loader = Loader::new(None, vec![dir.path().to_owned()]);
    let config = loader.load(&Dirty::All).unwrap();
    assert_eq!(ids(&config), ["good"]);
    assert!(
        config.refused[0]
            .to_string()
            .contains("bad/skep.toml:2:1: `seat`: is not a key Skep knows; did you mean `seats`?")
    );

    write(dir.path(), "good/skep.toml", "command = [\"x\"\n");
    write(dir.path(), "bad/skep.toml", "command = [\"x\"]\n");
    let dirty = Dirty::Folders([dir.path().join("good"), dir.path().join("bad")].into());
    let next = loader.load(&dirty).unwrap();
    assert_eq!(ids(&next), ["bad", "good"]);
    assert_eq!(next.apps[1], config.apps[0]);
    assert_eq!(next.refused.len(), 1, "{:?}", next.refused);

    write(dir.path(), "good/skep.toml", "command = [\"y\"]\n");
    let last = loader.load(&Dirty::Folders([dir.path().join("good")].into())).unwrap();
    assert!(last.refused.is_empty());
    assert_ne!(last.apps[1].revision, config.apps[0].revision);
    assert_eq!(last.apps[0].revision, next.apps[0].revision);
}

#[test]
fn titles_and_seats_do_not_ask_for_new_instances() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a/skep.toml", "command = [\"x\"]\n");
    let before = load(dir.path()).apps[0].clone();
    write(
        dir.path(),
        "a/skep.toml",
        "command = [\"x\"]\ntitle = \"New\"\nseats = 9\nidle_timeout = \"9m\"\n",
    );
    let after = load(dir.path()).apps[0].clone();
    assert_ne!(before, after);
    assert_eq!(before.revision, after.revision);
}

#[test]
fn a_servers_config_where_an_apps_is_expected_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "skep.toml", "[server]\nlisten = \"8080\"\n");
    let config = load(dir.path());
    assert!(config.refused[0].to_string().contains("is a server's config"), "{:?}", config.refused);
}

#[test]
fn more_warm_seats_than_there_can_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a/skep.toml", "command = [\"x\"]\nmin_seats = 5\nmax_instances = 2\nseats = 2\n");
    let config = load(dir.path());
    assert!(config.apps.is_empty());
    let message = config.refused[0].to_string();
    assert!(
        message.contains("skep.toml:2:13: `min_seats`: is 5, but 2 instances of 2 seats make only 4"),
        "{message}"
    );
}

#[test]
fn a_missing_folder_is_named() {
    let problems = Loader::new(None, vec!["/nowhere/at/all".into()]).load(&Dirty::All).unwrap_err();
    assert!(problems.to_string().starts_with("/nowhere/at/all: cannot be read: "), "{problems}");
    let file = PathBuf::from("/nowhere/skep.toml");
    let problems = Loader::new(Some(file), vec![]).load(&Dirty::All).unwrap_err();
    assert_eq!(problems.to_string(), "/nowhere/skep.toml: does not exist; name a config file that does");
}

#[test]
fn an_image_is_published_from_the_servers_file_or_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "apps/boxed/skep.toml", "image = \"team/boxed:2\"\ncontainer.port = 80\n");
    write(dir.path(), "apps/plain/index.html", "");
    let text = "[[sites]]\npath = \"apps\"\n[defaults]\ncontainer.pull = \"always\"\n\
        [apps.alone]\nimage = \"team/alone\"\nframework = \"streamlit\"\ncontainer.mounts = [\"./data:/data:ro\"]\n\
        [apps.boxed]\ncontainer.init = false\n";
    write(dir.path(), "skep.toml", text);
    let config = Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All).unwrap();
    assert!(config.refused.is_empty(), "{:?}", config.refused);
    assert_eq!(ids(&config), ["alone", "boxed", "plain"]);
    let image = |index: usize| match &config.apps[index].source {
        Source::Image(image) => image.clone(),
        other => panic!("{other:?}"),
    };
    let (alone, boxed) = (image(0), image(1));
    assert_eq!((alone.name.as_str(), alone.pull), ("team/alone", skep_model::Pull::Always));
    assert_eq!(alone.mounts[0].source, dir.path().join("data").display().to_string().replace("/./", "/"));
    assert_eq!((boxed.port, boxed.init), (Some(80), false));
    let spec = &config.apps[0];
    assert_eq!((spec.backend, spec.prefix), (BackendKind::Docker, skep_model::Prefix::Strip));
    assert_eq!(spec.health.path, "/_stcore/health", "as the container sees it");
    assert!(!config.watched.apps.keys().any(|dir| dir.as_os_str().is_empty()));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn services_of_the_swarm_are_routes() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        write(dir.path(), "skep.toml", text);
        Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All)
    };
    let config = read(
        "[routes.shop]\nservice = \"web_shop\"\nroute = \"shop.example.org\"\nport = 80\nwake = 2\nsticky = true\n\
         balance = \"least-load\"\naccess.groups = [\"staff\"]\n",
    );
    let route = &config.unwrap().routes[0];
    assert_eq!((route.id.as_str(), route.service.as_str(), route.port), ("shop", "web_shop", 80));
    assert_eq!(
        (route.place.to_string().as_str(), route.wake, route.sticky),
        ("shop.example.org/", Some(2), true)
    );
    assert_eq!((route.access.anyone, route.access.groups.as_slice()), (false, &["staff".to_owned()][..]));
    let problems =
        read("[routes.shop]\nroute = \"https://shop\"\nport = 0\nports = 1\n").unwrap_err().to_string();
    for says in ["has no `service`", "is \"https://shop\"", "from 1 to 65535", "`port`?"] {
        assert!(problems.contains(says), "{says}: {problems}");
    }
}

#[test]
fn a_mount_for_each_user_wants_an_instance_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let load = |more: &str| {
        let text = format!("[apps.a]\nimage = \"x\"\ncontainer.mounts = [\"/home/{{user}}:/home\"]\n{more}");
        write(dir.path(), "skep.toml", &text);
        Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All).unwrap()
    };
    let config = load("per_user = true\nstop_on_logout = true");
    assert!(config.apps[0].stop_on_logout && config.refused.is_empty(), "{:?}", config.refused);
    let refused = load("").refused[0].to_string();
    assert!(refused.contains("users share the app's instances; set `per_user = true`"), "{refused}");
}

#[test]
fn the_portals_look_is_read_and_icons_are_found() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "apps/notes/index.html", "<h1>Notes</h1>");
    write(dir.path(), "apps/notes/skep.toml", "section = \"Reading\"\nicon = \"img/own.svg\"");
    write(
        dir.path(),
        "skep.toml",
        r#"
[[sites]]
path = "apps"
[portal]
title = "The lab"
logo = "logo.svg"
[portal.sections.zoo]
title = "Animals"
[portal.sections.Reading]
[apps.bees]
image = "lab/bees"
icon = "logos/bees.png"
section = "zoo"
[apps.ants]
image = "lab/ants"
icon = "https://img.example/ants.png"
"#,
    );
    let config = Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All).unwrap();
    assert_eq!(config.portal.title, "The lab");
    let within = |dir: &Path, name: &str| Some(Icon::Within { dir: dir.to_owned(), name: name.to_owned() });
    assert_eq!(config.portal.logo, within(dir.path(), "logo.svg"));
    let sections: Vec<_> = config.portal.sections.iter().map(|s| (&*s.name, &*s.title)).collect();
    assert_eq!(sections, [("zoo", "Animals"), ("Reading", "Reading")], "in the order of the file");
    let app = |id: &str| config.apps.iter().find(|app| app.id.as_str() == id).unwrap();
    assert_eq!(
        (app("bees").section.as_deref(), app("notes").section.as_deref()),
        (Some("zoo"), Some("Reading"))
    );
    assert_eq!(app("bees").icon, within(dir.path(), "logos/bees.png"));
    assert_eq!(app("notes").icon, within(&dir.path().join("apps/notes"), "img/own.svg"));
    assert!(
        matches!(&app("ants").icon, Some(Icon::Remote(image)) if image.origin() == "https://img.example")
    );

    let wrong = messages(
        "[portal]\ntitel = \"x\"\nlogo = \"🐝\"\n[portal.sections.a]\ntitle = \"\"\n[apps.a]\nicon = \"../x.png\"\n",
    );
    for (message, part) in wrong.iter().zip([
        "titel",
        "`portal.logo`: is no image",
        "`portal.sections.a.title`",
        "`apps.a.icon`",
    ]) {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    for icon in ["app.py", "", "ftp://a/b.png", "https://a b/c.png", ".hidden.png", "text"] {
        assert_eq!(messages(&format!("[apps.a]\nicon = \"{icon}\"")).len(), 1, "{icon}");
    }
}

#[test]
fn with_a_swarm_apps_with_an_image_run_there() {
    let dir = tempfile::tempdir().unwrap();
    let load = |text: &str| {
        write(dir.path(), "skep.toml", text);
        Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All)
    };
    let swarm = "[swarm]\njoin_secret_file = \"join\"\nmanagers = [\"tcp://10.0.0.1:2375\"]\n";
    let config = load(&format!(
        "{swarm}[apps.a]\nimage = \"a\"\ncontainer.reserve = {{ cpu = 0.5, memory = \"64MiB\", resources = {{ gpu = 2 }} }}\n\
         container.placement.constraints = [\"node.labels.disk==ssd\"]\n\
         container.placement.preferences = [\"node.labels.rack\"]\n\
         container.configs = [\"sales:/etc/sales.toml\"]\n\
         [apps.b]\nimage = \"b\"\nbackend = \"docker\"\ncontainer.gpus = \"all\"\ncontainer.labels = {{ team = \"b\" }}\n\
         container.mounts = [\"models:/models:ro\"]\n[apps.b.container.volumes.models]\n\
         options = {{ type = \"nfs\", o = \"addr=10.0.0.9,ro\", device = \":/srv/models\" }}\n\
         [defaults]\ncontainer.labels = {{ team = \"all\", site = \"north\" }}\n"
    ))
    .unwrap();
    assert_eq!(config.refused.len(), 0, "{:?}", config.refused);
    let backends: Vec<_> = config.apps.iter().map(|app| app.backend).collect();
    assert_eq!(backends, [BackendKind::Swarm, BackendKind::Docker]);
    let Source::Image(image) = &config.apps[0].source else { panic!("{:?}", config.apps[0]) };
    assert_eq!(image.placement.constraints, ["node.labels.disk == ssd"]);
    assert_eq!(image.placement.preferences, ["node.labels.rack"]);
    assert_eq!((image.reserve.cpu_millis, image.reserve.memory), (Some(500), Some(64 << 20)));
    assert_eq!(image.reserve.resources, [("gpu".to_owned(), 2)].into());
    assert_eq!(
        (image.configs[0].name.as_str(), image.configs[0].target.as_str()),
        ("sales", "/etc/sales.toml")
    );
    let Source::Image(image) = &config.apps[1].source else { panic!("{:?}", config.apps[1]) };
    assert_eq!(image.gpus, Some(skep_model::Gpus::All));
    assert_eq!(
        image.labels,
        [("team", "b"), ("site", "north")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
    let volume = &image.volumes["models"];
    assert_eq!((volume.driver.as_str(), volume.options["device"].as_str()), ("local", ":/srv/models"));
    let keys = config.server.swarm.unwrap();
    assert_eq!(keys.join_secret_file, dir.path().join("join"));
    assert_eq!((keys.agent_listen.port(), keys.host_agents), (7443, false));

    let wrong = |text: &str| match load(text) {
        Ok(config) => config.refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        Err(problems) => problems.to_string(),
    };
    let secret = wrong("[swarm]\nhost_agents = true\n");
    assert!(
        secret.contains("has no `join_secret_file`") && secret.contains("openssl rand -hex 32"),
        "{secret}"
    );
    for (text, says) in [
        ("[apps.a]\nimage = \"a\"\ncontainer.reserve.cpu = 1\n", "means something on a Swarm only"),
        ("[apps.a]\nimage = \"a\"\ncontainer.configs = [\"c:/c\"]\n", "names configs of a Swarm"),
        ("[apps.a]\nimage = \"a\"\ncontainer.configs = [\"c\"]\n", "without a path"),
        ("[apps.a]\nimage = \"a\"\ncontainer.gpus = 0\n", "write \"all\", a number"),
        ("[apps.a]\nimage = \"a\"\ncontainer.labels = { \"skep.app\" = \"x\" }\n", "begins with `skep.`"),
        (
            "[apps.a]\nimage = \"a\"\ncontainer.volumes.root.options = { o = \"bind\", device = \"/run\" }\n",
            "the whole machine",
        ),
        ("[apps.a]\nimage = \"a\"\ncontainer.volumes.root.options = { device = \"/a/../b\" }\n", "/a/../b"),
        (
            "[swarm]\njoin_secret_file = \"j\"\n[apps.a]\nimage = \"a\"\ncontainer.gpus = [\"GPU-1\"]\n",
            "container.reserve.resources",
        ),
        ("[apps.a]\nimage = \"a\"\nbackend = \"swarm\"\n", "names a Swarm, and none is configured"),
        ("[apps.a]\nimage = \"a\"\ncontainer.placement.constraints = [\"disk = ssd\"]\n", "disk = ssd"),
        ("[swarm]\njoin_secret_file = \"j\"\nmanagers = [\"10.0.0.1\"]\n", "swarm.managers"),
        ("[swarm]\njoin_secret_file = \"j\"\ninstall = \"a b\"\n", "no other Skep on this Swarm"),
    ] {
        let said = wrong(text);
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn containers_of_somebody_elses_folder_reach_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "boxed/skep.toml", "image = \"x\"\ncontainer.mounts = [\"/etc:/host\"]\n");
    assert_eq!(load(dir.path()).refused.len(), 0, "root's own file");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path().join("boxed/skep.toml"), Some(65_534), None).unwrap();
        let config = load(dir.path());
        assert!(config.apps.is_empty());
        assert!(config.refused[0].to_string().contains("belongs to user 65534"), "{:?}", config.refused);
    }
}

#[test]
fn a_strangers_folder_says_nothing_of_the_servers_image() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = "command = [\"theirs\"]\ncontainer.user = \"root\"\ncontainer.entrypoint = [\"sh\"]\naccess.anyone = true\n";
    write(dir.path(), "apps/boxed/skep.toml", theirs);
    write(dir.path(), "skep.toml", "[[sites]]\npath = \"apps\"\n[apps.boxed]\nimage = \"team/boxed\"\n");
    let load = || Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All).unwrap();
    let config = load();
    assert_eq!(config.apps[0].command.as_deref(), Some(&["theirs".to_owned()][..]), "of a trusted owner");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let file = dir.path().join("apps/boxed/skep.toml");
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    // What is broken there does not keep the server's app from being published, either.
    for text in [theirs, "command = [\n"] {
        fs::write(&file, text).unwrap();
        let config = load();
        let app = &config.apps[0];
        let Source::Image(image) = &app.source else { panic!("{app:?}") };
        assert_eq!((image.name.as_str(), &image.user, &image.entrypoint), ("team/boxed", &None, &None));
        assert_eq!((&app.command, app.access.anyone, app.mount.as_str()), (&None, false, "/boxed/"));
        let said = config.refused[0].to_string();
        assert_eq!(config.refused.len(), 1, "{:?}", config.refused);
        assert!(said.contains("boxed/skep.toml: is not heeded: it belongs to user 65534"), "{said}");
        assert!(config.watched.apps.contains_key(&dir.path().join("apps/boxed")), "it may change hands");
    }
}

#[test]
fn secrets_of_somebody_elses_folder_are_bound_to_it_and_to_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let text = "command = [\"x\"]\nsecrets = { K = \"./k\" }\n";
    write(dir.path(), "own/skep.toml", text);
    write(dir.path(), "server-key", "the server's");
    assert_eq!(load(dir.path()).apps[0].secrets["K"].bound, None);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let file = dir.path().join("own/skep.toml");
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    let within = dir.path().join("own").canonicalize().unwrap();
    let config = load(dir.path());
    let bound = skep_model::Bound { within, owner: 65_534 };
    assert_eq!(config.apps[0].secrets["K"].bound, Some(bound.clone()), "it need not be there yet");

    // A link of theirs to a trusted file is theirs.
    fs::rename(&file, dir.path().join("trusted.toml")).unwrap();
    std::os::unix::fs::chown(dir.path().join("trusted.toml"), Some(0), None).unwrap();
    std::os::unix::fs::symlink("../trusted.toml", &file).unwrap();
    std::os::unix::fs::lchown(&file, Some(65_534), None).unwrap();
    assert_eq!(load(dir.path()).apps[0].secrets["K"].bound, Some(bound));

    std::os::unix::fs::symlink("../server-key", dir.path().join("own/k")).unwrap();
    let config = load(dir.path());
    assert!(config.apps.is_empty());
    assert!(config.refused[0].to_string().contains("outside the folder"), "{:?}", config.refused);
}

#[test]
fn the_configured_engines_socket_is_mounted_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let mounting = |source: &str| {
        let place = dir.path().display();
        let text = format!(
            "[docker]\nhost = \"unix://{place}/engine/e.sock\"\n[apps.boxed]\nimage = \"x\"\n\
             container.mounts = [\"{place}/{source}:/inside\"]\n"
        );
        write(dir.path(), "skep.toml", &text);
        let mut loader = Loader::new(Some(dir.path().join("skep.toml")), Vec::new());
        loader.load(&Dirty::All).unwrap().refused
    };
    write(dir.path(), "engine/e.sock", "");
    std::os::unix::fs::symlink("engine", dir.path().join("link")).unwrap();
    for shown in ["engine/e.sock", "engine", "link", "link/e.sock"] {
        let refused = mounting(shown);
        assert!(refused[0].to_string().contains("the whole machine"), "{shown}: {refused:?}");
    }
    assert!(mounting("other").is_empty());
}

#[test]
fn parameters_fit_together_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let app = "[apps.a]\nimage = \"x:{param.v}\"\nper_user = true\n[apps.a.parameters.v]\ntitle = \"Version\"\n\
               values = [{ value = \"1\", title = \"One\" }, \"2\"]\ndefault = \"2\"\n";
    let load = |text: &str| {
        write(dir.path(), "skep.toml", text);
        Loader::new(Some(dir.path().join("skep.toml")), Vec::new()).load(&Dirty::All)
    };
    let config = load(app).unwrap();
    let spec = &config.apps[0];
    assert_eq!(spec.parameters.title_of("v", "1"), "One");
    let chosen = [("v".to_owned(), "2".to_owned())].into();
    let started = spec.of_variant(&skep_model::Variant { name: None, chosen });
    assert!(matches!(&started.source, Source::Image(image) if image.name == "x:2"));
    let (set, of) = ("[[apps.a.parameter_sets]]\nvalues = ", "[apps.a.parameters.v]");
    for (from, to, why) in [
        ("per_user = true", "per_user = false".to_owned(), "set `per_user = true`"),
        ("{param.v}", "{param.w}".to_owned(), "`{param.w}` stands for a parameter there is not"),
        ("default = \"2\"", "default = \"3\"".to_owned(), "has the default `3`, which is none of its values"),
        ("\"2\"]", "\"2\", \"a b\"]".to_owned(), "becomes `x:a b` with `v` = `a b`"),
        ("title = \"Version\"", "titel = \"Version\"".to_owned(), "did you mean `title`?"),
        ("\"2\"]", "\"{user}\"]".to_owned(), "without braces"),
        ("\"2\"]", "\"1\"]".to_owned(), "holds `1` twice"),
        (of, format!("{set}{{ w = \"1\" }}\n{of}"), "names the parameter `w`"),
        (of, format!("[[apps.a.parameter_sets]]\naccess.groups = [\"g\"]\n{of}"), "what may be chosen from"),
        (of, format!("{set}{{ v = \"9\" }}\n{of}"), "allows `9`, which is no value of `v`"),
    ] {
        let found = match load(&app.replace(from, &to)) {
            Ok(config) => config.refused.first().map(ToString::to_string).unwrap_or_default(),
            Err(problems) => problems.to_string(),
        };
        assert!(found.contains(why), "{to}: {found}");
    }
}
