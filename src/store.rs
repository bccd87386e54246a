//! The embedded store: what outlives a restart, in one file under
//! `state.directory`.
//!
//! Owns the file, its schema version and what becomes of a file that cannot be
//! used. A batch of changes is one transaction and on disk when [`Store::apply`]
//! returns. Every call blocks: never on a worker. Bounded are the cache and the
//! files set aside; how many entries a table has is its owner's to bound, and so
//! is what keys and values mean.
//!
//! redb, by measurement (2026-11-20, two shared cores, 100,000 entries of 38 +
//! 400 bytes): a batch of 1,000 changes 18 ms, loading 42 ms, checking every
//! page at the start 110 ms, 8 MiB resident, one file of 65 MiB. fjall: 3 ms,
//! 56 ms, opening 190 ms, 60 to 90 MiB resident, a directory of 44 to 75 MiB.
//! Batches are seconds apart and off the workers; memory is what a small host
//! lacks.

mod file;
mod session;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{clock, metrics::StoreMetrics};

use file::Fault;
use session::Session;

/// Name of the file in the state directory.
const FILE_NAME: &str = "store.redb";

/// What is kept, apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Peers that we have met.
    Peers,
    /// The operator's rules that were made at run time.
    Access,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 2] = [Self::Peers, Self::Access];

    /// Name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Access => "access",
        }
    }
}

/// One change to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts a value in place of whatever the key had.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Takes the key out; one that is not there is no error.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

/// Why the store cannot be used, or not now.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file.
    #[error("{} is in use by another process", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The file's content is not what was written.
    #[error("{}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// As many files as are kept are set aside already.
    #[error("{}: {reason}; {most} files are set aside already, remove some", .path.display())]
    AsideFull {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
        /// How many are kept.
        most: u32,
    },
}

/// A file that could not be used and was kept under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it was.
    pub from: PathBuf,
    /// Where it is now.
    pub path: PathBuf,
    /// Why it could not be used.
    pub reason: String,
}

impl SetAside {
    /// Tells the operator.
    pub fn tell(&self) {
        tracing::warn!(
            file = %self.from.display(),
            reason = %self.reason,
            kept_as = %self.path.display(),
            "the store cannot be used and was set aside for an empty one; a start without it \
             knows no peers and none of the rules made at run time: make those again"
        );
    }
}

/// An open store and what it took to open it.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The file that was in the way; the store is empty then.
    pub set_aside: Option<SetAside>,
}

/// The store. Shared by reference; changes are applied one batch at a time.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// None while the file cannot be used: opened again by the next call.
    session: Mutex<Option<Arc<Session>>>,
    failing: AtomicBool,
    /// How often an empty file took the place of one that could not be used.
    renewals: AtomicU64,
    metrics: Arc<StoreMetrics>,
    #[cfg(test)]
    disk_full: Arc<AtomicBool>,
}

impl Store {
    /// Opens or makes the store in `directory`, which is made too if need be.
    /// Every page is verified, which takes about a second per GiB.
    ///
    /// A file that is damaged or of a newer version is set aside under a free
    /// name and an empty one takes its place. A full or read-only disk is not
    /// an error: the server goes on, and the file is tried again with each
    /// batch.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it, [`StoreError::Io`] for
    /// what the operator has to put right, [`StoreError::AsideFull`] if too
    /// many files were set aside.
    pub fn open(directory: &Path, metrics: Arc<StoreMetrics>) -> Result<Opened, StoreError> {
        let store = Self::closed(directory, metrics);
        let set_aside = store.begin(directory)?;
        Ok(Opened { store, set_aside })
    }

    fn closed(directory: &Path, metrics: Arc<StoreMetrics>) -> Self {
        metrics.set_available(true);
        Self {
            path: directory.join(FILE_NAME),
            session: Mutex::new(None),
            failing: AtomicBool::new(false),
            renewals: AtomicU64::new(0),
            metrics,
            #[cfg(test)]
            disk_full: Arc::default(),
        }
    }

    fn begin(&self, directory: &Path) -> Result<Option<SetAside>, StoreError> {
        let mut set_aside = None;
        let opened = file::make_directory(directory)
            .map_err(|error| self.error(Fault::Io(error)))
            .and_then(|()| self.open_anyway(&mut set_aside));
        match opened {
            Ok(session) => *self.session.lock() = Some(Arc::new(session)),
            Err(error) if error.is_passing() => {
                // Told as the beginning of an episode, like later ones.
                let _ = self.tell(Err(error));
            }
            Err(error) => return Err(error),
        }
        Ok(set_aside)
    }

    /// Shows every entry of a table, ordered by key. For the start: nothing is
    /// held up by it, but it reads the whole table. On a full or read-only disk
    /// a copy in memory is read, which is freed again.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read; some entries may have been
    /// shown by then.
    pub fn for_each(&self, table: Table, look: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        match self.session() {
            Ok(session) => {
                let read = session.for_each(table, look);
                read.map_err(|fault| self.give_up(&session, fault))
            }
            Err(error) if error.is_passing() => Session::of_copy(&self.path)
                .and_then(|copy| copy.for_each(table, look))
                .map_err(|fault| self.error(fault)),
            Err(error) => Err(error),
        }
    }

    /// Makes all changes or none, in their order. They are on disk when this
    /// returns `Ok`.
    ///
    /// # Errors
    /// [`StoreError`] if nothing was changed, as on a full disk. Told once per
    /// episode in the log; the next call tries again from the start.
    pub fn apply(&self, table: Table, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let started = clock::now();
        let applied = self.session().and_then(|session| {
            let written = session.write(table, changes);
            written.map_err(|fault| self.give_up(&session, fault))
        });
        if applied.is_ok() {
            let took = clock::now().saturating_duration_since(started);
            self.metrics.wrote(changes.len(), took);
        }
        self.tell(applied)
    }

    /// Size of the file in bytes, for a gauge; 0 if there is none.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often the store has begun anew while it was open: whoever has
    /// written to it before has to write everything again.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Acquire)
    }

    /// Damages the file, and has it opened again by the next call.
    #[cfg(test)]
    pub(crate) fn spoil(&self) {
        *self.session.lock() = None;
        std::fs::write(&self.path, "garbage".repeat(1_000)).expect("a test's own file");
    }

    /// The open file, opened again if it was given up.
    fn session(&self) -> Result<Arc<Session>, StoreError> {
        let mut set_aside = None;
        let opened = {
            let mut place = self.session.lock();
            if let Some(session) = &*place {
                return Ok(Arc::clone(session));
            }
            self.open_anyway(&mut set_aside)
                .map(|session| Arc::clone(place.insert(Arc::new(session))))
        };
        if let Some(aside) = set_aside {
            self.renewals.fetch_add(1, Ordering::Release);
            aside.tell();
        }
        opened
    }

    /// Opens the file, or an empty one after setting it aside.
    fn open_anyway(&self, set_aside: &mut Option<SetAside>) -> Result<Session, StoreError> {
        let opened = match self.open_session() {
            Err(fault @ (Fault::Damaged(_) | Fault::Newer { .. })) => {
                *set_aside = Some(self.set_aside(&fault)?);
                self.metrics.set_aside();
                self.open_session()
            }
            opened => opened,
        };
        opened.map_err(|fault| self.error(fault))
    }

    fn open_session(&self) -> Result<Session, Fault> {
        Session::open(
            &self.path,
            #[cfg(test)]
            &self.disk_full,
        )
    }

    /// After an I/O error redb answers nothing until it is opened anew.
    fn give_up(&self, session: &Arc<Session>, fault: Fault) -> StoreError {
        let mut place = self.session.lock();
        let current = place.take_if(|current| Arc::ptr_eq(current, session));
        drop(place);
        drop(current);
        self.error(fault)
    }

    fn set_aside(&self, fault: &Fault) -> Result<SetAside, StoreError> {
        let reason = fault.to_string();
        match file::set_aside(&self.path) {
            Ok(Some(path)) => Ok(SetAside {
                from: self.path.clone(),
                path,
                reason,
            }),
            Ok(None) => Err(StoreError::AsideFull {
                path: self.path.clone(),
                reason,
                most: file::ASIDE_MAX,
            }),
            Err(error) => Err(self.error(Fault::Io(error))),
        }
    }

    fn error(&self, fault: Fault) -> StoreError {
        let path = self.path.clone();
        match fault {
            Fault::InUse => StoreError::InUse { path },
            Fault::Io(source) => StoreError::Io { path, source },
            Fault::Damaged(_) | Fault::Newer { .. } => StoreError::Damaged {
                path,
                reason: fault.to_string(),
            },
        }
    }

    /// Counts a failure, and logs the beginning and the end of a row of them.
    fn tell(&self, applied: Result<(), StoreError>) -> Result<(), StoreError> {
        let failed = applied.is_err();
        let failed_before = self.failing.swap(failed, Ordering::Relaxed);
        if failed != failed_before {
            self.metrics.set_available(!failed);
        }
        match &applied {
            Err(error) => {
                self.metrics.failed();
                if !failed_before {
                    tracing::warn!(%error, "cannot write to the store; what is new will not outlive a restart");
                }
            }
            Ok(()) if failed_before => {
                tracing::info!(file = %self.path.display(), "the store can be written to again");
            }
            Ok(()) => {}
        }
        applied
    }
}

impl StoreError {
    /// Whether it may go away without anybody restarting the server.
    fn is_passing(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let Self::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            StorageFull | QuotaExceeded | ReadOnlyFilesystem
        )
    }
}

#[cfg(test)]
mod tests;
