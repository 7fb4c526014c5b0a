//! Blocks of addresses, as configuration lists them.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// `192.0.2.0/24`, `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a network: write an address, or an address and a prefix length such as 192.0.2.0/24"
)]
pub struct NotANetwork {
    text: String,
}

impl Network {
    /// Whether the address is in the block; one of IPv4 is also if it comes as `::ffff:192.0.2.1`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differ = u32::from(first) ^ u32::from(address);
                differ.leading_zeros() >= self.prefix.into()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differ = u128::from(first) ^ u128::from(address);
                differ.leading_zeros() >= self.prefix.into()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let refused = || NotANetwork {
            text: text.to_owned(),
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| refused())?;
        let bits = match first {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().map_err(|_| refused())?,
        };
        // A network whose address has bits below its prefix is a slip of the pen.
        let is_whole = match first {
            IpAddr::V4(first) => u32::from(first).checked_shl(prefix.into()).unwrap_or(0) == 0,
            IpAddr::V6(first) => u128::from(first).checked_shl(prefix.into()).unwrap_or(0) == 0,
        };
        if prefix > bits || !is_whole {
            return Err(refused());
        }
        Ok(Self { first, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_the_addresses_below_their_prefix() {
        for (network, address, want) in [
            ("192.0.2.0/24", "192.0.2.255", Some(true)),
            ("192.0.2.0/24", "192.0.3.0", Some(false)),
            ("192.0.2.0/24", "::ffff:192.0.2.1", Some(true)),
            ("192.0.2.7", "192.0.2.7", Some(true)),
            ("192.0.2.7", "192.0.2.8", Some(false)),
            ("0.0.0.0/0", "203.0.113.9", Some(true)),
            ("0.0.0.0/0", "2001:db8::1", Some(false)),
            ("2001:db8::/32", "2001:db8:1::1", Some(true)),
            ("2001:db8::/32", "2001:db9::1", Some(false)),
            ("::/0", "2001:db9::1", Some(true)),
            ("192.0.2.1/24", "192.0.2.1", None),
            ("192.0.2.0/33", "192.0.2.1", None),
            ("192.0.2.0/x", "192.0.2.1", None),
            ("example.com", "192.0.2.1", None),
            ("", "192.0.2.1", None),
        ] {
            let address = address.parse().expect("an address");
            let got = network.parse::<Network>().ok();
            let got = got.map(|network| network.contains(address));
            assert_eq!(got, want, "{network} {address}");
        }
    }
}
