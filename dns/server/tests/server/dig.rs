//! A resolver's tool, not ours, reads what we send.

use std::process::Command;

use tempfile::tempdir;

use crate::harness::{Global, Server};

/// What `dig` prints; `None`, loudly, where it is not installed.
fn dig(server: &Server, arguments: &[&str]) -> Option<String> {
    let output = Command::new("dig")
        .arg(format!("@{}", server.dns.ip()))
        .args(["-p", &server.dns.port().to_string(), "+tries=1", "+time=5"])
        .args(arguments)
        .output();
    match output {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) => {
            let why = format!("dig cannot be run ({error}); install bind9-dnsutils");
            chaos_tests_machine::skip("dig_agrees", &why);
            None
        }
    }
}

#[test]
fn dig_agrees() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.4.1", &dir, &global);
    for (arguments, wants) in [
        (
            "app.fn.test A +subnet=141.2.0.0/16",
            &[
                "status: NOERROR",
                "192.0.2.2",
                "flags: qr aa rd;",
                "CLIENT-SUBNET: 141.2.0.0/16/",
                "udp: 1232",
            ][..],
        ),
        (
            "app.fn.test A +subnet=133.11.0.0/16 +tcp",
            &["192.0.2.3", "(TCP)"],
        ),
        (
            "app.fn.test A +subnet=0.0.0.0/0",
            &["CLIENT-SUBNET: 0.0.0.0/0/0"],
        ),
        (
            "app.fn.test A +noedns",
            &["status: NOERROR", "ADDITIONAL: 0"],
        ),
        (
            "app.fn.test HTTPS",
            &["status: NOERROR", "ANSWER: 0", "SOA"],
        ),
        ("at.fn.test A", &["status: NOERROR", "ANSWER: 0", "SOA"]),
        ("lhr.at.fn.test A", &["status: NXDOMAIN", "SOA"]),
        ("fn.test NS", &["ns1.fn.test.", "ns2.fn.test."]),
        ("example.com A", &["status: REFUSED"]),
        ("version.bind CH TXT", &["status: REFUSED"]),
        ("fn.test ANY +notcp", &["HINFO", "RFC8482"]),
        (
            "app.fn.test A +edns=1 +noednsneg",
            &["status: BADVERS", "EDNS: version: 0"],
        ),
        ("app.fn.test A +ednsopt=100", &["status: NOERROR"]),
        ("app.fn.test A +cookie", &["status: NOERROR"]),
        ("app.fn.test A +nsid", &["NSID:", "dns-test"]),
        ("app.fn.test A +opcode=15 +noedns", &["status: NOTIMP"]),
        ("fn.test AXFR", &["Transfer failed"]),
        ("app.fn.test A +dnssec", &["flags: do;"]),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let Some(printed) = dig(&server, &arguments) else {
            return;
        };
        for want in wants {
            assert!(
                printed.contains(want),
                "{arguments:?}: {want:?} not in:\n{printed}"
            );
        }
        for bad in ["malformed", "WARNING: Message", "extra bytes", "bad packet"] {
            assert!(!printed.contains(bad), "{arguments:?}:\n{printed}");
        }
    }
}
