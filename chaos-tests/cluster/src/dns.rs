//! Questions put to a DNS server as packets.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

/// Client prefixes that the world map places nearest each region.
pub const ASHBURN: Ipv4Addr = Ipv4Addr::new(3, 80, 0, 0);
pub const FRANKFURT: Ipv4Addr = Ipv4Addr::new(46, 4, 0, 0);
pub const TOKYO: Ipv4Addr = Ipv4Addr::new(210, 140, 0, 0);

/// A resolver would ask another server after this long.
const ANSWER_PATIENCE: Duration = Duration::from_millis(800);

/// Asks for A records on behalf of a client in `subnet`/24.
pub async fn addresses(
    server: &str,
    name: &str,
    subnet: Ipv4Addr,
) -> anyhow::Result<Vec<Ipv4Addr>> {
    let reply = ask(server, name, RecordType::A, Some(subnet)).await?;
    ensure!(
        reply.metadata.response_code == ResponseCode::NoError,
        "{name}: {}",
        reply.metadata.response_code
    );
    let addresses = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
    Ok(addresses.collect())
}

/// Asks one question over UDP.
///
/// # Errors
/// If no well-formed answer to this question comes in time.
pub async fn ask(
    server: &str,
    name: &str,
    record_type: RecordType,
    subnet: Option<Ipv4Addr>,
) -> anyhow::Result<Message> {
    let mut question = Message::query();
    question.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).context("name")?,
        record_type,
    ));
    if let Some(subnet) = subnet {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut()
            .insert(EdnsOption::Subnet(ClientSubnet::new(
                IpAddr::V4(subnet),
                24,
                0,
            )));
        question.set_edns(edns);
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.context("bind")?;
    socket.connect(server).await.context("connect")?;
    socket
        .send(&question.to_vec().context("encode")?)
        .await
        .context("send")?;
    let mut buffer = [0; 4096];
    let length = tokio::time::timeout(ANSWER_PATIENCE, socket.recv(&mut buffer))
        .await
        .with_context(|| format!("no answer from {server}"))?
        .context("receive")?;
    let reply = Message::from_vec(buffer.get(..length).context("length")?).context("decode")?;
    ensure!(
        reply.metadata.id == question.metadata.id,
        "an answer to another question"
    );
    Ok(reply)
}
