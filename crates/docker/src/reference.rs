//! Names of images: `[registry/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

/// An image's name. Without tag and digest it means `:latest`: asked to pull a bare name, the engine would fetch every tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// With the registry, without tag and digest.
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image name: {wrong} (write for example `registry.example.org/team/app:1.2`)")]
pub struct BadReference {
    text: String,
    wrong: &'static str,
}

impl Reference {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands after the name in a pull: the digest where there is one.
    pub(crate) fn tag_or_digest(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// The registry's host, `docker.io` when none is named.
    pub fn registry(&self) -> &str {
        match self.name.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => "docker.io",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (&self.tag, &self.digest) {
            (None, None) => f.write_str(":latest"),
            (tag, digest) => {
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
                digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
            }
        }
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let bad = |wrong| BadReference { text: text.chars().take(120).collect(), wrong };
        if text.is_empty() || text.len() > 512 {
            return Err(bad("it is empty or too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].split_once(':') {
            Some((end, tag)) => (&rest[..last + end.len()], Some(tag)),
            None => (rest, None),
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if let Some(tag) = tag
            && (tag.is_empty() || tag.len() > 128 || !tag.bytes().all(word) || tag.starts_with(['.', '-']))
        {
            return Err(bad("a tag has 1 to 128 letters, digits, `_`, `.` and `-`"));
        }
        if let Some(digest) = digest {
            let hex = digest.strip_prefix("sha256:").is_some_and(|hex| {
                hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
            });
            if !hex {
                return Err(bad("a digest is `sha256:` and 64 hexadecimal digits"));
            }
        }
        for (index, part) in name.split('/').enumerate() {
            let host = index == 0 && name.contains('/');
            let good = |b: u8| {
                b.is_ascii_lowercase()
                    || b.is_ascii_digit()
                    || matches!(b, b'_' | b'.' | b'-')
                    || (host && (b.is_ascii_uppercase() || matches!(b, b':' | b'[' | b']')))
            };
            if part.is_empty() || !part.bytes().all(good) || part.starts_with(['.', '-', '_']) {
                return Err(bad("a name is made of lower-case letters, digits, `_`, `.`, `-` and `/`"));
            }
        }
        Ok(Self { name: name.to_owned(), tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let pinned = format!("r.example:5000/a/b:1@{digest}");
        for (text, name, tag, registry, shown) in [
            ("busybox", "busybox", "latest", "docker.io", "busybox:latest"),
            ("bb:1", "bb", "1", "docker.io", "bb:1"),
            ("team/app:v1.2-rc_1", "team/app", "v1.2-rc_1", "docker.io", "team/app:v1.2-rc_1"),
            (
                "localhost:5000/app",
                "localhost:5000/app",
                "latest",
                "localhost:5000",
                "localhost:5000/app:latest",
            ),
            (&pinned, "r.example:5000/a/b", &digest, "r.example:5000", &pinned),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.name(), reference.tag_or_digest()), (name, tag), "{text}");
            assert_eq!(reference.registry(), registry);
            assert_eq!(reference.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "A",
            "a b",
            "a:",
            "a:/",
            "/a",
            "a//b",
            "a@b",
            "a@sha256:12",
            "a?b",
            "a&b=c",
            "../x",
            "a:b:c",
            "-a",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
