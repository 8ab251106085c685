//! An app's own icon: one image file from its folder, and never anything else from there.

use std::path::{Component, Path, PathBuf};

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use skep_model::{AppSpec, Source};

use super::assets::plain;

const MAX_BYTES: u64 = 512 * 1024;

/// Whether an `icon` setting names a file (else it is an emoji).
pub(crate) fn is_file(icon: &str) -> bool {
    media_type(icon).is_some()
}

fn media_type(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "ico" => "image/x-icon",
        _ => return None,
    })
}

/// The icon of an app.
pub(crate) async fn serve(spec: &AppSpec) -> Response<Body> {
    let missing = || plain(StatusCode::NOT_FOUND, "This app has no icon of its own.\n");
    let (Some(icon), Source::Folder { dir, .. }) = (spec.icon.clone(), &spec.source) else {
        return missing();
    };
    let Some(media_type) = media_type(&icon) else {
        return missing();
    };
    let dir = dir.clone();
    let read = tokio::task::spawn_blocking(move || read_inside(&dir, &icon)).await;
    let Ok(Some(bytes)) = read else {
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

/// Reads a file that lies in a folder, symbolic links resolved, unless it is hidden or too large.
fn read_inside(dir: &Path, name: &str) -> Option<Vec<u8>> {
    let relative = PathBuf::from(name);
    let plain_name = |part: Component<'_>| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    };
    if !relative.components().all(plain_name) {
        return None;
    }
    let dir = dir.canonicalize().ok()?;
    let path = dir.join(relative).canonicalize().ok()?;
    let meta = std::fs::metadata(&path).ok()?;
    if !path.starts_with(&dir) || !meta.is_file() || meta.len() > MAX_BYTES {
        return None;
    }
    std::fs::read(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_inside_the_folder_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        std::fs::create_dir_all(app.join("www")).unwrap();
        std::fs::write(app.join("www/logo.png"), b"png").unwrap();
        std::fs::write(app.join(".secret.png"), b"no").unwrap();
        std::fs::write(folder.path().join("outside.png"), b"no").unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside.png"), app.join("link.png")).unwrap();
        std::fs::write(app.join("big.png"), vec![0; 600 * 1024]).unwrap();
        assert_eq!(read_inside(&app, "www/logo.png").as_deref(), Some(b"png".as_slice()));
        let absolute = app.join("www/logo.png").display().to_string();
        for bad in [
            "../outside.png",
            "link.png",
            ".secret.png",
            "big.png",
            "www",
            "none.png",
            "./www/logo.png",
            &absolute,
        ] {
            assert_eq!(read_inside(&app, bad), None, "{bad}");
        }
        assert!(is_file("www/logo.PNG") && !is_file("🐝") && !is_file("app.py"));
    }
}
