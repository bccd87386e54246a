//! Certificates that change while the server runs, found by its own looking.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::SLACK;
use crate::server::Server;

const EXPIRY: &str = "waystation_certificate_expiry_timestamp_seconds";
const RELOADS: &str = "waystation_certificate_reloads_total";
const FAILURES: &str = "waystation_certificate_reload_failures_total";

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// A certificate with its key, in files.
struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> [String; 2] {
        [
            format!("tls.certificate_files={}", self.path("chain").display()),
            format!("tls.key_files={}", self.path("key").display()),
        ]
    }

    fn put(&self, (chain, key): &(String, String)) {
        fs::write(self.path("chain"), chain).unwrap();
        fs::write(self.path("key"), key).unwrap();
    }
}

/// A certificate, its key, and when it expires, in this year.
fn issue(year: i32) -> ((String, String), f64) {
    let mut params = CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 12, 31);
    let expiry = params.not_after.unix_timestamp();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pair = (certificate.pem(), key.serialize_pem());
    (pair, f64::from(u32::try_from(expiry).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_found_by_looking_and_a_failed_one_is_tried_again() {
    let files = Files(tempfile::tempdir().unwrap());
    files.put(&issue(2040).0);
    let [chain, key] = files.settings();
    let server = Server::start(&[&chain, &key]).await;

    // Changed before it has looked even once.
    let (pair, expiry) = issue(2041);
    files.put(&pair);
    sleep(LOOK_EVERY + SLACK).await;
    assert_eq!((server.value(EXPIRY), server.value(RELOADS)), (expiry, 1.0));

    // Half of it is there, for a while: told once, and served what was before.
    let (pair, later) = issue(2042);
    let half = pair.1.len() / 2;
    files.put(&(pair.0.clone(), pair.1[..half].to_owned()));
    sleep(10 * LOOK_EVERY).await;
    assert_eq!(
        (server.value(EXPIRY), server.value(FAILURES)),
        (expiry, 1.0)
    );
    files.put(&pair);
    sleep(LOOK_EVERY + SLACK).await;
    assert_eq!((server.value(EXPIRY), server.value(RELOADS)), (later, 2.0));

    // Out of reach for a moment, and the same when it is back.
    fs::rename(files.path("key"), files.path("elsewhere")).unwrap();
    sleep(LOOK_EVERY + SLACK).await;
    assert_eq!(server.value(FAILURES), 2.0);
    fs::rename(files.path("elsewhere"), files.path("key")).unwrap();
    sleep(LOOK_EVERY + SLACK).await;
    assert_eq!((server.value(EXPIRY), server.value(RELOADS)), (later, 2.0));
    assert_eq!(server.value(FAILURES), 2.0);
}
