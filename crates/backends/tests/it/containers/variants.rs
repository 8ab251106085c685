//! Several instances of one person, with names and with what was chosen for them.

use skep_launch::Backend;
use skep_model::{Choice, Variant};

use super::*;

/// One of ada's.
fn hers(name: Option<&str>, region: &str) -> LaunchOrder {
    let env = [("REGION".to_owned(), "{param.region}".to_owned())].into();
    let chosen = Choice::from([("region".to_owned(), region.to_owned())]);
    let variant = Variant { name: name.map(|name| name.parse().unwrap()), chosen };
    let mut order = Harbour::order(AppSpec { per_user: true, env, ..web() });
    order.spec = order.spec.of_variant(&variant);
    order.owner = Some(Principal::User { name: "ada".parse().unwrap(), groups: Vec::new() });
    order.variant = variant;
    order
}

#[tokio::test]
async fn names_and_choices_are_found_again_with_their_instances() {
    let harbour = Harbour::new();
    // The same region under two names, and a value that labels have to carry as it is.
    let orders = [hers(None, "eu"), hers(Some("north"), "eu"), hers(Some("south"), "a b=\"c\",ü")];
    let mut before = Vec::new();
    for order in orders {
        before.push((order.id.clone(), order.variant.clone(), order.spec.revision));
        let region = order.variant.chosen["region"].clone();
        let id = order.id.clone();
        harbour.launch_as(order).await.unwrap();
        let seen = run_in(&id, None, "echo \"$REGION\"").await;
        assert_eq!(seen.trim(), region);
    }
    let Harbour { dir, backend, events, .. } = harbour;
    drop((backend, events));

    let (backend, events) = open(&dir, DialBy::Address);
    let mut found = backend.adopt().await.unwrap();
    found.sort_by_key(|found| before.iter().position(|(id, ..)| *id == found.id));
    let after: Vec<_> =
        found.iter().map(|found| (found.id.clone(), found.variant.clone(), found.revision)).collect();
    assert_eq!(after, before);
    for found in &found {
        assert_eq!(found.owner.as_ref().and_then(Principal::user).map(|user| user.as_str()), Some("ada"));
        assert_eq!(get(&found.launched, "/").await.0, 200);
    }
    let harbour = Harbour { dir, backend, events, progress: Arc::default() };
    for (id, ..) in &before {
        harbour.stop(id).await;
    }
    assert!(harbour.backend.adopt().await.unwrap().is_empty());
}
