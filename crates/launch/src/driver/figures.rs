//! What is counted for metrics. Labels are app ids and fixed words, never users.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use skep_model::AppId;

use crate::handle::InstancePhase;
use crate::pool::{Figure, InstanceFacts};

const PHASES: [(InstancePhase, &str); 4] = [
    (InstancePhase::Starting, "starting"),
    (InstancePhase::Ready, "ready"),
    (InstancePhase::Draining, "draining"),
    (InstancePhase::Stopping, "stopping"),
];

pub(super) fn instances(app: &AppId, instances: &[InstanceFacts]) {
    for (phase, name) in PHASES {
        let count = instances.iter().filter(|facts| facts.phase == phase).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        gauge!("skep_app_instances", "app" => app.to_string(), "phase" => name).set(f64::from(count));
    }
}

pub(super) fn count(app: &AppId, figure: Figure) {
    let started = |result: &'static str| {
        counter!("skep_app_starts_total", "app" => app.to_string(), "result" => result).increment(1);
    };
    let stopped = |reason: &'static str| {
        counter!("skep_app_stops_total", "app" => app.to_string(), "reason" => reason).increment(1);
    };
    match figure {
        Figure::StartReady => started("ready"),
        Figure::StartFailed => started("failed"),
        Figure::StartTimeout => started("timeout"),
        Figure::Stopped(reason) => stopped(reason.name()),
        Figure::Crashed => stopped("crash"),
        Figure::Lost => stopped("lost"),
        Figure::StageTook(stage, took) => {
            histogram!("skep_app_start_stage_duration_seconds", "app" => app.to_string(), "stage" => stage.name())
                .record(took.as_secs_f64());
        }
    }
}

/// How long seats were held: whole seconds are counted, the rest stays for the next time.
pub(super) fn used(used: &mut BTreeMap<AppId, Duration>) {
    for (app, time) in used.iter_mut().filter(|(_, time)| time.as_secs() > 0) {
        counter!("skep_app_usage_seconds_total", "app" => app.to_string()).increment(time.as_secs());
        *time -= Duration::from_secs(time.as_secs());
    }
    used.retain(|_, time| !time.is_zero());
}
