//! Follows the file of the key ring, so that a rotation counts without a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skep_identity::{IdentityError, KeyRing, TakenUp};

/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a new key only opens. Other servers that share the file read it meanwhile.
const SETTLE_AFTER: Duration = Duration::from_secs(10);

/// Takes up what is written to the file, for as long as the server runs.
pub(crate) async fn follow(file: PathBuf, ring: Arc<KeyRing>) {
    let mut seen = None;
    loop {
        let (path, before) = (file.clone(), seen);
        let look = tokio::task::spawn_blocking(move || {
            let now = modified(&path);
            // A file that is away for a moment is being replaced.
            (now != before && now.is_some()).then(|| (now, KeyRing::load(&path)))
        });
        if let Ok(Some((now, read))) = look.await {
            seen = now;
            take_up(&file, &ring, read).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn take_up(file: &std::path::Path, ring: &KeyRing, read: Result<KeyRing, IdentityError>) {
    match read.map(|read| ring.take_up(&read)) {
        Ok(TakenUp::Nothing) => {}
        Ok(TakenUp::Done) => tracing::info!("the key ring {} was read again", file.display()),
        Ok(TakenUp::Settling) => {
            let wait = SETTLE_AFTER.as_secs();
            tracing::info!("the key ring {} was read again; its new key seals in {wait} s", file.display());
            tokio::time::sleep(SETTLE_AFTER).await;
            ring.settle();
        }
        Err(error) => tracing::error!("the new key ring is not used: {error}"),
    }
}

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}
