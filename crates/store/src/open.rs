//! Opening a store on either engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::{AnyPool, Executor, SqlSafeStr};

use crate::sql;
use crate::{Journal, Lease, People, StoreError, Tenant, Usage};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

/// How long to wait for a free connection before a call fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file, created when missing.
    Sqlite(PathBuf),
    /// `postgres://…`; may hold a password.
    Postgres(String),
}

impl FromStr for Location {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")).unwrap_or(text);
        if path.is_empty() || path.contains("://") {
            return Err(StoreError::Location { location: text.chars().take(200).collect() });
        }
        Ok(Self::Sqlite(path.into()))
    }
}

impl fmt::Display for Location {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => match url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')) {
                Some((user, host)) => {
                    let user = user.split(':').next().unwrap_or_default();
                    write!(f, "postgres://{user}@{}", host.split('?').next().unwrap_or_default())
                }
                None => f.write_str(url.split('?').next().unwrap_or_default()),
            },
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Engine,
    /// On SQLite: one connection. On PostgreSQL: the same pool as `reader`.
    writer: AnyPool,
    reader: AnyPool,
}

impl Store {
    /// Opens the store and brings its tables to this version of Skep.
    ///
    /// # Errors
    /// When it cannot be reached, is no database, or was written by a newer version.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let store = match location {
            Location::Sqlite(path) => Self::open_sqlite(path, location).await?,
            Location::Postgres(url) => Self::open_postgres(url, location).await?,
        };
        let migrations = match store.engine {
            Engine::Sqlite => &SQLITE_MIGRATIONS,
            Engine::Postgres => &POSTGRES_MIGRATIONS,
        };
        let migrated = migrations.run(&store.writer).await;
        if let Err(source) = migrated {
            store.close().await;
            return Err(StoreError::Migrate { location: location.to_string(), source });
        }
        Ok(store)
    }

    async fn open_sqlite(path: &Path, location: &Location) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| StoreError::Folder { folder: folder.to_owned(), source })?;
        }
        private(path).map_err(|source| StoreError::File { file: path.to_owned(), source })?;
        let options = sqlite_options(path, location)?;
        let open = |source| StoreError::Open { location: location.to_string(), source };
        let writer = AnyPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(sql::SQLITE_CONNECT).await.map(drop) })
            })
            .connect_with(options.clone())
            .await
            .map_err(open)?;
        let reader = AnyPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(sql::SQLITE_CONNECT).await?;
                    connection.execute(sql::SQLITE_READ_ONLY).await.map(drop)
                })
            })
            .connect_lazy_with(options);
        Ok(Self { engine: Engine::Sqlite, writer, reader })
    }

    async fn open_postgres(url: &str, location: &Location) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { location: location.to_string(), source };
        let pool = AnyPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(url.parse().map_err(open)?)
            .await
            .map_err(open)?;
        Ok(Self { engine: Engine::Postgres, writer: pool.clone(), reader: pool })
    }

    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The history of what happened.
    pub fn journal(&self) -> Journal {
        Journal::new(self.engine, self.writer.clone(), self.reader.clone())
    }

    /// Users, groups, grants, ended logins, one-time links.
    pub fn people(&self) -> People {
        People::new(self.writer.clone(), self.reader.clone())
    }

    /// Who used what, and favourites.
    pub fn usage(&self) -> Usage {
        Usage::new(self.writer.clone(), self.reader.clone())
    }

    /// What only one of the servers that share this store may do at a time.
    pub fn lease(&self, name: String, tenant: Tenant) -> Lease {
        Lease::new(self.engine, self.writer.clone(), name, tenant)
    }

    /// Whether the engine answers and accepts every statement of this version: its tables fit.
    ///
    /// # Errors
    /// The name of the first statement that does not fit, with the engine's own words.
    pub async fn check(&self) -> Result<(), StoreError> {
        for pool in [&self.writer, &self.reader] {
            let mut connection =
                pool.acquire().await.map_err(|source| StoreError::Query { what: "connect", source })?;
            for (what, statement) in sql::all(self.engine) {
                connection
                    .prepare(statement.into_sql_str())
                    .await
                    .map_err(|source| StoreError::Query { what, source })?;
            }
        }
        Ok(())
    }

    /// Waits for running statements and closes every connection; calls after this fail.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    #[cfg(test)]
    pub(crate) fn writer(&self) -> &AnyPool {
        &self.writer
    }
}

/// A new file that its owner alone may read, as there are password hashes in it; SQLite gives its other files the same
/// mode. One that is there already stays as it is.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match new {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The path as a URL: everything that means something in one is escaped, so that any file name works.
fn sqlite_options(path: &Path, location: &Location) -> Result<AnyConnectOptions, StoreError> {
    let bad = || StoreError::Location { location: location.to_string() };
    let mut url = "sqlite://".to_owned();
    for byte in path.to_str().ok_or_else(bad)?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url.push_str("?mode=rwc");
    url.parse().map_err(|source| StoreError::Open { location: location.to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_told_apart_and_show_no_password() {
        assert_eq!(
            "/var/lib/skep.db".parse::<Location>().unwrap(),
            Location::Sqlite("/var/lib/skep.db".into())
        );
        assert_eq!("sqlite:a.db".parse::<Location>().unwrap(), Location::Sqlite("a.db".into()));
        let remote: Location = "postgres://skep:s3cr3t@db.example:5432/skep?sslmode=disable".parse().unwrap();
        assert_eq!(remote.to_string(), "postgres://skep@db.example:5432/skep");
        assert_eq!(format!("{remote:?}"), "postgres://skep@db.example:5432/skep");
        for bad in ["", "mysql://x/y", "sqlite:"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn sqlite_is_durable_and_takes_any_file_name() {
        use sqlx::Row;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(folder.path().join("a b#c?.db"))).await.unwrap();
        let meta = std::fs::metadata(folder.path().join("a b#c?.db")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
        let mut connection = store.writer().acquire().await.unwrap();
        let mode = connection.fetch_one("PRAGMA journal_mode").await.unwrap();
        assert_eq!(mode.get::<String, _>(0), "wal");
        let synchronous = connection.fetch_one("PRAGMA synchronous").await.unwrap();
        assert_eq!(synchronous.get::<i64, _>(0), 2, "FULL");
        drop(connection);
        store.close().await;
    }
}
