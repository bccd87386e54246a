//! What the state directory may be like, and the server starts, or says why
//! not.

use std::fs;

use crate::server::Server;

#[tokio::test]
async fn a_damaged_store_is_set_aside_and_the_server_starts() {
    let server = Server::start(&[]);
    server.operator(&["deny", "192.0.2.1"]).unwrap();
    let file = server.state().join("store.redb");
    fs::write(&file, "garbage").unwrap();
    let server = server.restarted(&[]);
    server.until("waystation_store_set_aside_total", 1.0).await;
    server.until("waystation_store_available", 1.0).await;
    let kept = server.state().join("store.redb.aside-1");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "garbage");
    let told: Vec<String> = server.log_lines("set aside");
    assert_eq!(told.len(), 1, "{told:?}");
    for part in [&file, &kept] {
        assert!(told[0].contains(part.to_str().unwrap()), "{told:?}");
    }
    server.operator(&["deny", "192.0.2.2"]).unwrap();
    let listed = server.operator(&["access", "list"]).unwrap();
    assert!(listed.starts_with("deny  192.0.2.2 for ever\n"), "{listed}");
}

#[tokio::test]
async fn two_servers_do_not_share_a_state_directory() {
    let server = Server::start(&[]);
    let second = [
        "--set",
        r#"listen.addresses=["/ip4/127.0.0.1/tcp/0"]"#,
        "--set",
        "log.level=error",
    ];
    let told = server.operator(&second).unwrap_err();
    let start = format!("error: state.directory = \"{}\"", server.state().display());
    assert!(told.starts_with(&start), "{told}");
    assert!(
        told.ends_with("store.redb is in use by another process\n"),
        "{told}"
    );
    server.operator(&["deny", "192.0.2.1"]).unwrap();
}
