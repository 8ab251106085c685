use std::path::Path;
use std::time::Duration;

use super::super::yaml;
use super::*;

fn import_text(text: &str) -> Imported {
    import(&yaml::parse(text).unwrap_or_else(|wrong| panic!("{wrong:?}")), &|_| None)
}

fn load(imported: &Imported) -> ServerFile {
    let wrong: Vec<_> = imported.notes.iter().filter(|note| note.kind == Kind::Wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    ServerFile::parse(Path::new("/etc/skep/skep.toml"), &imported.toml)
        .unwrap_or_else(|problems| panic!("{problems}\n{}", imported.toml))
}

fn app<'a>(file: &'a ServerFile, id: &str) -> &'a crate::config::AppKeys {
    &file.apps.iter().find(|(app, _)| app.value.as_str() == id).unwrap_or_else(|| panic!("no {id}")).1
}

/// The report's line about a key, the first one there is.
fn note<'a>(imported: &'a Imported, key: &str) -> &'a str {
    let said = format!("`{key}`: ");
    let found = imported.notes.iter().find_map(|note| note.text.strip_prefix(&said));
    found.unwrap_or_else(|| panic!("{key}: {:?}", imported.notes))
}

/// Every line with a setting in it has a line in the report, or is below one that speaks for it.
fn nothing_is_passed_over(text: &str, imported: &Imported) {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let mut spoken_for = None;
    for (index, line) in text.lines().enumerate() {
        let inner = line.trim().trim_start_matches("- ");
        if spoken_for.is_some_and(|above| indent(line) > above || line.trim_start().starts_with('-')) {
            continue;
        }
        let notes: Vec<&Note> = imported.notes.iter().filter(|note| note.place.line == index + 1).collect();
        let for_all = notes.iter().any(|note| note.text.contains("all below it"));
        spoken_for = for_all.then_some(indent(line));
        let is_setting = inner.contains(": ") && !inner.starts_with('#');
        let of_a_user = ["password:", "groups:"].iter().any(|key| inner.starts_with(key));
        assert!(
            !is_setting || of_a_user || !notes.is_empty(),
            "line {}: {line}: {:?}",
            index + 1,
            imported.notes
        );
    }
}

const DOCKER: &str = include_str!("fixtures/docker.yml");
const CONTAINERISED: &str = include_str!("fixtures/containerised.yml");
const SWARM: &str = include_str!("fixtures/swarm.yml");
const GROUPS: &str = include_str!("fixtures/groups.yml");
const TEMPLATES: &str = include_str!("fixtures/templates.yml");
const BACKGROUND: &str = include_str!("fixtures/background.yml");
const EMBEDDED: &str = include_str!("fixtures/embedded.yml");
const SHARED: &str = include_str!("fixtures/shared.yml");

#[test]
fn every_kind_of_installation_makes_a_config_that_loads_and_a_report_without_gaps() {
    let all = [DOCKER, CONTAINERISED, SWARM, GROUPS, TEMPLATES, BACKGROUND, EMBEDDED, SHARED];
    for text in all {
        let imported = import_text(text);
        let file = load(&imported);
        assert!(!file.apps.is_empty() && file.apps.iter().all(|(_, keys)| keys.image.is_some()));
        nothing_is_passed_over(text, &imported);
        assert!(imported.notes.iter().all(|note| !note.text.contains("unknown: ")), "{:?}", imported.notes);
        // Without a final line break, with Windows' ones, and with other ways to write keys it is the same.
        assert_eq!(import_text(text.trim_end()).toml, imported.toml);
        assert_eq!(import_text(&text.replace('\n', "\r\n")).toml, imported.toml);
        let camel =
            text.replace("container-image:", "containerImage:").replace("display-name:", "display_name:");
        assert_eq!(import_text(&camel).toml, imported.toml);
    }
}

#[test]
fn one_machine_with_users_is_carried_over() {
    let imported = import_text(DOCKER);
    let file = load(&imported);
    assert_eq!(file.server.listen[0].to_string(), "0.0.0.0:8090");
    assert_eq!(file.server.auth.provider, crate::config::auth_keys::Provider::Local);
    let ids: Vec<&str> = file.apps.iter().map(|(id, _)| id.value.as_str()).collect();
    assert_eq!(ids, ["01_weather", "gene-browser"]);
    let (weather, genes) = (&file.apps[0].1, &file.apps[1].1);
    assert_eq!(weather.image.as_ref().unwrap().value, "lab/weather:1");
    assert_eq!(weather.command.as_ref().unwrap(), &["R", "-e", "weather::run(port = 3838)"]);
    assert_eq!((weather.memory, weather.cpu_millis), (Some(512 << 20), Some(500)));
    assert_eq!(weather.env["HOME_OF"], "/home/{user}");
    assert_eq!(weather.env["EMPTY"], "");
    assert!(!weather.env.contains_key("TOKEN"));
    assert_eq!(genes.command.as_ref().unwrap(), &["genes", "--port", "8080"], "commas part a list");
    assert_eq!(genes.users.as_ref().unwrap(), &["ada"]);
    assert_eq!(file.defaults.per_user, Some(true));
    assert_eq!(file.defaults.env["SHINYPROXY_USERNAME"], "{user}");
    assert_eq!(file.defaults.env["SHINYPROXY_PUBLIC_PATH"], "{base_path}/");
    assert_eq!(file.defaults.idle_timeout, Some(Duration::from_secs(60)));
    assert!(note(&imported, "TOKEN").contains("not yet: `${TOKEN}` is not known here"));
    assert!(note(&imported, "HOME_OF").contains("changed: "));
    let users: Vec<_> = imported.notes.iter().filter(|note| note.text.starts_with("`users`")).collect();
    assert!(users[0].text.ends_with("run `skep user add ada --admin --groups admins,lab`"), "{users:?}");
    assert!(users[1].text.ends_with("run `skep user add 'bob o'\\''neill'`"), "{users:?}");
    let all = format!("{}{:?}", imported.toml, imported.notes);
    assert!(!all.contains("correct horse"), "no password is shown");
}

#[test]
fn what_environment_says_is_filled_in_where_it_is_known() {
    let root = yaml::parse(DOCKER).unwrap();
    let imported = import(&root, &|name| (name == "TOKEN").then(|| "t0ken".to_owned()));
    assert_eq!(load(&imported).apps[0].1.env["TOKEN"], "t0ken");
    assert_eq!(note(&imported, "TOKEN"), "kept: an `env`");
}

#[test]
fn networks_of_the_engine_are_joined_wherever_they_are_said() {
    let imported = import_text(CONTAINERISED);
    let file = load(&imported);
    assert!(imported.toml.contains("[docker]\nhost = \"tcp://127.0.0.1:2376\"\ntls.ca = \"/certs/ca.pem\""));
    assert!(imported.toml.contains("container.networks = [\"sp-net\"]\n"));
    assert!(
        imported.toml.contains("[apps.db]\ncontainer.networks = [\"sp-net\", \"db-net\"]\n"),
        "{}",
        imported.toml
    );
    assert!(imported.toml.contains(
        "[apps.own]\ncontainer.mounts = [\"/srv/own:/data:ro\"]\ncontainer.networks = [\"own-net\"]\n"
    ));
    assert_eq!(file.apps.len(), 3);
    assert!(
        note(&imported, "container-volumes").contains("left out: `#{proxy.userId}`")
            || imported.notes.iter().any(|n| n.text.contains("/home/#{proxy.userId}:/home\" is left out"))
    );
    assert!(note(&imported, "container-network").contains("changed: "));
}

#[test]
fn the_swarm_is_not_promised() {
    let imported = import_text(SWARM);
    assert!(note(&imported, "container-backend").starts_with("not yet: the Swarm"));
    assert!(note(&imported, "docker-swarm-secrets").starts_with("not yet: "));
    assert!(!imported.toml.contains("swarm"));
}

#[test]
fn nobody_gets_in_who_did_not_get_in_before() {
    let file = load(&import_text(GROUPS));
    let access = |id: &str| {
        let keys = app(&file, id);
        (keys.users.clone().unwrap_or_default(), keys.groups.clone().unwrap_or_default())
    };
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(access("open"), (vec![], vec![]));
    assert_eq!(access("named"), (list(&["ada", "bob"]), list(&["lab", "board"])));
    assert_eq!(access("by-expression"), (vec![], list(&["access-not-carried-over"])));
    assert_eq!(access("named-or-by-expression"), (list(&["ada"]), vec![]));
    assert_eq!(access("strict"), (vec![], list(&["access-not-carried-over"])));
    assert_eq!(access("computed-groups"), (vec![], list(&["access-not-carried-over"])));
}

#[test]
fn apps_in_the_background_run_as_long_as_they_did() {
    let imported = import_text(BACKGROUND);
    let file = load(&imported);
    let (usual, forever, a_day) = (app(&file, "an-hour"), app(&file, "forever"), app(&file, "a-day"));
    assert_eq!(usual.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(forever.idle_timeout, Some(Duration::from_secs(365 * 86_400)));
    assert_eq!(
        (forever.max_lifetime, a_day.max_lifetime),
        (Some(None), Some(Some(Duration::from_secs(86_400))))
    );
    assert_eq!(forever.env["WWW_ROOT_PATH"], "{base_path}/");
    assert!(note(&imported, "stop-on-logout").starts_with("kept: "));
    assert!(note(&imported, "recover-running-proxies").starts_with("without meaning"));
}

#[test]
fn without_a_login_only_this_machine_is_served() {
    let imported = import_text(EMBEDDED);
    let file = load(&imported);
    assert_eq!(file.server.listen[0].to_string(), "127.0.0.1:8080");
    assert!(note(&imported, "port").contains("this machine only"));
    assert!(note(&imported, "hide-navbar").starts_with("without meaning here: "));
    let ldap = import_text("proxy:\n  authentication: ldap\n  specs:\n  - {id: a, container-image: b}\n");
    assert!(note(&ldap, "authentication").starts_with("not yet: \"ldap\""));
    assert_eq!(
        load(&ldap).server.auth.provider,
        crate::config::auth_keys::Provider::Local,
        "never an open door"
    );
}

#[test]
fn seats_are_shared_only_where_they_were() {
    let imported = import_text(SHARED);
    let file = load(&imported);
    let seats = |id: &str| {
        let keys = app(&file, id);
        (keys.per_user, keys.seats, keys.min_seats.as_ref().map(|placed| placed.value))
    };
    assert_eq!(seats("many"), (Some(false), Some(5), Some(10)));
    assert_eq!(seats("alone"), (None, None, None), "nothing is shared without `minimum-seats-available`");
    assert_eq!(seats("once"), (None, None, None), "no container is given to a second user");
    assert_eq!(
        seats("few"),
        (Some(false), Some(2), None),
        "ten warm seats have no room in four instances of two"
    );
    assert!(imported.notes.iter().any(|note| note.text.contains("make only 8")));
}

#[test]
fn merged_keys_and_words_with_dots_count() {
    let text = "usual: &usual\n  container-image: lab/a:1\n  max-lifetime: 60\nproxy.docker.image-pull-policy: Always\n\
        proxy:\n  specs:\n  - <<: *usual\n    id: a\n  - <<: *usual\n    id: b\n    max-lifetime: -1\n";
    let imported = import_text(text);
    let file = load(&imported);
    assert_eq!(file.apps[0].1.max_lifetime, Some(Some(Duration::from_secs(3600))));
    assert_eq!(file.apps[1].1.max_lifetime, Some(None));
    assert!(imported.toml.contains("container.pull = \"always\""));
    assert_eq!(imported.notes.iter().filter(|n| n.text.starts_with("`container-image`: kept")).count(), 1);
}

#[test]
fn mistakes_are_errors_with_a_place_and_unknown_keys_are_named() {
    let imported = import_text(
        "proxy:\n  prot: 80\n  port: many\n  specs:\n  - id: a\n    contaner-image: b\n  - container-image: c\n  - id: b\n    \
         container-image: Not An Image\n  - id: c\n    container-image: c\n    containerImage: d\n  - id: C\n    container-image: c\n",
    );
    let wrong: Vec<_> = imported
        .notes
        .iter()
        .filter(|n| n.kind == Kind::Wrong)
        .map(|n| (n.place.line, n.place.column))
        .collect();
    assert_eq!(wrong, [(3, 3), (7, 5), (9, 5), (12, 5), (13, 5)], "{:?}", imported.notes);
    assert!(note(&imported, "prot").starts_with("unknown: "));
    assert!(note(&imported, "contaner-image").starts_with("unknown: "));
    let empty = import_text("proxy:\n  port: 80\n");
    assert!(empty.notes.iter().any(|note| note.kind == Kind::Wrong && note.text.contains("no app")));
    for odd in ["a", "[]", "proxy:", "proxy: []", "proxy: {specs: x}", "proxy: {specs: [x, [y], {id: {}}]}"] {
        assert!(import_text(odd).is_wrong(), "{odd}");
    }
}

/// Values that are nasty in TOML, in a shell or in a terminal.
#[test]
fn hostile_values_stay_values() {
    let nasty = "\\\"]\\n[apps.evil]\\nimage='x'\\u001b[31m";
    let text = format!(
        "proxy:\n  authentication: simple\n  title: \"{nasty}\"\n  users:\n  - name: \"$(reboot)\"\n    groups: [\"a'b\"]\n  \
         - name: \"{nasty}\"\n  specs:\n  - id: \"../../{nasty}\"\n    container-image: lab/a\n    display-name: \"{nasty}\"\n    \
         description: \"{nasty}\"\n    container-cmd: [\"{nasty}\"]\n    container-env: {{A: \"{nasty}\", \"B\\n\": x}}\n    \
         container-volumes: [\"{nasty}\", \"/var/run/docker.sock:/s\"]\n    access-groups: [\"{nasty}\"]\n    docker-user: \"{nasty}\"\n"
    );
    let imported = import_text(&text);
    let file = load(&imported);
    assert_eq!(file.apps.len(), 1);
    let keys = &file.apps[0].1;
    assert_eq!(keys.env["A"], "\"]\n[apps.evil]\nimage='x'\u{1b}[31m");
    assert_eq!(keys.command.as_ref().unwrap()[0], keys.env["A"]);
    assert!(!keys.env.contains_key("B\n"));
    assert!(!imported.toml.contains("docker.sock"));
    assert!(
        imported.notes.iter().any(|n| n.text.ends_with("run `skep user add '$(reboot)' --groups 'a'\\''b'`"))
    );
}
