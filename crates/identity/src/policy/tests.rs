//! The whole matrix: every principal × permission × object × set of grants, against a second, naive reading of the rules.

use super::*;
use proptest::prelude::*;

fn user(name: &str, groups: &[&str]) -> Principal {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    Principal::User { name: name.parse().unwrap(), groups }
}

fn access(users: &[&str], groups: &[&str], anyone: bool) -> Access {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Access { users: list(users), groups: list(groups), anyone }
}

fn grant(text: &str) -> Grant {
    let words: Vec<&str> = text.split_whitespace().collect();
    Grant { to: words[0].parse().unwrap(), gives: words[1].parse().unwrap(), on: words[2].parse().unwrap() }
}

fn app(id: &str) -> AppId {
    id.parse().unwrap()
}

const GRANTEES: [&str; 6] = ["user:ada", "user:bob", "group:staff", "group:lab", "everyone", "anonymous"];
const SCOPES: [&str; 7] =
    ["everything", "app:sales", "app:stocks", "stack:shop", "stack:wiki", "label:team=a", "label:team"];

fn principals() -> Vec<Principal> {
    vec![
        Principal::Anonymous,
        user("ada", &[]),
        user("ada", &["staff"]),
        user("bob", &["lab", "staff"]),
        user("eve", &["nobody"]),
        // A group's name is no user's name, and the other way round.
        user("staff", &["ada"]),
    ]
}

/// The rules as one would say them, without indexes.
fn expected(grants: &[Grant], who: &Principal, what: Permission, on: Object<'_>) -> bool {
    let (name, groups): (Option<&str>, &[String]) = match who {
        Principal::User { name, groups } => (Some(name.as_str()), groups),
        _ => (None, &[]),
    };
    let concerned = |to: &Grantee| match to {
        Grantee::User(user) => name == Some(user),
        Grantee::Group(group) => groups.contains(group),
        Grantee::Everyone => name.is_some(),
        Grantee::Anonymous => true,
    };
    let covered = |scope: &Scope| match (scope, on) {
        (Scope::Everything, _) => true,
        (Scope::App(app), Object::App { id, .. }) => app.as_str() == id.as_str(),
        (Scope::Stack(name), Object::Service { stack: Some(stack), .. }) => name == stack,
        (Scope::Label(label), Object::Service { labels, .. }) => labels.iter().any(|(key, value)| {
            let mut parts = label.splitn(2, '=');
            parts.next() == Some(key) && parts.next().is_none_or(|wanted| wanted == value)
        }),
        _ => false,
    };
    let granted =
        grants.iter().any(|g| concerned(&g.to) && covered(&g.on) && g.gives.permissions().contains(what));
    let by_access = match (what, on) {
        (Permission::AppsUse, Object::App { access, .. }) => {
            access.anyone
                || name.is_some_and(|name| {
                    (access.users.is_empty() && access.groups.is_empty())
                        || access.users.iter().any(|user| user.to_lowercase() == name)
                        || access.groups.iter().any(|group| groups.contains(group))
                })
        }
        _ => false,
    };
    granted || by_access
}

fn every_gift() -> Vec<String> {
    let permissions = Permission::ALL.into_iter().map(|permission| permission.name().to_owned());
    permissions.chain(Role::ALL.into_iter().map(|role| format!("role:{role}"))).collect()
}

/// Calls `check` with every object there is in this little world.
fn for_every_object(mut check: impl FnMut(Object<'_>)) {
    let ids = [app("sales"), app("stocks")];
    let accesses = [
        access(&[], &[], false),
        access(&[], &[], true),
        access(&["Ada"], &[], false),
        access(&["nobody"], &["lab"], false),
        access(&["nobody"], &["absent"], false),
    ];
    check(Object::Everything);
    for id in &ids {
        for access in &accesses {
            check(Object::App { id, access });
        }
    }
    let label = |value: &str| vec![("team".to_owned(), value.to_owned())];
    for labels in [vec![], label("a"), label("b"), vec![("teams".to_owned(), "a".to_owned())]] {
        for stack in [None, Some("shop"), Some("wiki")] {
            check(Object::Service { stack, labels: &labels });
        }
    }
}

#[test]
fn every_single_grant_gives_what_it_says_and_nothing_else() {
    let mut decisions = 0_u32;
    for to in GRANTEES {
        for gift in every_gift() {
            for scope in SCOPES {
                let grants = [grant(&format!("{to} {gift} {scope}"))];
                let policy = Policy::new(grants.clone());
                for who in &principals() {
                    for what in Permission::ALL {
                        for_every_object(|on| {
                            let decision = policy.may(who, what, on);
                            let wanted = expected(&grants, who, what, on);
                            assert_eq!(decision.is_allowed(), wanted, "{} {who:?} {what} {on:?}", grants[0]);
                            decisions += 1;
                        });
                    }
                }
            }
        }
    }
    assert!(decisions > 2_000_000, "{decisions}");
}

#[test]
fn without_grants_only_apps_open() {
    let policy = Policy::new([]);
    for who in &principals() {
        for what in Permission::ALL {
            for_every_object(|on| {
                assert_eq!(policy.may(who, what, on).is_allowed(), expected(&[], who, what, on));
            });
        }
        assert_eq!(policy.permissions(who), Permissions::NONE);
    }
}

#[test]
fn without_a_login_apps_are_for_everybody_and_nothing_else_for_anybody() {
    let policy = Policy::without_login();
    for who in &principals() {
        for what in Permission::ALL {
            for_every_object(|on| {
                let app = matches!(on, Object::App { .. });
                let decision = policy.may(who, what, on);
                assert_eq!(decision.is_allowed(), app && what == Permission::AppsUse);
                if !decision.is_allowed() {
                    assert_eq!(decision, Decision::Refused(WhyNot::NoLoginConfigured));
                }
            });
        }
    }
}

#[test]
fn the_reason_is_told() {
    let grants = [grant("group:staff role:operator app:sales"), grant("user:Ada users.read everything")];
    let policy = Policy::new(grants);
    let (id, closed) = (app("sales"), access(&["bob"], &["lab"], false));
    let on = Object::App { id: &id, access: &closed };
    let say = |who: &Principal, what| policy.may(who, what, on).to_string();
    assert_eq!(say(&Principal::Anonymous, Permission::AppsUse), "refused: nobody is logged in");
    assert_eq!(say(&user("eve", &[]), Permission::AppsUse), "refused: nothing allows this user to do that");
    assert!(say(&user("bob", &[]), Permission::AppsUse).contains("access.users"));
    assert!(say(&user("eve", &["lab"]), Permission::AppsUse).contains("group `lab`"));
    assert_eq!(
        say(&user("eve", &["staff"]), Permission::AppsManage),
        "allowed by the grant group:staff → role:operator on app:sales"
    );
    assert_eq!(
        say(&user("ada", &[]), Permission::UsersRead),
        "allowed by the grant user:ada → users.read on everything"
    );
    let ada = policy.permissions(&user("ada", &["staff"]));
    assert_eq!(ada, [Permission::UsersRead].into_iter().collect(), "only what holds everywhere");
}

#[test]
fn texts_read_back() {
    for to in GRANTEES {
        assert_eq!(to.parse::<Grantee>().unwrap().to_string(), to);
    }
    for gift in every_gift() {
        assert_eq!(gift.parse::<Gives>().unwrap().to_string(), gift);
    }
    for scope in SCOPES {
        assert_eq!(scope.parse::<Scope>().unwrap().to_string(), scope);
    }
    for bad in ["", "user:", "group:", "all", "user", "everyone:x", "role:administrator"] {
        assert!(bad.parse::<Grantee>().is_err(), "{bad}");
    }
    for bad in ["", "app:", "app:_x", "stack:", "label:", "label:=a", "app", "everything:x"] {
        assert!(bad.parse::<Scope>().is_err(), "{bad}");
    }
    for bad in ["", "role:", "role:root", "users", "apps.*"] {
        assert!(bad.parse::<Gives>().is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Many grants at once: the decision is the union of what each gives.
    #[test]
    fn grants_add_up(picks in proptest::collection::vec((0..6_usize, 0..23_usize, 0..7_usize), 0..8)) {
        let gifts = every_gift();
        let grants: Vec<Grant> = picks
            .iter()
            .map(|&(to, gift, scope)| grant(&format!("{} {} {}", GRANTEES[to], gifts[gift], SCOPES[scope])))
            .collect();
        let policy = Policy::new(grants.clone());
        for who in &principals() {
            for what in Permission::ALL {
                for_every_object(|on| {
                    assert_eq!(policy.may(who, what, on).is_allowed(), expected(&grants, who, what, on));
                });
            }
        }
    }

    #[test]
    fn hostile_texts_are_parsed_or_refused(text in ".{0,60}") {
        if let Ok(to) = text.parse::<Grantee>() {
            prop_assert_eq!(to.to_string().parse::<Grantee>(), Ok(to));
        }
        if let Ok(scope) = text.parse::<Scope>() {
            prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
        }
        let _ = text.parse::<Gives>();
    }
}
