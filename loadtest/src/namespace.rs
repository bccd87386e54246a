//! A network of our own, for load from addresses that are not loopback.
//!
//! Limits by address do not apply on loopback, and nothing here may ever be sent to
//! somebody else's host. So the program runs itself again inside a fresh network
//! namespace, whose only interface is a loopback that owns the whole of 198.18.0.0/15,
//! the range that RFC 2544 sets aside for benchmarks. Packets cannot leave it.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// Where the server under test listens.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// All that the namespace's loopback owns.
const OWNED: &str = "198.18.0.1/15";

/// Tells the program that it has been started inside.
pub(crate) const INSIDE: &str = "--inside-namespace";

/// The address of the `index`-th peer that has nothing to do with the others: each is
/// the only one of its /24, until there are more than there are networks.
pub(crate) fn stranger(index: usize) -> Ipv4Addr {
    let [network, host] = split(index, 250);
    Ipv4Addr::new(198, 19, network, host)
}

/// The address of the `index`-th peer of one crowded /24.
pub(crate) fn neighbour(index: usize) -> Ipv4Addr {
    let [host, _] = split(index, 254);
    Ipv4Addr::new(198, 18, 7, host)
}

/// The index in a ring of `size`, and how often that has gone round; both from 1 on.
pub(crate) fn split(index: usize, size: usize) -> [u8; 2] {
    [index % size, index / size % size].map(|part| u8::try_from(part).map_or(1, |part| part + 1))
}

/// Runs this program again, with the same arguments and [`INSIDE`], in a namespace.
///
/// # Errors
/// Always: it returns only when no namespace can be made, and says why.
pub(crate) fn enter() -> anyhow::Error {
    let attempts: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let Some(options) = attempts.into_iter().find(|options| works(options)) else {
        return anyhow::anyhow!(
            "limits by address do not apply on loopback, so this scenario needs a network \
             namespace, which can be made neither as this user nor in a user namespace \
             (unshare --net; unshare --user --map-root-user --net): run it as root, or \
             where unprivileged user namespaces are allowed"
        );
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error.into(),
    };
    let error = Command::new("unshare")
        .args(options)
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .arg(INSIDE)
        .exec();
    anyhow::Error::from(error).context("cannot run unshare")
}

fn works(options: &[&str]) -> bool {
    Command::new("unshare")
        .args(options)
        .args(["--", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Brings up the loopback of the namespace and gives it its addresses.
///
/// # Errors
/// When this is not a fresh namespace, which is never touched, or `ip` fails.
pub(crate) fn furnish() -> anyhow::Result<()> {
    let routes = fs::read_to_string("/proc/self/net/route").context("cannot read the routes")?;
    if routes.lines().count() > 1 {
        bail!("{INSIDE} is for the program itself: this network is in use");
    }
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", OWNED, "dev", "lo"])
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run ip, of iproute2")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn strangers_share_no_network_and_neighbours_one() {
        let network = |address: Ipv4Addr| {
            let [a, b, c, _] = address.octets();
            [a, b, c]
        };
        let strangers: HashSet<_> = (0..250).map(|index| network(stranger(index))).collect();
        assert_eq!(strangers.len(), 250);
        let neighbours: HashSet<_> = (0..254).map(neighbour).collect();
        assert_eq!(neighbours.len(), 254);
        let networks: HashSet<_> = neighbours.iter().map(|address| network(*address)).collect();
        assert_eq!(networks.len(), 1);
        assert!(!strangers.contains(&network(neighbour(0))));
    }

    #[test]
    fn a_network_that_is_in_use_is_left_alone() {
        // The tests run where there is at least some route, or nothing to protect.
        let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
        if routes.lines().count() > 1 {
            assert!(furnish().is_err());
        }
    }
}
