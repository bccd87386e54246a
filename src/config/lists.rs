//! The operator's lists as they count: keys and files together.
//!
//! Bounds how much a file may hold. Every line that cannot be used is told
//! with its key, its file and its number, up to a few; what the lists mean is
//! left to `state::access`.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use super::{ConfigError, Fault, Loaded, Subject};

/// Bytes of one file: a million ranges, written at length.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Lines told of one file that is not a list at all.
const FAULTS_MAX: usize = 5;

/// Whom the configuration denies and allows. Each subject once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLists {
    /// Refused.
    pub deny: HashSet<Subject>,
    /// Trusted.
    pub allow: HashSet<Subject>,
}

impl Loaded {
    /// Reads the files that `access` names and joins them with its keys.
    ///
    /// # Errors
    /// Every file that cannot be read, the first lines that are no subject, and
    /// whoever is both denied and allowed.
    pub fn access_lists(&self) -> Result<AccessLists, ConfigError> {
        let access = &self.config.access;
        let mut faults = Vec::new();
        let mut lists = AccessLists {
            deny: access.deny.iter().copied().collect(),
            allow: access.allow.iter().copied().collect(),
        };
        for (key, path, list) in [
            ("access.deny_file", &access.deny_file, &mut lists.deny),
            ("access.allow_file", &access.allow_file, &mut lists.allow),
        ] {
            if !path.as_os_str().is_empty() {
                let reasons = read_list(path, list);
                faults.extend(reasons.into_iter().map(|reason| self.fault(key, reason)));
            }
        }
        faults.extend(self.contradictions(&lists));
        if faults.is_empty() {
            Ok(lists)
        } else {
            Err(ConfigError(faults))
        }
    }

    fn contradictions(&self, lists: &AccessLists) -> Vec<Fault> {
        let access = &self.config.access;
        let keys = [
            ("access.allow", access.allow.as_slice()),
            ("access.allow_file", &[]),
        ];
        let both = lists.allow.intersection(&lists.deny).take(FAULTS_MAX);
        both.map(|subject| {
            let [(key, in_key), (file, _)] = keys;
            let allowed = if in_key.contains(subject) { key } else { file };
            let denied = if access.deny.contains(subject) {
                "access.deny"
            } else {
                "access.deny_file"
            };
            self.fault(allowed, format!("{subject} is in {denied} as well"))
        })
        .collect()
    }
}

/// Adds what the file holds; tells what is wrong with it.
fn read_list(path: &Path, list: &mut HashSet<Subject>) -> Vec<String> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => return vec![format!("cannot be read: {error}")],
    };
    let mut reasons = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        match entry.parse() {
            Ok(subject) => {
                list.insert(subject);
            }
            Err(expected) if reasons.len() < FAULTS_MAX => {
                // A line of somebody else's file may be of any length.
                let shown: String = entry.chars().take(80).collect();
                reasons.push(format!("line {}: {shown:?}: {expected}", index + 1));
            }
            Err(_) => break,
        }
    }
    reasons
}

fn read(path: &Path) -> io::Result<String> {
    // Looked at first, because opening a named pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("is larger than 64 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn lists(settings: &[String]) -> Result<AccessLists, ConfigError> {
        let loaded = Loaded::load(&Sources {
            file: Some("/dev/null".into()),
            environment: [("HOME", "/home/somebody")].into_iter().collect(),
            flags: settings.to_vec(),
        });
        loaded.unwrap().access_lists()
    }

    #[test]
    fn keys_and_files_are_one_list() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deny.txt");
        let text = "# bad\n\n192.0.2.0/24  # a network\n 2001:db8::1\r\n192.0.2.9/24\n";
        fs::write(&path, text).unwrap();
        let lists = lists(&[
            "access.deny=198.51.100.1".to_owned(),
            "access.allow=192.0.2.1".to_owned(),
            format!("access.deny_file={}", path.display()),
        ])
        .unwrap();
        let expected = ["198.51.100.1", "192.0.2.0/24", "2001:db8::1"];
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(lists.deny, HashSet::from(expected));
        assert_eq!(lists.allow.len(), 1);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_key_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("allow.txt");
        fs::write(&path, "192.0.2.1\n\nexample.org\n").unwrap();
        let file = format!("access.allow_file={}", path.display());
        let error = lists(std::slice::from_ref(&file)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "access.allow_file = \"{}\" from flag --set: line 3: \"example.org\": \
                 expected a peer id, an IP address, or a range such as 192.0.2.0/24",
                path.display()
            )
        );
        fs::write(&path, "nonsense\n".repeat(1_000)).unwrap();
        assert_eq!(lists(&[file]).unwrap_err().0.len(), FAULTS_MAX);

        let missing = directory.path().join("missing");
        let error = lists(&[format!("access.deny_file={}", missing.display())]);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("access.deny_file = "), "{error}");
        assert!(error.contains("cannot be read: "), "{error}");
        let error = lists(&[format!("access.deny_file={}", directory.path().display())]);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .ends_with("is no regular file")
        );
    }

    #[test]
    fn whoever_is_denied_and_allowed_is_a_contradiction() {
        let error = lists(&[
            "access.deny=192.0.2.1".to_owned(),
            "access.allow=192.0.2.1,192.0.2.2".to_owned(),
        ]);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("access.allow = "), "{error}");
        assert!(
            error.ends_with("192.0.2.1 is in access.deny as well"),
            "{error}"
        );
        // Ranges may overlap: denial wins.
        lists(&[
            "access.deny=192.0.2.0/24".to_owned(),
            "access.allow=192.0.2.1".to_owned(),
        ])
        .unwrap();
    }
}
