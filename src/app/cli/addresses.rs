//! `addresses` and `dnsaddr`: where peers reach this server, and what to put
//! into the DNS for it.
//!
//! Both ask the running server; where none answers they work from the
//! configuration and the interfaces, which is all there is but for what peers
//! observe, and say so. Bounds what is published to what every resolver of
//! peers reads.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

use crate::admin::addresses::{ADDRESSES_PATH, ListedAddresses, ShownAddress};
use crate::config::{ListenAddress, Loaded, Transport};
use crate::identity::Identity;
use crate::state::addresses::Addresses;

use super::client::{Client, nobody_there};
use super::{Settings, key_file_fault, print};
use crate::app::addresses::read_interfaces;

/// TXT records of one name that rust-libp2p looks at.
const RECORDS_MAX: usize = 16;

/// Bytes of one string of a TXT record (RFC 1035 §3.3.14).
const STRING_MAX: usize = 255;

/// Bytes of a name, and of one label of it (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    settings: Settings,
    /// As JSON, as /api/v1/addresses answers it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Dnsaddr {
    #[command(flatten)]
    settings: Settings,
    /// The name that peers are to be given, as /dnsaddr/NAME.
    #[arg(value_name = "NAME")]
    name: Name,
}

/// A name in the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(String);

impl Show {
    pub(super) fn execute(self, settings: Settings) -> anyhow::Result<()> {
        let listed = ask(settings.join(self.settings))?;
        if self.json {
            return print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
        }
        print(&table(&listed))
    }
}

impl Dnsaddr {
    pub(super) fn execute(self, settings: Settings) -> anyhow::Result<()> {
        let listed = ask(settings.join(self.settings))?;
        let peer: PeerId = listed.peer_id.parse()?;
        let public: Vec<Multiaddr> = listed
            .addresses
            .iter()
            .filter(|shown| shown.is_public())
            .filter_map(|shown| shown.address.parse().ok())
            .filter(|address| !self.name.is_led_to_by(address))
            .collect();
        if public.is_empty() {
            bail!(
                "no public address to publish: see `waystation addresses`, and set announce.addresses"
            );
        }
        let chosen = choose(&public);
        if chosen.len() < public.len() {
            let left = public.len() - chosen.len();
            tell(&format!(
                "{left} more left out: peers read {RECORDS_MAX} records of a name"
            ));
        }
        let mut out = String::new();
        for address in chosen {
            let value = format!("dnsaddr={}", address.clone().with(Protocol::P2p(peer)));
            let _ = writeln!(out, "_dnsaddr.{}. IN TXT {}", self.name.0, strings(&value));
        }
        print(&out)
    }
}

/// What the running server says, or what a start now would have.
fn ask(settings: Settings) -> anyhow::Result<ListedAddresses> {
    let client = Client::new(&settings.clone().load_for_client()?);
    let asked = client.and_then(|client| client.ask::<(), _>("GET", ADDRESSES_PATH, None));
    let error = match asked {
        Ok(listed) => return Ok(listed),
        Err(error) => error,
    };
    let Some(absent) = nobody_there(&error) else {
        return Err(error);
    };
    let listed = without_server(&settings.load()?)?;
    tell(&format!(
        "{absent}; these are the addresses that a start would have"
    ));
    Ok(listed)
}

fn without_server(loaded: &Loaded) -> anyhow::Result<ListedAddresses> {
    let path = &loaded.config.identity.key_file;
    let identity = Identity::load(path).map_err(|error| key_file_fault(loaded, &error))?;
    let configured = loaded.announce_addresses(&identity.peer_id())?;
    // A port that is not known yet leads nowhere.
    let bound: Vec<Multiaddr> = loaded
        .config
        .listen
        .addresses
        .iter()
        .filter(|address| ListenAddress::of(address).is_some_and(|at| at.socket.port() != 0))
        .cloned()
        .collect();
    let addresses = Addresses::new(&configured, &bound, identity.peer_id());
    read_interfaces(&addresses);
    Ok(ListedAddresses::of(&addresses))
}

/// A word beside what is asked for, which may go into a file.
fn tell(line: &str) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// One line for each address, in columns.
fn table(listed: &ListedAddresses) -> String {
    let rows: Vec<[String; 3]> = listed.addresses.iter().map(row).collect();
    let head = ["ADDRESS", "FROM", "ANNOUNCED TO"].map(str::to_owned);
    let all = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| all().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut out = format!("peer id    {}\n", listed.peer_id);
    for [address, from, to] in all() {
        let _ = writeln!(out, "{address:first$}  {from:second$}  {to}");
    }
    if listed.not_looked_at > 0 {
        let _ = writeln!(
            out,
            "{} more addresses of interfaces are not looked at: announce.addresses says which to tell",
            listed.not_looked_at
        );
    }
    out
}

fn row(shown: &ShownAddress) -> [String; 3] {
    let from = match (&shown.interface, shown.observers) {
        (Some(interface), _) => format!("interface {interface}"),
        (_, Some(1)) => "observed by 1 network".to_owned(),
        (_, Some(networks)) => format!("observed by {networks} networks"),
        (None, None) => shown.source.clone(),
    };
    let to = match &shown.reason {
        Some(reason) => format!("{}: {reason}", shown.announced_to),
        None => shown.announced_to.clone(),
    };
    [shown.address.clone(), from, to]
}

/// As many as peers read, of each transport in turn, so that none is left out
/// for another's second address.
fn choose(public: &[Multiaddr]) -> Vec<&Multiaddr> {
    let kind = |address: &Multiaddr| {
        let transport = ListenAddress::of(address).map(|at| at.transport);
        let named = |part: &Protocol<'_>| match part {
            Protocol::QuicV1 => Some(Transport::Quic),
            Protocol::Ws(_) => Some(Transport::Ws),
            Protocol::Wss(_) | Protocol::Tls => Some(Transport::Wss),
            _ => None,
        };
        transport.or_else(|| address.iter().find_map(|part| named(&part)))
    };
    let mut ranked: Vec<(usize, usize)> = Vec::with_capacity(public.len());
    for (index, address) in public.iter().enumerate() {
        let alike = public[..index].iter();
        let rank = alike.filter(|other| kind(other) == kind(address)).count();
        ranked.push((rank, index));
    }
    ranked.sort_unstable();
    ranked.truncate(RECORDS_MAX);
    ranked.sort_unstable_by_key(|(_, index)| *index);
    ranked
        .into_iter()
        .map(|(_, index)| &public[index])
        .collect()
}

/// A value in a zone file: strings that the resolver joins.
fn strings(value: &str) -> String {
    let quoted = value.as_bytes().chunks(STRING_MAX).map(|piece| {
        let mut out = String::from("\"");
        for byte in piece {
            match byte {
                b'"' | b'\\' => {
                    out.push('\\');
                    out.push(char::from(*byte));
                }
                0x20..=0x7e => out.push(char::from(*byte)),
                _ => {
                    let _ = write!(out, "\\{byte:03}");
                }
            }
        }
        out.push('"');
        out
    });
    quoted.collect::<Vec<_>>().join(" ")
}

impl Name {
    /// Whether an address refers to this very name, so that its record would
    /// lead back to itself.
    fn is_led_to_by(&self, address: &Multiaddr) -> bool {
        address.iter().any(|part| match part {
            Protocol::Dnsaddr(name) => name.trim_end_matches('.').eq_ignore_ascii_case(&self.0),
            _ => false,
        })
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a name in the DNS, for example bootstrap.example.net";
        let name = text.strip_prefix("/dnsaddr/").unwrap_or(text);
        let name = name.strip_prefix("_dnsaddr.").unwrap_or(name);
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            (1..=LABEL_MAX).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() + "_dnsaddr.".len() > NAME_MAX || !name.split('.').all(is_label) {
            return Err(EXPECTED);
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_is_one_of_the_dns() {
        for text in [
            "Relay.Example.net",
            "relay.example.net.",
            "_dnsaddr.relay.example.net",
            "/dnsaddr/relay.example.net",
        ] {
            assert_eq!(text.parse(), Ok(Name("relay.example.net".to_owned())));
        }
        let long = "a".repeat(64);
        let longer = ["abcdefghi"; 25].join(".");
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "a\"b",
            "/ip4/1.2.3.4",
            &long,
            &longer,
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn long_values_become_strings_that_are_joined_again() {
        assert_eq!(strings("dnsaddr=/ip4/1.2.3.4"), r#""dnsaddr=/ip4/1.2.3.4""#);
        assert_eq!(strings("a\"b\\c"), r#""a\"b\\c""#);
        let value = "x".repeat(STRING_MAX + 1);
        let (first, second) = value.split_at(STRING_MAX);
        assert_eq!(strings(&value), format!("\"{first}\" \"{second}\""));
    }

    #[test]
    fn what_is_left_out_is_never_a_whole_transport() {
        let mut texts: Vec<String> = (1..=20)
            .map(|host| format!("/ip4/8.8.8.{host}/tcp/4001"))
            .collect();
        texts.push("/ip4/8.8.8.8/udp/4001/quic-v1".to_owned());
        texts.push("/dns4/relay.example.net/tcp/443/tls/ws".to_owned());
        let all = addresses(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let chosen = choose(&all);
        assert_eq!(chosen.len(), RECORDS_MAX);
        assert!(chosen.contains(&&all[20]) && chosen.contains(&&all[21]));
    }

    #[test]
    fn a_record_does_not_lead_to_itself() {
        let name: Name = "relay.example.net".parse().unwrap();
        let [itself, nested] = ["/dnsaddr/relay.example.net", "/dnsaddr/a.relay.example.net"]
            .map(|text| text.parse().unwrap());
        assert!(name.is_led_to_by(&itself));
        assert!(!name.is_led_to_by(&nested));
    }
}
