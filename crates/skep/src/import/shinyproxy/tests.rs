use std::path::Path;
use std::time::Duration;

use super::super::yaml;
use super::*;

mod look;

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
    assert_eq!(file.defaults.env["SHINYPROXY_USERGROUPS"], "{groups:upper}");
    assert_eq!(file.defaults.env["SHINYPROXY_PUBLIC_PATH"], "{base_path}/");
    assert_eq!(file.defaults.stop_on_logout, Some(true), "without being told");
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
    let own = "[apps.own]\ncontainer.mounts = [\"/srv/own:/data:ro\", \"/home/{user}:/home\"]\ncontainer.networks = [\"own-net\"]\n";
    assert!(imported.toml.contains(own), "{}", imported.toml);
    assert_eq!(file.apps.len(), 3);
    assert_eq!(
        note(&imported, "container-volumes"),
        "changed: became `container.mounts` with Skep's placeholders"
    );
    let elsewhere = one_app("container-volumes: ['/#{proxy.userId}:/x', '/home/#{groups[0]}:/y', '/srv:/z']");
    assert!(elsewhere.toml.contains("container.mounts = [\"/srv:/z\"]\n"), "{}", elsewhere.toml);
    for key in ["container-network", "container-network-connections", "default-container-network"] {
        let said = note(&imported, key);
        let told = said.starts_with("changed: ") && said.ends_with("instances in it reach each other");
        assert!(told, "{said}");
    }
}

#[test]
fn a_swarm_stays_a_swarm() {
    let imported = import_text(SWARM);
    assert!(
        imported.toml.contains("[swarm]\njoin_secret_file = \"/run/secrets/skep_join\"\n"),
        "{}",
        imported.toml
    );
    assert!(imported.toml.contains("container.reserve.cpu = 1"), "{}", imported.toml);
    assert!(note(&imported, "container-backend").contains("every node needs an agent"));
    let root = yaml::parse(SWARM).unwrap();
    let named = import(&root, &|name| (name == "SKEP_JOIN_SECRET_FILE").then(|| "/etc/skep/join".to_owned()));
    assert_eq!(load(&named).server.swarm.unwrap().join_secret_file, Path::new("/etc/skep/join"));
    assert_eq!(note(&imported, "container-cpu-request"), "kept: `container.reserve.cpu`");
    assert!(note(&imported, "docker-swarm-secrets").starts_with("not yet: "));
    assert!(note(&imported, "service-wait-time").starts_with("without meaning"));
    assert_eq!(
        load(&imported).server.swarm.unwrap().join_secret_file,
        std::path::Path::new("/run/secrets/skep_join")
    );
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
    assert_eq!(note(&imported, "stop-on-logout"), "kept: `stop_on_logout`");
    assert_eq!(
        note(&imported, "default-stop-proxy-on-logout"),
        "kept: `stop_on_logout` in `[defaults]`; for every app"
    );
    assert_eq!(
        (file.defaults.stop_on_logout, forever.stop_on_logout, a_day.stop_on_logout),
        (Some(false), Some(false), Some(true))
    );
    assert!(note(&imported, "recover-running-proxies").starts_with("without meaning"));
}

#[test]
fn without_a_login_only_this_machine_is_served() {
    let imported = import_text(EMBEDDED);
    let file = load(&imported);
    assert_eq!(file.server.listen[0].to_string(), "127.0.0.1:8080");
    assert!(note(&imported, "port").contains("this machine only"));
    assert!(note(&imported, "hide-navbar").starts_with("without meaning here: "));
    assert_eq!(file.defaults.stop_on_logout, None, "nobody logs out");
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

/// An app `a` with some lines of its own, among people who log in.
fn one_app(lines: &str) -> Imported {
    import_text(&format!(
        "proxy:\n  authentication: simple\n  docker: {{default-container-network: shared}}\n  specs:\n  - id: a\n    \
         container-image: lab/a\n    {lines}\n"
    ))
}

#[test]
fn what_is_asked_before_a_start_is_carried_over() {
    let imported = one_app(
        "container-env: {SIZE: \"#{proxy.getRuntimeObject('SHINYPROXY_PARAMETERS').getValue('size')}\", \
         DATA: \"d-#{ proxy.getRuntimeObject(\\\"SHINYPROXY_PARAMETERS\\\").backendValues['data'] }\"}\n    \
         parameters:\n      template: <form>\n      definitions:\n      \
         - {id: size, display-name: <b>How</b> much, default-value: 1-2, value-names: [{value: 1-2, name: small}]}\n      \
         - {id: data, description: Which, default-value: none}\n      value-sets:\n      \
         - {name: all, values: {size: 1-2, data: public}}\n      \
         - {access-control: {groups: [lab, it]}, values: {size: [1-2, 2-8], data: [public, own]}}\n      \
         - {access-control: {expression: x}, values: {size: 4-16, data: own}}\n      \
         - {values: {size: 4-16}}",
    );
    let file = load(&imported);
    let keys = app(&file, "a");
    assert_eq!((keys.env["SIZE"].as_str(), keys.env["DATA"].as_str()), ("{param.size}", "d-{param.data}"));
    for expected in [
        r#"size = { title = "How much", default = "1-2", values = [{ value = "1-2", title = "small" }, "2-8"] }"#,
        r#"data = { description = "Which", values = ["public", "own"] }"#,
        r#"{ values = { data = ["public"], size = ["1-2"] } }"#,
        r#"access = { groups = ["lab", "it"] } }"#,
    ] {
        assert!(imported.toml.contains(expected), "{expected}: {}", imported.toml);
    }
    assert!(!imported.toml.contains("4-16"), "{}", imported.toml);
    let said: Vec<String> = imported.notes.iter().map(|note| note.text.clone()).collect();
    for expected in
        ["its `template`", "value set 3, as `expression`", "value set 4, as it has no values of `data`"]
    {
        assert!(said.iter().any(|said| said.contains(expected)), "{expected}: {said:?}");
    }
    assert!(said.iter().any(|said| said.contains("the default of `data`")), "{said:?}");
    assert_eq!(access_of(&imported), (Vec::new(), Vec::new()), "whoever could open it can");
}

#[test]
fn an_image_that_is_chosen_is_one_of_several() {
    let with = |image: &str, values: &str| {
        import_text(&format!(
            "proxy:\n  authentication: simple\n  specs:\n  - id: a\n    container-image: \"{image}\"\n    \
             parameters: {{definitions: [{{id: v}}], value-sets: [{{values: {{v: {values}}}}}]}}\n"
        ))
    };
    let chosen = "lab/a:#{proxy.getRuntimeObject('SHINYPROXY_PARAMETERS').getValue('v')}";
    let imported = with(chosen, "[1, 2]");
    load(&imported);
    assert!(imported.toml.contains(r#"image = "lab/a:{param.v}""#), "{}", imported.toml);
    for (image, values) in [
        (chosen, "[1, \"2 3\"]"),
        ("lab/a:#{proxy.getRuntimeObject('SHINYPROXY_PARAMETERS').getValue('w')}", "[1]"),
    ] {
        let imported = with(image, values);
        assert!(!imported.toml.contains("[apps.a]"), "{}", imported.toml);
    }
    // Nobody chooses where instances are shared, and an app that asks is not opened without.
    let shared = one_app(
        "minimum-seats-available: 1\n    parameters: {definitions: [{id: v}], value-sets: [{values: {v: [1]}}]}",
    );
    assert!(!shared.toml.contains("parameters"), "{}", shared.toml);
    assert_eq!(access_of(&shared).1, ["access-not-carried-over"]);
}

fn access_of(imported: &Imported) -> (Vec<String>, Vec<String>) {
    let file = load(imported);
    let keys = app(&file, "a");
    assert_eq!(keys.anyone, None, "{}", imported.toml);
    (keys.users.clone().unwrap_or_default(), keys.groups.clone().unwrap_or_default())
}

#[test]
fn rules_about_access_count_in_each_way_to_write_them_and_shut_where_they_cannot_be_read() {
    let shut = "access-not-carried-over";
    let cases: [(&str, &[&str], &[&str]); 34] = [
        // Open to all who log in: nothing is said.
        ("access-groups:", &[], &[]),
        ("access-groups: ~", &[], &[]),
        ("access-groups: null", &[], &[]),
        ("access-groups: []", &[], &[]),
        // Spring's other ways to write a list.
        ("access-groups[0]: admins", &[], &["admins"]),
        ("accessGroups[0]: admins\n    access_groups[1]: lab, board", &[], &["admins", "lab, board"]),
        ("access-users[0]: ada\n    access-groups: lab", &["ada"], &["lab"]),
        ("Access Groups: lab", &[], &["lab"]),
        ("access-groups: [\"null\"]", &[], &["null"]),
        ("access-groups: ['~']", &[], &["~"]),
        ("access-groups: 'null'", &[], &["null"]),
        ("access-groups: [lab, {x: y}, ~]", &[], &["lab"]),
        ("access-groups: [[admins]]\n    access-users: [ada]", &["ada"], &[]),
        // Something is said that cannot be read.
        ("access-groups: {0: admins}", &[], &[shut]),
        ("access-groups: {}", &[], &[shut]),
        ("access-groups: [[admins]]", &[], &[shut]),
        ("access-groups: [~]", &[], &[shut]),
        ("access-groups: ['']", &[], &[shut]),
        ("access-groups: ''", &[], &[shut]),
        ("access-groups: ' , '", &[], &[shut]),
        ("access-groups: '${GROUPS:}'", &[], &[shut]),
        ("access-groups: '${GROUPS}'", &[], &[shut]),
        ("access-groups: \"#{pick('x', admins, 'y')}\"", &[], &[shut]),
        ("access-groups[0]:", &[], &[shut]),
        ("access-groups[0]: [admins]", &[], &[shut]),
        ("access-groups[0]: '#{claims.team}'", &[], &[shut]),
        ("access-groups[x]: admins", &[], &[shut]),
        ("access-groups[0][1]: admins", &[], &[shut]),
        ("access-groups.0: admins", &[], &[shut]),
        ("access: {groups: [admins]}", &[], &[shut]),
        ("'[access-groups]': admins", &[], &[shut]),
        ("access-roles: admins", &[], &[shut]),
        ("access-strict-rule: x\n    access-users: [ada]", &[], &[shut]),
        ("access-strict-expression[0]: x\n    access-users: [ada]", &[], &[shut]),
    ];
    for (lines, users, groups) in cases {
        let imported = one_app(lines);
        let found = access_of(&imported);
        assert_eq!(
            (found.0.iter().map(String::as_str).collect::<Vec<_>>(), found.1),
            (users.to_vec(), groups.iter().map(|g| (*g).to_owned()).collect()),
            "{lines}"
        );
        let differs = imported.notes.iter().any(|note| note.kind == Kind::Differs && note.place.line >= 7);
        assert!(differs || groups != [shut], "{lines}: {:?}", imported.notes);
        if groups == [shut] {
            assert!(!imported.toml.contains("access.users"), "{lines}");
        }
    }
    for twice in [
        "access-groups: a\n    access-groups[0]: b",
        "access-groups[0]: a\n    accessGroups[0]: b",
        "access-users: a\n    accessUsers: b",
    ] {
        assert!(one_app(twice).is_wrong(), "{twice}");
    }
    let aside = "proxy:\n  specs: [{id: a, container-image: b}]\nproxy.specs[0].access-groups: admins\n";
    assert!(import_text(aside).is_wrong(), "no rule is passed over that stands aside");
    let aside = "proxy:\n  specs: [{id: a, container-image: b}]\n  specs[0]: {access-groups: admins}\n";
    assert!(import_text(aside).is_wrong());
}

#[test]
fn a_login_is_left_out_only_by_a_plain_none() {
    use crate::config::auth_keys::Provider;
    let provider = |lines: &str| {
        let text = format!("proxy:\n  specs: [{{id: a, container-image: b}}]\n{lines}\n");
        let imported = import_text(&text);
        let differs =
            imported.notes.iter().any(|n| n.kind == Kind::Differs && n.text.contains("uthentication"));
        (load(&imported).server.auth.provider, differs)
    };
    assert_eq!(provider("  authentication: none"), (Provider::None, false));
    assert_eq!(provider("  authentication: 'none'"), (Provider::None, false));
    assert_eq!(provider("  authentication: ${AUTH:none}"), (Provider::None, false));
    assert_eq!(provider("  authentication: simple"), (Provider::Local, false));
    for unclear in [
        "${AUTH}",
        "",
        "~",
        "''",
        "[]",
        "[none]",
        "{}",
        "{none: none}",
        "' none'",
        "NONE",
        "\"#{x}\"",
        "{a: [x]}",
    ] {
        let lines = format!("  authentication: {unclear}");
        assert_eq!(provider(&lines).0, Provider::Local, "{unclear}");
    }
    for reported in ["${AUTH}", "", "[none]", "NONE"] {
        assert!(provider(&format!("  authentication: {reported}")).1, "{reported}");
    }
    for inner in
        ["  authentication[0]: none", "  authentication.authentication: none", "  Authentication: ldap"]
    {
        assert_eq!(provider(inner).0, Provider::Local, "{inner}");
    }
    assert_eq!(provider("proxy.authentication: ldap").0, Provider::Local);
    assert_eq!(provider("  authentication: none\nproxy.authentication: simple").0, Provider::Local);
}

#[test]
fn only_numbers_are_written_as_such() {
    let said = "\"8080\\naccess.anyone = true\"";
    let imported = one_app(&format!("port: {said}\n    access-users: ada"));
    assert_eq!(access_of(&imported), (vec!["ada".to_owned()], vec![]));
    assert!(note(&imported, "port").starts_with("not yet: "));
    let imported = one_app(&format!("max-total-instances: {said}\n    access-users: ada"));
    assert_eq!(access_of(&imported), (vec!["ada".to_owned()], vec![]));
    for odd in ["8080 # x", "0x50", "8_080", "70000", "true"] {
        let imported = one_app(&format!("port: \"{odd}\""));
        assert!(!imported.toml.contains(&format!("container.port = {odd}")), "{}", imported.toml);
    }
    let imported = one_app("port: ' 08080'\n    max-total-instances: '+7'");
    assert!(
        imported.toml.contains("container.port = 8080\n") && imported.toml.contains("max_instances = 7\n")
    );
    let total = "proxy:\n  max-total-instances: \"9\\nlisten = ['0.0.0.0:1']\"\n  specs: [{id: a, container-image: b}]\n";
    let imported = import_text(total);
    assert!(imported.is_wrong() && !imported.toml.contains("0.0.0.0:1'"), "{}", imported.toml);
    let names = "\"A = 'x', B\": y\n      \"C = 'x' }\\naccess.anyone = true\\nenv = { D\": z\n      GOOD: g";
    let imported = one_app(&format!("container-env:\n      {names}\n    access-users: ada"));
    assert_eq!(access_of(&imported).0, ["ada"]);
    let file = load(&imported);
    assert_eq!(app(&file, "a").env.keys().collect::<Vec<_>>(), ["GOOD"]);
}

#[test]
fn how_many_one_user_may_have_is_carried_over() {
    let of = |imported: &Imported| app(&load(imported), "a").max_instances_per_user;
    let usual = one_app("display-name: x");
    assert_eq!(load(&usual).defaults.max_instances_per_user, Some(1), "one, without being told");
    for (said, most) in [("3", Some(3)), ("-1", Some(1000)), ("1", Some(1)), ("many", None), ("0", None)] {
        let imported = one_app(&format!("max-instances: {said}"));
        assert_eq!(of(&imported), most, "{said}");
        let expected = if most.is_some() { "kept: " } else { "not yet: " };
        assert!(note(&imported, "max-instances").starts_with(expected), "{said}");
    }
    let all = import_text("proxy:\n  default-max-instances: 4\n  specs: [{id: a, container-image: b}]\n");
    assert_eq!(load(&all).defaults.max_instances_per_user, Some(4));
}

#[test]
fn what_narrows_an_app_does_not_widen_it_where_it_cannot_be_read() {
    let networks = |lines: &str| {
        let imported = one_app(lines);
        let toml = imported.toml.clone();
        let of_app = toml.split("[apps.a]").nth(1).unwrap().to_owned();
        load(&imported);
        of_app.lines().find_map(|line| line.strip_prefix("container.networks = ").map(str::to_owned))
    };
    assert_eq!(networks("display-name: x"), None, "the usual one");
    assert_eq!(networks("container-network: own").as_deref(), Some("[\"own\"]"));
    for unclear in ["${NET}", "[own]", "{a: own}", "host"] {
        let found = networks(&format!("container-network: {unclear}"));
        assert_eq!(found.as_deref(), Some("[]"), "{unclear}: not the usual network instead");
    }
    for unclear in ["${USER_ID}", "'#{proxy.userId}'", "[1000]", "{a: b}", "'a b'"] {
        let imported = one_app(&format!("docker-user: {unclear}\n    access-users: ada"));
        assert_eq!(access_of(&imported), (vec![], vec!["access-not-carried-over".to_owned()]), "{unclear}");
    }
    assert_eq!(access_of(&one_app("docker-user: 1000\n    access-users: ada")).0, ["ada"]);
    for privileged in ["true", "[true]", "${P}", "~"] {
        let imported = one_app(&format!("container-privileged: {privileged}"));
        assert!(!imported.toml.contains("capabilities"), "{}", imported.toml);
    }
    let mounts = one_app("container-volumes: [[\"/:/host\"], {a: \"/:/host\"}, \"/srv/a:/data:ro\"]");
    assert!(mounts.toml.contains("container.mounts = [\"/srv/a:/data:ro\"]\n"), "{}", mounts.toml);
    assert!(mounts.notes.iter().any(|note| note.text.contains("no text in it is left out")));
    let command = one_app("container-cmd: [serve, [--safe]]");
    assert!(!command.toml.contains("command"), "half a command is none");
    for unclear in ["${BIND}", "[127.0.0.1]", "''"] {
        let text = format!(
            "proxy:\n  authentication: simple\n  bind-address: {unclear}\n  specs: [{{id: a, container-image: b}}]\n"
        );
        let file = load(&import_text(&text));
        assert_eq!(file.server.listen[0].to_string(), "127.0.0.1:8080", "{unclear}");
    }
}

#[test]
fn nobody_administers_by_an_expression() {
    let imported = import_text(
        "proxy:\n  authentication: simple\n  admin-groups: \"#{pick('x', lab, 'y')}\"\n  admin-users: ['#{x}', bob]\n  \
         users:\n  - {name: ada, password: p, groups: lab}\n  - {name: bob, password: p}\n  \
         specs: [{id: a, container-image: b}]\n",
    );
    let said = |end: &str| imported.notes.iter().any(|note| note.text.ends_with(end));
    assert!(said("run `skep user add ada --groups lab`"), "{:?}", imported.notes);
    assert!(said("run `skep user add bob --admin`"), "{:?}", imported.notes);
}
