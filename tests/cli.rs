//! What the program promises an operator at its command line.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A machine with nothing installed on it.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// The program, with an environment that has nothing of the real one.
    fn waystation(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waystation"));
        command
            .env_clear()
            .env("STATE_DIRECTORY", self.state())
            // Found before one that may be installed under /etc.
            .env("CONFIGURATION_DIRECTORY", self.directory.path())
            .stdin(Stdio::null());
        self.configure_if_absent();
        command
    }

    fn configure_if_absent(&self) {
        let path = self.file();
        if !path.exists() {
            fs::write(path, "").unwrap();
        }
    }

    fn configure(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("waystation.toml")
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn key_file(&self) -> PathBuf {
        self.state().join("identity.key")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.waystation().args(arguments).output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The lines of a refusal, which prints nothing on standard output.
fn refusal(output: &Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone())
        .unwrap()
        .lines()
        .map(|line| line.strip_prefix("error: ").unwrap().to_owned())
        .collect()
}

fn fixture(name: &str) -> String {
    format!(
        "{}/tests/fixtures/identity/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// What stands behind a label of `identity show`.
fn labelled<'a>(text: &'a str, label: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .unwrap()
        .trim()
}

#[test]
fn a_wrong_value_names_key_value_and_source_whatever_the_source() {
    let host = Host::new();
    host.configure("[relay]\ncircuits_max = \"many\"\n");
    let file = host.file().display().to_string();
    assert_eq!(
        refusal(&host.run(&["check-config"])),
        [format!(
            "relay.circuits_max = \"many\" from file {file} line 2: expected a whole number"
        )]
    );

    let host = Host::new();
    let mut command = host.waystation();
    command.env("WAYSTATION_RELAY__CIRCUITS_MAX", "many");
    assert_eq!(
        refusal(&command.arg("check-config").output().unwrap()),
        [
            "relay.circuits_max = \"many\" from environment WAYSTATION_RELAY__CIRCUITS_MAX: \
          expected a whole number"
        ]
    );

    assert_eq!(
        refusal(&host.run(&["check-config", "--set", "relay.circuits_max=many"])),
        ["relay.circuits_max = \"many\" from flag --set: expected a whole number"]
    );
}

#[test]
fn a_start_refuses_what_check_config_refuses() {
    let host = Host::new();
    let arguments = ["--set", "relay.circuit_max=1", "--set", "listen.muxers="];
    let lines = refusal(&host.run(&arguments));
    assert_eq!(
        lines,
        [
            "relay.circuit_max = \"1\" from flag --set: unknown key, did you mean relay.circuits_max?"
        ]
    );
    assert_eq!(
        refusal(&host.run(&[&["check-config"], &arguments[..]].concat())),
        lines
    );
    assert!(!host.key_file().exists());
}

#[test]
fn several_errors_are_several_lines() {
    let host = Host::new();
    host.configure("[relay]\nenabled = 1\n\n[nonsense]\nx = 1\n");
    let lines = refusal(&host.run(&["check-config", "--set", "log.format=xml"]));
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn check_config_shows_values_with_their_origin_and_makes_nothing() {
    let host = Host::new();
    host.configure("[relay]\ncircuits_max = 100\n");
    let mut command = host.waystation();
    command.env("WAYSTATION_CONNECTIONS__MAX", "1000");
    // Settings before and after the command both count.
    command.args([
        "--set",
        "log.level=debug",
        "check-config",
        "--set",
        "runtime.workers=2",
    ]);
    let text = stdout(&command.output().unwrap());
    let file = host.file().display().to_string();
    for (setting, origin) in [
        ("circuits_max = 100", format!("file {file} line 2")),
        (
            "max = 1000",
            "environment WAYSTATION_CONNECTIONS__MAX".to_owned(),
        ),
        ("level = \"debug\"", "flag --set".to_owned()),
        ("workers = 2", "flag --set".to_owned()),
        ("reservation_ttl = \"1h\"", "default".to_owned()),
    ] {
        let shown = text
            .lines()
            .filter_map(|line| line.split_once("  # "))
            .any(|(left, right)| left.trim() == setting && right == origin);
        assert!(shown, "{setting} from {origin} in:\n{text}");
    }
    assert!(
        text.contains(&format!("# configuration file: {file}\n")),
        "{text}"
    );
    assert!(
        text.contains("# identity: created at the first start\n"),
        "{text}"
    );
    assert!(!host.state().exists());

    // What it prints is a configuration, and the same one.
    let copy = host.directory.path().join("copy.toml");
    fs::write(&copy, &text).unwrap();
    let again = stdout(&host.run(&["check-config", "--config", copy.to_str().unwrap()]));
    let settings = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split("  # ").next().unwrap().trim_end().to_owned())
            .filter(|line| !line.starts_with('#'))
            .collect()
    };
    assert_eq!(settings(&again), settings(&text));
}

#[test]
fn check_config_tells_what_follows_from_what() {
    let host = Host::new();
    let text = stdout(&host.run(&["check-config", "--set", "connections.max=900"]));
    for (setting, from) in [
        ("reservations_max = 900", "connections.max = 900"),
        ("per_prefix_max = 64", "connections.max = 900"),
        (
            "reservations_per_prefix_max = 32",
            "connections.per_prefix_max = 64",
        ),
        ("max = 3600", "connections.max = 900"),
    ] {
        let shown = text
            .lines()
            .filter_map(|line| line.split_once("  # "))
            .any(|(left, right)| left.trim() == setting && right == format!("derived from {from}"));
        assert!(shown, "{setting} derived from {from} in:\n{text}");
    }
    let reference = stdout(&host.run(&["check-config", "--print-defaults"]));
    assert!(
        reference.contains(
            "# \"auto\": a third of connections.max, at least 16.\n#circuits_max = \"auto\"\n"
        ),
        "{reference}"
    );
    assert_eq!(
        refusal(&host.run(&[
            "check-config",
            "--set",
            "connections.max=900",
            "--set",
            "relay.reservations_max=901",
        ])),
        [
            "relay.reservations_max = 901 from flag --set: is above connections.max = 900 from flag --set"
        ]
    );
}

#[test]
fn an_unreadable_list_of_autonomous_systems_is_refused_at_the_start() {
    let host = Host::new();
    let list = host.directory.path().join("asn.tsv");
    fs::write(&list, "192.0.2.0\t192.0.2.255\t64500\tXX\tONE\nnonsense\n").unwrap();
    let setting = format!("connections.asn_database={}", list.display());
    for command in [&["check-config"][..], &[]] {
        let arguments = [command, &["--set", &setting]].concat();
        let lines = refusal(&host.run(&arguments));
        let start = format!(
            "connections.asn_database = \"{}\" from flag --set: line 2: expected first address",
            list.display()
        );
        assert!(lines[0].starts_with(&start), "{lines:?}");
        assert_eq!(lines.len(), 1);
    }
}

#[test]
fn check_config_looks_at_the_key_and_at_announced_peer_ids() {
    let host = Host::new();
    let created = stdout(&host.run(&["identity", "create"]));
    let own = labelled(&created, "peer id");
    assert!(
        stdout(&host.run(&["check-config"])).contains(&format!("# identity: {own} (ed25519)\n"))
    );

    let address = |peer: &str| format!("announce.addresses=/ip4/192.0.2.1/tcp/4001/p2p/{peer}");
    stdout(&host.run(&["check-config", "--set", &address(own)]));
    let other = "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY";
    let lines = refusal(&host.run(&["check-config", "--set", &address(other)]));
    assert!(lines[0].starts_with("announce.addresses = ["), "{lines:?}");

    fs::set_permissions(host.key_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let path = host.key_file().display().to_string();
    assert_eq!(
        refusal(&host.run(&["check-config"])),
        [format!(
            "identity.key_file = \"{path}\" from default: \
             others can access it (mode 0644), run: chmod 600 {path}"
        )]
    );

    let garbage = host.directory.path().join("garbage");
    fs::write(&garbage, "not a key").unwrap();
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o600)).unwrap();
    let setting = format!("identity.key_file={}", garbage.display());
    for command in [["check-config"].as_slice(), &["identity", "show"], &[]] {
        let lines = refusal(&host.run(&[command, &["--set", &setting]].concat()));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("from flag --set: is not a libp2p private key"),
            "{lines:?}"
        );
    }
    assert_eq!(fs::read_to_string(&garbage).unwrap(), "not a key");
}

#[test]
fn the_reference_file_is_a_configuration() {
    let host = Host::new();
    let reference = stdout(&host.run(&["check-config", "--print-defaults"]));
    host.configure(&reference);
    stdout(&host.run(&["check-config"]));
}

#[test]
fn a_created_key_is_private_and_never_overwritten() {
    let host = Host::new();
    let created = stdout(&host.run(&["identity", "create"]));
    assert_eq!(labelled(&created, "key type"), "ed25519");
    assert_eq!(
        labelled(&created, "file"),
        host.key_file().to_str().unwrap()
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&host.key_file()), 0o600);
    assert_eq!(mode(&host.state()), 0o700);

    let key = fs::read(host.key_file()).unwrap();
    let fixture = fixture("rsa2048.key");
    for command in [
        ["identity", "create"].as_slice(),
        &["identity", "import", &fixture],
    ] {
        let lines = refusal(&host.run(command));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].ends_with("exists already and is not overwritten"),
            "{lines:?}"
        );
    }
    assert_eq!(fs::read(host.key_file()).unwrap(), key);
    assert_eq!(stdout(&host.run(&["identity", "show"])), created);
}

#[test]
fn of_processes_that_create_the_key_at_once_one_wins() {
    let host = Host::new();
    let started: Vec<Child> = (0..8)
        .map(|_| {
            host.waystation()
                .args(["identity", "create"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let ended: Vec<Output> = started
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let (won, lost): (Vec<_>, Vec<_>) = ended.iter().partition(|output| output.status.success());
    assert_eq!(won.len(), 1, "{ended:?}");
    for output in lost {
        assert!(refusal(output)[0].ends_with("exists already and is not overwritten"));
    }
    assert_eq!(stdout(&host.run(&["identity", "show"])), stdout(won[0]));
    assert_eq!(fs::read_dir(host.state()).unwrap().count(), 1);
}

#[test]
fn keys_of_existing_nodes_are_taken_over() {
    let peer_ids = fs::read_to_string(fixture("peer-ids.txt")).unwrap();
    for name in [
        "ed25519.key",
        "secp256k1.key",
        "ecdsa.key",
        "rsa2048.key",
        "rsa2048.kubo.json",
    ] {
        let (key, _) = name.split_once('.').unwrap();
        let expected = labelled(&peer_ids, &format!("{key} "));
        let host = Host::new();
        let imported = stdout(&host.run(&["identity", "import", &fixture(name)]));
        assert_eq!(labelled(&imported, "peer id"), expected, "{name}");
        assert_eq!(stdout(&host.run(&["identity", "show"])), imported, "{name}");
    }
}

#[test]
fn an_unusable_foreign_key_is_named_and_nothing_is_made() {
    let host = Host::new();
    let path = fixture("rsa1024-openssl.key");
    assert_eq!(
        refusal(&host.run(&["identity", "import", &path])),
        [format!(
            "{path}: rsa key of 1024 bits: only 2048, 3072 and 4096 bits can be used"
        )]
    );
    assert!(!host.state().exists());
}

#[test]
fn no_output_shows_the_private_key() {
    let host = Host::new();
    let shown = [
        host.run(&["identity", "import", &fixture("ed25519.kubo.json")]),
        host.run(&["identity", "show"]),
        host.run(&["check-config"]),
    ];
    let kubo = fs::read_to_string(fixture("ed25519.kubo.json")).unwrap();
    let (_, secret) = kubo.split_once("\"PrivKey\": \"").unwrap();
    let hex: String = fs::read(host.key_file()).unwrap()[4..36]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for output in shown {
        let text = stdout(&output);
        assert!(
            !text.contains(&secret[..20]) && !text.contains(&hex),
            "{text}"
        );
    }
}

#[test]
fn lists_that_cannot_be_used_are_told_before_anything_is_started() {
    let host = Host::new();
    let list = host.directory.path().join("deny.txt");
    fs::write(&list, "192.0.2.1\nexample.org\n").unwrap();
    let file = format!("access.deny_file={}", list.display());
    for command in [&["check-config"][..], &[]] {
        let lines = refusal(&host.run(&[command, &["--set", &file]].concat()));
        assert_eq!(
            lines,
            [format!(
                "access.deny_file = \"{}\" from flag --set: line 2: \"example.org\": \
                 expected a peer id, an IP address, or a range such as 192.0.2.0/24",
                list.display()
            )]
        );
    }
    let both = [
        "check-config",
        "--set",
        "access.deny=::1",
        "--set",
        "access.allow=::1",
    ];
    let lines = refusal(&host.run(&both));
    assert_eq!(
        lines,
        ["access.allow = [\"::1\"] from flag --set: ::1 is in access.deny as well"]
    );
    let token = ["check-config", "--set", "admin.token_file=/nowhere/token"];
    let lines = refusal(&host.run(&token));
    assert!(lines[0].starts_with("admin.token_file = "), "{lines:?}");
    assert!(!host.state().exists());
}

#[test]
fn rules_of_a_server_that_does_not_run_are_one_line() {
    let host = Host::new();
    for arguments in [
        &["deny", "192.0.2.1"][..],
        &["allow", "192.0.2.1"],
        &["access", "list"],
        &["access", "remove", "192.0.2.1"],
    ] {
        let output = host.run(&[arguments, &["--set", "admin.address=127.0.0.1:1"]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.starts_with("error: no server answers at 127.0.0.1:1 (admin.address): "),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1);
    }
    // What only the server needs is not asked of whoever talks to it.
    let output = host
        .waystation()
        .args(["deny", "192.0.2.1", "--set", "admin.address=127.0.0.1:1"])
        .args([
            "--set",
            "connections.max=10",
            "--set",
            "connections.transient_max=20",
        ])
        .env_remove("HOME")
        .env_remove("XDG_STATE_HOME")
        .env_remove("STATE_DIRECTORY")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("error: no server answers at "), "{told}");
    let output = host.run(&["access", "list", "--set", "admin.address="]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("error: admin.address is empty"), "{told}");
    let output = host.run(&["deny", "example.org"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn without_a_server_addresses_are_those_that_a_start_would_have() {
    let host = Host::new();
    let settings = [
        "--set",
        "admin.address=",
        "--set",
        "announce.addresses=/dns4/relay.example.net/tcp/4001",
    ];
    let run = |arguments: &[&str]| host.run(&[arguments, &settings].concat());
    let keyless = refusal(&run(&["addresses"]));
    assert!(keyless[0].contains("identity.key_file"), "{keyless:?}");
    let created = stdout(&host.run(&["identity", "create"]));
    let peer = labelled(&created, "peer id");

    let shown = run(&["addresses"]);
    let said = String::from_utf8(shown.stderr.clone()).unwrap();
    assert!(
        said.ends_with("the addresses that a start would have\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let shown = stdout(&shown);
    let line = shown.lines().find(|line| line.contains("/dns4/")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    assert_eq!(words, ["configured", "everybody"]);
    let records = stdout(&run(&["dnsaddr", "Example.net."]));
    assert_eq!(
        records,
        format!(
            "_dnsaddr.example.net. IN TXT \"dnsaddr=/dns4/relay.example.net/tcp/4001/p2p/{peer}\"\n"
        )
    );
    let nameless = host.run(&["dnsaddr", "not a name"]);
    assert_eq!(nameless.status.code(), Some(2));
}

#[test]
fn a_command_line_that_makes_no_sense_is_an_operator_error() {
    let host = Host::new();
    for arguments in [
        ["--set", "relay"].as_slice(),
        &["serve"],
        &["--set"],
        &["identity"],
    ] {
        assert_eq!(host.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_private_network_is_shown_by_its_fingerprint_and_its_key_nowhere() {
    let host = Host::new();
    let key = host.directory.path().join("swarm.key");
    let digits = "6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683";
    let text = format!("/key/swarm/psk/1.0.0/\r\n/base16/\r\n{digits}\r\n");
    fs::write(&key, text).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let setting = format!("private_network.key_file={}", key.display());
    let shown = stdout(&host.run(&["check-config", "--set", &setting]));
    assert!(
        shown.contains("# private network: 45fc986bbc9388a11d939df26f730f0c\n"),
        "{shown}"
    );
    assert!(!shown.contains(&digits[..8]), "{shown}");

    fs::write(&key, "/key/swarm/psk/1.0.0/\n/base16/\n6189\n").unwrap();
    let refused = format!(
        "private_network.key_file = \"{}\" from flag --set: holds no key of 32 bytes in base16 \
         behind its second line",
        key.display()
    );
    for command in [&["check-config"][..], &[]] {
        let arguments = [command, &["--set", &setting]].concat();
        assert_eq!(refusal(&host.run(&arguments)), [refused.as_str()]);
    }
}

#[test]
fn the_environment_can_forbid_to_start_outside_of_a_private_network() {
    let host = Host::new();
    let mut command = host.waystation();
    command.env("LIBP2P_FORCE_PNET", "1");
    assert_eq!(
        refusal(&command.output().unwrap()),
        [
            "private_network.key_file = \"\" from default: the environment has \
             LIBP2P_FORCE_PNET=1, which forbids to run without a key"
        ]
    );
}

#[test]
fn a_certificate_that_cannot_be_served_is_refused_in_one_line() {
    let host = Host::new();
    let directory = host.directory.path();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
    let issue = |params: &rcgen::CertificateParams| {
        let certificate = params.clone().self_signed(&key);
        certificate.unwrap().pem()
    };
    let (chain, key_file) = (directory.join("chain.pem"), directory.join("key.pem"));
    fs::write(&chain, issue(&params)).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let settings = [
        "listen.addresses=/ip4/127.0.0.1/tcp/0/tls/ws".to_owned(),
        format!("tls.certificate_files={}", chain.display()),
        format!("tls.key_files={}", key_file.display()),
    ];
    let set: Vec<&str> = settings
        .iter()
        .flat_map(|setting| ["--set", setting])
        .collect();
    stdout(&host.run(&[&["check-config"], &set[..]].concat()));

    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    fs::write(&chain, issue(&params)).unwrap();
    for command in [&["check-config"][..], &[]] {
        let lines = refusal(&host.run(&[command, &set].concat()));
        let begin = format!(
            "tls.certificate_files = [\"{}\"] from flag",
            chain.display()
        );
        assert!(lines[0].starts_with(&begin), "{lines:?}");
        assert!(lines[0].contains("expired on Jan  1"), "{lines:?}");
        assert_eq!(lines.len(), 1);
    }
    params.not_after = rcgen::date_time_ymd(4000, 1, 1);
    fs::write(&chain, issue(&params)).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    fs::write(&key_file, other.serialize_pem()).unwrap();
    let lines = refusal(&host.run(&set));
    assert!(lines[0].starts_with("tls.key_files = "), "{lines:?}");
    assert!(
        lines[0].contains("does not match the certificate"),
        "{lines:?}"
    );
    assert!(!host.state().exists());
}
