//! The store's file as the file system sees it: made for its owner only, and
//! kept when it cannot be used.
//!
//! Bounds how many files are set aside. What is in the file is left to
//! `session.rs`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Files kept aside. A server that fails at each start must not fill the disk.
pub(super) const ASIDE_MAX: u32 = 16;

/// Longest file that is read into memory: four times what 100,000 peers take.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// Owner only: it tells who was here.
const PRIVATE: u32 = 0o600;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("it is in use by another process")]
    InUse,
    #[error("{0}")]
    Io(io::Error),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it was written by a newer version (schema {found}, known is {known})")]
    Newer { found: u32, known: u32 },
}

/// Makes the state directory, for its owner only, if it is not there.
pub(super) fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Opens the file, making an empty one if there is none.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // Looked at first, because opening a named pipe waits for its other end.
    let found = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => true,
        Ok(_) => {
            let reason = "is no regular file";
            return Err(io::Error::new(ErrorKind::InvalidInput, reason));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(path)?;
    if !found {
        sync_directory(path)?;
    }
    Ok(file)
}

/// Empties a file that was to become a store and did not: it is new at the next
/// try. On a full disk it grows first, as a hole, and then takes no byte; left
/// like that it would pass for a damaged one. One that has begun with
/// something stays.
pub(super) fn undo_making(file: &File) -> io::Result<()> {
    let mut first = [0; 9];
    if file.metadata()?.len() >= first.len() as u64 {
        file.read_exact_at(&mut first, 0)?;
    }
    if first == [0; 9] {
        file.set_len(0)?;
    }
    Ok(())
}

/// What the file holds, nothing if there is none.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(COPY_BYTES_MAX + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if bytes.len() as u64 > COPY_BYTES_MAX {
        return Err(io::Error::other("is too large to be read into memory"));
    }
    Ok(bytes)
}

/// Gives the file a free name beside its own; none if there are
/// [`ASIDE_MAX`] such files already. A hard link, which fails if its name is
/// taken, comes first, so that nothing is written over.
pub(super) fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    for number in 1..=ASIDE_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        let aside = PathBuf::from(name);
        match fs::hard_link(path, &aside) {
            Ok(()) => {
                fs::remove_file(path)?;
                sync_directory(path)?;
                return Ok(Some(aside));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
