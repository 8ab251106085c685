//! What ends when somebody leaves: instances of theirs whose app says so; of who is shut out, also what they share.
//!
//! Logging out counts, in whichever browser, and so do *Sign out everywhere*, being disabled and being removed, wherever that
//! was done. A new password does not, nor a login that runs out: nobody left.

use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Admission, Person};
use skep_launch::{InstancePhase, InstanceView, StopTarget};
use skep_model::{Principal, UserName};

use crate::control::Control;
use crate::share;

/// How long a right that went with the configuration may still count for what is shared by it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn instances_of(control: &Control, user: &UserName) -> impl Iterator<Item = InstanceView> {
    let theirs = move |view: &InstanceView| view.owner.as_ref().and_then(Principal::user) == Some(user);
    control.handle().instances().into_iter().filter(theirs)
}

/// Ends what is a user's own and not to outlast their login. At once: nobody waits for it.
pub(crate) fn end_apps(control: &Control, user: &UserName) {
    let handle = control.handle();
    for view in instances_of(control, user) {
        let ends = handle.app(&view.app).is_some_and(|spec| spec.stop_on_logout);
        if ends && view.phase != InstancePhase::Stopping {
            let handle = handle.clone();
            tokio::spawn(async move { handle.stop(StopTarget::Instance(view.id)).await });
        }
    }
}

/// What is shared by somebody who may not open the app any more is not shared any more: they could not take it back.
async fn end_shares(control: &Control) {
    let shared = control.login().admission();
    if shared.shares.is_empty() {
        return;
    }
    for view in control.handle().instances() {
        if shared.shares.contains_key(&view.id)
            && !share::owner_may(control, &view)
            && let Err(error) = share::end(control, &view.id).await
        {
            tracing::error!(instance = %view.id, %error, "it stays shared by somebody who may not open it");
        }
    }
}

/// Ends the apps of users who are disabled or removed, and what is shared by people who lost the right to the app, until
/// dropped. Rights change with users, groups and grants, which is news, and with the configuration, which is looked at.
pub(crate) async fn follow(control: Control) {
    let mut news = control.admission();
    let mut before = Arc::clone(&news.borrow_and_update());
    loop {
        match tokio::time::timeout(LOOK_EVERY, news.changed()).await {
            Ok(Err(_)) => return,
            Ok(Ok(())) => {
                let now = Arc::clone(&news.borrow_and_update());
                for user in shut_out(&before, &now) {
                    end_apps(&control, user);
                }
                before = now;
            }
            Err(_) => {}
        }
        end_shares(&control).await;
    }
}

/// Who might log in before and may not any more.
fn shut_out<'a>(before: &'a Admission, now: &'a Admission) -> impl Iterator<Item = &'a UserName> {
    let lively = |person: Option<&Person>| person.is_some_and(|person| !person.disabled);
    let was = before.people.iter().filter(move |(_, person)| lively(Some(person))).map(|(name, _)| name);
    was.filter(move |name| !lively(now.people.get(*name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_disabled_or_gone_is_shut_out_and_nobody_else() {
        let people = |all: &[(&str, bool)]| {
            let person = |disabled| Person { disabled, ..Person::default() };
            let people = all.iter().map(|(name, disabled)| (name.parse().unwrap(), person(*disabled)));
            Admission { people: people.collect(), ..Admission::default() }
        };
        let before = people(&[("ada", false), ("bob", false), ("eve", true), ("gone", false), ("out", true)]);
        let mut now = people(&[("ada", false), ("bob", true), ("eve", false), ("new", false)]);
        now.people.get_mut(&"ada".parse::<UserName>().unwrap()).unwrap().not_before_ms = 1;
        let mut found: Vec<&str> = shut_out(&before, &now).map(UserName::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, ["bob", "gone"]);
    }
}
