//! The key file: read only when it is private, created once, never replaced.
//!
//! Bounds what is read to what a key can take. What the bytes mean is left to
//! `foreign.rs`.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::KeyFault;

/// An RSA key of 8192 bits takes 4.7 KiB.
const KEY_BYTES_MAX: u64 = 16 << 10;
/// A kubo configuration is a few KiB; lists of peers and origins make it grow.
const FOREIGN_BYTES_MAX: u64 = 1 << 20;
/// Owner only.
const PRIVATE: u32 = 0o600;

/// Reads our key file, unless others than its owner can get at it.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    // Looked at first, because opening a named pipe waits for its writer.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(KeyFault::NotAFile),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(KeyFault::Missing),
        Err(error) => return Err(io_fault("cannot be read")(error)),
    }
    let file = File::open(path).map_err(io_fault("cannot be read"))?;
    // Asked of the open file: the name may by now mean another one.
    let metadata = file.metadata().map_err(io_fault("cannot be read"))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFault::Exposed {
            mode,
            path: path.to_owned(),
        });
    }
    read(file, KEY_BYTES_MAX)
}

/// Reads a file of another node, or a pipe, whatever its permissions.
pub(super) fn read_any(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    let file = File::open(path).map_err(io_fault("cannot be read"))?;
    read(file, FOREIGN_BYTES_MAX)
}

/// Makes the file with these bytes, readable by its owner only. It appears
/// under its name complete and on disk, or not at all, and what stood there
/// before stays: the bytes go to a temporary file, and a hard link, which
/// fails if its name is taken, gives them theirs.
pub(super) fn create_private(path: &Path, bytes: &[u8]) -> Result<(), KeyFault> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io_fault("cannot create its directory"))?;
    let temporary = write_temporary(directory, bytes)?;
    let linked = fs::hard_link(&temporary, path);
    // Without its name the temporary file cannot be found again, so this comes
    // first whatever became of the link.
    let removed = fs::remove_file(&temporary);
    linked.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => KeyFault::Exists,
        _ => io_fault("cannot be created")(error),
    })?;
    removed
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(io_fault("cannot sync its directory"))
}

fn read(file: File, max: u64) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    let length = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len().min(max),
        _ => max,
    };
    let capacity = usize::try_from(length + 1).unwrap_or(0);
    // With room for all of it the buffer never moves and leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(io_fault("cannot be read"))?;
    if bytes.len() as u64 > max {
        return Err(KeyFault::TooLarge { max });
    }
    Ok(bytes)
}

fn write_temporary(directory: &Path, bytes: &[u8]) -> Result<PathBuf, KeyFault> {
    let mut suffix = [0; 8];
    aws_lc_rs::rand::fill(&mut suffix)
        .map_err(|_| io_fault("no random name")(io::Error::other("no entropy")))?;
    let name = format!(".identity-{:016x}", u64::from_ne_bytes(suffix));
    let temporary = directory.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&temporary)
        .map_err(io_fault("cannot be created"))?;
    let written = file
        // The umask may have taken bits that the owner needs.
        .set_permissions(Permissions::from_mode(PRIVATE))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        // The first error is the one that says what is wrong.
        let _ = fs::remove_file(&temporary);
        return Err(io_fault("cannot be written")(error));
    }
    Ok(temporary)
}

fn io_fault(action: &'static str) -> impl Fn(io::Error) -> KeyFault {
    move |error| KeyFault::Io { action, error }
}
