//! The sockets of one address: UDP by hickory's `Server`, TCP by the module `tcp`.

mod tcp;

pub use tcp::connections_max;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_server::Server;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::handler::Handler;

/// Bursts beyond what a core answers at once wait here instead of being dropped.
const UDP_RECEIVE_BUFFER_BYTES: usize = 1 << 20;

const REOPEN_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("listen for TCP queries")]
    Tcp(#[source] daemon::BindError),
    #[error("listen for UDP queries on {addr}")]
    Udp {
        addr: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// The sockets of one address: TCP, and UDP once per core so that the kernel spreads queries.
pub struct Sockets {
    addr: SocketAddr,
    tcp: TcpListener,
    udp: Vec<UdpSocket>,
}

impl Sockets {
    /// Binds them. With port 0, UDP and TCP share the port that the kernel chose.
    ///
    /// # Errors
    /// Names the address; the port may be in use.
    pub fn bind(addr: SocketAddr, udp_sockets: usize) -> Result<Self, SocketError> {
        // TCP first: SO_REUSEPORT would let two servers share a UDP port unnoticed, each answering
        // half of the queries, but a TCP port has one owner.
        let tcp = daemon::bind(addr).map_err(SocketError::Tcp)?;
        let addr = tcp
            .local_addr()
            .map_err(|source| SocketError::Udp { addr, source })?;
        let udp = (0..udp_sockets)
            .map(|_| bind_udp(addr))
            .collect::<Result<_, _>>()
            .map_err(|source| SocketError::Udp { addr, source })?;
        Ok(Self { addr, tcp, udp })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown`, no more than `connections_max` over TCP at once. A UDP socket that breaks is
    /// opened anew.
    pub async fn serve(
        self,
        connections_max: usize,
        handler: Handler,
        shutdown: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        let addr = self.addr;
        for socket in self.udp {
            tasks.spawn(serve_udp(addr, socket, handler.clone(), shutdown.clone()));
        }
        tasks.spawn(tcp::serve(self.tcp, connections_max, handler, shutdown));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, %addr, "socket task failed");
            }
        }
    }
}

fn bind_udp(addr: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel caps it at net.core.rmem_max; a smaller buffer still works.
    if let Err(error) = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER_BYTES) {
        warn!(%error, "small UDP receive buffer");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

async fn serve_udp(
    addr: SocketAddr,
    socket: UdpSocket,
    handler: Handler,
    shutdown: CancellationToken,
) {
    let mut next = Some(socket);
    loop {
        if let Some(socket) = next.take() {
            let mut server = Server::new(handler.clone());
            server.register_socket(socket);
            until_ended(&mut server, &shutdown).await;
        }
        if paused_or_stopped(&shutdown).await {
            return;
        }
        match bind_udp(addr) {
            Ok(socket) => next = Some(socket),
            Err(error) => error!(%error, %addr, "cannot reopen UDP socket"),
        }
    }
}

async fn until_ended(server: &mut Server<Handler>, shutdown: &CancellationToken) {
    let stop = server.shutdown_token().clone();
    let ended = tokio::select! {
        ended = server.block_until_done() => ended,
        () = shutdown.cancelled() => {
            stop.cancel();
            server.block_until_done().await
        }
    };
    if let Err(error) = ended
        && !shutdown.is_cancelled()
    {
        warn!(%error, "socket closed, opening it again");
    }
}

async fn paused_or_stopped(shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => true,
        () = tokio::time::sleep(REOPEN_PAUSE) => false,
    }
}
