//! Gateways and global nodes answer the same request alike: bytes over TCP, and what comes back.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use chaos_tests_cluster::federation::binary;
use chaos_tests_cluster::raw::{RawAnswer, exchange};

/// A request, and what both doors say to it. In `request`, `HOST` is the door and `ID` the function.
struct Case {
    name: &'static str,
    request: Vec<u8>,
    half_closes: bool,
    status: u16,
    /// In the message of an error, in the body of an answer.
    says: &'static str,
    /// Not in the body.
    says_not: &'static [&'static str],
    /// (name, value) of a field; without a value it must not be there.
    fields: &'static [(&'static str, Option<&'static str>)],
    interim: &'static [u16],
}

impl Case {
    fn new(
        name: &'static str,
        request: impl Into<Vec<u8>>,
        status: u16,
        says: &'static str,
    ) -> Self {
        Self {
            name,
            request: request.into(),
            half_closes: false,
            status,
            says,
            says_not: &[],
            fields: &[],
            interim: &[],
        }
    }

    fn half_closed(mut self) -> Self {
        self.half_closes = true;
        self
    }

    fn not_saying(mut self, says_not: &'static [&'static str]) -> Self {
        self.says_not = says_not;
        self
    }

    fn fields(mut self, fields: &'static [(&'static str, Option<&'static str>)]) -> Self {
        self.fields = fields;
        self
    }

    fn interim(mut self, interim: &'static [u16]) -> Self {
        self.interim = interim;
        self
    }

    fn is_head(&self) -> bool {
        self.request.starts_with(b"HEAD ")
    }

    fn check(&self, answer: &RawAnswer) -> anyhow::Result<()> {
        let text = answer.text();
        let said = match answer.status {
            // A function's own answers are its own affair.
            400.. if !self.is_head() && answer.field("x-answer").is_none() => {
                let kind = answer.field("content-type");
                ensure!(
                    kind == Some("application/json; charset=utf-8"),
                    "an error of type {kind:?}: {text}"
                );
                answer.message().context("an error without a message")?
            }
            _ => text.clone(),
        };
        ensure!(
            answer.status == self.status && said.contains(self.says),
            "{} {said:?} in place of {} {:?}",
            answer.status,
            self.status,
            self.says
        );
        for not in self.says_not {
            ensure!(!text.contains(not), "{not:?} in {text:?}");
        }
        for (name, value) in self.fields {
            ensure!(
                answer.field(name) == *value,
                "{name}: {:?}",
                answer.field(name)
            );
        }
        ensure!(
            answer.interim == self.interim,
            "interim {:?}",
            answer.interim
        );
        Ok(())
    }
}

/// `request` with its head's end and a body.
fn with(head: &str, body: &str) -> String {
    format!(
        "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn invoke(fields: &str, body: &str) -> String {
    with(
        &format!("POST /invoke/ID HTTP/1.1\r\nHost: HOST\r\n{fields}"),
        body,
    )
}

fn trigger(method: &str, fields: &str, body: &str) -> String {
    let head = format!("{method} /t/shop/answering HTTP/1.1\r\nHost: HOST\r\n{fields}");
    with(&head, body)
}

fn path(method: &str, path: &str) -> String {
    with(&format!("{method} {path} HTTP/1.1\r\nHost: HOST\r\n"), "")
}

fn with_host(hosts: &[&str]) -> String {
    let mut head = "POST /invoke/ID HTTP/1.1\r\n".to_owned();
    for host in hosts {
        let _infallible = write!(head, "Host: {host}\r\n");
    }
    with(&head, "hello")
}

fn chunked(fields: &str, chunks: &str) -> String {
    format!("POST /invoke/ID HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n{fields}\r\n{chunks}")
}

const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn cases() -> Vec<Case> {
    let mut cases = hosts();
    cases.extend(codings());
    cases.extend(bodies());
    cases.extend(routes());
    cases.extend(heads());
    cases.extend(connections());
    cases.extend(answers());
    cases
}

fn hosts() -> Vec<Case> {
    let none = "the request has no Host header";
    let two = "more than one Host header";
    let malformed = "Host header is malformed";
    let line = |line: &str, host: &str| with(&format!("{line}\r\n{host}"), "headers");
    let absolute = "POST http://shop.example:81/t/shop/answering HTTP/1.1";
    vec![
        Case::new("no host", with_host(&[]), 400, none),
        Case::new("two hosts", with_host(&["a", "b"]), 400, two),
        Case::new("one host twice", with_host(&["a", "a"]), 400, two),
        Case::new("an empty host", with_host(&[""]), 400, malformed),
        Case::new("a port alone", with_host(&[":80"]), 400, malformed),
        Case::new("a host with a space", with_host(&["a b"]), 400, malformed),
        Case::new("a host with a path", with_host(&["a/b"]), 400, malformed),
        Case::new("a host with a user", with_host(&["u@a"]), 400, malformed),
        Case::new("a list of hosts", with_host(&["a, b"]), 400, malformed),
        Case::new(
            "a port that is no number",
            with_host(&["a:http"]),
            400,
            malformed,
        ),
        Case::new(
            "a port past the last",
            with_host(&["a:65536"]),
            400,
            malformed,
        ),
        Case::new("half a literal", with_host(&["[::1"]), 400, malformed),
        Case::new(
            "a literal without brackets",
            with_host(&["::1"]),
            400,
            malformed,
        ),
        Case::new("a host's own port", with_host(&["a:81"]), 200, "hello"),
        Case::new("an empty port", with_host(&["a:"]), 200, "hello"),
        Case::new("a literal", with_host(&["[::1]:81"]), 200, "hello"),
        Case::new(
            "HTTP/1.0 knows no host",
            with("POST /invoke/ID HTTP/1.0\r\n", "hello"),
            200,
            "hello",
        ),
        Case::new(
            "HTTP/1.0 with two hosts",
            with(
                "POST /invoke/ID HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
                "hello",
            ),
            400,
            two,
        ),
        Case::new(
            "an absolute target wins",
            line(absolute, "Host: other.example\r\n"),
            200,
            "fn-http-request-url: http://shop.example:81/t/shop/answering",
        ),
        Case::new(
            "an absolute target and no host",
            line(absolute, ""),
            400,
            none,
        ),
        Case::new(
            "an absolute target with a user",
            line("POST http://u@a/t/shop/answering HTTP/1.1", "Host: a\r\n"),
            400,
            "names no host",
        ),
        Case::new(
            "a tunnel",
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: close\r\n\r\n",
            405,
            "Method not allowed: CONNECT a:443",
        ),
        Case::new(
            "the server itself",
            path("OPTIONS", "*"),
            404,
            "Path not found: OPTIONS *",
        ),
    ]
}

fn codings() -> Vec<Case> {
    let only = "the only transfer coding is chunked";
    let broke = "the request body broke off";
    vec![
        Case::new("chunked", chunked(CHUNKED, HELLO), 200, "hello"),
        Case::new(
            "in another case",
            chunked("transfer-encoding: Chunked\r\n", HELLO),
            200,
            "hello",
        ),
        Case::new(
            "gzip, chunked",
            chunked("Transfer-Encoding: gzip, chunked\r\n", HELLO),
            501,
            only,
        ),
        Case::new(
            "gzip and chunked",
            chunked(
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                HELLO,
            ),
            501,
            only,
        ),
        Case::new(
            "chunked twice",
            chunked("Transfer-Encoding: chunked, chunked\r\n", HELLO),
            501,
            only,
        ),
        Case::new(
            "gzip alone",
            chunked("Transfer-Encoding: gzip\r\n", HELLO),
            400,
            "malformed",
        ),
        Case::new(
            "a coding in HTTP/1.0",
            format!("POST /invoke/ID HTTP/1.0\r\nHost: HOST\r\n{CHUNKED}\r\n{HELLO}"),
            400,
            "malformed",
        ),
        Case::new(
            "chunked with a length",
            chunked("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", HELLO),
            200,
            "hello",
        ),
        Case::new(
            "an extension",
            chunked(CHUNKED, "5;a=b\r\nhello\r\n0\r\n\r\n"),
            200,
            "hello",
        ),
        Case::new(
            "a trailer",
            chunked(CHUNKED, "5\r\nhello\r\n0\r\nX-A: b\r\n\r\n"),
            200,
            "hello",
        ),
        Case::new(
            "no chunk size",
            chunked(CHUNKED, "zz\r\nhello\r\n0\r\n\r\n"),
            400,
            broke,
        ),
        Case::new(
            "chunks that end early",
            chunked(CHUNKED, "5\r\nhel"),
            400,
            broke,
        )
        .half_closed(),
        Case::new(
            "no last chunk",
            chunked(CHUNKED, "5\r\nhello\r\n"),
            400,
            broke,
        )
        .half_closed(),
        Case::new(
            "whole chunks, half closed",
            chunked(CHUNKED, HELLO),
            200,
            "hello",
        )
        .half_closed(),
    ]
}

fn bodies() -> Vec<Case> {
    let lengths = |lengths: &[&str]| {
        let mut head = "POST /invoke/ID HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n".to_owned();
        for length in lengths {
            let _infallible = write!(head, "Content-Length: {length}\r\n");
        }
        format!("{head}\r\nhello")
    };
    let expecting = |path: &str, fields: &str, body: &str| {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\n{fields}");
        format!("{head}Connection: close\r\n\r\n{body}")
    };
    let large = "Content-Length: 6291457\r\n";
    let too_large = "Content-Length too large for this server, 6291457 > max 6291456";
    let upload = |path: &str, bytes: usize| {
        with(
            &format!("POST {path} HTTP/1.1\r\nHost: HOST\r\n"),
            &"x".repeat(bytes),
        )
    };
    let chunk = format!("{:x}\r\n{}\r\n", 7 << 20, "x".repeat(7 << 20));
    vec![
        Case::new("no length", lengths(&["five"]), 400, "malformed"),
        Case::new("a signed length", lengths(&["+5"]), 400, "malformed"),
        Case::new("a negative length", lengths(&["-5"]), 400, "malformed"),
        Case::new("two lengths", lengths(&["5", "6"]), 400, "malformed"),
        Case::new("one length twice", lengths(&["5", "5"]), 200, "hello"),
        Case::new(
            "a body cut short",
            lengths(&["6"]),
            400,
            "the request body broke off",
        )
        .half_closed(),
        Case::new("no body at all", invoke("", ""), 200, ""),
        Case::new(
            "told to go on",
            expecting("/invoke/ID", "Content-Length: 5\r\n", "hello"),
            200,
            "hello",
        )
        .interim(&[100]),
        Case::new(
            "refused before a 100: unknown",
            expecting("/invoke/nope", "Content-Length: 5\r\n", ""),
            404,
            "Fn not found",
        ),
        Case::new(
            "refused before a 100: too large",
            expecting("/invoke/ID", large, ""),
            413,
            too_large,
        ),
        Case::new(
            "refused before a 100: detached",
            expecting(
                "/invoke/ID",
                "Content-Length: 5\r\nFn-Invoke-Type: detached\r\n",
                "",
            ),
            501,
            "Detach call functions are not supported",
        ),
        Case::new(
            "a refused upload hears why",
            upload("/invoke/nope", 4 << 20),
            404,
            "Fn not found",
        ),
        Case::new(
            "an upload that is too large hears why",
            upload("/invoke/ID", (6 << 20) + 1),
            413,
            too_large,
        ),
        Case::new(
            "chunks that are too many hear why",
            chunked(CHUNKED, &format!("{chunk}0\r\n\r\n")),
            413,
            "request body too large for this server, max 6291456",
        ),
    ]
}

fn routes() -> Vec<Case> {
    vec![
        Case::new("a trigger", trigger("GET", "", ""), 200, ""),
        Case::new(
            "a trigger with another method",
            trigger("PURGE", "", "hello"),
            200,
            "hello",
        ),
        Case::new(
            "a query is passed on",
            path("GET", "/t/shop/answering?a=b").replace("Content-Length: 0", "Content-Length: 7")
                + "headers",
            200,
            "/t/shop/answering?a=b",
        ),
        Case::new(
            "GET of an endpoint",
            path("GET", "/invoke/ID"),
            405,
            "Method not allowed: GET /invoke/",
        ),
        Case::new(
            "PUT of an endpoint",
            path("PUT", "/invoke/ID"),
            405,
            "Method not allowed: PUT /invoke/",
        ),
        Case::new(
            "an endpoint without an id",
            path("POST", "/invoke/"),
            404,
            "Path not found: POST /invoke/",
        ),
        Case::new(
            "an endpoint below one",
            path("POST", "/invoke/a/b"),
            404,
            "Path not found: POST /invoke/a/b",
        ),
        Case::new(
            "an unknown function",
            path("POST", "/invoke/nope"),
            404,
            "Fn not found",
        ),
        Case::new(
            "an id that is no text",
            path("POST", "/invoke/%ff"),
            404,
            "Fn not found",
        ),
        Case::new(
            "an unknown app",
            path("GET", "/t/nope/answering"),
            404,
            "App not found",
        ),
        Case::new(
            "an unknown trigger",
            path("GET", "/t/shop/nope"),
            404,
            "Trigger not found",
        ),
        Case::new(
            "a source that is no text",
            path("GET", "/t/shop/%ff"),
            404,
            "Trigger not found",
        ),
        Case::new(
            "a slash too many",
            path("GET", "/t/shop/answering/"),
            404,
            "Trigger not found",
        ),
        Case::new(
            "an app's root",
            path("GET", "/t/shop"),
            404,
            "Trigger not found",
        ),
        Case::new("no app", path("GET", "/t/"), 404, "Path not found: GET /t/"),
        Case::new(
            "nothing of ours",
            path("GET", "/nope"),
            404,
            "Path not found: GET /nope",
        ),
    ]
}

fn heads() -> Vec<Case> {
    let fields = |count: usize| {
        let fields: String = (0..count).map(|at| format!("X-{at}: v\r\n")).collect();
        with(
            &format!("POST /invoke/nope HTTP/1.1\r\nHost: HOST\r\n{fields}"),
            "",
        )
    };
    let sized = |bytes: usize| {
        let head = "POST /invoke/nope HTTP/1.1\r\nHost: HOST\r\nX-Long: ";
        with(&format!("{head}{}\r\n", "v".repeat(bytes)), "")
    };
    let too_many = "too many fields or bytes";
    let odd = |line: &str| {
        with(
            &format!("POST /invoke/ID HTTP/1.1\r\nHost: HOST\r\n{line}\r\n"),
            "hello",
        )
    };
    vec![
        Case::new(
            "more fields than the library's hundred",
            fields(200),
            404,
            "Fn not found",
        ),
        Case::new(
            "nearly all fields there may be",
            fields(9_990),
            404,
            "Fn not found",
        ),
        Case::new("too many fields", fields(10_001), 431, too_many),
        Case::new(
            "nearly all bytes there may be",
            sized(1_000_000),
            404,
            "Fn not found",
        ),
        Case::new("too many bytes", sized(1_100_000), 431, too_many),
        Case::new(
            "a long target",
            path("POST", &format!("/invoke/{}", "a".repeat(60_000))),
            404,
            "Fn not found",
        ),
        Case::new(
            "a target too long",
            path("POST", &format!("/invoke/{}", "a".repeat(70_000))),
            414,
            "target is too long",
        ),
        Case::new("a line without a colon", odd("nonsense"), 400, "malformed"),
        Case::new("a space in a name", odd("X A: b"), 400, "malformed"),
        Case::new("a space before the colon", odd("X-A : b"), 400, "malformed"),
        Case::new("a folded line", odd("X-A: b\r\n c"), 400, "malformed"),
        Case::new("a NUL in a value", odd("X-A: b\0c"), 400, "malformed"),
        Case::new(
            "a bare return in a value",
            odd("X-A: b\rc"),
            400,
            "malformed",
        ),
        Case::new(
            "no method",
            " / HTTP/1.1\r\nHost: HOST\r\n\r\n",
            400,
            "malformed",
        ),
        Case::new(
            "an unknown version",
            "GET / HTTP/3.0\r\nHost: HOST\r\n\r\n",
            400,
            "malformed",
        ),
        Case::new(
            "no HTTP",
            "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
            400,
            "malformed",
        ),
        Case::new(
            "an empty line first",
            format!("\r\n{}", invoke("", "hello")),
            200,
            "hello",
        ),
        Case::new("a value that is no text", odd("X-A: \u{e9}"), 200, "hello"),
    ]
}

fn connections() -> Vec<Case> {
    let named = "Connection: X-Gone, x-gone-too\r\nX-Gone: 1\r\nX-Gone-Too: 1\r\nX-Kept: 1\r\n";
    let ours = "Connection: Host, Content-Length, Authorization, Fn-Intent\r\n\
                Authorization: a\r\nFn-Intent: b\r\n";
    let standard = "Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: trailers\r\n\
                    Proxy-Authorization: a\r\nTrailer: X-A\r\nUpgrade: h2c\r\nX-Kept: 1\r\n";
    let pipelined = path("POST", "/invoke/nope").replace("Connection: close\r\n", "");
    vec![
        Case::new(
            "fields that the connection names are gone",
            invoke(named, "headers"),
            200,
            "x-kept: 1",
        )
        .not_saying(&["x-gone"]),
        Case::new(
            "fields that it must not name are kept",
            invoke(ours, "headers"),
            200,
            "authorization: a",
        ),
        Case::new("so are Fn's", invoke(ours, "headers"), 200, "fn-intent: b"),
        Case::new(
            "an invoke type cannot be talked away",
            invoke(
                "Connection: Fn-Invoke-Type\r\nFn-Invoke-Type: detached\r\n",
                "",
            ),
            501,
            "Detach call functions",
        ),
        Case::new(
            "fields of the connection are gone",
            invoke(standard, "headers"),
            200,
            "x-kept: 1",
        )
        .not_saying(&[
            "keep-alive",
            "proxy-",
            "te: ",
            "trailer",
            "upgrade",
            "connection",
        ]),
        Case::new(
            "a trigger's too",
            trigger("POST", named, "headers"),
            200,
            "fn-http-h-x-kept: 1",
        )
        .not_saying(&["x-gone"]),
        Case::new(
            "a call id cannot be chosen",
            invoke("Fn-Call-Id: MINE\r\n", "headers"),
            200,
            "fn-call-id: ",
        )
        .not_saying(&["MINE"]),
        Case::new(
            "a whole call, half closed",
            invoke("", "sleep 300"),
            200,
            "sleep 300",
        )
        .half_closed(),
        Case::new(
            "a call without a body, half closed",
            trigger("GET", "", ""),
            200,
            "",
        )
        .half_closed(),
        Case::new(
            "two requests at once",
            format!("{pipelined}{}", path("POST", "/invoke/nope")),
            404,
            "Fn not found",
        ),
    ]
}

fn answers() -> Vec<Case> {
    let http = |status: u16| trigger("POST", "", &format!("http {status}"));
    let empty = &[
        ("content-length", None),
        ("transfer-encoding", None),
        ("x-answer", Some("1")),
    ];
    vec![
        Case::new("204 has no content and no length", http(204), 204, "")
            .fields(empty)
            .not_saying(&["http"]),
        Case::new("304 has none", http(304), 304, "")
            .fields(empty)
            .not_saying(&["http"]),
        Case::new("205 is empty", http(205), 205, "")
            .fields(&[("content-length", Some("0")), ("x-answer", Some("1"))])
            .not_saying(&["http"]),
        Case::new(
            "HEAD has no content",
            trigger("HEAD", "", "http 200"),
            200,
            "",
        )
        .fields(&[("content-length", None), ("x-answer", Some("1"))]),
        Case::new(
            "HEAD of an unknown trigger",
            path("HEAD", "/t/shop/nope"),
            404,
            "",
        ),
        Case::new("HEAD of an endpoint", path("HEAD", "/invoke/ID"), 405, ""),
        Case::new("a function's own status", http(404), 404, "http 404"),
        Case::new(
            "a status that is none",
            http(99),
            502,
            "invalid function response",
        ),
        Case::new(
            "a function that fails",
            invoke("", "wire 502"),
            502,
            "function failed",
        ),
        Case::new(
            "a function that times out",
            invoke("", "wire 504"),
            504,
            "Timed out",
        ),
        Case::new(
            "what a function says of tomorrow",
            invoke("", "wire 500"),
            502,
            "invalid function response",
        ),
        Case::new(
            "a status is not an endpoint's",
            invoke("", "http 404"),
            200,
            "http 404",
        )
        .fields(&[("fn-http-status", Some("404"))]),
    ]
}

/// What must be the same at both doors, beside what each case says.
const ALIKE: [&str; 5] = [
    "content-type",
    "transfer-encoding",
    "retry-after",
    "connection",
    "allow",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_answer_every_request_alike() -> anyhow::Result<()> {
    let federation = Federation::start_of(1, 1).await?;
    federation.deploy("shop", "answering", &binary("examples/answering-function")?)?;
    let ready = federation.ready()?;
    let gateway = ready
        .regions
        .first()
        .context("a region runs")?
        .gateway
        .clone();
    let api = &ready.globals.first().context("three nodes run")?.api;
    let global = api.trim_start_matches("http://").to_owned();
    let id = function_id(api).await?;

    let cases = cases();
    ensure!(cases.len() >= 60, "{} cases", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        let mut answers = Vec::new();
        for (door, address) in [("gateway", &gateway), ("global node", &global)] {
            let request = filled(&case.request, address, &id);
            let answer = exchange(address, &request, case.half_closes, case.is_head()).await;
            let checked = answer.and_then(|answer| case.check(&answer).map(|()| answer));
            match checked {
                Ok(answer) => answers.push(answer),
                Err(error) => failures.push(format!("{}: {door}: {error:#}", case.name)),
            }
        }
        if let [one, other] = &answers[..] {
            for name in ALIKE {
                let (one, other) = (one.field(name), other.field(name));
                if one != other {
                    failures.push(format!("{}: {name}: {one:?} and {other:?}", case.name));
                }
            }
            // A function sees what a global node adds for it, and may say so.
            let lengths = [one, other].map(|answer| answer.field("content-length").is_some());
            if lengths[0] != lengths[1] {
                failures.push(format!("{}: a length at one door", case.name));
            }
            if one.status >= 400 && one.message() != other.message() {
                let messages = (one.message(), other.message());
                failures.push(format!("{}: {messages:?}", case.name));
            }
            if one.rest.is_empty() != other.rest.is_empty() {
                failures.push(format!("{}: more than one answer at one door", case.name));
            }
        }
    }
    ensure!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    println!("{} requests are answered alike at both doors", cases.len());
    ensure!(
        !federation.log().contains("panicked"),
        "{}",
        federation.log()
    );
    Ok(())
}

fn filled(request: &[u8], host: &str, id: &str) -> Vec<u8> {
    let mut filled = Vec::with_capacity(request.len());
    let mut rest = request;
    // Only in the head: bodies are long, and say nothing of either.
    let head = rest.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = rest.split_at(head.map_or(rest.len(), |at| at + 4));
    rest = head;
    while let Some(first) = rest.first() {
        if let Some(tail) = rest.strip_prefix(b"HOST") {
            filled.extend(host.as_bytes());
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix(b"invoke/ID") {
            filled.extend(format!("invoke/{id}").as_bytes());
            rest = tail;
        } else {
            filled.push(*first);
            rest = &rest[1..];
        }
    }
    filled.extend(body);
    filled
}

async fn function_id(api: &str) -> anyhow::Result<String> {
    let app: serde_json::Value = get(&format!("{api}/v2/apps?name=shop")).await?;
    let app = app["items"][0]["id"].as_str().context("no app")?.to_owned();
    let function: serde_json::Value = get(&format!("{api}/v2/fns?app_id={app}")).await?;
    let id = function["items"][0]["id"].as_str().context("no function")?;
    Ok(id.to_owned())
}

async fn get(url: &str) -> anyhow::Result<serde_json::Value> {
    let text = reqwest::get(url).await?.text().await?;
    serde_json::from_str(&text).with_context(|| text.clone())
}
