//! What a query asks for by EDNS, read from its bytes.
//!
//! hickory forgives options that are malformed; an authoritative server owes FORMERR for them, and
//! an answer cached for the wrong network is worse than none. So the options are read here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 6891 §6.1.2, RFC 5001, RFC 7871, RFC 8914.
pub const OPT: u16 = 41;
const NSID: u16 = 3;
pub const CLIENT_SUBNET: u16 = 8;
pub const EXTENDED_ERROR: u16 = 15;

/// What we send and advertise at most over UDP: no fragments on any path (DNS flag day 2020).
pub const UDP_BYTES_MAX: u16 = 1232;

/// The options of a query that mean something here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub nsid: bool,
    pub subnet: Option<Subnet>,
}

/// The client's network as a resolver gives it (RFC 7871 §6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    family: u16,
    source_prefix: u8,
    /// As many bytes as the prefix needs.
    address: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EdnsError {
    #[error("the message ends inside a record")]
    Truncated,
    #[error("the OPT record is not at the root")]
    NotRoot,
    #[error("a DNS option is longer than the OPT record")]
    OptionLength,
    #[error("malformed client subnet")]
    Subnet,
}

/// Reads the options of a packet's OPT record; the default if it has none.
///
/// # Errors
/// Each means FORMERR.
pub fn options(packet: &[u8]) -> Result<Options, EdnsError> {
    let count = |at: usize| {
        be16(packet, at)
            .map(usize::from)
            .ok_or(EdnsError::Truncated)
    };
    let mut at = 12;
    for _ in 0..count(4)? {
        at = after_name(packet, at)? + 4;
    }
    for _ in 0..count(6)? + count(8)? + count(10)? {
        let name_at = at;
        at = after_name(packet, at)?;
        let kind = be16(packet, at).ok_or(EdnsError::Truncated)?;
        let length = be16(packet, at + 8).ok_or(EdnsError::Truncated)?;
        let data_at = at + 10;
        at = data_at + usize::from(length);
        let data = packet.get(data_at..at).ok_or(EdnsError::Truncated)?;
        if kind == OPT {
            if packet[name_at] != 0 {
                return Err(EdnsError::NotRoot);
            }
            return read_options(data);
        }
    }
    Ok(Options::default())
}

fn read_options(mut data: &[u8]) -> Result<Options, EdnsError> {
    let mut options = Options::default();
    while !data.is_empty() {
        let code = be16(data, 0).ok_or(EdnsError::OptionLength)?;
        let length = be16(data, 2).ok_or(EdnsError::OptionLength)?;
        let end = 4 + usize::from(length);
        let value = data.get(4..end).ok_or(EdnsError::OptionLength)?;
        match code {
            NSID => options.nsid = true,
            // Two networks cannot both be the client's.
            CLIENT_SUBNET if options.subnet.is_some() => return Err(EdnsError::Subnet),
            CLIENT_SUBNET => options.subnet = Some(Subnet::read(value)?),
            _ => {}
        }
        data = &data[end..];
    }
    Ok(options)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

fn after_name(packet: &[u8], mut at: usize) -> Result<usize, EdnsError> {
    loop {
        match packet.get(at).ok_or(EdnsError::Truncated)? {
            0 => return Ok(at + 1),
            // A compression pointer ends a name (RFC 1035 §4.1.4).
            length if length & 0xC0 == 0xC0 => return Ok(at + 2),
            length => at += 1 + usize::from(*length),
        }
    }
}

impl Subnet {
    /// RFC 7871 §7.1.2: a wrong family or length, set host bits or a scope are all FORMERR.
    fn read(value: &[u8]) -> Result<Self, EdnsError> {
        let [
            family_high,
            family_low,
            source_prefix,
            scope_prefix,
            address @ ..,
        ] = value
        else {
            return Err(EdnsError::Subnet);
        };
        let family = u16::from_be_bytes([*family_high, *family_low]);
        let bits_max = match family {
            // "No network": a resolver that wants none to be used and has no family to name.
            0 => 0,
            1 => 32,
            2 => 128,
            _ => return Err(EdnsError::Subnet),
        };
        let bytes = usize::from(source_prefix.div_ceil(8));
        if *source_prefix > bits_max || *scope_prefix != 0 || address.len() != bytes {
            return Err(EdnsError::Subnet);
        }
        let host_bits = (8 - source_prefix % 8) % 8;
        if address
            .last()
            .is_some_and(|last| last & !(0xFF << host_bits) != 0)
        {
            return Err(EdnsError::Subnet);
        }
        Ok(Self {
            family,
            source_prefix: *source_prefix,
            address: address.to_vec(),
        })
    }

    /// The network and its prefix length; `None` if the client's network shall not be used.
    pub fn network(&self) -> Option<(IpAddr, u8)> {
        if self.source_prefix == 0 {
            return None;
        }
        let mut bytes = [0; 16];
        bytes[..self.address.len()].copy_from_slice(&self.address);
        let ip = match self.family {
            1 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            _ => IpAddr::V6(Ipv6Addr::from(bytes)),
        };
        Some((ip, self.source_prefix))
    }

    /// The option of the answer: the same network, and how widely the answer holds
    /// (RFC 7871 §7.2.1).
    pub fn echo(&self, scope_prefix: u8) -> Vec<u8> {
        let mut option = self.family.to_be_bytes().to_vec();
        option.extend([self.source_prefix, scope_prefix]);
        option.extend(&self.address);
        option
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    /// A query for the root with an OPT record of these options.
    fn packet(owner: &[u8], options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1];
        packet.extend(owner);
        packet.extend([0, 41, 4, 208, 0, 0, 0, 0]);
        packet.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        packet.extend(options);
        packet
    }

    fn subnet(value: &[u8]) -> Result<Option<Subnet>, EdnsError> {
        let length = u8::try_from(value.len()).unwrap();
        let option = [&[0, 8, 0, length], value].concat();
        options(&packet(&[0], &option)).map(|options| options.subnet)
    }

    #[test]
    fn subnets_are_read_and_echoed_or_refused() {
        for (case, value, want) in [
            (
                "/24",
                &[0, 1, 24, 0, 192, 0, 2][..],
                Some(("192.0.2.0", 24)),
            ),
            (
                "/25",
                &[0, 1, 25, 0, 192, 0, 2, 128],
                Some(("192.0.2.128", 25)),
            ),
            (
                "/33 of IPv6",
                &[0, 2, 33, 0, 0x20, 1, 0xd, 0xb8, 0x80],
                Some(("2001:db8:8000::", 33)),
            ),
            ("/0", &[0, 1, 0, 0], None),
            ("/0 of no family", &[0, 0, 0, 0], None),
        ] {
            let read = subnet(value).unwrap().unwrap();
            let want = want.map(|(ip, prefix)| (ip.parse().unwrap(), prefix));
            assert_eq!(read.network(), want, "{case}");
            let mut echoed = value.to_vec();
            echoed[3] = 17;
            assert_eq!(read.echo(17), echoed, "{case}");
        }
        for (case, value) in [
            ("empty", &[][..]),
            ("short", &[0, 1, 24]),
            ("unknown family", &[0, 3, 8, 0, 1]),
            ("no family with a prefix", &[0, 0, 8, 0, 1]),
            ("prefix too long", &[0, 1, 33, 0, 1, 2, 3, 4, 5]),
            ("too few bytes", &[0, 1, 24, 0, 192, 0]),
            ("too many bytes", &[0, 1, 24, 0, 192, 0, 2, 0]),
            ("host bits", &[0, 1, 25, 0, 192, 0, 2, 64]),
            ("scope in a query", &[0, 1, 24, 24, 192, 0, 2]),
        ] {
            assert_eq!(subnet(value), Err(EdnsError::Subnet), "{case}");
        }
    }

    #[test]
    fn the_record_around_the_options_is_checked() {
        assert_eq!(options(&packet(&[0], &[])), Ok(Options::default()));
        assert!(options(&packet(&[0], &[0, 3, 0, 0])).unwrap().nsid);
        assert_eq!(
            options(&packet(&[1, b'a', 0], &[])),
            Err(EdnsError::NotRoot)
        );
        assert_eq!(
            options(&packet(&[0], &[0, 3, 0, 9, 1])),
            Err(EdnsError::OptionLength)
        );
        assert_eq!(
            options(&packet(&[0], &[0, 3, 0])),
            Err(EdnsError::OptionLength)
        );
        let twice = [0, 8, 0, 4, 0, 1, 0, 0].repeat(2);
        assert_eq!(options(&packet(&[0], &twice)), Err(EdnsError::Subnet));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 12..80)) {
            let _read = options(&bytes);
        }

        #[test]
        fn no_options_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _read = options(&packet(&[0], &bytes));
        }
    }
}
