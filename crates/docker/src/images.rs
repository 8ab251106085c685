//! Images: looking, pulling, importing, building.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};

use crate::body::Pieces;
use crate::call::{Call, encode};
use crate::document::list;
use crate::json_lines::JsonLines;
use crate::progress::PullProgress;
use crate::{Document, Engine, Error, Filters, Reference, Upload};

/// Until a registry has answered for the first time.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(90);
/// Without any report of progress.
const STALL: Duration = Duration::from_secs(120);
/// To take a whole archive and work on it.
const ARCHIVE_DEADLINE: Duration = Duration::from_secs(3600);
/// Bytes of one report.
const REPORT_BYTES: usize = 1 << 20;

/// The header with a login that nodes or engine fetch an image with.
pub(crate) const LOGIN_HEADER: &str = "x-registry-auth";

/// A login at a registry.
#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    /// What a call carries that has an image fetched with them.
    pub(crate) fn header(&self, image: &Reference) -> String {
        let Self { user, password } = self;
        let login = json!({ "username": user, "password": password, "serveraddress": image.registry() });
        URL_SAFE.encode(login.to_string())
    }
}

/// How an image is built.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions<'a> {
    /// The name it gets.
    pub tag: &'a str,
    /// Where the Dockerfile lies in the archive; empty: `Dockerfile`.
    pub dockerfile: &'a str,
    /// Networks of the commands run meanwhile: `none` keeps them away from everything.
    pub network: Option<&'a str>,
}

impl Engine {
    /// `None` when there is no such image here.
    pub async fn inspect_image(&self, name: &str) -> Result<Option<Document>, Error> {
        match self.send(Call::get(format!("/images/{}/json", encode(name)))).await {
            Ok(answer) => Ok(Some(Document(answer.json().await?))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list_images(&self, filters: Filters<'_>) -> Result<Vec<Document>, Error> {
        Ok(list(self.send(Call::get("/images/json").filters(filters)).await?.json().await?))
    }

    /// Fetches an image, telling how far it is.
    ///
    /// # Errors
    /// [`Error::Refused`] when the registry does not have it or cannot be reached, [`Error::Failed`] when it goes wrong on
    /// the way (a full disk, a broken connection).
    pub async fn pull(
        &self,
        image: &Reference,
        credentials: Option<&Credentials>,
        mut report: impl FnMut(&PullProgress),
    ) -> Result<(), Error> {
        let mut call = Call::post("/images/create")
            .query("fromImage", image.name())
            .query("tag", image.tag_or_digest())
            .within(REGISTRY_DEADLINE);
        if let Some(credentials) = credentials {
            call = call.header(LOGIN_HEADER, credentials.header(image));
        }
        let pieces = self.send(call).await?.pieces();
        let mut progress = PullProgress::default();
        let take = |value: &Value| {
            progress.take(value);
            report(&progress);
        };
        self.follow(pieces, STALL, take).await
    }

    /// Makes an image of one layer from a tar archive of a file system. `changes` are Dockerfile instructions such as
    /// `CMD ["/bin/app"]`. Answers the image's id.
    pub async fn import_image(
        &self,
        image: &Reference,
        changes: &[&str],
        tar: Upload,
    ) -> Result<String, Error> {
        let mut call = Call::post("/images/create")
            .query("fromSrc", "-")
            .query("repo", image.name())
            .query("tag", image.tag())
            .tar(tar.0)
            .within(ARCHIVE_DEADLINE);
        for change in changes {
            call = call.query("changes", change);
        }
        let pieces = self.send(call).await?.pieces();
        let mut id = String::new();
        let take = |value: &Value| {
            let status = value.get("status").and_then(Value::as_str).unwrap_or_default();
            if status.starts_with("sha256:") {
                status.clone_into(&mut id);
            }
        };
        self.follow(pieces, STALL, take).await?;
        Ok(id)
    }

    /// Builds an image from an archive that holds a Dockerfile and what it needs; `report` gets each line. Answers the
    /// image's id.
    pub async fn build_image(
        &self,
        options: &BuildOptions<'_>,
        context: Upload,
        mut report: impl FnMut(&str),
    ) -> Result<String, Error> {
        let mut call = Call::post("/build")
            .query("t", options.tag)
            .query("rm", "1")
            .query("forcerm", "1")
            .tar(context.0)
            .within(ARCHIVE_DEADLINE);
        if !options.dockerfile.is_empty() {
            call = call.query("dockerfile", options.dockerfile);
        }
        if let Some(network) = options.network {
            call = call.query("networkmode", network);
        }
        let pieces = self.send(call).await?.pieces();
        let mut id = String::new();
        let take = |value: &Value| {
            if let Some(built) = value.pointer("/aux/ID").and_then(Value::as_str) {
                built.clone_into(&mut id);
            }
            let text = value.get("stream").and_then(Value::as_str).unwrap_or_default();
            text.lines().filter(|line| !line.trim().is_empty()).for_each(&mut report);
        };
        // A step of a build may be silent for long.
        self.follow(pieces, ARCHIVE_DEADLINE, take).await?;
        Ok(id)
    }

    /// Answers whether there was anything to remove.
    pub async fn remove_image(&self, name: &str) -> Result<bool, Error> {
        match self.send(Call::delete(format!("/images/{}", encode(name))).query("force", "1")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn tag_image(&self, source: &str, target: &Reference) -> Result<(), Error> {
        let call = Call::post(format!("/images/{}/tag", encode(source)))
            .query("repo", target.name())
            .query("tag", target.tag());
        self.send(call).await.map(drop)
    }

    /// Reads reports until the end. The engine's own error among them ends it.
    async fn follow(
        &self,
        mut pieces: Pieces,
        stall: Duration,
        mut take: impl FnMut(&Value),
    ) -> Result<(), Error> {
        let mut lines = JsonLines::new(REPORT_BYTES);
        loop {
            let values = match tokio::time::timeout(stall, pieces.next()).await {
                Ok(Some(piece)) => lines.push(&piece?),
                Ok(None) => break,
                Err(_) => {
                    let address = self.address().to_string();
                    return Err(Error::Late { address, call: pieces.call, after: stall });
                }
            };
            for value in values.into_iter().flatten() {
                judge(&pieces.call, &value)?;
                take(&value);
            }
        }
        if let Some(Ok(value)) = lines.finish() {
            judge(&pieces.call, &value)?;
            take(&value);
        }
        Ok(())
    }
}

fn judge(call: &str, report: &Value) -> Result<(), Error> {
    let said = report.pointer("/errorDetail/message").or_else(|| report.get("error"));
    match said.and_then(Value::as_str) {
        Some(message) => Err(Error::Failed { call: call.to_owned(), message: message.trim().to_owned() }),
        None => Ok(()),
    }
}
