//! Whether the addresses that a federation needs are free, asked before anything is started.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use anyhow::bail;

use super::plan::{Listen, Part};

/// # Errors
/// Names every address that cannot be bound, which part wants it and what to do.
pub fn check(parts: &[Part]) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let mut taken = false;
    for part in parts {
        for listen in &part.listens {
            let (result, what) = match listen {
                Listen::Tcp(address) => (
                    TcpListener::bind(address).map(drop),
                    format!("{address}/tcp"),
                ),
                Listen::Udp(address) => {
                    (UdpSocket::bind(address).map(drop), format!("{address}/udp"))
                }
            };
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    taken = true;
                    problems.push(format!("{what}, wanted by {}, is in use", part.name));
                }
                Err(error) => {
                    problems.push(format!("{what}, wanted by {}: {error}", part.name));
                }
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let list = problems.join("\n  ");
    if taken {
        bail!(
            "cannot listen:\n  {list}\nIf another federation runs, stop it \
             (`tradewind up --dir ITS_DIR --stop`) or take other addresses (`--net 127.1`)."
        );
    }
    bail!("cannot listen:\n  {list}");
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::SocketAddr;

    use super::*;
    use crate::up::plan::Role;

    #[test]
    fn a_port_in_use_is_named_with_the_part_that_wants_it() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let part = |listens| Part {
            name: "dns-1".to_owned(),
            role: Role::Global { api: String::new() },
            config: String::new(),
            listens,
        };
        let (udp, tcp): (SocketAddr, SocketAddr) =
            (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let error = check(&[part(vec![Listen::Udp(udp), Listen::Tcp(tcp)])]).unwrap_err();
        let text = error.to_string();
        for want in [
            format!("{udp}/udp, wanted by dns-1, is in use"),
            format!("{tcp}/tcp, wanted by dns-1, is in use"),
            "--net".to_owned(),
        ] {
            assert!(text.contains(&want), "{text}");
        }
        assert!(check(&[part(vec![])]).is_ok());
    }
}
