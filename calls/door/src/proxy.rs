//! The PROXY protocol, version 2: a proxy in front says whom it speaks for (haproxy.org,
//! "The PROXY protocol", section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, and the length of the rest.
pub(crate) const FIXED: usize = 16;

/// What may follow: addresses of at most 216 bytes, and fields of which none is used here. Proxies in
/// use send a few hundred bytes.
const REST_BYTES_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the connection does not begin with a PROXY header of version 2")]
    Missing,
    #[error("the PROXY header has {bytes} bytes, more than {REST_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("the PROXY header is cut short")]
    Short,
}

/// The fixed part.
#[derive(Debug)]
pub(crate) struct Header {
    is_proxied: bool,
    family: u8,
    /// Bytes that follow and belong to the header.
    pub rest_bytes: usize,
}

impl Header {
    /// # Errors
    /// If it is none: the protocol forbids to go on without it.
    pub fn parse(fixed: [u8; FIXED]) -> Result<Self, ProxyError> {
        let [.., command, family, high, low] = fixed;
        if fixed[..SIGNATURE.len()] != SIGNATURE || !matches!(command, 0x20 | 0x21) {
            return Err(ProxyError::Missing);
        }
        let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
        if rest_bytes > REST_BYTES_MAX {
            return Err(ProxyError::TooLong { bytes: rest_bytes });
        }
        Ok(Self {
            is_proxied: command == 0x21,
            family,
            rest_bytes,
        })
    }

    /// Whom the connection speaks for: `rest` is source and destination address, then their ports.
    /// `None` if for the proxy itself (a health check), or by another family than IP.
    ///
    /// # Errors
    /// If `rest` is too short for its family.
    pub fn source(&self, rest: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        let (ip, ports): (IpAddr, &[u8]) = match self.family >> 4 {
            _ if !self.is_proxied => return Ok(None),
            1 => {
                let (source, rest) = rest.split_first_chunk::<4>().ok_or(ProxyError::Short)?;
                let (_, ports) = rest.split_first_chunk::<4>().ok_or(ProxyError::Short)?;
                (Ipv4Addr::from(*source).into(), ports)
            }
            2 => {
                let (source, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::Short)?;
                let (_, ports) = rest.split_first_chunk::<16>().ok_or(ProxyError::Short)?;
                (Ipv6Addr::from(*source).into(), ports)
            }
            _ => return Ok(None),
        };
        let (port, _) = ports.split_first_chunk::<2>().ok_or(ProxyError::Short)?;
        Ok(Some(SocketAddr::new(ip, u16::from_be_bytes(*port))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        let length = u16::try_from(rest.len()).expect("short");
        bytes.extend(length.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        let (fixed, rest) = bytes.split_first_chunk().expect("whole");
        let header = Header::parse(*fixed)?;
        assert_eq!(header.rest_bytes, rest.len(), "not a byte more");
        header.source(rest)
    }

    #[test]
    fn a_header_says_whom_a_connection_speaks_for() {
        let v4 = [192, 0, 2, 1, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[33] = 7;
        let with_fields = [&v4[..], &[4, 0, 1, 0]].concat();
        for (case, bytes, want) in [
            (
                "TCP over IPv4",
                header(0x21, 0x11, &v4),
                Some("192.0.2.1:8080"),
            ),
            (
                "TCP over IPv6",
                header(0x21, 0x21, &v6),
                Some("[2001:db8::1]:7"),
            ),
            (
                "with more",
                header(0x21, 0x11, &with_fields),
                Some("192.0.2.1:8080"),
            ),
            ("the proxy itself", header(0x20, 0, &[]), None),
            ("a Unix socket", header(0x21, 0x31, &[0; 216]), None),
        ] {
            let source = parse(&bytes).expect(case).map(|source| source.to_string());
            assert_eq!(source.as_deref(), want, "{case}");
        }
    }

    #[test]
    fn what_is_no_header_of_this_version_is_refused() {
        let v4 = [192, 0, 2, 1, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
        for (case, bytes) in [
            ("a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
            (
                "version 1",
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            ),
            ("version 3", header(0x31, 0x11, &v4)),
            ("an unknown command", header(0x22, 0x11, &v4)),
            ("too short for its family", header(0x21, 0x11, &v4[..8])),
            ("too long", header(0x21, 0x11, &[0; REST_BYTES_MAX + 1])),
        ] {
            assert!(parse(&bytes).is_err(), "{case}");
        }
    }
}
