//! Users, grants, one-time links and usage, each promise on both engines.

use skep_model::UserName;
use skep_store::{GrantRow, Link, LinkPurpose, Location, NewUser, Redeemed, Store, UsageDay};

use crate::postgres;

const NOW: i64 = 1_790_000_000_000;

on_both!(
    users_come_and_go,
    every_change_counts_up_the_version,
    a_new_password_ends_earlier_logins,
    groups_come_with_members_and_go_with_them,
    grants_are_stored_once,
    ended_logins_are_remembered_until_they_end,
    a_link_works_once,
    a_newer_link_voids_the_older,
    racing_for_a_link_has_one_winner,
    usage_adds_up_and_loses_names,
    favourites_are_marks,
    hostile_names_are_only_names,
    many_users_are_read_at_once,
    parallel_changes_all_happen,
);

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn grant(grantee: &str, gives: &str, scope: &str) -> GrantRow {
    GrantRow { grantee: grantee.to_owned(), gives: gives.to_owned(), scope: scope.to_owned() }
}

fn ada() -> NewUser {
    NewUser {
        name: name("ada"),
        password_hash: Some("hash".to_owned()),
        groups: vec!["staff".to_owned(), "lab".to_owned()],
        grants: vec![grant("user:ada", "role:administrator", "everything")],
    }
}

fn plain(user: &str) -> NewUser {
    NewUser { name: name(user), password_hash: None, groups: Vec::new(), grants: Vec::new() }
}

async fn users_come_and_go(store: Store) {
    let people = store.people();
    assert!(people.add(&ada(), NOW).await.unwrap());
    assert!(!people.add(&plain("ada"), NOW + 1).await.unwrap(), "the name is taken");
    assert!(people.add(&plain("bob"), NOW + 2).await.unwrap());
    let all = people.read().await.unwrap();
    let [first, second] = all.users.as_slice() else { panic!("{all:?}") };
    assert_eq!((first.name.as_str(), first.has_password, first.disabled), ("ada", true, false));
    assert_eq!((first.created_at_ms, first.not_before_ms, first.last_login_ms), (NOW, NOW, None));
    assert_eq!(first.groups, ["lab", "staff"]);
    assert_eq!((second.name.as_str(), second.has_password, second.groups.len()), ("bob", false, 0));
    assert_eq!(all.grants, ada().grants);

    people.logged_in("ada", NOW + 5).await.unwrap();
    assert_eq!(people.read().await.unwrap().users[0].last_login_ms, Some(NOW + 5));
    assert!(people.set_disabled("ada", true, NOW + 6).await.unwrap());
    let verifier = people.verifier("ada").await.unwrap().unwrap();
    assert_eq!((verifier.hash.as_deref(), verifier.disabled), (Some("hash"), true));
    assert_eq!(verifier.not_before_ms, NOW + 6);
    assert!(people.verifier("eve").await.unwrap().is_none());

    assert!(people.remove("ada").await.unwrap());
    assert!(!people.remove("ada").await.unwrap());
    let left = people.read().await.unwrap();
    assert_eq!(left.users.len(), 1);
    assert!(left.grants.is_empty(), "grants go with their user");
    for missing in [
        people.set_disabled("ada", true, NOW).await,
        people.sign_out("ada", NOW).await,
        people.set_password("ada", "x", NOW).await,
        people.set_groups("ada", &["x".to_owned()], NOW).await,
    ] {
        assert!(!missing.unwrap());
    }
}

async fn every_change_counts_up_the_version(store: Store) {
    let people = store.people();
    let mut last = people.version().await.unwrap();
    let mut check = async |what: &str| {
        let now = people.version().await.unwrap();
        assert!(now > last, "{what}");
        assert_eq!(people.read().await.unwrap().version, now);
        last = now;
    };
    people.add(&ada(), NOW).await.unwrap();
    check("add").await;
    people.set_password("ada", "h2", NOW).await.unwrap();
    check("password").await;
    people.set_groups("ada", &[], NOW).await.unwrap();
    check("groups").await;
    people.set_disabled("ada", true, NOW).await.unwrap();
    check("disable").await;
    people.sign_out("ada", NOW).await.unwrap();
    check("sign out").await;
    people.grant(&grant("everyone", "apps.use", "app:sales"), NOW).await.unwrap();
    check("grant").await;
    people.ungrant(&grant("everyone", "apps.use", "app:sales")).await.unwrap();
    check("ungrant").await;
    people.revoke("00", NOW + 1).await.unwrap();
    check("revoke").await;
    people.remove("ada").await.unwrap();
    check("remove").await;
    assert!(people.add(&plain("bob"), NOW).await.unwrap());
    let before = people.version().await.unwrap();
    assert!(!people.add(&plain("bob"), NOW).await.unwrap());
    assert_eq!(people.version().await.unwrap(), before, "what did not happen does not count");
}

async fn a_new_password_ends_earlier_logins(store: Store) {
    let people = store.people();
    people.add(&ada(), NOW).await.unwrap();
    let not_before = async || people.verifier("ada").await.unwrap().unwrap().not_before_ms;
    people.rehash("ada", "hash", "better").await.unwrap();
    people.rehash("ada", "hash", "too late").await.unwrap();
    assert_eq!(people.verifier("ada").await.unwrap().unwrap().hash.as_deref(), Some("better"));
    assert_eq!(not_before().await, NOW, "hashing anew is no new password");
    assert!(people.set_password("ada", "other", NOW + 10).await.unwrap());
    assert_eq!(not_before().await, NOW + 10);
    assert!(people.sign_out("ada", NOW + 20).await.unwrap());
    assert_eq!(not_before().await, NOW + 20);
    people.sign_out("ada", NOW + 15).await.unwrap();
    assert_eq!(not_before().await, NOW + 20, "a clock set back revives no login");
}

async fn groups_come_with_members_and_go_with_them(store: Store) {
    let people = store.people();
    people.add(&ada(), NOW).await.unwrap();
    people.grant(&grant("group:lab", "apps.use", "app:x"), NOW).await.unwrap();
    let twice = ["x".to_owned(), "x".to_owned(), "y".to_owned()];
    assert!(people.set_groups("ada", &twice, NOW).await.unwrap());
    assert_eq!(people.read().await.unwrap().users[0].groups, ["x", "y"]);
    assert!(people.set_groups("ada", &[], NOW).await.unwrap());
    assert!(people.read().await.unwrap().users[0].groups.is_empty());
    assert_eq!(people.read().await.unwrap().grants.len(), 2, "a grant to a group needs no member");
}

async fn grants_are_stored_once(store: Store) {
    let people = store.people();
    let everyone = grant("everyone", "apps.use", "app:sales");
    assert!(people.grant(&everyone, NOW).await.unwrap());
    assert!(!people.grant(&everyone, NOW).await.unwrap());
    assert!(people.grant(&grant("anonymous", "apps.use", "app:sales"), NOW).await.unwrap());
    assert_eq!(people.read().await.unwrap().grants.len(), 2);
    assert!(people.ungrant(&everyone).await.unwrap());
    assert!(!people.ungrant(&everyone).await.unwrap());
}

async fn ended_logins_are_remembered_until_they_end(store: Store) {
    let people = store.people();
    people.revoke("aa", NOW + 10).await.unwrap();
    people.revoke("aa", NOW + 99).await.unwrap();
    people.revoke("bb", NOW + 20).await.unwrap();
    let revoked = async || {
        let mut revoked = people.read().await.unwrap().revocations;
        revoked.sort();
        revoked
    };
    assert_eq!(revoked().await, [("aa".to_owned(), NOW + 10), ("bb".to_owned(), NOW + 20)]);
    assert_eq!(people.expire(NOW + 9).await.unwrap(), 0);
    assert_eq!(people.expire(NOW + 10).await.unwrap(), 1);
    assert_eq!(revoked().await, [("bb".to_owned(), NOW + 20)]);
}

fn set_up_link() -> Link {
    Link { purpose: LinkPurpose::SetUp, expires_at_ms: NOW + 100 }
}

async fn a_link_works_once(store: Store) {
    let people = store.people();
    people.add_link("h1", &set_up_link()).await.unwrap();
    assert_eq!(people.link("h1", NOW).await.unwrap(), Some(set_up_link()));
    assert_eq!(people.link("h1", NOW + 100).await.unwrap(), None, "expired");
    assert_eq!(people.link("h2", NOW).await.unwrap(), None);
    assert_eq!(people.set_up("h2", &ada(), NOW).await.unwrap(), Redeemed::NoSuchLink);
    assert_eq!(people.set_up("h1", &ada(), NOW + 100).await.unwrap(), Redeemed::NoSuchLink);
    people.add(&plain("ada"), NOW).await.unwrap();
    assert_eq!(people.set_up("h1", &ada(), NOW).await.unwrap(), Redeemed::NameTaken);
    people.remove("ada").await.unwrap();
    assert_eq!(people.redeem("h1", "hash", NOW).await.unwrap(), Redeemed::NoSuchLink, "another purpose");
    assert_eq!(people.set_up("h1", &ada(), NOW).await.unwrap(), Redeemed::Done);
    assert_eq!(people.set_up("h1", &ada(), NOW).await.unwrap(), Redeemed::NoSuchLink);
    let all = people.read().await.unwrap();
    assert_eq!((all.users.len(), all.grants.len()), (1, 1));

    let invite = Link { purpose: LinkPurpose::Password(name("ada")), expires_at_ms: NOW + 100 };
    people.add_link("h3", &invite).await.unwrap();
    assert_eq!(people.link("h3", NOW).await.unwrap(), Some(invite));
    assert_eq!(people.redeem("h3", "chosen", NOW + 7).await.unwrap(), Redeemed::Done);
    assert_eq!(people.redeem("h3", "again", NOW + 8).await.unwrap(), Redeemed::NoSuchLink);
    let verifier = people.verifier("ada").await.unwrap().unwrap();
    assert_eq!((verifier.hash.as_deref(), verifier.not_before_ms), (Some("chosen"), NOW + 7));
}

async fn a_newer_link_voids_the_older(store: Store) {
    let people = store.people();
    people.add(&plain("ada"), NOW).await.unwrap();
    people.add(&plain("bob"), NOW).await.unwrap();
    let invite = |user| Link { purpose: LinkPurpose::Password(name(user)), expires_at_ms: NOW + 100 };
    people.add_link("s1", &set_up_link()).await.unwrap();
    people.add_link("a1", &invite("ada")).await.unwrap();
    people.add_link("b1", &invite("bob")).await.unwrap();
    people.add_link("a2", &invite("ada")).await.unwrap();
    let works = async |hash: &str| people.link(hash, NOW).await.unwrap().is_some();
    assert!(!works("a1").await && works("a2").await && works("b1").await && works("s1").await);
    people.add_link("s2", &set_up_link()).await.unwrap();
    assert!(!works("s1").await && works("s2").await && works("a2").await);
    people.remove("ada").await.unwrap();
    assert!(!works("a2").await, "a link goes with its user");
    assert_eq!(people.expire(NOW + 100).await.unwrap(), 2);
}

async fn racing_for_a_link_has_one_winner(store: Store) {
    store.people().add_link("h", &set_up_link()).await.unwrap();
    let racers: Vec<_> = (0..6)
        .map(|n| {
            let people = store.people();
            tokio::spawn(async move { people.set_up("h", &plain(&format!("user{n}")), NOW).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        winners += usize::from(racer.await.unwrap() == Redeemed::Done);
    }
    assert_eq!(winners, 1);
    assert_eq!(store.people().read().await.unwrap().users.len(), 1);
}

fn day(day: i64, app: &str, user: Option<&str>, visits: i64) -> UsageDay {
    let user = user.map(str::to_owned);
    UsageDay { day, app: app.to_owned(), user, visits, seconds: visits * 60, last_at_ms: NOW + visits }
}

async fn usage_adds_up_and_loses_names(store: Store) {
    let (usage, people) = (store.usage(), store.people());
    usage.add(&[day(1, "sales", Some("ada"), 2), day(1, "sales", None, 5)]).await.unwrap();
    usage.add(&[day(1, "sales", Some("ada"), 1), day(2, "stocks", Some("ada"), 4)]).await.unwrap();
    let days = usage.days(0, 9, None).await.unwrap();
    assert_eq!(days.len(), 3);
    let adas = days.iter().find(|d| d.day == 1 && d.user.is_some()).unwrap();
    assert_eq!((adas.visits, adas.seconds, adas.last_at_ms), (3, 180, NOW + 2));
    assert_eq!(usage.days(2, 9, Some("stocks")).await.unwrap().len(), 1);
    assert_eq!(usage.days(2, 9, Some("sales")).await.unwrap().len(), 0);
    let recent = usage.recent("ada", 5).await.unwrap();
    assert_eq!(recent, [("stocks".to_owned(), NOW + 4), ("sales".to_owned(), NOW + 2)]);
    people.add(&plain("ada"), NOW).await.unwrap();
    people.remove("ada").await.unwrap();
    assert!(usage.recent("ada", 5).await.unwrap().is_empty());
    let days = usage.days(0, 9, None).await.unwrap();
    assert_eq!(
        days,
        [
            UsageDay { visits: 8, seconds: 480, last_at_ms: NOW + 5, ..day(1, "sales", None, 0) },
            day(2, "stocks", None, 4)
        ]
    );
    assert_eq!(usage.expire(2).await.unwrap(), 1);
}

async fn favourites_are_marks(store: Store) {
    let usage = store.usage();
    for (user, app) in [("ada", "b"), ("ada", "a"), ("ada", "b"), ("bob", "c")] {
        usage.set_favourite(user, app, true, NOW).await.unwrap();
    }
    assert_eq!(usage.favourites("ada").await.unwrap(), ["a", "b"]);
    usage.set_favourite("ada", "a", false, NOW).await.unwrap();
    assert_eq!(usage.favourites("ada").await.unwrap(), ["b"]);
    assert_eq!(usage.favourites("eve").await.unwrap(), [""; 0]);
}

async fn hostile_names_are_only_names(store: Store) {
    let people = store.people();
    let names = ["'; DROP TABLE users; --", "a\"b\\c", "%", "_", "\u{1f41d} é", "user:x", "{1}", "$1"];
    for hostile in names {
        let user = NewUser { groups: vec![hostile.to_owned()], ..plain(hostile) };
        assert!(people.add(&user, NOW).await.unwrap());
    }
    let all = people.read().await.unwrap();
    assert_eq!(all.users.len(), names.len());
    assert!(all.users.iter().all(|user| user.groups == [user.name.as_str()]));
    assert!(people.remove("%").await.unwrap());
    assert_eq!(people.read().await.unwrap().users.len(), names.len() - 1);
}

async fn many_users_are_read_at_once(store: Store) {
    let people = store.people();
    for n in 0..300 {
        let groups = vec![format!("g{}", n % 7), "all".to_owned()];
        people.add(&NewUser { groups, ..plain(&format!("Ü-{n}_x")) }, NOW).await.unwrap();
    }
    let all = people.read().await.unwrap();
    assert_eq!(all.users.len(), 300);
    assert!(all.users.iter().all(|user| user.groups.len() == 2), "every membership found its user");
}

async fn parallel_changes_all_happen(store: Store) {
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let people = store.people();
            tokio::spawn(async move { people.add(&plain(&format!("user{n}")), NOW).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    let all = store.people().read().await.unwrap();
    assert_eq!((all.users.len(), all.version), (40, 40));
}
