//! The exposition as a Prometheus server would read it, through the installed recorder.

use crate::parser::{Exposed, parse};
use metrics::{counter, describe_counter, gauge, histogram};

/// All tests share the process-wide recorder, so each uses names of its own.
fn scrape() -> Exposed {
    let text = skep_telemetry::install().unwrap().prometheus();
    parse(&text).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

#[test]
fn what_is_recorded_is_exposed_with_help_and_type() {
    skep_telemetry::install().unwrap();
    counter!("skep_http_requests_total", "app" => "sales", "method" => "GET", "code" => "200").increment(3);
    gauge!("skep_app_instances", "app" => "sales", "phase" => "ready").set(2.0);
    let seen = scrape();
    let requests = &seen["skep_http_requests_total"];
    assert_eq!(requests.kind, "counter");
    assert!(requests.help.as_deref().is_some_and(|help| help.starts_with("Requests answered")));
    let labels = [("app", "sales"), ("code", "200"), ("method", "GET")];
    assert_eq!(requests.value("skep_http_requests_total", &labels), Some(3.0));
    assert_eq!(
        seen["skep_app_instances"].value("skep_app_instances", &[("app", "sales"), ("phase", "ready")]),
        Some(2.0)
    );
    assert_eq!(seen["process_cpu_seconds_total"].kind, "counter");
    assert!(seen["process_open_fds"].value("process_open_fds", &[]).unwrap() >= 3.0);
    assert!(seen["process_resident_memory_bytes"].samples.len() == 1);
}

#[test]
fn hostile_labels_come_back_unchanged() {
    skep_telemetry::install().unwrap();
    let hostile = "a\"b\\c\nd},le=\"1\"} 5\n# TYPE x counter";
    gauge!("test_hostile", "app" => hostile, "bad-label" => "é").set(f64::NEG_INFINITY);
    let value = scrape()["test_hostile"].value("test_hostile", &[("app", hostile), ("bad_label", "é")]);
    assert_eq!(value, Some(f64::NEG_INFINITY));
}

#[test]
fn a_histogram_is_cumulative_and_complete() {
    skep_telemetry::install().unwrap();
    let durations = histogram!("skep_http_request_duration_seconds", "app" => "histo");
    for value in [0.0004, 0.002, 0.002, 45.0] {
        durations.record(value);
    }
    let seen = scrape();
    let family = &seen["skep_http_request_duration_seconds"];
    let app = ("app", "histo");
    let bucket = |le| family.value("skep_http_request_duration_seconds_bucket", &[app, ("le", le)]);
    assert_eq!((bucket("0.001"), bucket("0.0025"), bucket("30")), (Some(1.0), Some(3.0), Some(3.0)));
    assert_eq!(bucket("+Inf"), Some(4.0));
    assert_eq!(family.value("skep_http_request_duration_seconds_count", &[app]), Some(4.0));
    let sum = family.value("skep_http_request_duration_seconds_sum", &[app]).unwrap();
    assert!((sum - 45.0044).abs() < 1e-9);
}

#[test]
fn the_order_is_the_same_every_time() {
    skep_telemetry::install().unwrap();
    for app in ["zebra", "ant", "mole"] {
        counter!("test_order_total", "app" => app).increment(1);
    }
    let lines = || -> Vec<String> {
        let text = skep_telemetry::install().unwrap().prometheus();
        text.lines().filter(|line| line.starts_with("test_order_total")).map(str::to_owned).collect()
    };
    let first = lines();
    assert_eq!(first.len(), 3);
    assert!(first.is_sorted());
    assert_eq!(first, lines());
}

#[test]
fn names_outside_the_catalog_may_be_described() {
    skep_telemetry::install().unwrap();
    describe_counter!("test_described_total", "Two\nlines and a \\ back-slash");
    counter!("test_described_total").increment(1);
    assert_eq!(scrape()["test_described_total"].help.as_deref(), Some("Two\nlines and a \\ back-slash"));
}

#[test]
fn the_parser_refuses_what_prometheus_refuses() {
    for bad in [
        "x 1",
        "# TYPE x counter\nx 1\n# TYPE x counter\n",
        "# TYPE x counter\nx{a=\"1\",a=\"2\"} 1\n",
        "# TYPE x counter\nx 1\nx 2\n",
        "# TYPE x counter\ny 1\n",
        "# TYPE x counter\nx one\n",
        "# TYPE x histogram\nx_bucket{le=\"1\"} 2\nx_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n",
        "# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_sum 1\nx_count 1\n",
        "# TYPE x gauge\nx{a=\"un\"closed\"} 1\n",
        "# TYPE x-y gauge\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}
