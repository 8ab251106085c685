//! Having the image there.

use skep_docker::{Document, Reference};
use skep_launch::{BackendError, ProgressSink, Stage};
use skep_model::{Image, Pull};

use super::Inner;
use crate::container::app_error;
use crate::container::login::login_for;
use crate::container::words::{not_fetched, platform};
use crate::table::blocking;

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
