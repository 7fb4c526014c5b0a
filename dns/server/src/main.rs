//! `tradewind-dns`: a DNS server, see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main("tradewind-dns", dns_server::server::run)
}
