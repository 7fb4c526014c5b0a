#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::Request;

use super::*;

fn head(version: Version, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(target).version(version);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn a_request_names_one_host_and_the_target_wins() {
    let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    let absolute = "http://b.test:81/x";
    for (version, target, fields, want) in [
        (h11, "/x", &[("host", "a.test")][..], Ok(Some("a.test"))),
        (
            h11,
            "/x",
            &[("host", "a.test:8080")],
            Ok(Some("a.test:8080")),
        ),
        (h11, "/x", &[("host", "a.test:")], Ok(Some("a.test:"))),
        (h11, "/x", &[("host", "[::1]:80")], Ok(Some("[::1]:80"))),
        (h11, "/x", &[("host", "a_b.test")], Ok(Some("a_b.test"))),
        (h11, "/x", &[("host", "a%2Db")], Err(400)),
        (h11, "/x", &[], Err(400)),
        (h11, "/x", &[("host", "")], Err(400)),
        (h11, "/x", &[("host", ":80")], Err(400)),
        (h11, "/x", &[("host", "a.test:http")], Err(400)),
        (h11, "/x", &[("host", "a.test:65536")], Err(400)),
        (h11, "/x", &[("host", "a.test/x")], Err(400)),
        (h11, "/x", &[("host", "user@a.test")], Err(400)),
        (h11, "/x", &[("host", "a.test, b.test")], Err(400)),
        (h11, "/x", &[("host", "::1")], Err(400)),
        (h11, "/x", &[("host", "[::1")], Err(400)),
        (h11, "/x", &[("host", "[a]")], Err(400)),
        (h11, "/x", &[("host", "a%2")], Err(400)),
        (
            h11,
            "/x",
            &[("host", "a.test"), ("host", "a.test")],
            Err(400),
        ),
        (h10, "/x", &[], Ok(None)),
        (h10, "/x", &[("host", "a.test")], Ok(Some("a.test"))),
        (h10, "/x", &[("host", "a"), ("host", "b")], Err(400)),
        (h11, absolute, &[("host", "a.test")], Ok(Some("b.test:81"))),
        (h11, absolute, &[], Err(400)),
        (h11, "http://u@b.test/x", &[("host", "b.test")], Err(400)),
        (h10, absolute, &[], Ok(Some("b.test:81"))),
        (h2, absolute, &[], Ok(Some("b.test:81"))),
        (
            h2,
            absolute,
            &[("host", "B.test:81")],
            Ok(Some("b.test:81")),
        ),
        (h2, absolute, &[("host", "a.test")], Err(400)),
        (h2, "/x", &[], Err(400)),
    ] {
        let mut head = head(version, target, fields);
        let got = admit(&mut head).map(|()| host_of(&head.headers));
        let got = got.map_err(|refused| refused.status.as_u16());
        assert_eq!(got, want, "{version:?} {target} {fields:?}");
        assert_eq!(head.uri.path(), "/x", "the path is the same in every form");
    }
}

#[test]
fn only_chunked_is_a_known_transfer_coding() {
    for (codings, want) in [
        (&["chunked"][..], Ok(())),
        (&["Chunked"], Ok(())),
        (&["gzip, chunked"], Err(501)),
        (&["gzip", "chunked"], Err(501)),
        (&["chunked, chunked"], Err(501)),
        (&["identity"], Err(501)),
    ] {
        let mut fields = vec![("host", "a.test")];
        fields.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
        let mut head = head(Version::HTTP_11, "/", &fields);
        let got = admit(&mut head).map_err(|refused| refused.status.as_u16());
        assert_eq!(got, want, "{codings:?}");
    }
}

#[test]
fn fields_of_the_connection_go_and_no_client_talks_away_ours() {
    let named = "X-Gone, close, Host, Content-Length, authorization, Fn-Call-Id, \
                 Tradewind-Forwarded-By, not a name, ";
    let mut head = head(
        Version::HTTP_11,
        "/",
        &[
            ("host", "a.test"),
            ("connection", named),
            ("connection", "x-gone-too"),
            ("x-gone", "1"),
            ("x-gone-too", "1"),
            ("x-kept", "1"),
            ("content-length", "3"),
            ("authorization", "a"),
            ("fn-call-id", "1"),
            ("tradewind-forwarded-by", "gateway"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authenticate", "a"),
            ("proxy-authorization", "a"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
        ],
    );
    admit(&mut head).unwrap();
    let mut left: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            "authorization",
            "content-length",
            "fn-call-id",
            "host",
            "tradewind-forwarded-by",
            "x-kept",
        ]
    );
}

#[test]
fn heads_are_bounded_by_fields_and_bytes() {
    for (fields, value_bytes, want) in [
        (FIELDS_MAX - 1, 1, Ok(())),
        (FIELDS_MAX, 1, Err(431)),
        (1, HEAD_BYTES_MAX, Err(431)),
        (1, HEAD_BYTES_MAX / 2, Ok(())),
    ] {
        let mut head = head(Version::HTTP_2, "http://a.test/", &[]);
        for _ in 0..fields {
            let value = HeaderValue::from_str(&"v".repeat(value_bytes)).unwrap();
            head.headers.append("x", value);
        }
        head.headers
            .insert(HOST, HeaderValue::from_static("a.test"));
        let got = admit(&mut head).map_err(|refused| refused.status.as_u16());
        assert_eq!(got, want, "{fields} fields of {value_bytes} bytes");
    }
}

#[test]
fn no_door_is_a_tunnel() {
    let (mut head, ()) = Request::connect("a.test:443")
        .body(())
        .unwrap()
        .into_parts();
    let refused = admit(&mut head).unwrap_err();
    assert_eq!(refused.status, 405);
    assert_eq!(refused.message, "Method not allowed: CONNECT a.test:443");
}

proptest::proptest! {
    #[test]
    fn whatever_is_admitted_has_one_wellformed_host(host in "[ -~]{0,24}") {
        let mut head = head(Version::HTTP_11, "/", &[]);
        head.headers.insert(HOST, HeaderValue::from_str(&host).unwrap());
        if admit(&mut head).is_ok() {
            let host = host_of(&head.headers).unwrap();
            let authority: http::uri::Authority = host.parse().unwrap();
            proptest::prop_assert!(!authority.host().is_empty());
            proptest::prop_assert!(!host.contains('@'));
        }
    }
}
