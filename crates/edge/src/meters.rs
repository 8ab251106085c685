//! The edge's metrics. Handles are looked up once per label set and loop, never per request. No label names a user.

use std::collections::HashMap;

use http::Method;
use metrics::{Counter, Gauge, Histogram};
use skep_model::AppId;

use crate::access_log::Record;

/// One loop's handles.
pub(crate) struct Meters {
    requests: HashMap<Option<AppId>, PerApp>,
    pub(crate) lag: Histogram,
}

struct PerApp {
    duration: Histogram,
    counters: HashMap<(&'static str, u16), Counter>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        describe();
        Self { requests: HashMap::new(), lag: metrics::histogram!("skep_edge_loop_lag_seconds") }
    }

    pub(crate) fn finished(&mut self, record: &Record) {
        if !self.requests.contains_key(&record.app) {
            self.requests.insert(record.app.clone(), PerApp::new(record.app.as_ref()));
        }
        let Some(app) = self.requests.get_mut(&record.app) else { return };
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
        Self { duration, counters: HashMap::new() }
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
