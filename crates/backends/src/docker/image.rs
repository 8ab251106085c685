//! Having the image there, and saying what is wrong when it cannot be had.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skep_docker::{Credentials, Document, Error, Reference};
use skep_launch::{BackendError, ProgressSink, Stage};
use skep_model::{Image, Pull};

use super::{Inner, app_error, blocking};

/// Bytes of Docker's own file of logins.
const LOGINS_BYTES: u64 = 1 << 20;

impl Inner {
    /// Answers the image as the engine knows it, fetched first where that is wanted.
    pub(super) async fn ensure_image(
        &self,
        image: &Image,
        reference: &Reference,
        progress: &ProgressSink,
    ) -> Result<Document, BackendError> {
        let name = reference.to_string();
        progress.report(Stage::Environment, format!("looking for the image {name}"));
        let here = self.engine.inspect_image(&name).await.map_err(|e| platform(&e))?;
        let fetch = match image.pull {
            Pull::Always => true,
            Pull::Missing => here.is_none(),
            Pull::Never => false,
        };
        match (fetch, here) {
            (false, Some(here)) => return Ok(here),
            (false, None) => {
                return Err(app_error(format!(
                    "the image `{name}` is not on this machine, and `container.pull` is \"never\"; load it \
                     (`docker load`, `docker build -t {name} …`)"
                )));
            }
            (true, here) => {
                let fetched = self.fetch(reference, progress).await;
                if let Err(error) = fetched {
                    // What is there still works while its registry does not.
                    return match here {
                        Some(here) if !matches!(error, BackendError::App { .. }) => {
                            tracing::warn!(%error, "the image {name} is used as it is here");
                            Ok(here)
                        }
                        _ => Err(error),
                    };
                }
            }
        }
        let here = self.engine.inspect_image(&name).await.map_err(|e| platform(&e))?;
        here.ok_or_else(|| {
            BackendError::Platform(format!("the image `{name}` was fetched and is not there; try again"))
        })
    }

    async fn fetch(&self, reference: &Reference, progress: &ProgressSink) -> Result<(), BackendError> {
        progress.report(Stage::Environment, format!("fetching the image {reference}"));
        let registry = reference.registry().to_owned();
        let login = blocking(move || login_for(&registry)).await?;
        let mut told = None;
        let report = |pulled: &skep_docker::PullProgress| {
            let percent = pulled.percent();
            if pulled.has_begun() && told != Some(percent) {
                told = Some(percent);
                progress.report(Stage::Environment, format!("pulling {percent} %"));
            }
        };
        let pulled = self.engine.pull(reference, login.as_ref(), report).await;
        pulled.map_err(|error| not_fetched(reference, &error))
    }
}

/// What became of an attempt to fetch an image, in words for visitor and admin.
fn not_fetched(reference: &Reference, error: &Error) -> BackendError {
    let Some(said) = error.message() else { return platform(error) };
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["no space left"]) {
        return full_disk(said);
    }
    if has(&[
        "unauthorized",
        "no basic auth credentials",
        "authentication required",
        "access to the resource is denied",
    ]) && !has(&["does not exist"])
    {
        return app_error(format!(
            "the registry of the image `{reference}` wants a login ({said}); run `docker login {}` as Skep's user",
            reference.registry()
        ));
    }
    if has(&["manifest unknown", "not found", "does not exist", "no matching manifest", "name unknown"]) {
        return app_error(format!(
            "there is no image `{reference}` ({said}); check its name and tag, or log in to its registry if it is private"
        ));
    }
    BackendError::Platform(format!(
        "the image `{reference}` could not be fetched: {said}; check that the engine reaches {}",
        reference.registry()
    ))
}

pub(super) fn full_disk(said: &str) -> BackendError {
    BackendError::Platform(format!(
        "the Docker Engine's disk is full: {said}; free some room, for example with `docker system prune`"
    ))
}

/// Something about the engine rather than the app.
pub(super) fn platform(error: &Error) -> BackendError {
    match error.message() {
        Some(said) if said.to_ascii_lowercase().contains("no space left") => full_disk(said),
        _ => BackendError::Platform(error.to_string()),
    }
}

/// The login `docker login` left for a registry in Skep's user's `$DOCKER_CONFIG` or `~/.docker`. Logins kept by a helper
/// program are not looked up.
fn login_for(registry: &str) -> Option<Credentials> {
    use std::io::Read;
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => std::path::PathBuf::from(folder),
        None => std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    let mut text = String::new();
    let file = std::fs::File::open(folder.join("config.json")).ok()?;
    file.take(LOGINS_BYTES).read_to_string(&mut text).ok()?;
    login_in(&text, registry)
}

fn login_in(text: &str, registry: &str) -> Option<Credentials> {
    let config: Value = serde_json::from_str(text).ok()?;
    let auths = config.get("auths")?.as_object()?;
    let host = |key: &str| {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let host = key.split('/').next().unwrap_or_default();
        if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
    };
    let entry = auths.iter().find(|(key, _)| host(key) == registry)?.1;
    let decoded = STANDARD.decode(entry.get("auth")?.as_str()?).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Credentials { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> BackendError {
        let error = Error::Failed { call: "POST /images/create".to_owned(), message: message.to_owned() };
        not_fetched(&"registry.example/team/app:1".parse().unwrap(), &error)
    }

    #[test]
    fn what_kept_an_image_from_coming_is_named() {
        let missing = said("manifest for registry.example/team/app:1 not found: manifest unknown");
        assert!(
            matches!(&missing, BackendError::App { summary, .. } if summary.starts_with("there is no image `registry.example/team/app:1`"))
        );
        let denied = said(
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        );
        assert!(
            matches!(&denied, BackendError::App { summary, .. } if summary.contains("log in to its registry"))
        );
        let login = said("Head \"https://registry.example/v2/\": no basic auth credentials");
        assert!(
            matches!(&login, BackendError::App { summary, .. } if summary.contains("docker login registry.example"))
        );
        let full = said("failed to register layer: write /usr/lib/x: no space left on device");
        assert!(matches!(&full, BackendError::Platform(text) if text.contains("disk is full")));
        let away = said("dial tcp: lookup registry.example: no such host");
        assert!(
            matches!(&away, BackendError::Platform(text) if text.contains("check that the engine reaches registry.example"))
        );
    }

    #[test]
    fn logins_are_found_by_registry() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YWRhOnM6M2NyZXQ="},"r.example:5000":{"auth":"eDp5"},"broken":{}}}"#;
        let hub = login_in(text, "docker.io").unwrap();
        assert_eq!((hub.user.as_str(), hub.password.as_str()), ("ada", "s:3cret"));
        assert_eq!(login_in(text, "r.example:5000").unwrap().user, "x");
        assert!(login_in(text, "r.example").is_none());
        assert!(login_in(text, "broken").is_none());
        assert!(login_in("{}", "docker.io").is_none());
        assert!(login_in("no JSON", "docker.io").is_none());
    }
}
