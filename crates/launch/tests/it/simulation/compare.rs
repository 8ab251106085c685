//! What the pool tells about itself, held against the model.

use skep_launch::InstancePhase;
use skep_launch::pool::Pool;

use super::judge::{Verdict, ensure};
use super::model::{App, Model, Phase};

/// Whether the pool tells the same about an app as the model.
pub(super) fn compare(model: &Model, pool: &Pool, app: &App) -> Verdict {
    let told = pool.app_instances(&app.spec.id);
    ensure(told.len() == app.instances.len(), || format!("{} instances are told", told.len()))?;
    for (facts, own) in told.iter().zip(&app.instances) {
        let phase = match own.phase {
            Phase::Starting { .. } => InstancePhase::Starting,
            Phase::Ready => InstancePhase::Ready,
            Phase::Draining { .. } => InstancePhase::Draining,
            Phase::Stopping => InstancePhase::Stopping,
        };
        let same = facts.id == own.id
            && facts.phase == phase
            && facts.taken == app.taken(&own.id)
            && facts.open == app.open(&own.id);
        ensure(same, || format!("at {:?}: {facts:?} is told of {own:?}", model.now))?;
    }
    Ok(())
}
