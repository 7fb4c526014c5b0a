//! Whom an answer is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api_types::Location;

use crate::map::{ClassId, LocationClass};
use crate::partition::{LEAF_MAX_V4, LEAF_MAX_V6, Leaf};

/// A network of clients that get one answer, and where it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Client {
    /// Host bits are zero beyond `scope`.
    network: IpAddr,
    scope: u8,
    place: LocationClass,
    class: Option<ClassId>,
    slot: Option<u64>,
}

/// Where a client was found to be, and how widely that holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub location: Location,
    /// Length of the network that is known to be there, in the family of the client's address.
    pub network_len: u8,
}

/// An IPv4 address inside an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    pub ipv4: Ipv4Addr,
    /// Bits in front of it.
    pub offset: u8,
}

impl Client {
    /// A client by its address, of which `source_len` bits are known (RFC 7871 SOURCE
    /// PREFIX-LENGTH; the length of the block around it if a resolver's own address stands for its
    /// clients).
    ///
    /// The answer is for the network of [`Self::scope`] bits: as wide as its location is known to
    /// hold, never longer than what was told, /24 or /56. A client that no map knows is one of its
    /// own small network, because its neighbours may be known: a scope of 0 there would have its
    /// answer served to everybody.
    #[must_use]
    pub fn new(ip: IpAddr, source_len: u8, place: Option<Place>) -> Self {
        let known = place.map_or(u8::MAX, |place| place.network_len);
        let place = LocationClass {
            location: place.map(|place| place.location),
            continent: None,
        };
        Self::at(ip, known.min(source_len), place, None)
    }

    /// A client as a client map has it.
    pub(crate) fn of_leaf(
        ip: IpAddr,
        source_len: u8,
        leaf: Leaf,
        place: LocationClass,
        class: ClassId,
    ) -> Self {
        Self::at(ip, leaf.len.min(source_len), place, Some(class))
    }

    fn at(ip: IpAddr, len: u8, place: LocationClass, class: Option<ClassId>) -> Self {
        let len_max = match (ip, embedded_v4(ip)) {
            (IpAddr::V4(_), _) => LEAF_MAX_V4,
            (IpAddr::V6(_), Some(embedded)) => embedded.offset + LEAF_MAX_V4,
            (IpAddr::V6(_), None) => LEAF_MAX_V6,
        };
        let scope = len.min(len_max);
        Self {
            network: network(ip, scope),
            scope,
            place,
            class,
            slot: None,
        }
    }

    /// The same client in a time slot. It counts only for demand that the rows mark as heavy.
    #[must_use]
    pub fn in_slot(self, slot: u64) -> Self {
        Self {
            slot: Some(slot),
            ..self
        }
    }

    #[must_use]
    pub fn location(&self) -> Option<Location> {
        self.place.location
    }

    /// Where it is, for distances that no map has.
    #[must_use]
    pub fn place(&self) -> LocationClass {
        self.place
    }

    /// In the map of the view that it was found in.
    #[must_use]
    pub fn class(&self) -> Option<ClassId> {
        self.class
    }

    #[must_use]
    pub fn slot(&self) -> Option<u64> {
        self.slot
    }

    /// First address of the network that the answer is for.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits of its address an answer that depends on the client holds for.
    #[must_use]
    pub fn scope(&self) -> u8 {
        self.scope
    }
}

/// The IPv4 address that an IPv6 address carries for one that its client really has: v4-mapped
/// (RFC 4291 §2.5.5.2), NAT64's well-known prefix (RFC 6052 §2.1), 6to4 (RFC 3056 §2).
#[must_use]
pub fn embedded_v4(ip: IpAddr) -> Option<Embedded> {
    let IpAddr::V6(ip) = ip else { return None };
    let [s0, s1, s2, s3, s4, s5, s6, s7] = ip.segments();
    let embedded = |high: u16, low: u16, offset| Embedded {
        ipv4: Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)),
        offset,
    };
    match (s0, s1, s2, s3, s4, s5) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(embedded(s6, s7, 96)),
        (0x2002, ..) => Some(embedded(s1, s2, 16)),
        _ => None,
    }
}

/// The network of `len` bits that an address is in; a length beyond the address means all of it.
pub(crate) fn network(ip: IpAddr, len: u8) -> IpAddr {
    let len = u32::from(len);
    match ip {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(len).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & !host).into()
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(len).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & !host).into()
        }
    }
}
