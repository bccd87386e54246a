//! The secret that changes over HTTP need, read from the file that
//! `admin.token_file` names.
//!
//! Bounds its length both ways. Comparing it is left to `admin`.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::{ConfigError, Loaded};

/// Shortest secret, in bytes: 16 random letters cannot be guessed.
const LENGTH_MIN: usize = 16;
/// Longest secret: fits a header.
const LENGTH_MAX: usize = 1024;

impl Loaded {
    /// The secret; none if no file is named. Spaces and line ends around it
    /// are no part of it.
    ///
    /// # Errors
    /// If the file cannot be read, can be read by everybody, or holds no
    /// secret of printable characters and sensible length.
    pub fn admin_token(&self) -> Result<Option<String>, ConfigError> {
        let path = &self.config.admin.token_file;
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        read(path)
            .map(Some)
            .map_err(|reason| self.refuse("admin.token_file", &reason))
    }
}

fn read(path: &Path) -> Result<String, String> {
    let fault = |error: io::Error| format!("cannot be read: {error}");
    // Looked at first, because opening a named pipe waits for its writer.
    let metadata = fs::metadata(path).map_err(fault)?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    if metadata.mode() & 0o007 != 0 {
        return Err("is open to everybody: chmod o= it".to_owned());
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LENGTH_MAX as u64 + 2).read_to_string(&mut text))
        .map_err(fault)?;
    let token = text.trim();
    if !(LENGTH_MIN..=LENGTH_MAX).contains(&token.len()) {
        return Err(format!(
            "has to hold {LENGTH_MIN} to {LENGTH_MAX} characters"
        ));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has to hold one word of printable ASCII characters".to_owned());
    }
    Ok(token.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_one_private_word() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let with = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read(&path)
        };
        assert_eq!(
            with("0123456789abcdef\n", 0o640).unwrap(),
            "0123456789abcdef"
        );
        for (text, mode, reason) in [
            ("0123456789abcdef", 0o644, "is open to everybody"),
            ("0123456789abcde", 0o600, "has to hold 16 to 1024"),
            ("", 0o600, "has to hold 16 to 1024"),
            (&"x".repeat(1025), 0o600, "has to hold 16 to 1024"),
            ("0123456789 abcdef", 0o600, "has to hold one word"),
        ] {
            let told = with(text, mode).unwrap_err();
            assert!(told.starts_with(reason), "{text}: {told}");
        }
        let missing = read(&directory.path().join("missing")).unwrap_err();
        assert!(missing.starts_with("cannot be read: "), "{missing}");
    }
}
