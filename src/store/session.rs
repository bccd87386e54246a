//! The file while it is open: redb, its transactions, and the guard around it.
//!
//! Written for crashes only: the file is never marked as cleanly closed, so
//! that redb verifies every page at each opening and trusts nothing that it
//! kept for a quick start. It was found (by flipping bytes) to panic and to
//! allocate GiBs on a damaged file that it trusts, and to refuse the same file
//! in milliseconds when it verifies. The few panics that remain are caught.

use std::{
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    BackendError, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
    backends::{FileBackend, InMemoryBackend},
};

use super::{Change, Table, file, file::Fault};

/// Version of what the tables hold. Raised when an older program could not
/// read it.
const SCHEMA: u32 = 1;
const SCHEMA_TABLE: TableDefinition<'_, &str, u32> = TableDefinition::new("schema");
const SCHEMA_KEY: &str = "version";

/// Pages kept in memory, in bytes. Enough for the upper levels of the trees;
/// tables are read through once and then only written.
const CACHE_BYTES: usize = 4 << 20;

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// An open file. Closed by drop.
#[derive(Debug)]
pub(super) struct Session {
    database: Database,
    sealed: Arc<AtomicBool>,
}

impl Session {
    /// Opens the file, verifies it, and checks its schema.
    pub(super) fn open(
        path: &Path,
        #[cfg(test)] disk_full: &Arc<AtomicBool>,
    ) -> Result<Self, Fault> {
        let file = file::open(path).map_err(Fault::Io)?;
        let empty = file.metadata().map_err(Fault::Io)?.len() == 0;
        let again = file.try_clone().map_err(Fault::Io)?;
        let sealed = Arc::new(AtomicBool::new(false));
        let sealed_ = Arc::clone(&sealed);
        let opened = guarded(|| {
            let backend = Backend {
                file: FileBackend::new(file)?,
                sealed,
                #[cfg(test)]
                disk_full: Arc::clone(disk_full),
            };
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)?;
            let session = Self {
                database,
                sealed: sealed_,
            };
            session.agree_on_schema()?;
            Ok(session)
        });
        // Whoever else has it is making it.
        if let Err(fault) = &opened
            && empty
            && !matches!(fault, Fault::InUse)
        {
            file::undo_making(&again).map_err(Fault::Io)?;
        }
        opened
    }

    /// Opens a copy of the file in memory, for reading on a disk that takes
    /// nothing. Without a file it is empty.
    pub(super) fn of_copy(path: &Path) -> Result<Self, Fault> {
        let bytes = file::read(path).map_err(Fault::Io)?;
        guarded(|| {
            let copy = InMemoryBackend::new();
            if !bytes.is_empty() {
                copy.set_len(bytes.len() as u64)
                    .and_then(|()| copy.write(0, &bytes))
                    .map_err(Fault::Io)?;
            }
            drop(bytes);
            let session = Self {
                database: Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .create_with_backend(copy)?,
                sealed: Arc::default(),
            };
            session.agree_on_schema()?;
            Ok(session)
        })
    }

    /// Makes all changes or none; on disk when it returns.
    pub(super) fn write(&self, table: Table, changes: &[Change]) -> Result<(), Fault> {
        guarded(|| {
            let write = self.begin()?;
            {
                let mut table = write.open_table(definition(table))?;
                for change in changes {
                    match change {
                        Change::Put { key, value } => {
                            table.insert(key.as_slice(), value.as_slice())?;
                        }
                        Change::Delete { key } => {
                            table.remove(key.as_slice())?;
                        }
                    }
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    /// Shows every entry, as of when this begins.
    pub(super) fn for_each(
        &self,
        table: Table,
        mut look: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Fault> {
        guarded(|| {
            let read = self.database.begin_read()?;
            for entry in read.open_table(definition(table))?.iter()? {
                let (key, value) = entry?;
                look(key.value(), value.value());
            }
            Ok(())
        })
    }

    /// Writes the version, always: the first write is what marks the file as
    /// one to be verified.
    fn agree_on_schema(&self) -> Result<(), Fault> {
        let write = self.begin()?;
        let tables = write.list_tables().map_err(fault)?.count();
        {
            let mut schema = write.open_table(SCHEMA_TABLE).map_err(fault)?;
            let found = schema.get(SCHEMA_KEY).map_err(fault)?;
            match found.map(|version| version.value()) {
                Some(SCHEMA) => {}
                Some(found) if found > SCHEMA => {
                    return Err(Fault::Newer {
                        found,
                        known: SCHEMA,
                    });
                }
                None if tables == 0 => {}
                found => {
                    return Err(Fault::Damaged(format!("schema version {found:?}")));
                }
            }
            schema.insert(SCHEMA_KEY, SCHEMA).map_err(fault)?;
        }
        for table in Table::ALL {
            write.open_table(definition(table)).map_err(fault)?;
        }
        write.commit().map_err(fault)
    }

    fn begin(&self) -> Result<WriteTransaction, Fault> {
        let mut write = self.database.begin_write().map_err(fault)?;
        // Values come from peers, who could choose one that makes half a
        // commit look whole (redb's checksums are no cryptography).
        write.set_two_phase_commit(true);
        Ok(write)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sealed.store(true, Ordering::Release);
    }
}

const fn definition(table: Table) -> Bytes {
    TableDefinition::new(table.name())
}

/// Runs redb; a panic in it is a damaged file.
fn guarded<T>(run: impl FnOnce() -> Result<T, Wrapped>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|Wrapped(fault)| fault),
        Err(_) => Err(Fault::Damaged("reading it made redb panic".to_owned())),
    }
}

/// A [`Fault`] that `?` makes of any error of redb.
struct Wrapped(Fault);

impl From<Fault> for Wrapped {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

macro_rules! wrap {
    ($($error:ty),*) => {
        $(impl From<$error> for Wrapped {
            fn from(error: $error) -> Self {
                Self(fault(error))
            }
        })*
    };
}
wrap!(
    DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

fn fault(error: impl Into<redb::Error>) -> Fault {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => Fault::InUse,
        redb::Error::Io(error) => match error.kind() {
            // Not a file of redb's, or one that ends too early.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Fault::Damaged(error.to_string())
            }
            _ => Fault::Io(error),
        },
        error @ redb::Error::PreviousIo => Fault::Io(io::Error::other(error.to_string())),
        other => Fault::Damaged(other.to_string()),
    }
}

/// A file that takes nothing any more once it is sealed, so that closing
/// cannot mark it as clean.
#[derive(Debug)]
struct Backend {
    file: FileBackend,
    sealed: Arc<AtomicBool>,
    #[cfg(test)]
    disk_full: Arc<AtomicBool>,
}

impl Backend {
    fn writable(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.disk_full.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.unsealed()
    }

    fn unsealed(&self) -> io::Result<()> {
        if self.sealed.load(Ordering::Acquire) {
            return Err(io::Error::other("the store is being closed"));
        }
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Growing costs a full disk nothing.
        self.unsealed()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(from, to)
    }

    fn try_lock_shared_range(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(from, to)
    }

    fn lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(from, to)
    }

    fn lock_shared_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(from, to)
    }

    fn unlock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(from, to)
    }

    fn query_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(from, to)
    }
}
