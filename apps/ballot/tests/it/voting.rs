//! Voting, changing, results and proof through the public addresses of `ballot all`.

use ballot::ids::PollId;
use ballot::polls;
use ballot::proof::{Leaf, Statement};
use ballot::results::check::{Checked, Fate};
use ballot::store::Database;
use http::{Method, StatusCode};

use crate::app::{App, Browser, code, get, options, poll, until};

async fn check(app: &App, receipt: &str) -> Checked {
    let mut browser = Browser::new(app.client());
    let body = format!("{{\"receipt\":\"{receipt}\"}}");
    let answer = browser.post("/api/v1/check", "application/json", &body, &[]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let checked: Checked = serde_json::from_slice(&answer.body).expect("an answer");
    checked.verify(&receipt.parse().expect("a receipt")).expect("what it says holds");
    checked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_counts_a_change_replaces_it_and_a_restart_keeps_both() {
    let app = App::start().await;
    let mut ada = Browser::open(app.client(), "pets").await;
    let mut eve = Browser::open(app.client(), "pets").await;
    ada.voted("pets", "cats").await;
    eve.voted("pets", "cats").await;
    app.counts("pets", 2, 0).await;
    ada.voted("pets", "dogs").await;
    app.counts("pets", 1, 1).await;
    let app = app.again(vec![polls::demo()]).await;
    app.counts("pets", 1, 1).await;
    let mut ada2 = Browser::new(app.client());
    ada2.cookie = ada.cookie.clone();
    ada2.voted("pets", "cats").await;
    app.counts("pets", 2, 0).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_works_without_a_script() {
    let app = App::start().await;
    let mut ada = Browser::open(app.client(), "pets").await;
    let form = "application/x-www-form-urlencoded";
    let answer = ada.post("/polls/pets", form, "option=dogs", &[("accept", "text/html")]).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert!(answer.text().contains("Your vote is recorded") && answer.text().contains("bt1.pets."));
    let answer = ada.post("/polls/pets", form, "", &[("accept", "text/html")]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("Choose one of the options"), "{}", answer.text());
    app.counts("pets", 0, 1).await;
    let page = get(&app.client(), "/polls/pets/results").await.text();
    assert!(page.contains("100.0 %") && page.contains("Dogs"), "{page}");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_checked_and_the_published_list_recounts() {
    let app = App::start().await;
    let mut browsers = Vec::new();
    for _ in 0..21 {
        browsers.push(Browser::open(app.client(), "pets").await);
    }
    let mut receipts = Vec::new();
    for (i, browser) in browsers.iter_mut().enumerate() {
        receipts.push(browser.voted("pets", if i % 3 == 0 { "dogs" } else { "cats" }).await);
    }
    let replaced = receipts[0].clone();
    receipts[0] = browsers[0].voted("pets", "cats").await;
    assert_eq!(check(&app, &replaced).await.fate, Fate::NotFinal);
    assert_eq!(code(&get(&app.client(), "/api/v1/polls/pets/ballots.csv").await).1, "not_final");
    app.close("pets").await;
    assert_eq!(browsers[1].vote("pets", "dogs").await.status, StatusCode::GONE);

    for (i, receipt) in receipts.iter().enumerate() {
        let checked = check(&app, receipt).await;
        let option = if i % 3 == 0 && i > 0 { "dogs" } else { "cats" };
        assert_eq!((checked.fate, checked.option.expect("option").as_str()), (Fate::Counted, option));
    }
    assert_eq!(check(&app, &replaced).await.fate, Fate::Replaced);
    let forged = format!("bt1.pets.{}", "a".repeat(39));
    assert_eq!(check(&app, &forged).await.fate, Fate::NotIssued);

    let statement = get(&app.client(), "/api/v1/polls/pets/statement").await;
    let statement: Statement = serde_json::from_slice(&statement.body).expect("a statement");
    let list = get(&app.client(), "/api/v1/polls/pets/ballots.csv").await.text();
    let leaves: Vec<Leaf> = list
        .lines()
        .skip(1)
        .map(|line| {
            let (tag, option) = line.split_once(',').expect("two columns");
            Leaf {
                tag: ballot::ids::BallotTag::from_hex(tag).expect("a tag"),
                option: option.try_into().expect("an option"),
            }
        })
        .collect();
    statement.recount(&leaves).expect("it adds up");
    assert_eq!(statement.voters, 21);
    let csv = get(&app.client(), "/api/v1/polls/pets/results.csv").await.text();
    assert!(csv.contains("count,cats,15") && csv.contains(&statement.signature), "{csv}");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_keep_their_rules_about_changes() {
    let polls = vec![
        poll("once", "changes = \"forbid\""),
        poll("slow", "changes = \"min_interval\"\nmin_interval = \"1h\""),
    ];
    let app = App::with(polls, options()).await;
    let mut ada = Browser::open(app.client(), "once").await;
    let before = ada.cookie.clone();
    ada.voted("once", "cats").await;
    assert_eq!(code(&ada.vote("once", "dogs").await), (409, "already_voted".into()));
    // An old cookie does not help.
    ada.cookie = before;
    assert_eq!(code(&ada.vote("once", "dogs").await), (409, "already_voted".into()));
    app.counts("once", 1, 0).await;
    let mut bob = Browser::open(app.client(), "slow").await;
    bob.voted("slow", "cats").await;
    assert_eq!(code(&bob.vote("slow", "dogs").await), (429, "too_soon".into()));
    app.counts("slow", 1, 0).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_counts_once_for_the_first_browser() {
    let app = App::with(vec![poll("board", "identity = \"ticket\"")], options()).await;
    let made =
        app.admin(Method::POST, "polls/board/tickets", r#"{"count":2,"link":"http://x/polls/board"}"#).await;
    let text = made.text();
    let ticket = text.lines().nth(1).expect("a ticket").split(',').next().expect("a code").to_owned();
    let mut ada = Browser::new(app.client());
    assert_eq!(ada.get(&format!("/polls/board?ticket={ticket}")).await.status, StatusCode::SEE_OTHER);
    ada.voted("board", "cats").await;
    ada.voted("board", "dogs").await;
    let mut eve = Browser::new(app.client());
    let body = format!("{{\"option\":\"cats\",\"ticket\":\"{ticket}\"}}");
    let answer = eve.post("/api/v1/polls/board/ballots", "application/json", &body, &[]).await;
    assert_eq!(code(&answer), (409, "ticket_used".into()));
    // After a restart the front no longer remembers; the merge still does.
    app.counts("board", 0, 1).await;
    let app = app.again(vec![poll("board", "identity = \"ticket\"")]).await;
    let mut eve = Browser::new(app.client());
    eve.post("/api/v1/polls/board/ballots", "application/json", &body, &[]).await;
    app.counts("board", 0, 1).await;
    let position = |logs: &str| logs.contains("\"position\":3");
    until("the replayed ballot is merged", async || {
        position(&app.admin(Method::GET, "logs", "").await.text())
    })
    .await;
    app.counts("board", 0, 1).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_shown_when_they_may_be() {
    let polls = vec![poll("later", "results = \"after_close\""), poll("hidden", "results = \"private\"")];
    let app = App::with(polls, options()).await;
    let mut ada = Browser::open(app.client(), "later").await;
    ada.voted("later", "cats").await;
    for path in ["/api/v1/polls/later/results", "/polls/later/results", "/api/v1/polls/later/events"] {
        assert_eq!(get(&app.client(), path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    app.admin(Method::POST, "polls/later/close", "").await;
    until("closed", async || {
        get(&app.client(), "/api/v1/polls/later/results").await.status == StatusCode::OK
    })
    .await;
    assert_eq!(get(&app.client(), "/api/v1/polls/hidden/results").await.status, StatusCode::FORBIDDEN);
    assert_eq!(get(&app.client(), "/api/v1/admin/logs").await.status, StatusCode::UNAUTHORIZED);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_are_defined_through_the_admin_api_and_reach_the_front() {
    let app = App::start().await;
    let body = r#"{"id":"fruit","question":"Which fruit?","options":["cats","dogs"]}"#;
    assert_eq!(app.admin(Method::POST, "polls", body).await.status, StatusCode::CREATED);
    until("the front knows", async || get(&app.client(), "/polls/fruit").await.status == StatusCode::OK)
        .await;
    let mut ada = Browser::open(app.client(), "fruit").await;
    ada.voted("fruit", "cats").await;
    app.counts("fruit", 1, 0).await;
    let fewer = r#"{"id":"fruit","question":"Which fruit?","options":["cats","fish"]}"#;
    assert_eq!(code(&app.admin(Method::POST, "polls", fewer).await), (409, "refused".into()));
    let typo = r#"{"id":"fruit","question":"Which fruit?","option":["cats","fish"]}"#;
    assert_eq!(code(&app.admin(Method::POST, "polls", typo).await), (400, "bad_poll".into()));
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_incremental_tally_equals_a_full_recount() {
    let app = App::start().await;
    for i in 0..40 {
        let mut browser = Browser::open(app.client(), "pets").await;
        browser.voted("pets", "cats").await;
        if i % 2 == 0 {
            browser.voted("pets", "dogs").await;
        }
        if i % 4 == 0 {
            browser.voted("pets", "cats").await;
        }
    }
    app.counts("pets", 30, 10).await;
    let url = format!("sqlite:{}", app.dir.path().join("ballot.db").display());
    let store = Database::open(&url).await.expect("opens");
    let rows = store.recount(&PollId::try_from("pets").expect("id")).await.expect("recount");
    assert_eq!(rows["cats"], (30, 30));
    assert_eq!(rows["dogs"], (10, 10));
    app.running.stop().await;
}
