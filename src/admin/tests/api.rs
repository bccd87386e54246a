//! The rules over HTTP: what they take, what they answer, and whom they do
//! not.

use super::*;
use crate::admin::addresses::{ADDRESSES_PATH, ListedAddresses};
use crate::admin::api::{Done, Listed, Refused};

const PATH: &str = "/api/v1/access";
const DENY: &str = r#"{"subject":"192.0.2.77/24","verdict":"deny","for":"1h","note":"scans"}"#;
const TOKEN: &str = "0123456789abcdef";

impl Running {
    /// Status and body of the answer to a request with these header lines.
    async fn request(&self, method: &str, headers: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {PATH} HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.ask(&request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("cache-control: no-store"), "{head}");
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn json(&self, method: &str, body: &str) -> (u16, String) {
        let headers = "Host: 127.0.0.1:9464\r\nContent-Type: application/json\r\n";
        self.request(method, headers, body).await
    }

    async fn listed(&self) -> Listed {
        let (status, body) = self.json("GET", "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The reason of a refusal with this status.
    async fn refused(&self, method: &str, headers: &str, body: &str, status: u16) -> String {
        let (told, answer) = self.request(method, headers, body).await;
        assert_eq!(told, status, "{headers} {body}: {answer}");
        serde_json::from_str::<Refused>(&answer).unwrap().error
    }
}

#[tokio::test]
async fn rules_are_made_listed_and_taken_back() {
    let running = Running::start(Bounds::default()).await;
    assert!(running.listed().await.rules.is_empty());
    let (status, body) = running.json("POST", DENY).await;
    assert_eq!(status, 200, "{body}");
    let done: Done = serde_json::from_str(&body).unwrap();
    let expected = Done {
        subject: "192.0.2.0/24".to_owned(),
        closing: 2,
        kept: true,
    };
    assert_eq!(done, expected);
    let access = running.state.rulebook.access();
    assert!(access.at_accept([192, 0, 2, 1].into()).is_err());

    let rules = running.listed().await.rules;
    assert_eq!(rules.len(), 1);
    assert_eq!(
        (rules[0].subject.as_str(), rules[0].verdict.as_str()),
        ("192.0.2.0/24", "deny")
    );
    assert_eq!(rules[0].expires, Some(rules[0].made + 3600));
    assert_eq!(rules[0].note, "scans");

    let old = r#"{"subject":"192.0.2.0/24"}"#;
    assert_eq!(running.json("DELETE", old).await.0, 200);
    assert_eq!(running.json("DELETE", old).await.0, 404);
    assert!(running.listed().await.rules.is_empty());
    assert!(access.at_accept([192, 0, 2, 1].into()).is_ok());
}

#[tokio::test]
async fn what_is_no_rule_is_refused_with_its_reason() {
    let running = Running::start(Bounds::default()).await;
    let note = format!(
        r#"{{"subject":"::1","verdict":"deny","note":"{}"}}"#,
        "x".repeat(257)
    );
    let long = format!(r#"{{"subject":"{}"}}"#, "x".repeat(5_000));
    for (body, status, reason) in [
        ("", 400, "the body: "),
        ("[]", 400, "the body: "),
        (
            r#"{"subject":"::1","verdict":"deny","until":1}"#,
            400,
            "the body: unknown field",
        ),
        (
            r#"{"subject":"example.org","verdict":"deny"}"#,
            400,
            "subject: expected a peer id",
        ),
        (
            r#"{"subject":"::1","verdict":"ban"}"#,
            400,
            "verdict: expected",
        ),
        (
            r#"{"subject":"::1","verdict":"deny","for":"soon"}"#,
            400,
            "for: expected",
        ),
        (
            r#"{"subject":"::1","verdict":"deny","for":"0s"}"#,
            400,
            "for: expected",
        ),
        (&note, 400, "the note is longer than 256 bytes"),
        (&long, 413, "the body is longer than 4096 bytes"),
    ] {
        let headers = "Host: localhost\r\nContent-Type: application/json; charset=utf-8\r\n";
        let told = running.refused("POST", headers, body, status).await;
        assert!(told.starts_with(reason), "{body}: {told}");
    }
    assert!(running.listed().await.rules.is_empty());
    assert_eq!(running.json("PUT", DENY).await.0, 405);
}

#[tokio::test]
async fn a_web_page_can_neither_read_nor_change_rules() {
    let running = Running::start(Bounds::default()).await;
    let json = "Content-Type: application/json\r\n";
    for host in [
        "evil.example",
        "evil.example:9464",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
    ] {
        let headers = format!("Host: {host}\r\n{json}");
        running.refused("POST", &headers, DENY, 403).await;
        running.refused("GET", &headers, "", 403).await;
    }
    let twice = format!("Host: localhost\r\nHost: evil.example\r\n{json}");
    running.refused("POST", &twice, DENY, 403).await;
    for origin in ["http://evil.example", "null"] {
        let headers = format!("Host: 127.0.0.1\r\nOrigin: {origin}\r\n{json}");
        running.refused("POST", &headers, DENY, 403).await;
    }
    // What a proxy on this host adds to the request of somebody far away.
    for line in [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "Forwarded: for=192.0.2.1",
        "X-Real-IP: 192.0.2.1",
        "Via: 1.1 proxy",
    ] {
        let headers = format!("Host: 127.0.0.1\r\n{line}\r\n{json}");
        let reason = running.refused("POST", &headers, DENY, 403).await;
        assert!(reason.contains("admin.token_file"), "{reason}");
        running.refused("GET", &headers, "", 403).await;
    }
    // What a form of any page can send.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let headers = format!("Host: 127.0.0.1\r\nContent-Type: {kind}\r\n");
        running.refused("POST", &headers, DENY, 415).await;
    }
    running
        .refused("POST", "Host: 127.0.0.1\r\n", DENY, 415)
        .await;
    for host in [
        "127.0.0.1",
        "127.0.0.1:9464",
        "[::1]",
        "[::1]:9464",
        "LOCALHOST:1",
    ] {
        let headers = format!("Host: {host}\r\n");
        assert_eq!(running.request("GET", &headers, "").await.0, 200, "{host}");
    }
    assert!(running.listed().await.rules.is_empty());
}

#[tokio::test]
async fn beyond_loopback_rules_need_the_secret() {
    let open = Running::start_on([0, 0, 0, 0], None, Bounds::default()).await;
    let json = "Host: relay.example\r\nContent-Type: application/json\r\n";
    for method in ["GET", "POST"] {
        let told = open.refused(method, json, DENY, 403).await;
        assert!(told.starts_with("needs admin.token_file"), "{told}");
    }
    // What everybody may read stays so.
    assert!(open.get("/livez").await.starts_with("HTTP/1.1 200"));

    for host in [[0, 0, 0, 0], [127, 0, 0, 1]] {
        let running = Running::start_on(host, Some(TOKEN), Bounds::default()).await;
        for wrong in [
            "",
            "Authorization: Bearer 0123456789abcdeF\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: Basic 0123456789abcdef\r\n",
            "Authorization: Bearer 0123456789abcdef0\r\n",
        ] {
            running
                .refused("POST", &format!("{json}{wrong}"), DENY, 401)
                .await;
            running
                .refused("GET", &format!("{json}{wrong}"), "", 401)
                .await;
        }
        let right = format!("{json}Authorization: Bearer {TOKEN}\r\n");
        assert_eq!(running.request("POST", &right, DENY).await.0, 200);
        assert_eq!(running.request("GET", &right, "").await.0, 200);
    }
}

#[tokio::test]
async fn addresses_are_listed_for_whom_the_rules_are() {
    let running = Running::start(Bounds::default()).await;
    let request = |host: &str| format!("GET {ADDRESSES_PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let answer = running.ask(&request("127.0.0.1")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let listed: ListedAddresses = serde_json::from_str(body).unwrap();
    assert_eq!(listed.peer_id, running.state.addresses.us().to_string());
    let [only] = listed.addresses.as_slice() else {
        panic!("{listed:?}");
    };
    assert_eq!(
        (only.address.as_str(), only.source.as_str()),
        (ADDRESS, "listen")
    );
    assert!(only.is_public());
    let elsewhere = running.ask(&request("relay.example.net")).await;
    assert!(elsewhere.starts_with("HTTP/1.1 403"), "{elsewhere}");
}
