//! The edge's metrics. Handles are looked up once per label set and loop, never per request. No label names a user.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::Method;
use metrics::{Counter, Gauge, Histogram};
use skep_model::AppId;

use crate::access_log::Record;

/// One loop's handles.
pub(crate) struct Meters {
    requests: HashMap<Option<AppId>, PerApp, RandomState>,
    pub(crate) lag: Histogram,
}

struct PerApp {
    duration: Histogram,
    counters: HashMap<(&'static str, u16), Counter, RandomState>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        describe();
        Self { requests: HashMap::default(), lag: metrics::histogram!("skep_edge_loop_lag_seconds") }
    }

    pub(crate) fn finished(&mut self, record: &Record) {
        let Some(app) = self.requests.get_mut(&record.app) else {
            self.requests.insert(record.app.clone(), PerApp::new(record.app.as_ref()));
            return self.finished(record);
        };
        let method = method_class(&record.method);
        let name = record.app.as_ref();
        let counter = app.counters.entry((method, record.status)).or_insert_with(|| {
            let app = name.map_or_else(String::new, ToString::to_string);
            let code = record.status.to_string();
            metrics::counter!("skep_http_requests_total", "app" => app, "method" => method, "code" => code)
        });
        counter.increment(1);
        // A tunnel's length says nothing about how fast anything was.
        if record.status != 101 {
            app.duration.record(record.duration.as_secs_f64());
        }
    }
}

impl PerApp {
    fn new(app: Option<&AppId>) -> Self {
        let app = app.map_or_else(String::new, ToString::to_string);
        let duration = metrics::histogram!("skep_http_request_duration_seconds", "app" => app);
        Self { duration, counters: HashMap::default() }
    }
}

/// Clients may send any token as a method; only the known ones become labels.
fn method_class(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

/// Open client connections of one listener.
pub(crate) fn connections(listener: &str, protocol: &'static str) -> Gauge {
    metrics::gauge!("skep_edge_connections", "listener" => listener.to_owned(), "protocol" => protocol)
}

pub(crate) fn tunnels() -> Gauge {
    metrics::gauge!("skep_edge_tunnels")
}

fn describe() {
    metrics::describe_counter!(
        "skep_http_requests_total",
        "Requests answered, by app, method and status code."
    );
    metrics::describe_histogram!(
        "skep_http_request_duration_seconds",
        metrics::Unit::Seconds,
        "From a request's head to the last byte of its answer."
    );
    metrics::describe_gauge!("skep_edge_connections", "Open client connections.");
    metrics::describe_gauge!("skep_edge_tunnels", "Open WebSocket tunnels.");
    metrics::describe_histogram!(
        "skep_edge_loop_lag_seconds",
        metrics::Unit::Seconds,
        "How late an event loop's timer ran: above a few milliseconds something blocked the loop."
    );
    metrics::describe_counter!(
        "skep_edge_access_log_lost_lines_total",
        "Access log lines lost because the log could not be written fast enough."
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use metrics::{CounterFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

    /// Notes each registration, and counts.
    #[derive(Default)]
    struct Noting(Mutex<Vec<(String, Arc<Count>)>>);

    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicU64);

    impl CounterFn for Count {
        fn increment(&self, value: u64) {
            self.0.fetch_add(value, std::sync::atomic::Ordering::Relaxed);
        }

        fn absolute(&self, value: u64) {
            self.0.store(value, std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl Recorder for Noting {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let count = Arc::new(Count::default());
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            self.0.lock().unwrap().push((format!("{} {}", key.name(), labels.join(" ")), Arc::clone(&count)));
            Counter::from_arc(count)
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    fn record(method: &str, status: u16, app: Option<&str>) -> Record {
        Record {
            request_id: 1,
            client: "192.0.2.1".parse().unwrap(),
            method: method.parse().unwrap(),
            target: None,
            status,
            bytes: 0,
            duration: Duration::from_millis(1),
            app: app.map(|app| app.parse().unwrap()),
            instance: None,
            held: None,
            note: None,
        }
    }

    #[test]
    fn handles_are_looked_up_once_and_methods_are_bounded() {
        let noting = Noting::default();
        metrics::with_local_recorder(&noting, || {
            let mut meters = Meters::new();
            for _ in 0..100 {
                meters.finished(&record("GET", 200, Some("sales")));
            }
            meters.finished(&record("BREW", 405, None));
            meters.finished(&record("STEEP", 405, None));
        });
        let noted = noting.0.lock().unwrap();
        let counted: Vec<_> = noted
            .iter()
            .map(|(name, count)| (name.as_str(), count.0.load(std::sync::atomic::Ordering::Relaxed)))
            .collect();
        assert_eq!(
            counted,
            [
                ("skep_http_requests_total app=sales method=GET code=200", 100),
                ("skep_http_requests_total app= method=OTHER code=405", 2),
            ]
        );
    }
}
