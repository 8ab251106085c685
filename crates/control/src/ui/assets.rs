//! Style sheet, scripts and mark: embedded, addressed by their content, cached for ever.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, Response, StatusCode, header};
use sha2::{Digest, Sha256};

/// One embedded file.
#[derive(Debug)]
pub(crate) struct Asset {
    /// `/_skep/assets/<stem>.<fingerprint>.<extension>`
    pub(crate) url: String,
    stem: &'static str,
    extension: &'static str,
    fingerprint: String,
    media_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(
        stem: &'static str,
        extension: &'static str,
        media_type: &'static str,
        content: &'static str,
    ) -> Self {
        let digest = Sha256::digest(content.as_bytes());
        let fingerprint: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let url = format!("/_skep/assets/{stem}.{fingerprint}.{extension}");
        Self { url, stem, extension, fingerprint, media_type, content }
    }
}

pub(crate) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("skep", "css", "text/css; charset=utf-8", include_str!("../assets/skep.css"))
});
pub(crate) static LAUNCH_SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("launch", "js", "text/javascript; charset=utf-8", include_str!("../assets/launch.js"))
});
pub(crate) static PORTAL_SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("portal", "js", "text/javascript; charset=utf-8", include_str!("../assets/portal.js"))
});
pub(crate) static MARK: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("mark", "svg", "image/svg+xml", include_str!("../assets/mark.svg")));

/// Finds an asset by its file name and says whether the fingerprint is today's.
fn find(file: &str) -> Option<(&'static Asset, bool)> {
    let (stem, rest) = file.split_once('.')?;
    let (fingerprint, extension) = rest.rsplit_once('.')?;
    let all: [&'static Asset; 4] = [&STYLE, &LAUNCH_SCRIPT, &PORTAL_SCRIPT, &MARK];
    let asset = all.into_iter().find(|asset| asset.stem == stem && asset.extension == extension)?;
    Some((asset, asset.fingerprint == fingerprint))
}

/// `GET /_skep/assets/{file}`
pub(crate) async fn serve(Path(file): Path<String>, headers: HeaderMap) -> Response<Body> {
    let Some((asset, current)) = find(&file) else {
        return plain(StatusCode::NOT_FOUND, "There is no such asset.\n");
    };
    // A page of an older version may still ask under the old name after an upgrade; it gets today's file, uncached.
    let caching = if current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let etag = format!("\"{}\"", asset.fingerprint);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let fresh = known.is_some_and(|known| known.split(',').any(|tag| tag.trim() == etag));
    let (status, body) = if fresh {
        (StatusCode::NOT_MODIFIED, Body::empty())
    } else {
        (StatusCode::OK, Body::from(asset.content))
    };
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, asset.media_type)
        .header(header::CACHE_CONTROL, caching)
        .header(header::ETAG, etag)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .body(body);
    response.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "The asset could not be sent.\n"))
}

pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_fingerprint() {
        let file = STYLE.url.strip_prefix("/_skep/assets/").unwrap();
        assert!(find(file).is_some_and(|(asset, current)| current && asset.stem == "skep"));
        assert!(find("skep.000000000000.css").is_some_and(|(_, current)| !current));
        assert!(find("skep.css").is_none());
        assert!(find("skep.x.js").is_none());
        assert!(find("../skep.x.css").is_none());
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for asset in [&STYLE, &LAUNCH_SCRIPT, &PORTAL_SCRIPT] {
            for foreign in ["http://", "https://", "url(", "@import"] {
                assert!(!asset.content.contains(foreign), "{}: {foreign}", asset.stem);
            }
        }
    }
}
