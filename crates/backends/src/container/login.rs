//! Logins to registries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skep_docker::Credentials;

/// Bytes of Docker's own file of logins.
const LOGINS_BYTES: u64 = 1 << 20;

/// The login `docker login` left for a registry in Skep's user's `$DOCKER_CONFIG` or `~/.docker`. Logins kept by a helper
/// program are not looked up.
pub(crate) fn login_for(registry: &str) -> Option<Credentials> {
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
