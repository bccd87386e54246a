//! The operator's rules, made while peers are connected.

use libp2p::identity::Keypair;

use crate::hop::{self, Target};
use crate::peer::{Kind, Muxer, Peer};
use crate::server::Server;

over_both_muxers! {
    a_rule_cuts_what_is_open_and_holds_until_it_is_removed
    a_rule_about_addresses_is_held_to_before_any_handshake
    trusted_peers_are_spared_the_limits
    rules_outlive_the_server
}

async fn a_rule_cuts_what_is_open_and_holds_until_it_is_removed(muxer: Muxer) {
    let server = Server::start(&[]);
    let (mut source, mut target, mut offers) = hop::pair(&server, muxer).await;
    let (mut near, mut far) = hop::circuit(&source, &server, &target, &mut offers).await;
    hop::carries(&mut near, &mut far, b"both ways").await;

    let peer = target.id().to_string();
    let said = server.operator(&["deny", &peer, "--for", "1h", "--note", "misbehaves"]);
    assert_eq!(
        said.unwrap(),
        format!("denied {peer} for 1h, closing 1 connection\n")
    );
    target.until_disconnected(server.peer_id()).await;
    hop::until_reset(&mut near).await;
    server.until("waystation_relay_circuits", 0.0).await;
    server.until("waystation_relay_reservations", 0.0).await;
    let (refused, _) = hop::connect(&source, &server, target.id()).await;
    assert_eq!(refused.status, hop::PERMISSION_DENIED);
    target.dial(server.address());
    target.until_disconnected(server.peer_id()).await;
    server
        .until(
            r#"waystation_access_denied_total{gate="authentication"}"#,
            1.0,
        )
        .await;
    server.until("waystation_connections", 1.0).await;
    let listed = server.operator(&["access", "list"]).unwrap();
    assert!(
        listed.starts_with(&format!("deny  {peer} for ")),
        "{listed}"
    );
    assert!(
        listed.ends_with("misbehaves\nconfigured: 0 denied, 0 allowed\n"),
        "{listed}"
    );

    let said = server.operator(&["access", "remove", &peer]);
    assert_eq!(said.unwrap(), format!("removed the rule about {peer}\n"));
    let again = server.operator(&["access", "remove", &peer]).unwrap_err();
    assert_eq!(again, format!("error: there is no rule about {peer}\n"));
    let mut target = hop::connected(&server, muxer).await;
    hop::reserved(&target, &server).await;
    target.until_pinged(server.peer_id(), 1).await;
    source.until_pinged(server.peer_id(), 1).await;
}

async fn a_rule_about_addresses_is_held_to_before_any_handshake(muxer: Muxer) {
    let server = Server::start(&[]);
    let mut peer = hop::connected(&server, muxer).await;
    let said = server.operator(&["deny", "127.0.0.0/8"]).unwrap();
    assert_eq!(said, "denied 127.0.0.0/8 for ever, closing 1 connection\n");
    peer.until_disconnected(server.peer_id()).await;
    server.until("waystation_connections", 0.0).await;
    let other = Peer::new(Kind::Bare, muxer);
    other.dial(server.address());
    server
        .until(r#"waystation_access_denied_total{gate="accept"}"#, 1.0)
        .await;
    server
        .operator(&["access", "remove", "127.0.0.1/8"])
        .unwrap();
    hop::connected(&server, muxer).await;
}

async fn trusted_peers_are_spared_the_limits(muxer: Muxer) {
    let key = Keypair::generate_ed25519();
    let trusted = key.public().to_peer_id();
    let server = Server::start(&[
        "relay.circuits_per_peer_max=1",
        "relay.circuit_bytes_max=1KiB",
        "access.allow_unlimited_circuits=true",
        &format!("access.allow={trusted}"),
    ]);
    let mut target = Peer::with_key(&key, Kind::Bare, muxer);
    target.connect(&server).await;
    let answer = hop::reserve(&target, &server).await;
    assert_eq!(answer.status, hop::OK);
    assert!(answer.limit.is_none());
    let mut offers = Target::new(&target);
    let (one, two) = (
        hop::connected(&server, muxer).await,
        hop::connected(&server, muxer).await,
    );
    let (mut near, mut far) = hop::circuit(&one, &server, &target, &mut offers).await;
    let _second = hop::circuit(&two, &server, &target, &mut offers).await;
    hop::carries(&mut near, &mut far, &[7; 64 * 1024]).await;
    // Who is not trusted has its own limit still.
    let (refused, _) = hop::connect(&one, &server, trusted).await;
    assert_eq!(refused.status, hop::RESOURCE_LIMIT_EXCEEDED);
}

async fn rules_outlive_the_server(muxer: Muxer) {
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id().to_string();
    let server = Server::start(&[]);
    server.operator(&["deny", &peer]).unwrap();
    server
        .operator(&["deny", "192.0.2.0/24", "--for", "1s"])
        .unwrap();
    let server = server.restarted(&[]);
    let mut denied = Peer::with_key(&key, Kind::Bare, muxer);
    denied.dial(server.address());
    denied.until_disconnected(server.peer_id()).await;
    server
        .until(r#"waystation_access_rules{verdict="deny"}"#, 1.0)
        .await;
    let listed = server.operator(&["access", "list"]).unwrap();
    assert_eq!(
        listed,
        format!("deny  {peer} for ever\nconfigured: 0 denied, 0 allowed\n")
    );
}
