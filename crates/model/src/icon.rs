//! What stands for an app, or for the portal as a whole.

use std::path::PathBuf;

/// An image, or one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Icon {
    Emoji(String),
    /// A file that must lie in a folder when it is read, all links followed.
    Within {
        dir: PathBuf,
        name: String,
    },
    /// A file the operator named by its whole path.
    File(PathBuf),
    /// An image on another server, which browsers fetch from there themselves.
    Remote(RemoteImage),
}

/// The address of an image elsewhere, taken apart once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    url: String,
    origin: String,
}

impl RemoteImage {
    /// `None` unless it is an address that can stand in a page and whose server can stand in a page's policy.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'<' | b'>' | b'\\' | b'`');
        if text.len() > 2000 || !text.bytes().all(plain) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let (host, path) = rest.split_at(rest.find(['/', '?', '#'])?);
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        let good = matches!(scheme.as_str(), "http" | "https") && !host.is_empty() && host.bytes().all(name);
        good.then(|| {
            let origin = format!("{scheme}://{}", host.to_ascii_lowercase());
            Self { url: format!("{origin}{path}"), origin }
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// `https://host[:port]`: letters, digits and `.-_:` only.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Whether a file of this name may hold an image: PNG, JPEG, WebP, GIF, SVG or ICO.
pub fn names_image(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    matches!(extension.as_deref(), Some("svg" | "png" | "jpg" | "jpeg" | "webp" | "gif" | "ico"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_an_image_is_taken_apart_or_refused() {
        let image = RemoteImage::parse("HTTPS://Logos.Example:8443/A/logo.png?v=1&x#y").unwrap();
        assert_eq!(image.origin(), "https://logos.example:8443");
        assert_eq!(image.url(), "https://logos.example:8443/A/logo.png?v=1&x#y");
        for bad in [
            "https://a.example",
            "https:///logo.png",
            "ftp://a.example/logo.png",
            "https://user@a.example/logo.png",
            "https://a.example;script-src/logo.png",
            "https://a.example /logo.png",
            "https://a.example/\"onload=x",
            "//a.example/logo.png",
            "data:image/png,x",
            "https://*/logo.png",
        ] {
            assert_eq!(RemoteImage::parse(bad), None, "{bad}");
        }
        assert!(names_image("a/b.SVG") && !names_image("png") && !names_image("a.py"));
    }
}
