//! Images the config names for apps and for the portal: one image file each, judged by what is in it, and never anything
//! else from where it lies.

use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use skep_backends::found_file;
use skep_model::Icon;

use super::assets::plain;

const MAX_BYTES: u64 = 512 * 1024;
/// An SVG says what it is within so many bytes.
const SVG_HEAD: usize = 4096;

/// The image of an icon that is a file here.
pub(crate) async fn serve(icon: Option<&Icon>) -> Response<Body> {
    let missing = || plain(StatusCode::NOT_FOUND, "There is no such image here.\n");
    let icon = match icon {
        Some(Icon::Emoji(_) | Icon::Remote(_)) | None => return missing(),
        Some(icon) => icon.clone(),
    };
    let read = tokio::task::spawn_blocking(move || match icon {
        Icon::Within { dir, name } => read_inside(&dir, &name),
        Icon::File(path) => read_image(&path),
        Icon::Emoji(_) | Icon::Remote(_) => None,
    });
    let Ok(Some((media_type, bytes))) = read.await else {
        return missing();
    };
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // The address carries the revision, but the file may change without one.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=300"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // An SVG opened on its own must not run what its author put in.
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    );
    response
}

/// Reads an image that lies in a folder, symbolic links resolved, unless it is hidden.
fn read_inside(dir: &Path, name: &str) -> Option<(&'static str, Vec<u8>)> {
    let relative = PathBuf::from(name);
    let plain_name = |part: Component<'_>| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    };
    if !relative.components().all(plain_name) {
        return None;
    }
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let dir = dir.canonicalize().ok()?;
    read_found(&dir.join(relative), |place| place.starts_with(&dir))
}

/// Reads a file that is an image and not too large.
fn read_image(path: &Path) -> Option<(&'static str, Vec<u8>)> {
    read_found(path, |_| true)
}

/// What is judged is what was found, not the path: a folder's owner may put something else there at any time.
fn read_found(path: &Path, may_be: impl Fn(&Path) -> bool) -> Option<(&'static str, Vec<u8>)> {
    let judge = |_: &Metadata, place: &Path| if may_be(place) { Ok(()) } else { Err(()) };
    let bytes = found_file::read(path, MAX_BYTES, judge).ok()?;
    Some((media_type(&bytes)?, bytes))
}

/// What an image is by its first bytes; its name may say anything.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [0, 0, 1, 0, ..] => "image/x-icon",
        _ if is_svg(bytes) => "image/svg+xml",
        _ => return None,
    })
}

/// Whether the first element of a text is `<svg>`, after the declaration, comments and document type it may begin with.
fn is_svg(bytes: &[u8]) -> bool {
    let head = bytes.get(..SVG_HEAD).unwrap_or(bytes);
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = String::from_utf8_lossy(head);
    let mut rest = text.trim_start();
    loop {
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ if rest.starts_with("<!") => ">",
            // The end of what a document type declares.
            _ if rest.starts_with("]>") => "]>",
            _ => break,
        };
        let Some(at) = rest.find(end) else { return false };
        rest = rest[at + end.len()..].trim_start();
    }
    let name = rest.strip_prefix("<svg").and_then(|after| after.chars().next());
    name.is_some_and(|c| c.is_whitespace() || matches!(c, '>' | '/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    #[test]
    fn only_images_inside_the_folder_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        std::fs::create_dir_all(app.join("www")).unwrap();
        std::fs::write(app.join("www/logo.png"), PNG).unwrap();
        std::fs::write(app.join(".secret.png"), PNG).unwrap();
        std::fs::write(app.join("key.png"), b"-----BEGIN PRIVATE KEY-----").unwrap();
        std::fs::write(folder.path().join("outside.png"), PNG).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside.png"), app.join("link.png")).unwrap();
        std::fs::write(app.join("big.png"), [PNG, &[0; 600 * 1024]].concat()).unwrap();
        assert_eq!(read_inside(&app, "www/logo.png"), Some(("image/png", PNG.to_vec())));
        let absolute = app.join("www/logo.png").display().to_string();
        assert_eq!(read_image(Path::new(&absolute)), Some(("image/png", PNG.to_vec())));
        assert_eq!(
            read_image(&app.join("link.png")),
            Some(("image/png", PNG.to_vec())),
            "the operator's own"
        );
        for bad in [
            "../outside.png",
            "link.png",
            ".secret.png",
            "key.png",
            "big.png",
            "www",
            "none.png",
            "./www/logo.png",
            &absolute,
        ] {
            assert_eq!(read_inside(&app, bad), None, "{bad}");
        }
    }

    #[test]
    fn an_image_is_what_its_bytes_say() {
        for (bytes, expected) in [
            (PNG, Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"GIF89a", Some("image/gif")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"\0\0\x01\0\x01", Some("image/x-icon")),
            (b"<svg xmlns=\"x\"/>", Some("image/svg+xml")),
            (b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n<!-- a > b -->\n<!DOCTYPE svg [ <!ENTITY a \"b\"> ]>\n<svg>", Some("image/svg+xml")),
            (b"<html><svg></svg></html>", None),
            (b"<svgx>", None),
            (b"<?xml", None),
            (b"RIFF\0\0\0\0AVI ", None),
            (b"", None),
        ] {
            assert_eq!(media_type(bytes), expected, "{bytes:?}");
        }
    }
}
