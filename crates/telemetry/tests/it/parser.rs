//! A strict reader of the Prometheus text format: it refuses anything a server might read differently from what was meant.

use std::collections::BTreeMap;

pub(crate) type Exposed = BTreeMap<String, Family>;
type Labels = Vec<(String, String)>;

#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

impl Family {
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let same = |sample: &&Sample| {
            sample.name == name
                && sample.labels.len() == labels.len()
                && labels.iter().all(|(k, v)| sample.labels.iter().any(|(sk, sv)| sk == k && sv == v))
        };
        self.samples.iter().find(same).map(|sample| sample.value)
    }
}

pub(crate) fn parse(text: &str) -> Result<Exposed, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut exposed = Exposed::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            let family = exposed.entry(legal(name)?).or_default();
            if family.help.replace(unescape(help, false)?).is_some() || !family.kind.is_empty() {
                return Err(format!("HELP of {name} twice or too late"));
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a kind")?;
            let family = exposed.entry(legal(name)?).or_default();
            if !["counter", "gauge", "histogram"].contains(&kind) || !family.kind.is_empty() {
                return Err(format!("bad or second TYPE of {name}: {kind}"));
            }
            kind.clone_into(&mut family.kind);
            name.clone_into(&mut current);
        } else {
            let sample = parse_sample(line)?;
            let family = exposed.get_mut(&current).ok_or_else(|| format!("no TYPE before {line:?}"))?;
            let suffixes: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !suffixes.iter().any(|suffix| sample.name == format!("{current}{suffix}")) {
                return Err(format!("{} does not belong to {current}", sample.name));
            }
            let twin = |other: &Sample| other.name == sample.name && other.labels == sample.labels;
            if family.samples.iter().any(twin) {
                return Err(format!("twice the same series: {line:?}"));
            }
            family.samples.push(sample);
        }
    }
    exposed.values().filter(|family| family.kind == "histogram").try_for_each(check_histogram)?;
    Ok(exposed)
}

fn legal(name: &str) -> Result<String, String> {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        Ok(name.to_owned())
    } else {
        Err(format!("illegal name {name:?}"))
    }
}

fn parse_sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or_else(|| format!("no value in {line:?}"))?;
    let name = legal(&line[..end])?;
    let (labels, value) = match line[end..].strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), &line[end..]),
    };
    let value = value.strip_prefix(' ').ok_or_else(|| format!("no space before the value in {line:?}"))?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().map_err(|_| format!("bad number {number:?}"))?,
    };
    Ok(Sample { name, labels, value })
}

fn parse_labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let name = legal(name)?;
        if labels.iter().any(|(other, _)| *other == name) {
            return Err(format!("label {name} twice"));
        }
        let mut escaped = false;
        let close = after.char_indices().find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        let (close, _) = close.ok_or("a label value without an end")?;
        labels.push((name, unescape(&after[..close], true)?));
        rest = &after[close + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = rest.strip_prefix(',').ok_or("neither , nor } after a label")?;
    }
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\\') => plain.push('\\'),
                Some('n') => plain.push('\n'),
                Some('"') if quotes => plain.push('"'),
                other => return Err(format!("bad escape \\{other:?}")),
            },
            _ => plain.push(c),
        }
    }
    Ok(plain)
}

/// Buckets of one label set must ascend, end in +Inf, and agree with the count.
fn check_histogram(family: &Family) -> Result<(), String> {
    let mut groups: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in family.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let (le, others): (Labels, Labels) = sample.labels.iter().cloned().partition(|(k, _)| k == "le");
        let bound = le.first().ok_or("a bucket without le")?.1.replace("+Inf", "inf");
        let bound = bound.parse().map_err(|_| "le is no number")?;
        groups.entry(others).or_default().push((bound, sample.value));
    }
    for (labels, buckets) in groups {
        let last = buckets.last().ok_or("no buckets")?;
        let ascending = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let count = family.samples.iter().find(|s| s.name.ends_with("_count") && s.labels == labels);
        let sum = family.samples.iter().any(|s| s.name.ends_with("_sum") && s.labels == labels);
        if !ascending || last.0 != f64::INFINITY || !sum || count.is_none_or(|count| count.value != last.1) {
            return Err(format!("inconsistent histogram {labels:?}"));
        }
    }
    Ok(())
}
