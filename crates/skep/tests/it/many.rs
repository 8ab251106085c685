//! A folder with 2,000 apps.

use std::time::Instant;

use crate::test_app::TestApp;

#[test]
fn two_thousand_apps_are_ready_at_once() {
    const APPS: usize = 2000;
    let mut test = TestApp::new();
    for app in 0..APPS {
        let dir = format!("apps/app-{app:04}");
        match app % 4 {
            0 => test.write(&format!("{dir}/app.py"), "import streamlit as st\nst.title('Hello')\n"),
            1 => test.write(
                &format!("{dir}/app.R"),
                "library(shiny)\nshinyApp(fluidPage(), function(input, output) {})\n",
            ),
            2 => test.write(&format!("{dir}/index.html"), "<title>A site</title>"),
            _ => test.add(&format!("app-{app:04}"), "title = \"An app of many\"\nseats = 3"),
        }
        if app % 8 == 0 {
            test.write(&format!("{dir}/requirements.txt"), "streamlit\npandas\n");
        }
    }
    let start = Instant::now();
    test.start(&[]);
    let ready = start.elapsed();
    let mut visitor = test.visitor();
    visitor.open("/");
    let mut times: Vec<_> = (0..10)
        .map(|_| {
            let asked = Instant::now();
            let portal = visitor.open("/");
            assert_eq!(portal.status, 200);
            assert!(
                portal.body.contains("/app-1999/") || portal.body.contains("/app-0000/"),
                "{}",
                portal.body.len()
            );
            asked.elapsed()
        })
        .collect();
    times.sort();
    let status = std::fs::read_to_string(format!("/proc/{}/status", test.server_pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches("kB").trim().parse().unwrap();
    println!(
        "{APPS} apps: ready after {} ms, {} MiB resident, portal in {} ms (median of 10)",
        ready.as_millis(),
        resident >> 10,
        times[5].as_millis()
    );
    assert!(ready.as_secs() < 90, "{ready:?}");
    assert!(resident < 120 << 10, "{resident} kB");
    let mut held = test.visitor();
    assert_eq!(held.wait_for("/app-0003/").status, 200);
}
