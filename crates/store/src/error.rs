//! What can go wrong, and whether trying again helps.

use std::path::PathBuf;

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "`{location}` is no store: give the path of a SQLite file or a `postgres://user@host/database` address"
    )]
    Location { location: String },
    #[error("the store at {location} cannot be opened: {source}")]
    Open {
        location: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("the folder {} of the store cannot be created: {source}", folder.display())]
    Folder {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store's file {} cannot be created: {source}", file.display())]
    File {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the tables of the store at {location} cannot be brought to this version of Skep \
         (was a newer version used on it?): {source}"
    )]
    Migrate {
        location: String,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    #[error("the store could not {what}: {source}")]
    Query {
        what: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("the store holds a row Skep cannot read ({what}): {reason}")]
    Row { what: &'static str, reason: String },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody mending anything in Skep's config.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open { .. } | Self::Query { .. } => true,
            Self::Location { .. }
            | Self::Folder { .. }
            | Self::File { .. }
            | Self::Migrate { .. }
            | Self::Row { .. } => false,
        }
    }
}
