//! What is said when an image cannot be had, or a container does not start: whose fault it is, and how to mend it.

use skep_docker::{Error, Reference};
use skep_launch::BackendError;
use skep_model::Image;

use super::app_error;

/// What became of an attempt to fetch an image, in words for visitor and admin.
pub(crate) fn not_fetched(reference: &Reference, error: &Error) -> BackendError {
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

pub(crate) fn full_disk(said: &str) -> BackendError {
    BackendError::Platform(format!(
        "the Docker Engine's disk is full: {said}; free some room, for example with `docker system prune`"
    ))
}

/// Something about the engine rather than the app.
pub(crate) fn platform(error: &Error) -> BackendError {
    match error.message() {
        Some(said) if said.to_ascii_lowercase().contains("no space left") => full_disk(said),
        _ => BackendError::Platform(error.to_string()),
    }
}

/// The container was made and did not start.
pub(crate) fn not_started(image: &Image, error: &Error) -> BackendError {
    let Some(said) = error.message() else { return platform(error) };
    does_not_start(image, said)
}

/// The same, of the engine's own words.
pub(crate) fn does_not_start(image: &Image, said: &str) -> BackendError {
    let name = &image.name;
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["no space left"]) {
        return full_disk(said);
    }
    if has(&["executable file not found", "no such file or directory: unknown"]) {
        return app_error(format!(
            "a program it is to run is not in the image `{name}`: {}",
            innermost(said)
        ));
    }
    if has(&["unable to find user", "no matching entries in passwd"]) {
        return app_error(format!(
            "`container.user` is not known in the image `{name}`: {}",
            innermost(said)
        ));
    }
    if has(&["could not select device driver"]) && image.gpus.is_some() {
        return app_error(format!(
            "the engine cannot give it the GPUs of `container.gpus`; is the NVIDIA container toolkit installed? ({said})"
        ));
    }
    if has(&["permission denied", "exec format error", "OCI runtime", "oci runtime", "mount"]) {
        return app_error(format!("its container does not start: {}", innermost(said)));
    }
    BackendError::Platform(format!("its container does not start: {said}"))
}

/// The end of a chain of causes, where the cause is.
fn innermost(said: &str) -> String {
    let said = said.strip_suffix(": unknown").unwrap_or(said);
    let at = ["unable to start container process: ", "runc create failed: ", "error during container init: "]
        .iter()
        .filter_map(|mark| said.find(mark).map(|at| at + mark.len()))
        .max();
    said[at.unwrap_or(0)..].to_owned()
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
    fn a_start_that_fails_is_explained() {
        let image = Image::new("team/app");
        let said = |message: &str| {
            let (call, message) = ("POST".to_owned(), message.to_owned());
            not_started(&image, &Error::Refused { call, status: 500, message })
        };
        let missing = said(
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container \
             process: exec: \"nosuch\": executable file not found in $PATH: unknown",
        );
        assert_eq!(
            missing.to_string(),
            "a program it is to run is not in the image `team/app`: exec: \"nosuch\": executable file not found in $PATH"
        );
        let user = said("unable to find user nobody2: no matching entries in passwd file");
        assert!(user.to_string().contains("`container.user` is not known"), "{user}");
        assert!(
            matches!(said("write /x: no space left on device"), BackendError::Platform(t) if t.contains("full"))
        );
        assert!(matches!(said("driver failed programming external connectivity"), BackendError::Platform(_)));
    }
}
