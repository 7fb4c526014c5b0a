//! Heads as bytes: writing a request's, reading an answer's.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{HeaderMap, Method, StatusCode, Version, response};

use crate::link::ExchangeError;
use calls_door::head::{OF_THE_CONNECTION, named_by_connection, without_connection};
use calls_door::limits::{FIELDS_MAX, HEAD_BYTES_MAX};

/// Whether a request's body waits for a 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continue {
    /// The body waits; an empty one is chunked, so that there is something to wait with.
    Wait,
    /// The body follows the head.
    Follow,
}

/// A request's head as bytes, in one pass: fields about the connection are left out, and so are those
/// that `skip` names; `added` and the framing are written.
///
/// `length` is the body's, if it is known. `target` is the path with its query.
#[must_use]
pub fn encode(
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    skip: impl Fn(&HeaderName) -> bool,
    added: &[(HeaderName, HeaderValue)],
    length: Option<u64>,
    wait: Continue,
) -> Bytes {
    // Most fields are shorter; the buffer grows for the others.
    let mut head = BytesMut::with_capacity(256 + target.len() + headers.len() * 48);
    head.put_slice(method.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(target.as_bytes());
    head.put_slice(b" HTTP/1.1\r\n");
    let named = named_by_connection(headers);
    for (name, value) in headers {
        let framing = *name == CONTENT_LENGTH || OF_THE_CONNECTION.contains(name);
        if !framing && !named.contains(name) && !skip(name) {
            field(&mut head, name, value.as_bytes());
        }
    }
    for (name, value) in added {
        field(&mut head, name, value.as_bytes());
    }
    match length {
        Some(length) if length > 0 || wait == Continue::Follow => {
            let has_content = length > 0 || ![Method::GET, Method::HEAD].contains(method);
            if has_content {
                field(&mut head, &CONTENT_LENGTH, length.to_string().as_bytes());
            }
        }
        Some(_) | None => field(&mut head, &TRANSFER_ENCODING, b"chunked"),
    }
    if wait == Continue::Wait {
        field(&mut head, &EXPECT, b"100-continue");
    }
    head.put_slice(b"\r\n");
    head.freeze()
}

/// Whether [`encode`] announces a chunked body.
pub(crate) fn is_chunked(length: Option<u64>, wait: Continue) -> bool {
    match length {
        None => true,
        Some(length) => length == 0 && wait == Continue::Wait,
    }
}

/// Names are written as Go writes them, `Content-Type`: what functions were tried with is Fn's agent.
fn field(head: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    let mut before = b'-';
    for byte in name.as_str().bytes() {
        head.put_u8(match before {
            b'-' => byte.to_ascii_uppercase(),
            _ => byte,
        });
        before = byte;
    }
    head.put_slice(b": ");
    head.put_slice(value);
    head.put_slice(b"\r\n");
}

/// How an answer's body ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A final answer's head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Without the fields about the connection. `Content-Length` stays if the body has one.
    pub parts: response::Parts,
    pub framing: Framing,
    pub keep_alive: bool,
}

#[derive(Debug)]
pub(crate) enum Read {
    Continue,
    /// Any other 1xx, which changes nothing.
    Informational,
    Final(Box<Head>),
}

/// Fields that are parsed without asking for memory; nearly every answer has fewer.
const FIELDS_USUAL: usize = 64;

/// Where the search for a head's end goes on; the start of what is not parsed is its zero.
#[derive(Debug, Default)]
pub(crate) struct Scan(usize);

impl Scan {
    /// Takes a head off the front of `buffer`, once it is there whole.
    ///
    /// # Errors
    /// If it is no head, or larger than heads may be.
    pub(crate) fn read(
        &mut self,
        buffer: &mut BytesMut,
        method: &Method,
    ) -> Result<Option<Read>, ExchangeError> {
        let Some(end) = self.end(buffer) else {
            return match buffer.len() > HEAD_BYTES_MAX {
                true => Err(ExchangeError::HeadTooLarge),
                false => Ok(None),
            };
        };
        if end > HEAD_BYTES_MAX {
            return Err(ExchangeError::HeadTooLarge);
        }
        self.0 = 0;
        parse(&buffer.split_to(end).freeze(), method).map(Some)
    }

    /// Just after the empty line. Each byte is looked at once, however slowly they come.
    fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        while let Some(found) = buffer[self.0..].iter().position(|byte| *byte == b'\n') {
            let at = self.0 + found;
            match buffer.get(at + 1..) {
                Some([b'\n', ..]) => return Some(at + 2),
                Some([b'\r', b'\n', ..]) => return Some(at + 3),
                // What follows the line's end is not here yet.
                None | Some([] | [b'\r']) => {
                    self.0 = at;
                    return None;
                }
                Some(_) => self.0 = at + 1,
            }
        }
        self.0 = buffer.len();
        None
    }
}

fn parse(head: &Bytes, method: &Method) -> Result<Read, ExchangeError> {
    let mut usual = [httparse::EMPTY_HEADER; FIELDS_USUAL];
    let mut many = Vec::new();
    let mut response = httparse::Response::new(&mut usual);
    let mut parsed = response.parse(head);
    if parsed == Err(httparse::Error::TooManyHeaders) {
        many.resize(FIELDS_MAX, httparse::EMPTY_HEADER);
        response = httparse::Response::new(&mut many);
        parsed = response.parse(head);
    }
    match parsed {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(ExchangeError::HeadTooLarge),
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(ExchangeError::Malformed("its head is no HTTP head"));
        }
    }
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(ExchangeError::Malformed("its status is none"))?;
    if status == StatusCode::CONTINUE {
        return Ok(Read::Continue);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ExchangeError::Malformed(
            "it switches protocols, which nobody asked for",
        ));
    }
    if status.is_informational() {
        return Ok(Read::Informational);
    }
    let version = match response.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| ExchangeError::Malformed("a field's name is none"))?;
        // Shares the head's bytes.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value))
            .map_err(|_| ExchangeError::Malformed("a field's value is none"))?;
        headers.append(name, value);
    }
    let framing = framing(method, status, version, &headers)?;
    let keep_alive =
        version == Version::HTTP_11 && framing != Framing::UntilClose && !is_closing(&headers);
    strip(&mut headers, framing);
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = Version::HTTP_11;
    parts.headers = headers;
    Ok(Read::Final(Box::new(Head {
        parts,
        framing,
        keep_alive,
    })))
}

/// RFC 9112 section 6.3. What two readers could read as two different lengths is refused, except for
/// `chunked` beside a length, which functions send: it overrides the length, which is not passed on.
fn framing(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<Framing, ExchangeError> {
    let is_empty = *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    if is_empty {
        return Ok(Framing::Length(0));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None)
            if coding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
                && version == Version::HTTP_11 =>
        {
            return Ok(Framing::Chunked);
        }
        (Some(_), _) => {
            return Err(ExchangeError::Malformed(
                "its transfer coding is not `chunked` alone",
            ));
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return Ok(Framing::UntilClose);
    };
    let digits = first.as_bytes();
    let length = match digits.iter().all(u8::is_ascii_digit) {
        true => str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok()),
        false => None,
    };
    match length {
        Some(length) if lengths.all(|other| other == first) => Ok(Framing::Length(length)),
        Some(_) | None => Err(ExchangeError::Malformed("its length is none, or two")),
    }
}

fn is_closing(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let value = value.as_bytes();
        let mut options = value.split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

/// Leaves what the next connection may carry. Of the lengths one is enough.
fn strip(headers: &mut HeaderMap, framing: Framing) {
    without_connection(headers);
    if framing == Framing::Chunked {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = headers.get(CONTENT_LENGTH).cloned() {
        headers.insert(CONTENT_LENGTH, length);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn read(text: &str) -> Result<Option<Read>, ExchangeError> {
        Scan::default().read(&mut BytesMut::from(text), &Method::POST)
    }

    #[test]
    fn an_answers_head_says_how_its_body_ends() {
        for (text, want) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Ok((Framing::Length(5), true)),
            ),
            (
                "HTTP/1.1 200\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
                Ok((Framing::Length(5), true)),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n",
                Ok((Framing::Chunked, true)),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Ok((Framing::UntilClose, false))),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n",
                Ok((Framing::Length(5), false)),
            ),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
                Ok((Framing::Length(0), false)),
            ),
            (
                "HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n",
                Ok((Framing::Length(0), true)),
            ),
            (
                "HTTP/1.1 304 No\r\ntransfer-encoding: chunked\r\n\r\n",
                Ok((Framing::Length(0), true)),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
                Err(()),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", Err(())),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", Err(())),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
                Err(()),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
                Ok((Framing::Chunked, true)),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
                Err(()),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                Err(()),
            ),
            (
                "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                Err(()),
            ),
            ("HTTP/1.1 101 Switching\r\n\r\n", Err(())),
            ("SMTP ready\r\n\r\n", Err(())),
        ] {
            let got = match read(text) {
                Ok(Some(Read::Final(head))) => {
                    let has_length = head.parts.headers.contains_key(CONTENT_LENGTH);
                    assert!(!has_length || head.framing != Framing::Chunked, "{text:?}");
                    Ok((head.framing, head.keep_alive))
                }
                Ok(other) => panic!("{text:?}: {other:?}"),
                Err(_) => Err(()),
            };
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn a_head_may_come_byte_by_byte_and_leaves_what_follows() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: \r\n\r\nhi";
        let (mut buffer, mut scan, mut heads) = (BytesMut::new(), Scan::default(), Vec::new());
        for byte in text.bytes() {
            buffer.put_u8(byte);
            if heads.len() < 2
                && let Some(head) = scan.read(&mut buffer, &Method::POST).unwrap()
            {
                heads.push(head);
            }
        }
        assert!(
            matches!(heads[..], [Read::Continue, Read::Final(_)]),
            "{heads:?}"
        );
        assert_eq!(buffer, "hi");
    }

    #[test]
    fn an_answer_may_have_as_many_fields_as_a_request_and_no_more() {
        let with = |fields: usize, padding: usize| {
            let mut text = String::from("HTTP/1.1 200 OK\r\n");
            for number in 0..fields {
                text.push_str(&format!("x-{number}: {}\r\n", "v".repeat(padding)));
            }
            text.push_str("\r\n");
            text
        };
        for (case, text, want) in [
            ("98 and more", with(200, 10), Some(200)),
            ("all", with(FIELDS_MAX, 1), Some(FIELDS_MAX)),
            ("one too many", with(FIELDS_MAX + 1, 1), None),
            ("too long", with(200, 6 << 10), None),
        ] {
            let got = match read(&text) {
                Ok(Some(Read::Final(head))) => Some(head.parts.headers.len()),
                Err(ExchangeError::HeadTooLarge) => None,
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn a_requests_head_leaves_out_what_is_the_connections() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "shop.fn.test"),
            ("connection", "x-secret, Host, fn-call-id, upgrade"),
            ("x-secret", "s"),
            ("fn-call-id", "c"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("content-length", "7"),
            ("expect", "100-continue"),
            ("tradewind-forwarded-by", "me"),
            ("cookie", "a"),
            ("cookie", "b"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let added = [(
            api_wire::call_headers::FORWARDED_BY,
            HeaderValue::from_static("gateway"),
        )];
        let encoded = |length, wait| {
            let skip = api_wire::call_headers::ours;
            let head = encode(&Method::GET, "/a?b=c", &headers, skip, &added, length, wait);
            String::from_utf8(head.to_vec()).unwrap()
        };
        let fields = "GET /a?b=c HTTP/1.1\r\nHost: shop.fn.test\r\nFn-Call-Id: c\r\nCookie: a\r\n\
                      Cookie: b\r\nTradewind-Forwarded-By: gateway\r\n";
        for (length, wait, framing) in [
            (
                Some(3),
                Continue::Wait,
                "Content-Length: 3\r\nExpect: 100-continue\r\n",
            ),
            (
                Some(0),
                Continue::Wait,
                "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            ),
            (
                None,
                Continue::Wait,
                "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            ),
            (Some(3), Continue::Follow, "Content-Length: 3\r\n"),
            (Some(0), Continue::Follow, ""),
            (None, Continue::Follow, "Transfer-Encoding: chunked\r\n"),
        ] {
            assert_eq!(encoded(length, wait), format!("{fields}{framing}\r\n"));
        }
    }
}
