//! `ballot check --list`: the published files alone, on the voter's own machine.

use std::path::Path;
use std::process::{Command, Output};

use crate::app::{App, Browser, get};

fn check(dir: &Path, more: &[&str]) -> Output {
    let files = ["--list", "ballots.csv", "--statement", "statement.json"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_ballot"));
    command.arg("check").args(more).args(files).current_dir(dir).output().expect("runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_list_is_recounted_and_receipts_are_found_without_a_server() {
    let app = App::start().await;
    let mut receipts = Vec::new();
    let mut ada = Browser::open(app.client(), "pets").await;
    let replaced = ada.voted("pets", "dogs").await;
    receipts.push(ada.voted("pets", "cats").await);
    for _ in 0..6 {
        receipts.push(Browser::open(app.client(), "pets").await.voted("pets", "dogs").await);
    }
    app.close("pets").await;
    let files = tempfile::tempdir().expect("dir");
    let (list_file, statement_file) = (files.path().join("ballots.csv"), files.path().join("statement.json"));
    let list = get(&app.client(), "/api/v1/polls/pets/ballots.csv").await.text();
    let statement = get(&app.client(), "/api/v1/polls/pets/statement").await.text();
    app.running.stop().await;
    std::fs::write(&list_file, &list).expect("list");
    std::fs::write(&statement_file, &statement).expect("statement");

    let output = check(files.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("The list adds up: 7 ballots, cats 1, dogs 6."), "{}", said(&output));
    for (i, receipt) in receipts.iter().enumerate() {
        let output = check(files.path(), &[receipt]);
        let option = if i == 0 { "cats" } else { "dogs" };
        assert!(output.status.success(), "{}", said(&output));
        assert!(
            said(&output).contains(&format!("Your vote is in the count, for {option}.")),
            "{}",
            said(&output)
        );
    }
    let output = check(files.path(), &[&replaced]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("NOT in this list"), "{}", said(&output));
    assert_eq!(check(files.path(), &["bt1.pets.nonsense"]).status.code(), Some(1));

    // Whoever changes the list or the statement is found out.
    let first = list.lines().nth(1).expect("a ballot");
    let other =
        if first.ends_with("cats") { first.replace("cats", "dogs") } else { first.replace("dogs", "cats") };
    let forged_lists = [
        list.replace(first, &other),
        list.replace(&format!("{first}\n"), ""),
        format!("{list}{first}\n"),
        "nothing".into(),
    ];
    for forged in forged_lists {
        std::fs::write(&list_file, &forged).expect("list");
        assert_eq!(check(files.path(), &[]).status.code(), Some(1), "{forged}");
    }
    std::fs::write(&list_file, &list).expect("list");
    for (from, to) in [("\"cats\":1", "\"cats\":2"), ("\"voters\":7", "\"voters\":8"), ("pets", "cars")] {
        assert!(statement.contains(from), "{statement}");
        std::fs::write(&statement_file, statement.replace(from, to)).expect("statement");
        assert_eq!(check(files.path(), &[]).status.code(), Some(1), "{from} -> {to}");
    }
}
