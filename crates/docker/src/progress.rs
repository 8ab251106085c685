//! How far a pull is, from the engine's reports on single layers.

use std::collections::HashMap;

use serde_json::Value;

/// Layers one image may have; more are not counted.
const MAX_LAYERS: usize = 1000;

/// The state of a pull. Pure: reports in, a percentage out, which never falls.
#[derive(Debug, Clone, Default)]
pub struct PullProgress {
    layers: HashMap<String, Layer>,
    percent: u8,
    /// What the engine says when it is not about a layer.
    status: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Layer {
    /// Fetched and total bytes, as far as known.
    fetched: u64,
    total: u64,
    /// Unpacked, or there before.
    done: bool,
}

impl PullProgress {
    /// Takes one report.
    pub fn take(&mut self, report: &Value) {
        let text = |key: &str| report.get(key).and_then(Value::as_str).unwrap_or_default();
        let (id, status) = (text("id"), text("status"));
        let is_layer = id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_layer {
            self.status = status.chars().take(200).collect();
            return;
        }
        if self.layers.len() >= MAX_LAYERS && !self.layers.contains_key(id) {
            return;
        }
        let layer = self.layers.entry(id.to_owned()).or_default();
        let number = |key: &str| report.pointer(key).and_then(Value::as_u64);
        match status {
            "Downloading" => {
                layer.fetched = number("/progressDetail/current").unwrap_or(layer.fetched);
                layer.total = number("/progressDetail/total").unwrap_or(layer.total);
            }
            "Verifying Checksum" | "Download complete" | "Extracting" => layer.fetched = layer.total,
            "Pull complete" | "Already exists" => layer.done = true,
            _ => {}
        }
        self.percent = self.percent.max(self.measure());
    }

    /// Each layer counts by its bytes where they are known, else as much as the average of the others; unpacking is a
    /// tenth of a layer's work.
    fn measure(&self) -> u8 {
        let known: Vec<u64> =
            self.layers.values().map(|layer| layer.total).filter(|total| *total > 0).collect();
        let count = u64::try_from(known.len()).unwrap_or(u64::MAX).max(1);
        let average = (known.iter().fold(0_u64, |sum, total| sum.saturating_add(*total)) / count).max(1);
        let (mut have, mut all) = (0_u128, 0_u128);
        for layer in self.layers.values() {
            let weight = if layer.total > 0 { layer.total } else { average };
            all += u128::from(weight) * 10;
            have += match layer.done {
                true => u128::from(weight) * 10,
                false => u128::from(layer.fetched.min(weight)) * 9,
            };
        }
        u8::try_from(have * 100 / all.max(1)).unwrap_or(100)
    }

    /// 0 to 100.
    pub fn percent(&self) -> u8 {
        self.percent
    }

    /// The engine's newest words that are not about a layer: `Pulling from team/app`, `Status: …`.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Whether any layer was heard of: before that, a percentage says nothing.
    pub fn has_begun(&self) -> bool {
        !self.layers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_pull_goes_from_nothing_to_all() {
        let mut progress = PullProgress::default();
        progress.take(&json!({"status": "Pulling from team/app", "id": "1.2"}));
        assert!(!progress.has_begun());
        assert_eq!(progress.status(), "Pulling from team/app");
        let report = |id: &str, status: &str, current: u64, total: u64| json!({"id": id, "status": status, "progressDetail": {"current": current, "total": total}});
        let (one, two) = ("0123456789ab", "ba9876543210");
        progress.take(&report(one, "Pulling fs layer", 0, 0));
        progress.take(&report(two, "Waiting", 0, 0));
        assert_eq!(progress.percent(), 0);
        progress.take(&report(one, "Downloading", 50, 100));
        assert_eq!(progress.percent(), 22, "half of one of two");
        progress.take(&report(two, "Already exists", 0, 0));
        progress.take(&json!({"id": one, "status": "Download complete"}));
        assert_eq!(progress.percent(), 95);
        progress.take(&json!({"id": one, "status": "Pull complete"}));
        assert_eq!(progress.percent(), 100);
        progress.take(&json!({"status": "Digest: sha256:…"}));
        assert_eq!(progress.percent(), 100);
    }

    proptest! {
        #[test]
        fn whatever_is_reported_it_never_falls_or_overflows(
            reports in prop::collection::vec((0_u8..5, 0_usize..6, any::<u64>(), any::<u64>()), 0..60)
        ) {
            let states = ["Downloading", "Extracting", "Pull complete", "Waiting", "Retrying in 5 seconds", "Download complete"];
            let mut progress = PullProgress::default();
            let mut before = 0;
            for (layer, state, current, total) in reports {
                progress.take(&json!({
                    "id": format!("{layer:012x}"), "status": states[state],
                    "progressDetail": {"current": current, "total": total},
                }));
                prop_assert!((before..=100).contains(&progress.percent()));
                before = progress.percent();
            }
        }
    }
}
