//! The rules for a response, as one pure function.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};

use crate::Body;

/// Takes the content, and the length that must not be there, from an answer that has none.
///
/// 204 and 304 have no content and say no length (RFC 9110 sections 8.6, 15.3.5 and 15.4.5); 205 is
/// told as empty (15.3.6). An answer to `HEAD` has no content, and a length only if whoever made it
/// knows what `GET` would have had (9.3.2): a function does not.
pub fn conform(method: &Method, response: &mut Response<Body>) {
    let has_length = match response.status() {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => false,
        _ if *method == Method::HEAD => true,
        _ => return,
    };
    *response.body_mut() = Body::empty();
    response.headers_mut().remove(TRANSFER_ENCODING);
    if !has_length {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Body as _;

    use super::*;

    #[test]
    fn answers_without_content_have_none() {
        for (method, status, length, want) in [
            (Method::GET, 200, Some("2"), (2, Some("2"))),
            (Method::GET, 204, Some("2"), (0, None)),
            (Method::GET, 205, Some("2"), (0, None)),
            (Method::GET, 304, Some("2"), (0, None)),
            (Method::HEAD, 200, Some("2"), (0, Some("2"))),
            (Method::HEAD, 404, None, (0, None)),
            (Method::HEAD, 204, Some("2"), (0, None)),
        ] {
            let mut response = Response::new(Body::from(Bytes::from_static(b"hi")));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            if let Some(length) = length {
                let length = http::HeaderValue::from_static(length);
                response.headers_mut().insert(CONTENT_LENGTH, length);
            }
            conform(&method, &mut response);
            let told = response.headers().get(CONTENT_LENGTH);
            let told = told.map(|told| told.to_str().expect("digits"));
            let bytes = response.body().size_hint().exact();
            assert_eq!((bytes, told), (Some(want.0), want.1), "{method} {status}");
        }
    }
}
