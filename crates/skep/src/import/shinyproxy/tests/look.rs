//! The portal's look, and what containers get beside their images.

use skep_model::{Icon, RemoteImage};

use super::*;

#[test]
fn the_portal_looks_as_it_did_as_far_as_it_can() {
    let imported = import_text(TEMPLATES);
    let file = load(&imported);
    assert_eq!(file.portal.title, "The lab's apps");
    let logo = RemoteImage::parse("https://example.org/logo.png").map(Icon::Remote);
    assert_eq!(file.portal.logo, logo);
    let sections: Vec<_> = file.portal.sections.iter().map(|s| (s.name.as_str(), s.title.as_str())).collect();
    assert_eq!(sections, [("tools", "Tools"), ("views", "Views & plots")]);
    let of = |id: &str| {
        let keys = app(&file, id);
        (keys.section.as_deref(), keys.icon.as_ref().map(|icon| icon.value.clone()))
    };
    // The address of an image is that of a file below the templates; without one it is everybody's.
    let below = Icon::Within { dir: "/etc/skep".into(), name: "templates/ours/assets/report.png".to_owned() };
    let usual = Icon::File("/logos/app.png".into());
    assert_eq!(of("report"), (Some("views"), Some(below)));
    assert_eq!(of("plain"), (Some("nowhere"), Some(usual.clone())));
    let remote = RemoteImage::parse("http://logos.example/remote.svg").map(Icon::Remote);
    assert_eq!(of("remote"), (Some("tools"), remote));
    assert_eq!((of("packed").1, of("served").1), (Some(usual.clone()), Some(usual)));
    let said = |start: &str| imported.notes.iter().any(|note| note.text.starts_with(start));
    assert!(said("`template-group`: kept: `section`"));
    assert!(said("`template-group`: changed: became `section`; none of the"));
    assert!(said("`maintainer`: without meaning here: "));
    assert!(said("`logo-url`: kept: `icon`; visitors' browsers fetch it from there"));
    assert!(said("`logo-url`: not yet: it lies in ShinyProxy's own archive"));
    assert!(said("`logo-url`: not yet: ShinyProxy itself serves it"));
    assert_eq!(file.portal.message.as_deref(), Some("Down on Sunday"));
    assert_eq!(file.portal.support.as_deref(), Some("help@example.org"));
    assert!(said("`mail-subject`: without meaning here: "));
    let markup =
        import_text("proxy: {notification-message: '<b>x</b>', specs: [{id: a, container-image: b}]}");
    assert!(note(&markup, "notification-message").starts_with("not yet: it holds markup"));
    assert!(said("`my-apps-mode`: without meaning here: "));
    let expression = import_text(
        "proxy: {title: \"#{serverName == 'a' ? 'A' : 'B'}\", specs: [{id: a, container-image: b}]}",
    );
    assert!(note(&expression, "title").starts_with("not yet: `#{serverName"));
    for (groups, wrong) in
        [("x", true), ("[{properties: {}}]", true), ("[{id: a}, {id: a}]", true), ("[]", false)]
    {
        let text = format!("proxy: {{template-groups: {groups}, specs: [{{id: a, container-image: b}}]}}");
        assert_eq!(import_text(&text).is_wrong(), wrong, "{groups}");
    }
}

#[test]
fn labels_and_gpus_are_given_to_the_container() {
    let labels = one_app(
        "labels: {team.name: lab, '[cost.centre]': '7', skep.app: x, who: '#{proxy.userId}', odd: [1]}",
    );
    let file = load(&labels);
    assert!(
        labels.toml.contains("container.labels = { \"cost.centre\" = \"7\", \"team.name\" = \"lab\" }"),
        "{}",
        labels.toml
    );
    assert_eq!(file.apps.len(), 1);
    assert_eq!(note(&labels, "team.name"), "kept: one of `container.labels`");
    assert!(note(&labels, "skep.app").contains("begins with `skep.`"));
    assert!(note(&labels, "who").starts_with("not yet: what differs"));
    let gpus = |request: &str| {
        let imported = one_app(&format!("docker-device-requests: {request}"));
        load(&imported);
        imported.toml.lines().find_map(|line| line.strip_prefix("container.gpus = ").map(str::to_owned))
    };
    assert_eq!(gpus("[{count: -1, capabilities: [[gpu]]}]").as_deref(), Some("\"all\""));
    assert_eq!(gpus("[{driver: nvidia, count: 2, capabilities: [[gpu]]}]").as_deref(), Some("2"));
    assert_eq!(gpus("[{device-ids: [GPU-1a], capabilities: [[gpu]]}]").as_deref(), Some("[\"GPU-1a\"]"));
    for other in [
        "[{count: -1, capabilities: [[tpu]]}]",
        "[{count: -1, capabilities: [[gpu, compute]]}]",
        "[{count: 0, capabilities: [[gpu]]}]",
        "[{count: -1}]",
        "[{driver: x, count: -1, capabilities: [[gpu]]}]",
        "[{count: 1, capabilities: [[gpu]]}, {count: 1, capabilities: [[gpu]]}]",
        "x",
        "[]",
    ] {
        assert_eq!(gpus(other), None, "{other}");
    }
}
