//! Addresses that nobody else on the machine uses.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};

/// The second octets to choose from. Below them are people's own: 127.0 is everybody's, and `tradewind
/// up` counts from there.
const FIRST: u8 = 64;
const LAST: u8 = 254;

/// Held on the network's last address for as long as the network is. It means nothing else.
const CLAIM_PORT: u16 = 65_000;

/// A loopback network, `127.N.0.0/16`, that is this test's until it is dropped.
///
/// Every port of every address in it is free. Addresses and ports can therefore be fixed, and known before
/// anything listens on them. Shown as `127.N`.
#[derive(Debug)]
pub struct Network {
    octet: u8,
    /// The kernel gives the address to one process at a time, and takes it back however that ends.
    _claim: TcpListener,
}

impl Network {
    /// Takes a network that no other test has.
    ///
    /// # Panics
    /// If all are taken.
    #[must_use]
    pub fn claim() -> Self {
        // Tests that start together mostly look in different places.
        let count = u32::from(LAST - FIRST) + 1;
        let start = std::process::id() % count;
        let octets =
            (0..count).map(|at| FIRST + u8::try_from((start + at) % count).expect("below 191"));
        let mut claims = octets.filter_map(|octet| {
            let address = Ipv4Addr::new(127, octet, 255, 254);
            let claim = TcpListener::bind((address, CLAIM_PORT)).ok()?;
            Some(Self {
                octet,
                _claim: claim,
            })
        });
        claims.next().expect("a loopback network is free")
    }

    /// `127.N.third.fourth`.
    #[must_use]
    pub fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.octet, third, fourth)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "127.{}", self.octet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_network_and_one_that_is_dropped_is_free() {
        let networks: Vec<Network> = (0..8).map(|_| Network::claim()).collect();
        let mut octets: Vec<u8> = networks.iter().map(|network| network.octet).collect();
        octets.sort_unstable();
        octets.dedup();
        assert_eq!(octets.len(), 8);

        let first = &networks[0];
        let held = (first.address(255, 254), CLAIM_PORT);
        assert!(TcpListener::bind(held).is_err(), "it is claimed");
        assert_eq!(format!("{first}.1.2"), first.address(1, 2).to_string());
        drop(networks);
        assert!(TcpListener::bind(held).is_ok(), "it is free");
    }
}
