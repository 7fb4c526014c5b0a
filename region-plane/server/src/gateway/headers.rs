//! Headers on their way to a function and back (Fn contract 6 and 7).

use api_types::CallId;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use region_plane_runtime::call::without_framing;

pub use api_wire::call_headers::{CALL_ID, FORWARDED_BY, INVOKE_TYPE, NOT_STARTED, REGION};
use api_wire::call_headers::{
    HTTP_METHOD, HTTP_PREFIX, HTTP_REQUEST_URL, HTTP_STATUS, INTENT, ours,
};

/// Makes an admitted request's headers what the function sees of a direct call, in place: everything,
/// less what is for us. `Host` and the framing are set anew by whoever sends it on, here or to a peer.
pub fn into_invoke_request(headers: &mut HeaderMap, call: &CallId) {
    remove_ours(headers);
    headers.insert(CALL_ID, value(call.as_str()));
}

/// What the function sees of a trigger's request. `url` is absolute.
#[must_use]
pub fn trigger_request(client: &HeaderMap, method: &Method, url: &str, call: &CallId) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + 4);
    let mut renamed = HTTP_PREFIX.as_bytes().to_vec();
    for (name, text) in client {
        if name == CONTENT_TYPE {
            headers.append(CONTENT_TYPE, text.clone());
        } else if *name != HOST && *name != CONTENT_LENGTH && !ours(name) {
            renamed.truncate(HTTP_PREFIX.len());
            renamed.extend_from_slice(name.as_str().as_bytes());
            if let Ok(renamed) = HeaderName::from_bytes(&renamed) {
                headers.append(renamed, text.clone());
            }
        }
    }
    headers.insert(HTTP_METHOD, value(method.as_str()));
    headers.insert(HTTP_REQUEST_URL, value(url));
    headers.insert(INTENT, HeaderValue::from_static("httprequest"));
    headers.insert(CALL_ID, value(call.as_str()));
    headers
}

/// What the caller of a function sees: everything it set, and status 200 whatever it wished for. Fields
/// about the connection have stayed with the function's own.
#[must_use]
pub fn invoke_response(mut function: HeaderMap, call: &CallId) -> HeaderMap {
    remove_ours(&mut function);
    function.insert(CALL_ID, value(call.as_str()));
    function
}

/// A status that HTTP cannot carry as a final one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusOutOfRange;

/// What the caller of a trigger sees: what the function set for it by prefix, and nothing else.
///
/// # Errors
/// If the function asks for a status below 200 or above 999.
pub fn trigger_response(
    function: &HeaderMap,
    call: &CallId,
) -> Result<(StatusCode, HeaderMap), StatusOutOfRange> {
    let mut headers = HeaderMap::new();
    for (name, text) in function {
        if let Some(Ok(renamed)) = name
            .as_str()
            .strip_prefix(HTTP_PREFIX)
            .map(str::parse::<HeaderName>)
            && !ours(&renamed)
        {
            headers.append(renamed, text.clone());
        }
    }
    headers = without_framing(headers);
    if let Some(kind) = function.get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    headers.insert(CALL_ID, value(call.as_str()));
    Ok((status(function)?, headers))
}

/// `Fn-Http-Status` if it is a positive integer, else 200 (Fn contract 7).
fn status(function: &HeaderMap) -> Result<StatusCode, StatusOutOfRange> {
    let wished = function
        .get(HTTP_STATUS)
        .and_then(|text| text.to_str().ok()?.trim().parse::<i64>().ok())
        .filter(|status| *status > 0);
    let Some(wished) = wished else {
        return Ok(StatusCode::OK);
    };
    u16::try_from(wished)
        .ok()
        // A 1xx is not an answer, and a server that sends one and stops has sent none.
        .filter(|status| *status >= 200)
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or(StatusOutOfRange)
}

/// The scheme is http: TLS ends in front of this gateway if anywhere (Fn contract 7).
#[must_use]
pub fn request_url(host: Option<&str>, path_and_query: &str) -> String {
    format!("http://{}{path_and_query}", host.unwrap_or_default())
}

fn remove_ours(headers: &mut HeaderMap) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes()))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, text) in lines {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(text).unwrap(),
            );
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, text)| format!("{name}: {}", text.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    fn call() -> CallId {
        CallId::new("01CALL")
    }

    #[test]
    fn a_direct_call_passes_everything_but_ours() {
        let mut headers = map(&[
            ("Content-Type", "text/plain"),
            ("Fn-Call-Id", "chosen by the client"),
            ("Fn-Intent", "cloudevent"),
            ("Fn-Invoke-Type", "sync"),
            ("Tradewind-Forwarded-By", "gateway"),
            ("Tradewind-Client", "192.0.2.1"),
            ("Accept", "a"),
            ("Accept", "b"),
        ]);
        into_invoke_request(&mut headers, &call());
        assert_eq!(
            shown(&headers),
            [
                "accept: a",
                "accept: b",
                "content-type: text/plain",
                "fn-call-id: 01CALL",
                "fn-intent: cloudevent",
                "fn-invoke-type: sync",
            ]
        );
    }

    #[test]
    fn a_triggers_headers_are_renamed_with_duplicates_kept() {
        let client = map(&[
            ("Host", "shop.fn.test"),
            ("Content-Length", "3"),
            ("Tradewind-Client", "192.0.2.1"),
            ("Content-Type", "text/plain"),
            ("Cookie", "a=1"),
            ("Cookie", "b=2"),
            ("Fn-Invoke-Type", "detached"),
            ("Fn-Call-Id", "chosen"),
        ]);
        let url = request_url(Some("shop.fn.test"), "/a?b=c");
        assert_eq!(
            shown(&trigger_request(&client, &Method::PUT, &url, &call())),
            [
                "content-type: text/plain",
                "fn-call-id: 01CALL",
                "fn-http-h-cookie: a=1",
                "fn-http-h-cookie: b=2",
                "fn-http-h-fn-call-id: chosen",
                "fn-http-h-fn-invoke-type: detached",
                "fn-http-method: PUT",
                "fn-http-request-url: http://shop.fn.test/a?b=c",
                "fn-intent: httprequest",
            ]
        );
    }

    #[test]
    fn a_direct_calls_answer_keeps_what_the_function_set() {
        let function = map(&[
            ("Content-Type", "text/plain"),
            ("Fn-Fdk-Version", "x/1"),
            ("Fn-Http-Status", "404"),
            ("Fn-Http-H-X", "1"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
            ("Tradewind-Not-Started", "full"),
            ("Fn-Call-Id", "made up"),
        ]);
        assert_eq!(
            shown(&invoke_response(function, &call())),
            [
                "content-type: text/plain",
                "fn-call-id: 01CALL",
                "fn-fdk-version: x/1",
                "fn-http-h-x: 1",
                "fn-http-status: 404",
                "set-cookie: a",
                "set-cookie: b",
            ]
        );
    }

    #[test]
    fn a_triggers_answer_is_what_the_function_addressed_to_the_caller() {
        let function = map(&[
            ("Content-Type", "text/html"),
            ("Fn-Fdk-Version", "x/1"),
            ("X-Internal", "1"),
            ("Fn-Http-Status", "201"),
            ("Fn-Http-H-Set-Cookie", "a"),
            ("Fn-Http-H-Set-Cookie", "b"),
            ("Fn-Http-H-Content-Length", "1000"),
            ("Fn-Http-H-Transfer-Encoding", "chunked"),
            ("Fn-Http-H-Tradewind-Not-Started", "full"),
        ]);
        let (status, headers) = trigger_response(&function, &call()).unwrap();
        assert_eq!(status, 201);
        assert_eq!(
            shown(&headers),
            [
                "content-type: text/html",
                "fn-call-id: 01CALL",
                "set-cookie: a",
                "set-cookie: b",
            ]
        );
    }

    #[test]
    fn a_status_that_http_cannot_carry_is_refused() {
        for (wished, want) in [
            ("204", Ok(204)),
            ("999", Ok(999)),
            ("404", Ok(404)),
            ("0", Ok(200)),
            ("-1", Ok(200)),
            ("teapot", Ok(200)),
            ("", Ok(200)),
            ("99", Err(StatusOutOfRange)),
            ("101", Err(StatusOutOfRange)),
            ("1000", Err(StatusOutOfRange)),
            ("70000", Err(StatusOutOfRange)),
        ] {
            let status = trigger_response(&map(&[("Fn-Http-Status", wished)]), &call())
                .map(|(status, _)| status.as_u16());
            assert_eq!(status, want, "{wished:?}");
        }
    }
}
