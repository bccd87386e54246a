//! The secret that outlives restarts: what resets, tokens and connection ids of
//! QUIC are made with.
//!
//! Made at the first start, readable by its owner only, never written over: one
//! that is damaged is told. Losing it costs peers no more than a restart of a
//! server without it: they find out by a time-out that their connection is gone.

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{IdentityError, KeyFault, file};

const LENGTH: usize = 32;

/// 32 random bytes in a file.
pub struct Secret(Zeroizing<[u8; LENGTH]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A secret that is kept nowhere.
    ///
    /// # Panics
    /// If the system has no entropy.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        aws_lc_rs::rand::fill(&mut *bytes).expect("the system has entropy");
        Self(bytes)
    }

    /// Reads the file, or makes it if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or made, is open to others, or does not hold
    /// 32 bytes.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let fault = |fault| IdentityError {
            path: path.to_owned(),
            fault,
        };
        match file::read_private(path) {
            Ok(bytes) => Self::of(&bytes).map_err(fault),
            Err(KeyFault::Missing) => {
                let secret = Self::generate();
                match file::create_private(path, &*secret.0) {
                    Ok(()) => Ok(secret),
                    // Somebody else was faster.
                    Err(KeyFault::Exists) => {
                        let bytes = file::read_private(path).map_err(fault)?;
                        Self::of(&bytes).map_err(fault)
                    }
                    Err(error) => Err(fault(error)),
                }
            }
            Err(error) => Err(fault(error)),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }

    fn of(bytes: &[u8]) -> Result<Self, KeyFault> {
        let bytes = bytes.try_into().map_err(|_| KeyFault::NotASecret)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_the_same_after_a_restart_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quic.secret");
        let first = Secret::load_or_create(&path).unwrap();
        let second = Secret::load_or_create(&path).unwrap();
        assert_eq!(first.bytes(), second.bytes());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_secret_is_told_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quic.secret");
        drop(Secret::load_or_create(&path).unwrap());
        fs::write(&path, b"short").unwrap();
        let error = Secret::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("quic.secret: is not 32 bytes"));
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }
}
