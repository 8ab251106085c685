//! The Prometheus text format, version 0.0.4, in a fixed order: by name, then by labels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use metrics::Key;

use crate::catalog::{self, Kind};
use crate::histogram::Snapshot;
use crate::process;
use crate::recorder::Recorded;

/// Reads what was recorded. Cheap to clone.
#[derive(Clone)]
pub struct Exposition(Arc<Recorded>);

/// All series of one name. The key is the rendered label set (without braces), which makes the order deterministic.
struct Family {
    kind: Kind,
    series: BTreeMap<String, Value>,
}

enum Value {
    Integer(u64),
    Float(f64),
    Histogram(Snapshot),
}

impl Exposition {
    /// The media type of [`Exposition::prometheus`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    pub(crate) fn new(recorded: Arc<Recorded>) -> Self {
        Self(recorded)
    }

    /// Everything recorded so far and the figures of this process, as text for a Prometheus server.
    pub fn prometheus(&self) -> String {
        let mut families = BTreeMap::new();
        self.add_process(&mut families);
        self.add_recorded(&mut families);
        let described = self.0.described.read();
        let mut text = String::with_capacity(16 * 1024);
        for (name, family) in &families {
            let help = catalog::find(name)
                .map(|described| described.help)
                .or_else(|| described.get(name.as_str()).map(String::as_str));
            write_family(&mut text, name, help, family);
        }
        text
    }

    fn add_recorded(&self, families: &mut BTreeMap<String, Family>) {
        let registry = &self.0.registry;
        registry.visit_counters(|key, counter| {
            add(families, key, Kind::Counter, Value::Integer(counter.load(Ordering::Relaxed)));
        });
        registry.visit_gauges(|key, gauge| {
            let value = f64::from_bits(gauge.load(Ordering::Relaxed));
            add(families, key, Kind::Gauge, Value::Float(value));
        });
        registry.visit_histograms(|key, histogram| {
            add(families, key, Kind::Histogram, Value::Histogram(histogram.snapshot()));
        });
    }

    fn add_process(&self, families: &mut BTreeMap<String, Family>) {
        let mut one = |name: &str, kind, value: Option<Value>| {
            if let Some(value) = value {
                let series = BTreeMap::from([(String::new(), value)]);
                families.insert(name.to_owned(), Family { kind, series });
            }
        };
        let usage = process::usage();
        one("process_cpu_seconds_total", Kind::Counter, usage.cpu_seconds.map(Value::Float));
        one("process_resident_memory_bytes", Kind::Gauge, usage.resident_bytes.map(Value::Integer));
        one("process_open_fds", Kind::Gauge, usage.open_fds.map(Value::Integer));
        one("process_max_fds", Kind::Gauge, usage.max_fds.map(Value::Integer));
        one("process_threads", Kind::Gauge, usage.threads.map(Value::Integer));
        let started = Value::Float(self.0.started_at_seconds);
        one("process_start_time_seconds", Kind::Gauge, Some(started));
        let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
        let series = BTreeMap::from([(version, Value::Integer(1))]);
        families.insert("skep_build_info".to_owned(), Family { kind: Kind::Gauge, series });
    }
}

fn add(families: &mut BTreeMap<String, Family>, key: &Key, kind: Kind, value: Value) {
    let name = metric_name(key.name());
    let family = families.entry(name).or_insert_with(|| Family { kind, series: BTreeMap::new() });
    // One name recorded as two kinds is a mistake of ours; the exposition stays valid by keeping the first.
    if family.kind == kind {
        family.series.insert(render_labels(key), value);
    }
}

/// `app="sales",code="200"`, sorted by label name; the values escaped.
fn render_labels(key: &Key) -> String {
    let mut labels: Vec<_> = key.labels().map(|label| (label_name(label.key()), label.value())).collect();
    labels.sort_unstable();
    labels.dedup_by(|later, earlier| later.0 == earlier.0);
    let mut text = String::new();
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                _ => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

fn metric_name(name: &str) -> String {
    legal_name(name, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn label_name(name: &str) -> String {
    legal_name(name, |c| c.is_ascii_alphanumeric() || c == '_')
}

fn legal_name(name: &str, legal: impl Fn(char) -> bool) -> String {
    let mut text: String = name.chars().map(|c| if legal(c) { c } else { '_' }).collect();
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text
}

fn write_family(text: &mut String, name: &str, help: Option<&str>, family: &Family) {
    if let Some(help) = help {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        push(text, format_args!("# HELP {name} {help}\n"));
    }
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    push(text, format_args!("# TYPE {name} {kind}\n"));
    for (labels, value) in &family.series {
        match value {
            Value::Integer(value) => write_sample(text, name, "", labels, None, format_args!("{value}")),
            Value::Float(value) => {
                write_sample(text, name, "", labels, None, format_args!("{}", Number(*value)));
            }
            Value::Histogram(snapshot) => write_histogram(text, name, labels, snapshot),
        }
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, snapshot: &Snapshot) {
    for (bound, count) in snapshot.bounds.iter().zip(&snapshot.cumulative) {
        write_sample(text, name, "_bucket", labels, Some(*bound), format_args!("{count}"));
    }
    let count = snapshot.count;
    write_sample(text, name, "_bucket", labels, Some(f64::INFINITY), format_args!("{count}"));
    write_sample(text, name, "_sum", labels, None, format_args!("{}", Number(snapshot.sum)));
    write_sample(text, name, "_count", labels, None, format_args!("{count}"));
}

fn write_sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    bound: Option<f64>,
    value: std::fmt::Arguments<'_>,
) {
    text.push_str(name);
    text.push_str(suffix);
    match (labels.is_empty(), bound) {
        (true, None) => {}
        (true, Some(bound)) => push(text, format_args!("{{le=\"{}\"}}", Number(bound))),
        (false, None) => push(text, format_args!("{{{labels}}}")),
        (false, Some(bound)) => push(text, format_args!("{{{labels},le=\"{}\"}}", Number(bound))),
    }
    push(text, format_args!(" {value}\n"));
}

/// Writing to a `String` cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

/// A float as Prometheus reads it.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == f64::INFINITY {
            f.write_str("+Inf")
        } else if self.0 == f64::NEG_INFINITY {
            f.write_str("-Inf")
        } else if self.0.is_nan() {
            f.write_str("NaN")
        } else {
            write!(f, "{}", self.0)
        }
    }
}
