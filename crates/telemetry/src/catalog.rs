//! The names Skep records under, with what each means. They are part of the public contract: dashboards rely on them.
//!
//! A name that is recorded but not listed here is still exposed, with the description given through
//! `metrics::describe_*` or, failing that, none.

/// What kind of series a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One documented name.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Described {
    Described { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Described {
    Described { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Described {
    Described { name, kind: Kind::Histogram, help }
}

pub const CATALOG: &[Described] = &[
    counter("skep_http_requests_total", "Requests answered, by app, method and status code."),
    histogram(
        "skep_http_request_duration_seconds",
        "From the last byte of the request's head to the last byte of the answer, without held time of page loads.",
    ),
    gauge("skep_edge_connections", "Open client connections, by listener and protocol."),
    gauge("skep_edge_tunnels", "Open WebSocket tunnels."),
    histogram(
        "skep_edge_loop_lag_seconds",
        "How late an event loop's timer ran: above a few milliseconds something blocked the loop.",
    ),
    counter(
        "skep_edge_access_log_lost_lines_total",
        "Lines of the access log that were dropped because its writer could not keep up.",
    ),
    gauge(
        "skep_tls_certificate_expiry_timestamp_seconds",
        "When the certificate served for a domain expires, Unix time.",
    ),
    counter("skep_logins_total", "Attempts to log in, by provider and result."),
    gauge("skep_users_logged_in", "Users with a valid login."),
    gauge("skep_users_active", "Users with at least one open app."),
    gauge("skep_app_instances", "Instances, by app and phase."),
    gauge("skep_app_seats", "Seats of ready instances, by app and state (taken or free)."),
    counter("skep_app_starts_total", "Instance starts, by app and result."),
    counter("skep_app_stops_total", "Instances ended, by app and reason."),
    histogram(
        "skep_app_start_stage_duration_seconds",
        "Time a start spent in one stage, by app and stage (queue, environment, start, boot).",
    ),
    counter("skep_app_usage_seconds_total", "Seconds seats were taken, by app."),
    counter("skep_container_cpu_seconds_total", "Processor time used, by app, instance and node."),
    gauge("skep_container_memory_working_set_bytes", "Memory in use, by app, instance and node."),
    counter("skep_container_network_receive_bytes_total", "Bytes received, by app, instance and node."),
    counter("skep_container_network_transmit_bytes_total", "Bytes sent, by app, instance and node."),
    gauge("skep_service_replicas", "Replicas of a service, by state."),
    gauge("skep_queue_depth", "Entries waiting in one of Skep's bounded queues."),
    counter("skep_queue_committed_total", "Entries a queue handed on for good."),
    counter("skep_journal_events_total", "Events written to the journal, by kind."),
    counter("skep_journal_lost_total", "Events lost because the store could not be written for too long."),
    gauge("skep_journal_buffered", "Events waiting for the store."),
    counter(
        "skep_control_answers_total",
        "Pages and API calls answered by the control plane, by purpose and code.",
    ),
    gauge("skep_control_followers", "Open streams: launch pages, logs and events being followed."),
    gauge("skep_build_info", "Always 1; the version is a label."),
    counter("process_cpu_seconds_total", "User and system processor time of the Skep process, seconds."),
    gauge("process_resident_memory_bytes", "Resident memory of the Skep process."),
    gauge("process_open_fds", "Open file descriptors of the Skep process."),
    gauge("process_max_fds", "The most file descriptors the Skep process may open."),
    gauge("process_threads", "Threads of the Skep process."),
    gauge("process_start_time_seconds", "When the Skep process began, Unix time."),
];

/// Finds a documented name.
pub fn find(name: &str) -> Option<&'static Described> {
    CATALOG.iter().find(|described| described.name == name)
}

/// Upper bounds for durations in seconds of requests: fine below a second, where visitors notice.
pub const REQUEST_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds for durations in seconds of starts: environments take minutes to build.
pub const START_SECONDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Upper bounds for sizes in bytes.
pub const BYTES: &[f64] = &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

/// The buckets of a histogram, by its name.
pub fn bounds(name: &str) -> &'static [f64] {
    if name.contains("_start_") || name.contains("_stage_") {
        START_SECONDS
    } else if name.ends_with("_bytes") {
        BYTES
    } else {
        REQUEST_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names: Vec<_> = CATALOG.iter().map(|described| described.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOG.len());
        for described in CATALOG {
            assert!(
                described.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert_eq!(
                described.name.ends_with("_total"),
                described.kind == Kind::Counter,
                "{}: counters, and only they, end in _total",
                described.name
            );
            assert!(described.help.ends_with('.'), "{}", described.name);
        }
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [REQUEST_SECONDS, START_SECONDS, BYTES] {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        }
        assert_eq!(bounds("skep_app_start_stage_duration_seconds"), START_SECONDS);
        assert_eq!(bounds("skep_http_request_duration_seconds"), REQUEST_SECONDS);
    }
}
