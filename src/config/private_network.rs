//! The key of a private network, read from the file that
//! `private_network.key_file` names, and what cannot be had together with it.
//!
//! Bounds the file. The key is never shown: an error says what is wrong with
//! the file, and `check-config` shows the fingerprint.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use multiaddr::{Multiaddr, Protocol};
use zeroize::Zeroizing;

use super::{ConfigError, Environment, Fault, Loaded, Origin};
use crate::engine::private_network::{FILE_MAX, PrivateKey};

const KEY: &str = "private_network.key_file";
const ADDRESSES: &str = "listen.addresses";
/// Set to 1, it forbids to run outside of a private network (as in go-libp2p).
const FORCED: &str = "LIBP2P_FORCE_PNET";

impl Loaded {
    /// The key; none if no file is named.
    ///
    /// # Errors
    /// If the file cannot be read or holds no key.
    pub fn private_network(&self) -> Result<Option<PrivateKey>, ConfigError> {
        let path = &self.config.private_network.key_file;
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        read_private_key(path)
            .map(Some)
            .map_err(|reason| self.refuse(KEY, &reason))
    }
}

/// The key in a file.
///
/// # Errors
/// What is wrong with the file.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, String> {
    let fault = |error: io::Error| format!("cannot be read: {error}");
    // Looked at first, because opening a named pipe waits for its writer.
    let metadata = fs::metadata(path).map_err(fault)?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    if metadata.mode() & 0o007 != 0 {
        return Err("is open to everybody: chmod o= it".to_owned());
    }
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_MAX + 1));
    File::open(path)
        .and_then(|file| file.take(FILE_MAX as u64 + 1).read_to_end(&mut text))
        .map_err(fault)?;
    if text.len() > FILE_MAX {
        return Err(format!("is longer than the {FILE_MAX} bytes of a key file"));
    }
    PrivateKey::from_file(&text).map_err(|error| error.to_string())
}

/// Fits the listen addresses that nobody set to a private network, and tells
/// what somebody set that cannot be.
pub(super) fn fit(loaded: &mut Loaded, environment: &Environment) -> Vec<Fault> {
    let forced = environment.get(FORCED).is_some_and(|value| value == "1");
    if loaded
        .config
        .private_network
        .key_file
        .as_os_str()
        .is_empty()
    {
        let reason = format!("the environment has {FORCED}=1, which forbids to run without a key");
        return forced
            .then(|| loaded.fault(KEY, reason))
            .into_iter()
            .collect();
    }
    let quic = |part: &Protocol<'_>| matches!(part, Protocol::QuicV1 | Protocol::Quic);
    let has_quic = |address: &Multiaddr| address.iter().any(|part| quic(&part));
    if !loaded.config.listen.addresses.iter().any(has_quic) {
        return Vec::new();
    }
    if matches!(loaded.origin(ADDRESSES), Origin::Default) {
        loaded
            .config
            .listen
            .addresses
            .retain(|address| !has_quic(address));
        let origin = Origin::Derived(KEY.to_owned());
        loaded.derived.insert(ADDRESSES, origin);
        loaded.notes.push(format!(
            "{KEY} is set, so that QUIC, which cannot carry a private network, is not listened on"
        ));
        return Vec::new();
    }
    let origin = loaded.origin(KEY).phrase();
    let reason = format!("QUIC cannot carry a private network, and {KEY} is set {origin}");
    vec![loaded.fault(ADDRESSES, reason)]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Sources;

    const TEXT: &str = "/key/swarm/psk/1.0.0/\r\n/base16/\r\n\
        6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683\r\n";

    fn load(flags: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let home = [("HOME", "/home/somebody")];
        Loaded::load(&Sources {
            file: None,
            environment: home.iter().chain(variables).copied().collect(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        })
    }

    #[test]
    fn the_key_is_read_and_what_is_wrong_with_its_file_told_without_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("swarm.key");
        let with = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let flag = format!("private_network.key_file={}", path.display());
            let network = load(&[&flag], &[]).unwrap().private_network();
            network.map_err(|error| error.to_string())
        };
        let key = with(TEXT, 0o600).unwrap().unwrap();
        assert_eq!(key.fingerprint(), "45fc986bbc9388a11d939df26f730f0c");
        for (text, mode, reason) in [
            (TEXT, 0o644, "is open to everybody"),
            (&TEXT.replace("1.0.0", "2.0.0"), 0o600, "does not begin"),
            (&TEXT.replace("ceef", "ce"), 0o600, "holds no key of 32"),
            (&" ".repeat(300), 0o600, "is longer than"),
        ] {
            let told = with(text, mode).unwrap_err();
            let start = format!("private_network.key_file = \"{}\" from", path.display());
            assert!(told.starts_with(&start) && told.contains(reason), "{told}");
            assert!(!told.contains("6189c5"), "{told}");
        }
    }

    #[test]
    fn the_environment_can_forbid_to_run_without_a_key() {
        let refused = load(&[], &[(FORCED, "1")]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "private_network.key_file = \"\" from default: the environment has \
             LIBP2P_FORCE_PNET=1, which forbids to run without a key"
        );
        load(&[], &[(FORCED, "0")]).unwrap();
        load(&["private_network.key_file=/k"], &[(FORCED, "1")]).unwrap();
    }

    #[test]
    fn quic_is_left_out_of_the_defaults_and_refused_where_it_was_asked_for() {
        let key = "private_network.key_file=/k";
        let loaded = load(&[key], &[]).unwrap();
        let quic = |address: &Multiaddr| address.to_string().contains("quic");
        assert!(!loaded.config.listen.addresses.iter().any(quic));
        let asked = "listen.addresses=/ip4/0.0.0.0/udp/4001/quic-v1";
        // So that what follows from QUIC does not hold here.
        let host = crate::config::Host {
            memory_bytes: 64 << 30,
            descriptors: 20_000,
            cores: 4,
        };
        let sources = Sources {
            file: None,
            environment: [("HOME", "/home/somebody")].into_iter().collect(),
            flags: vec![key.to_owned()],
        };
        let connections = Loaded::load_on(&sources, &host).unwrap().config.connections;
        assert_eq!((connections.max, connections.sockets_max), (19_744, 19_744));
        let refused = load(&[key, asked], &[]).unwrap_err().to_string();
        let line = "listen.addresses = [\"/ip4/0.0.0.0/udp/4001/quic-v1\"] from flag --set: \
                    QUIC cannot carry a private network, and private_network.key_file is set \
                    from flag --set";
        assert!(refused.lines().any(|told| told == line), "{refused}");
    }
}
