//! The connection to the API server.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::{ClientBuilder, DynBody};
use kube::core::Status;
use kube::core::response::StatusDetails;
use kube::{Client, Config};
use tower::util::MapResponseLayer;

/// A client as an [`Operator`](crate::Operator) needs it: what the server throttles is seen, and
/// when to ask again is heard.
///
/// # Errors
/// If the configuration makes no client.
pub fn connect(mut config: Config) -> Result<Client, kube::Error> {
    // It would hide from the token buckets what they slow down by.
    config.default_retry = false;
    let layer = MapResponseLayer::new(with_wait);
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// Priority and fairness refuses in plain text and says in a header when to ask again. Of such an
/// answer [`kube`] keeps the text alone, so it becomes the status that the API itself would send.
fn with_wait(response: Response<Box<DynBody>>) -> Response<Box<DynBody>> {
    let (mut parts, body) = response.into_parts();
    let Some(wait) = wait(parts.status, &parts.headers) else {
        return Response::from_parts(parts, body);
    };
    let status = Status::failure("too much is asked of the server", "TooManyRequests")
        .with_code(parts.status.as_u16())
        .with_details(StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX),
        });
    let json = serde_json::to_vec(&status).expect("a status is plain data");
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(parts, whole(json))
}

fn whole(bytes: Vec<u8>) -> Box<DynBody> {
    Box::new(Full::from(bytes).map_err(|never| match never {}))
}

/// What only the header says. A status has it in its details.
fn wait(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok();
    let throttled = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    let is_status = text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    if !throttled.contains(&status) || is_status {
        return None;
    }
    text(RETRY_AFTER)?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    async fn heard(status: u16, headers: [(&str, &str); 2]) -> Vec<u8> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let body = whole(b"as it was".to_vec());
        let response = with_wait(response.body(body).unwrap());
        let body = response.into_body().collect().await;
        body.unwrap_or_else(|_| panic!("it is whole"))
            .to_bytes()
            .into()
    }

    #[tokio::test]
    async fn the_time_to_wait_is_heard_from_the_header_where_nothing_else_says_it() {
        let text = ("content-type", "text/plain; charset=utf-8");
        for status in [429, 503] {
            let json = heard(status, [text, ("retry-after", "7")]).await;
            let read: Status = serde_json::from_slice(&json).unwrap();
            assert_eq!(read.code, status);
            assert_eq!(read.details.unwrap().retry_after_seconds, 7);
        }
    }

    #[tokio::test]
    async fn whatever_else_is_answered_is_left_as_it_is() {
        let text = ("content-type", "text/plain; charset=utf-8");
        let json = ("content-type", "application/json");
        for (case, status, headers) in [
            ("of the API", 429, [json, ("retry-after", "7")]),
            (
                "a date",
                503,
                [text, ("retry-after", "Tue, 24 Nov 2026 19:00:00 GMT")],
            ),
            ("no refusal", 200, [text, ("retry-after", "7")]),
            ("of something else", 404, [text, ("retry-after", "7")]),
        ] {
            assert_eq!(heard(status, headers).await, b"as it was", "{case}");
        }
    }
}
