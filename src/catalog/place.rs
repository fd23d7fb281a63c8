//! Where a catalog is, as it is configured.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Board, Catalog, CatalogError, PostgresCatalog, SqliteCatalog, check_postgres};
use crate::redact::Redacted;
use crate::support::files;

/// Which engine, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// SQLite, ending with the process.
    Memory,
    /// SQLite in a file.
    Sqlite(PathBuf),
    /// PostgreSQL. The address may hold a password.
    Postgres(Redacted<String>),
}

impl Place {
    /// Reads an address: `postgres://…`, `sqlite:///FILE` or `memory:`.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            check_postgres(text).map_err(|error| error.to_string())?;
            return Ok(Self::Postgres(Redacted::new(text.to_owned())));
        }
        match (text, text.strip_prefix("sqlite://")) {
            ("memory:", _) => Ok(Self::Memory),
            (_, Some(path)) if is_whole(files::local(path)) => Ok(Self::Sqlite(files::local(path).into())),
            _ => Err("a catalog is postgres://USER@HOST/DATABASE, sqlite:///FILE or memory:".into()),
        }
    }

    /// Opens the catalog, and makes it when there is none.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn open(&self) -> Result<Arc<dyn Catalog>, CatalogError> {
        Ok(match self {
            Self::Memory => Arc::new(SqliteCatalog::in_memory()?),
            Self::Sqlite(path) => Arc::new(SqliteCatalog::open(path)?),
            Self::Postgres(url) => Arc::new(PostgresCatalog::open(url.reveal()).await?),
        })
    }

    /// Opens the same for directors.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn open_board(&self) -> Result<Arc<dyn Board>, CatalogError> {
        Ok(match self {
            Self::Memory => Arc::new(SqliteCatalog::in_memory()?),
            Self::Sqlite(path) => Arc::new(SqliteCatalog::open(path)?),
            Self::Postgres(url) => Arc::new(PostgresCatalog::open(url.reveal()).await?),
        })
    }
}

/// Whether a path does not depend on where the program was started.
fn is_whole(path: &str) -> bool {
    path.len() > 1 && (path.starts_with('/') || std::path::Path::new(path).is_absolute())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Place;

    #[test]
    fn an_address_names_its_engine_and_is_not_shown() {
        assert_eq!(Place::parse("memory:"), Ok(Place::Memory));
        assert_eq!(Place::parse("sqlite:///a/b"), Ok(Place::Sqlite("/a/b".into())));
        let postgres = Place::parse("postgresql://me:hunter2@127.0.0.1/cache").unwrap();
        assert!(matches!(postgres, Place::Postgres(_)) && !format!("{postgres:?}").contains("hunter2"));
        for wrong in ["", "sqlite://", "sqlite://relative", "mysql://me:hunter2@x/y", "postgres://:hunter2@/"]
        {
            assert!(!Place::parse(wrong).unwrap_err().contains("hunter2"), "{wrong}");
        }
    }
}
