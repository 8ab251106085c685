//! Being told to stop.

use tokio::sync::watch;

/// Ends when the switch is on, or nobody is left who could turn it on.
pub async fn stopped(switch: &mut watch::Receiver<bool>) {
    // The guard must not outlive this function: it is not allowed to cross threads.
    drop(switch.wait_for(|on| *on).await);
}
