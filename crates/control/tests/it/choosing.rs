//! The form before an instance starts, and what becomes of what was chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::Request;
use skep_control::{ControlConfig, LoginConfig, Newcomer};
use skep_edge::Purpose;
use skep_launch::{InstancePhase, Refusal};
use skep_model::{Access, AppSpec, Parameter, ParameterValue, Parameters, Secret};

use crate::world::{Answer, World, app, spec, until};

fn asking(versions: &[&str]) -> AppSpec {
    let value = |text: &&str| ParameterValue { value: (*text).to_owned(), title: format!("Version {text}") };
    let (name, title) = ("v".to_owned(), "Which".to_owned());
    let values = versions.iter().map(value).collect();
    let list = vec![Parameter { name, title, description: String::new(), values, default: None }];
    let access = Access { anyone: true, ..Access::default() };
    let parameters = Parameters { list, sets: Vec::new() };
    AppSpec { per_user: true, seats: 20, max_waiting: 1, parameters, access, ..spec("figures", "Figures") }
}

async fn world() -> World {
    let world = World::with_login(LoginConfig::default(), vec![asking(&["1", "2"])]).await;
    for name in ["bob", "eve"] {
        let password = Some(Secret::new("plum tree in June".to_owned()));
        let newcomer = Newcomer { name: name.to_owned(), admin: false, groups: Vec::new(), password };
        world.control.roster().add(newcomer).await.unwrap();
    }
    world.control.read_users().await.unwrap();
    world
}

async fn post(world: &World, path: &str, body: &str, cookie: &str) -> Answer {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", cookie);
    world.answer(Purpose::Own, request.body(body.to_owned()).unwrap()).await
}

async fn choose(world: &World, version: &str, cookie: &str) -> Answer {
    let body = format!("app=figures&name=&to=%2Ffigures%2Fmap%3Fx&p.v={version}");
    post(world, "/_skep/apps/choose", &body, cookie).await
}

async fn log_in(world: &World, name: &str) -> String {
    let body = format!("name={name}&password=plum+tree+in+June");
    let answer = post(world, "/_skep/login", &body, "").await;
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_full_line_is_told_and_the_choice_kept() {
    let world = world().await;
    let (bob, eve) = (log_in(&world, "bob").await, log_in(&world, "eve").await);
    let started = choose(&world, "1", &bob).await;
    assert_eq!((started.status.as_u16(), started.header("location")), (303, "/figures/map?x"));
    let full = choose(&world, "2", &eve).await;
    assert_eq!(full.status, 503);
    assert!(full.text.contains("the line is full"), "{}", full.text);
    assert!(full.text.contains("value=\"2\" selected"), "what was chosen is kept: {}", full.text);
    assert!(full.text.contains("value=\"/figures/map?x\""), "and so is the address: {}", full.text);
    assert_eq!(full.header("retry-after"), "15");
    assert!(full.header("set-cookie").starts_with("skep-choice=v=2;"), "{}", full.header("set-cookie"));
}

#[tokio::test]
async fn a_choice_that_comes_too_late_is_told_rather_than_ignored() {
    let world = world().await;
    let bob = log_in(&world, "bob").await;
    assert_eq!(choose(&world, "1", &bob).await.status, 303);
    let id = world.instance("figures", false).await;
    world.doors.open();
    world.instance("figures", true).await;
    assert_eq!(choose(&world, "1", &bob).await.status, 303, "the same once more leads there");
    let late = choose(&world, "2", &bob).await;
    assert_eq!(late.status, 409);
    assert!(late.text.contains("with Which: Version 1"), "{}", late.text);
    assert!(late.text.contains("href=\"/figures/map?x\">Open it<"), "{}", late.text);
    assert!(late.text.contains(&format!("value=\"{id}\">End it<")), "{}", late.text);
    let chosen = |view: &skep_launch::InstanceView| view.variant.chosen.clone();
    let all = world.handle.instances();
    assert_eq!(all.iter().map(chosen).collect::<Vec<_>>(), [BTreeMap::from([("v".into(), "1".into())])]);
    // What the page offers works: end it, and the same form starts it anew.
    post(&world, "/_skep/apps/stop", &format!("instance={id}"), &bob).await;
    until("it ends", || world.handle.instances().iter().all(|view| view.phase != InstancePhase::Ready)).await;
    assert_eq!(choose(&world, "2", &bob).await.status, 303);
}

#[tokio::test]
async fn whoever_waited_with_a_withdrawn_value_is_led_back_to_the_form() {
    let world = world().await;
    world.handle.set_apps(vec![Arc::new(asking(&["2", "3"]))]);
    // Both how a held page load is told, and how the launch page finds out when it loads anew.
    for refusal in [Refusal::ChoiceWithdrawn, Refusal::ChoiceNeeded] {
        let purpose = Purpose::RefusedPage { app: app("figures"), name: None, refusal };
        let request =
            Request::get("/figures/").header("accept", "text/html").header("cookie", "skep-choice=v=1");
        let page = world.answer(purpose, request.body("").unwrap()).await;
        assert!(page.text.contains("is not offered any more. Choose again."), "{}", page.text);
        assert!(page.text.contains("action=\"/_skep/apps/choose\""), "{}", page.text);
        assert!(page.text.contains("value=\"2\" selected") && !page.text.contains("value=\"1\""));
    }
    let purpose = Purpose::RefusedPage { app: app("figures"), name: None, refusal: Refusal::ChoiceNeeded };
    let request = Request::get("/figures/").header("accept", "text/html").header("cookie", "skep-choice=v=3");
    let page = world.answer(purpose, request.body("").unwrap()).await;
    assert!(!page.text.contains("not offered any more") && page.text.contains("value=\"3\" selected"));
}

#[tokio::test]
async fn a_form_without_an_app_is_no_way_in() {
    let world = World::new(ControlConfig::default(), vec![spec("plain", "Plain")]).await;
    assert_eq!(post(&world, "/_skep/apps/choose", "app=plain", "").await.status, 404);
    assert_eq!(post(&world, "/_skep/apps/choose", "app=nope", "").await.status, 404);
}
