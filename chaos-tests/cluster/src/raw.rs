//! Requests as bytes, and answers as they came.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A cold start on two busy cores; this only ends a hung test.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server sent until it closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// Statuses below 200 that came first.
    pub interim: Vec<u16>,
    pub status: u16,
    /// By lower-case name.
    pub fields: BTreeMap<String, Vec<String>>,
    /// Without its transfer coding.
    pub body: Vec<u8>,
    /// Bytes behind the body, such as the next answer.
    pub rest: Vec<u8>,
}

impl RawAnswer {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.first().map(String::as_str)
    }

    /// The `message` of an error.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        body["message"].as_str().map(str::to_owned)
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `request`, all of it before a byte is read, and reads until the server closes.
///
/// `half_closes`: the sending half is closed after the request. `is_head`: the answer has no body.
///
/// # Errors
/// If the connection is reset before the answer is read, or what came is no HTTP.
pub async fn exchange(
    address: &str,
    request: &[u8],
    half_closes: bool,
    is_head: bool,
) -> anyhow::Result<RawAnswer> {
    let exchanging = async {
        let mut stream = TcpStream::connect(address).await.context("connect")?;
        stream.write_all(request).await.context("send")?;
        if half_closes {
            stream.shutdown().await.context("close the sending half")?;
        }
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.context("read")?;
        parse(&received, is_head)
            .with_context(|| format!("received {:?}", String::from_utf8_lossy(&received)))
    };
    timeout(PATIENCE, exchanging)
        .await
        .context("the server neither answers nor closes")?
}

fn parse(mut received: &[u8], is_head: bool) -> anyhow::Result<RawAnswer> {
    let mut interim = Vec::new();
    loop {
        let end = received.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, rest) = received.split_at(end.context("no head")? + 4);
        let head = str::from_utf8(head).context("a head that is no text")?;
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).context("no status")?;
        let status = status.parse().context("no status")?;
        if status < 200 {
            interim.push(status);
            received = rest;
            continue;
        }
        let mut fields = BTreeMap::<String, Vec<String>>::new();
        for line in lines {
            let (name, value) = line.split_once(':').context("no field")?;
            let values = fields.entry(name.to_ascii_lowercase()).or_default();
            values.push(value.trim().to_owned());
        }
        let has_no_body = is_head || matches!(status, 204 | 304);
        let length = fields.get("content-length").map(|length| length[0].clone());
        let (body, rest) = if has_no_body {
            (Vec::new(), rest)
        } else if fields.contains_key("transfer-encoding") {
            unchunked(rest)?
        } else if let Some(length) = length {
            let length: usize = length.parse().context("no length")?;
            let (body, rest) = rest.split_at_checked(length).context("cut short")?;
            (body.to_vec(), rest)
        } else {
            (rest.to_vec(), &rest[rest.len()..])
        };
        return Ok(RawAnswer {
            interim,
            status,
            fields,
            body,
            rest: rest.to_vec(),
        });
    }
}

fn unchunked(mut rest: &[u8]) -> anyhow::Result<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let (size, tail) = rest.split_at(end.context("no chunk size")?);
        let size = usize::from_str_radix(str::from_utf8(size)?, 16).context("no chunk size")?;
        let chunk = tail.get(2..2 + size).context("a chunk is cut short")?;
        body.extend(chunk);
        rest = tail.get(2 + size..).context("a chunk is cut short")?;
        match rest.strip_prefix(b"\r\n") {
            Some(next) => rest = next,
            None => bail!("a chunk without an end"),
        }
        if size == 0 {
            return Ok((body, rest));
        }
    }
}
