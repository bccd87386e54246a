//! What an operator's files can hold, and what becomes of each.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// Noon on the first of June 2026.
const NOW: u64 = 1_780_315_200;

/// What keys of these tests sign with, unless they say otherwise.
const ANY: [SignatureScheme; 1] = [SignatureScheme::ECDSA_NISTP256_SHA256];

/// A pair of files whose certificate is valid through 2026.
fn issue(directory: &Path, stem: &str, names: &[&str]) -> Files {
    issue_in(directory, stem, names, 2026, &KeyPair::generate().unwrap())
}

fn issue_in(directory: &Path, stem: &str, names: &[&str], year: i32, key: &KeyPair) -> Files {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(year, 1, 1);
    params.not_after = date_time_ymd(year, 12, 31);
    let certificate = params.self_signed(key).unwrap();
    let files = Files {
        chain: directory.join(format!("{stem}.pem")),
        key: directory.join(format!("{stem}.key")),
    };
    fs::write(&files.chain, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn load(files: &Files) -> Result<Certificates, CertificateFault> {
    Certificates::load(vec![files.clone()], Vec::new(), NOW)
}

/// The line about a pair, without the directory.
fn fault(directory: &TempDir, files: &Files) -> String {
    let fault = load(files).unwrap_err().to_string();
    fault.replace(&format!("{}/", directory.path().display()), "")
}

/// The first name of the certificate that a client would see.
fn shown(certificates: &Certificates, name: Option<&str>) -> String {
    let pair = certificates.choose(name, &ANY).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&pair.key.cert[0]).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names.value.general_names[0].to_string()
}

#[test]
fn the_name_a_client_asks_for_chooses_among_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let files = vec![
        issue(directory.path(), "first", &["first.example"]),
        issue(
            directory.path(),
            "wild",
            &["*.wild.example", "wild.example"],
        ),
    ];
    let promised = vec!["a.wild.example".to_owned(), "First.Example".to_owned()];
    let certificates = Certificates::load(files, promised, NOW).unwrap();
    for (asked, expected) in [
        (Some("first.example"), "first"),
        (Some("FIRST.example"), "first"),
        (Some("a.wild.example"), "wild"),
        (Some("wild.example"), "wild"),
        (Some("a.b.wild.example"), "first"),
        (Some("elsewhere.example"), "first"),
        (None, "first"),
    ] {
        let shown = shown(&certificates, asked);
        assert!(shown.contains(expected), "{asked:?}: {shown}");
    }
    assert!(certificates.choose(None, &[]).is_none());
}

#[test]
fn what_cannot_be_served_is_told_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let good = issue(here, "good", &["relay.example"]);
    load(&good).unwrap();

    let mut files = good.clone();
    files.key = issue(here, "other", &["relay.example"]).key;
    assert_eq!(
        fault(&directory, &files),
        format!(
            "other.key: does not match the certificate in {}",
            "good.pem"
        )
    );
    let key = KeyPair::generate().unwrap();
    let old = issue_in(here, "old", &["relay.example"], 2025, &key);
    let said = fault(&directory, &old);
    assert!(
        said.starts_with("old.pem: holds a certificate that expired on Dec 31"),
        "{said}"
    );
    let new = issue_in(here, "new", &["relay.example"], 2027, &key);
    let said = fault(&directory, &new);
    assert!(
        said.starts_with("new.pem: holds a certificate that is not valid before Jan"),
        "{said}"
    );

    files = good.clone();
    files.chain = good.key.clone();
    assert_eq!(
        fault(&directory, &files),
        "good.key: holds no certificate in PEM"
    );
    files.chain = here.join("absent.pem");
    assert!(fault(&directory, &files).starts_with("absent.pem: cannot be read: "));
    files.chain = here.to_owned();
    assert!(fault(&directory, &files).ends_with(": is not a regular file"));
    files = good.clone();
    files.key = good.chain.clone();
    assert!(fault(&directory, &files).starts_with("good.pem: holds no private key in PEM"));
    files.key = here.join("large.key");
    fs::write(&files.key, vec![b'\n'; 300 << 10]).unwrap();
    assert!(fault(&directory, &files).starts_with("large.key: is larger than "));
    files = good;
    fs::write(
        &files.chain,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(
        fault(&directory, &files).starts_with("good.pem: holds a certificate that cannot be read")
    );
}

#[test]
fn a_promised_name_has_to_be_in_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let files = vec![issue(directory.path(), "a", &["a.example"])];
    let promised = vec!["b.example".to_owned()];
    let fault = Certificates::load(files, promised, NOW).unwrap_err();
    assert!(
        fault
            .to_string()
            .ends_with("no certificate is for b.example, which listen.addresses names")
    );
}

#[test]
fn ed25519_rsa_and_ecdsa_keys_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    for (algorithm, scheme) in [
        (&rcgen::PKCS_ED25519, SignatureScheme::ED25519),
        (&rcgen::PKCS_RSA_SHA256, SignatureScheme::RSA_PSS_SHA256),
        (
            &rcgen::PKCS_ECDSA_P384_SHA384,
            SignatureScheme::ECDSA_NISTP384_SHA384,
        ),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let files = issue_in(directory.path(), "pair", &["relay.example"], 2026, &key);
        let certificates = load(&files).unwrap();
        assert!(certificates.choose(None, &[scheme]).is_some());
    }
}

#[test]
fn a_renewal_is_served_and_a_failed_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let files = issue(here, "pair", &["before.example"]);
    let certificates = load(&files).unwrap();
    assert_eq!(certificates.expiry(), 1_798_675_200);
    assert!(certificates.serves(&certificates.prints()));

    issue(here, "pair", &["after.example"]);
    assert!(!certificates.serves(&certificates.prints()));
    assert!(shown(&certificates, None).contains("before.example"));
    certificates.reload(NOW).unwrap();
    assert!(certificates.serves(&certificates.prints()));
    assert!(shown(&certificates, None).contains("after.example"));

    // As long as a renewal is no good, the files are not what is served.
    let key = fs::read(&files.key).unwrap();
    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    certificates.reload(NOW).unwrap_err();
    assert!(!certificates.serves(&certificates.prints()));
    let chain = fs::read(&files.chain).unwrap();
    fs::remove_file(&files.chain).unwrap();
    certificates.reload(NOW).unwrap_err();
    assert_eq!(certificates.prints()[0][0], None);
    assert!(shown(&certificates, None).contains("after.example"));
    fs::write(&files.key, key).unwrap();
    fs::write(&files.chain, chain).unwrap();
    assert!(certificates.serves(&certificates.prints()));
}

#[test]
fn a_renewal_may_be_too_early() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let certificates = load(&issue(here, "pair", &["before.example"])).unwrap();
    let key = KeyPair::generate().unwrap();
    issue_in(here, "pair", &["after.example"], 2027, &key);
    certificates.reload(NOW).unwrap_err();
    assert!(shown(&certificates, None).contains("before.example"));
    certificates.reload(NOW + 365 * 24 * 60 * 60).unwrap();
    assert!(shown(&certificates, None).contains("after.example"));
}

#[test]
fn a_chain_that_no_handshake_carries_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = issue(directory.path(), "pair", &["relay.example"]);
    let certificate = fs::read_to_string(&files.chain).unwrap();
    let copies = CHAIN_MAX / load(&files).unwrap().choose(None, &ANY).unwrap().key.cert[0].len();
    fs::write(&files.chain, certificate.repeat(copies)).unwrap();
    load(&files).unwrap();
    fs::write(&files.chain, certificate.repeat(copies + 1)).unwrap();
    let said = fault(&directory, &files);
    assert!(
        said.starts_with("pair.pem: holds ")
            && said.ends_with(" bytes of certificates, and a handshake carries 49152"),
        "{said}"
    );
}
