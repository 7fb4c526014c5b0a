//! The rules for a request's head, as one pure function.

use api_wire::call_headers;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::Refusal;
use crate::limits::{FIELDS_MAX, HEAD_BYTES_MAX};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields about one connection (RFC 9110 section 7.6.1, Fn contract 6.1). `TE: trailers` is among
/// them, unlike Fn's rule: no trailers are passed on here. `Content-Length` is not: whoever writes a
/// message sets it anew.
pub const OF_THE_CONNECTION: [HeaderName; 10] = [
    CONNECTION,
    PROXY_CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Checks a request's head, and brings it into the one form that everything behind the door sees:
/// `Host` is the request's authority, and fields about the connection are gone.
///
/// `Content-Length` stays: whoever sends the request on sets the framing anew.
///
/// # Errors
/// - 431 if it has more fields or bytes than [`crate::limits`] say. HTTP/1 heads were bounded as
///   they were read.
/// - 405 for `CONNECT`: no door is a tunnel.
/// - 400 if HTTP/1.1 or HTTP/2 names no host, if it names two, or if one is malformed (RFC 9112
///   section 3.2, RFC 9113 section 8.3.1). HTTP/1.0 knows no `Host`; such a request reaches what
///   needs no name.
/// - 501 for a transfer coding other than `chunked` alone (RFC 9112 section 6.1).
pub fn admit(head: &mut Parts) -> Result<(), Refusal> {
    if head.headers.len() > FIELDS_MAX {
        return Err(Refusal::head_too_large());
    }
    if head.version == Version::HTTP_2 && bytes(head) > HEAD_BYTES_MAX {
        return Err(Refusal::head_too_large());
    }
    if head.method == Method::CONNECT {
        let target = head.uri.authority().map_or("", |target| target.as_str());
        return Err(Refusal::method_not_allowed(&head.method, target));
    }
    let host = host(&head.uri, &head.headers, head.version)?;
    if !is_chunked_alone(&head.headers) {
        return Err(Refusal::transfer_coding());
    }
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    without_connection(&mut head.headers);
    Ok(())
}

/// The host that an admitted request was sent to, with its port if it named one; `None` for an
/// HTTP/1.0 request without one.
#[must_use]
pub fn host_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Removes the fields about one connection: [`OF_THE_CONNECTION`], and those that `Connection` names.
pub fn without_connection(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in OF_THE_CONNECTION {
        headers.remove(name);
    }
}

/// The fields that `Connection` names.
///
/// Not `Host`, `Content-Length`, `Authorization` and the fields of Fn and of Tradewind, whatever
/// `Connection` names: a client must not talk away what those behind us decide by (see
/// `docs/decisions/connection-fields.md`).
#[must_use]
pub fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !is_kept(name))
        .collect()
}

fn is_kept(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, AUTHORIZATION].contains(name)
        || name.as_str().starts_with("fn-")
        || call_headers::ours(name)
}

/// As HTTP/2 counts (RFC 9113 section 6.5.2): name, value and 32 for each field.
pub(crate) fn bytes(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or("", |path| path.as_str());
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    target.len() + fields.sum::<usize>()
}

/// `None` if the request's own field is right as it stands, or HTTP/1.0 has none.
fn host(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<Option<HeaderValue>, Refusal> {
    let mut fields = headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Refusal::host("the request has more than one Host header"));
    }
    if field.is_some_and(|field| !is_host(field.as_bytes())) {
        return Err(Refusal::host("the request's Host header is malformed"));
    }
    match (uri.authority(), field) {
        (Some(target), _) if !is_host(target.as_str().as_bytes()) => {
            Err(Refusal::host("the request's target names no host"))
        }
        // RFC 9113 section 8.3.1: a `Host` beside `:authority` names the same.
        (Some(target), Some(field))
            if version == Version::HTTP_2
                && !target
                    .as_str()
                    .as_bytes()
                    .eq_ignore_ascii_case(field.as_bytes()) =>
        {
            Err(Refusal::host("the request names two hosts"))
        }
        // RFC 9112 section 3.2.2: the target wins, but HTTP/1.1 has the field nonetheless.
        (Some(target), field) if field.is_some() || version != Version::HTTP_11 => {
            let host = HeaderValue::from_str(target.as_str()).ok();
            let malformed = || Refusal::host("the request's target names no host");
            host.map(Some).ok_or_else(malformed)
        }
        (None, Some(_)) => Ok(None),
        (None, None) if version == Version::HTTP_10 => Ok(None),
        (_, None) | (Some(_), Some(_)) => Err(Refusal::host("the request has no Host header")),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 section 7.2), not empty, without user information.
fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', ..] => match text.iter().position(|byte| *byte == b']') {
            Some(end) => text.split_at(end + 1),
            None => return false,
        },
        _ => {
            let end = text.iter().position(|byte| *byte == b':');
            text.split_at(end.unwrap_or(text.len()))
        }
    };
    is_name(host) && is_port(port)
}

fn is_name(host: &[u8]) -> bool {
    if let [b'[', literal @ .., b']'] = host {
        let literal = str::from_utf8(literal).ok();
        return literal.is_some_and(|literal| literal.parse::<std::net::Ipv6Addr>().is_ok());
    }
    // RFC 3986 section 3.2.2: unreserved and sub-delims. Not percent-encoding, which no name that is
    // served here needs and which the HTTP library refuses in an authority.
    let may_stand = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte);
    !host.is_empty() && host.iter().all(may_stand)
}

/// Nothing, or a colon with the digits of a port or none (RFC 3986 section 3.2.3).
fn is_port(text: &[u8]) -> bool {
    match text {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

fn is_chunked_alone(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests;
