//! What an authoritative server owes whatever zone it serves (RFC 8906 §8 and the rest).

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use tempfile::tempdir;

use crate::harness::{
    Global, PATIENCE, Server, ZONE, body, command, config, fra, iad, ips, nrt, query, seal, subnet,
    with_edns, with_option, with_subnet,
};

fn name(label: &str) -> String {
    format!("{label}.{ZONE}")
}

#[test]
fn names_exist_or_not_as_the_zone_says() {
    use RecordType as T;
    use ResponseCode::{FormErr, NXDomain, NoError, Refused};
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.1", &dir, &global);
    let ns2 = format!("ns2.{ZONE}");
    // Answers expected: their number. NODATA and NXDOMAIN have none and carry the SOA.
    for (asked, kind, code, answers) in [
        (ZONE.to_owned(), T::SOA, NoError, 1),
        (ZONE.to_owned(), T::NS, NoError, 2),
        (ZONE.to_owned(), T::A, NoError, 1),
        (ZONE.to_owned(), T::AAAA, NoError, 0),
        (ZONE.to_owned(), T::HTTPS, NoError, 0),
        (ZONE.to_owned(), T::CAA, NoError, 0),
        (ZONE.to_owned(), T::MX, NoError, 0),
        (name("invoke"), T::A, NoError, 1),
        (name("invoke"), T::TXT, NoError, 0),
        (name("some-app"), T::A, NoError, 1),
        (name("some-app"), T::HTTPS, NoError, 0),
        (name("some-app"), T::SOA, NoError, 0),
        (name("some-app"), T::NS, NoError, 0),
        (name("some-app"), T::Unknown(4711), NoError, 0),
        (name("hello--some-app"), T::A, NoError, 1),
        (name("x.some-app"), T::A, NoError, 1),
        (name("x.invoke"), T::A, NXDomain, 0),
        (name("under_score"), T::A, NoError, 1),
        (name("at"), T::A, NoError, 0),
        (name("at"), T::TXT, NoError, 0),
        (name("fra.at"), T::A, NoError, 1),
        (name("fra.at"), T::AAAA, NoError, 0),
        (name("lhr.at"), T::A, NXDomain, 0),
        (name("lhr.at"), T::ANY, NXDomain, 0),
        (name("x.fra.at"), T::A, NXDomain, 0),
        (name("ns1"), T::A, NoError, 1),
        (name("ns1"), T::AAAA, NoError, 0),
        (name("ns7"), T::A, NXDomain, 0),
        (ns2.clone(), T::AAAA, NoError, 1),
        (ns2, T::TXT, NoError, 0),
        ("example.com".to_owned(), T::A, Refused, 0),
        ("test".to_owned(), T::SOA, Refused, 0),
        (format!("x{ZONE}"), T::A, Refused, 0),
        (ZONE.to_owned(), T::AXFR, Refused, 0),
        (ZONE.to_owned(), T::IXFR, Refused, 0),
        (ZONE.to_owned(), T::Unknown(249), Refused, 0),
        (ZONE.to_owned(), T::Unknown(253), Refused, 0),
        (ZONE.to_owned(), T::Unknown(254), Refused, 0),
        (ZONE.to_owned(), T::OPT, Refused, 0),
        (ZONE.to_owned(), T::Unknown(128), FormErr, 0),
    ] {
        let case = format!("{asked} {kind}");
        let answer = server.ask(&query(&asked, kind));
        assert_eq!(answer.metadata.response_code, code, "{case}");
        assert_eq!(answer.answers.len(), answers, "{case}: {answer}");
        let ours = code == NoError || code == NXDomain;
        assert_eq!(answer.metadata.authoritative, ours, "{case}");
        let soa: Vec<_> = answer.authorities.iter().collect();
        if ours && answers == 0 {
            assert_eq!(soa.len(), 1, "{case}");
            let RData::SOA(data) = &soa[0].data else {
                panic!("{case}: {:?}", soa[0]);
            };
            assert_eq!(soa[0].ttl, data.minimum, "{case}: RFC 2308 §5");
            assert!(soa[0].ttl <= 30, "{case}");
            assert_eq!(data.serial, 1, "{case}");
        } else {
            assert!(soa.is_empty(), "{case}");
        }
        assert!(answer.edns.is_none(), "{case}: none was asked for");
    }
}

#[test]
fn any_is_answered_as_rfc_8482_says() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.2", &dir, &global);
    for asked in [
        ZONE.to_owned(),
        name("some-app"),
        name("at"),
        name("fra.at"),
    ] {
        let answer = server.ask(&query(&asked, RecordType::ANY));
        assert_eq!(answer.answers.len(), 1, "{asked}");
        assert!(matches!(answer.answers[0].data, RData::HINFO(_)), "{asked}");
    }
}

#[test]
fn the_question_comes_back_byte_for_byte_and_matches_in_any_case() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.3", &dir, &global);
    let packet = query("sOmE-aPp.Fn.TeSt", RecordType::A).to_vec().unwrap();
    let answer = server.ask_bytes(&packet);
    assert_eq!(packet[12..], answer[12..packet.len()]);
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].name.to_string(), "sOmE-aPp.Fn.TeSt.");
}

#[test]
fn flags_are_copied_and_set_as_an_authority_must() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.4", &dir, &global);
    let mut asked = with_edns(&name("some-app"), RecordType::A);
    asked.metadata.recursion_desired = true;
    asked.metadata.checking_disabled = true;
    asked.metadata.authentic_data = true;
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    asked.edns.as_mut().unwrap().flags_mut().z = 0x1234;
    let answer = server.ask(&asked);
    let flags = answer.metadata;
    assert!(flags.authoritative && flags.recursion_desired && flags.checking_disabled);
    assert!(!flags.recursion_available && !flags.authentic_data && !flags.truncation);
    let edns = answer.edns.unwrap();
    assert!(edns.flags().dnssec_ok);
    assert_eq!(edns.flags().z, 0);
}

#[test]
fn other_classes_and_operations_are_refused() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.5", &dir, &global);
    for (asked, class) in [
        ("version.bind", DNSClass::CH),
        ("id.server", DNSClass::CH),
        (ZONE, DNSClass::CH),
        (ZONE, DNSClass::HS),
        (ZONE, DNSClass::NONE),
        (ZONE, DNSClass::ANY),
    ] {
        let mut message = query(asked, RecordType::TXT);
        message.queries[0].set_query_class(class);
        let answer = server.ask(&message);
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::Refused,
            "{asked} {class}"
        );
    }
    for op_code in [
        OpCode::Notify,
        OpCode::Update,
        OpCode::Status,
        OpCode::Unknown(15),
    ] {
        let mut message = query(ZONE, RecordType::SOA);
        message.metadata.op_code = op_code;
        let answer = server.ask(&message);
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NotImp,
            "{op_code:?}"
        );
        assert_eq!(answer.metadata.op_code, op_code);
    }
    // A header alone with an unknown operation (RFC 8906 §8.1.4).
    let answer = server.ask_bytes(&[0xAB, 0xCD, 0x78, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((&answer[..2], answer[3] & 0x0F), (&[0xAB, 0xCD][..], 4));
}

#[test]
fn malformed_queries_get_format_errors_or_nothing() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.6", &dir, &global);
    let good = query(&name("some-app"), RecordType::A).to_vec().unwrap();
    let mut response = good.clone();
    response[2] |= 0x80;
    // Dropped: the next answer is the good query's.
    for (case, packet) in [
        ("a response", response.as_slice()),
        ("less than a header", &good[..11]),
        ("nothing", &[]),
    ] {
        let socket = std::net::UdpSocket::bind((server.dns.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(packet, server.dns).unwrap();
        let mut marked = good.clone();
        marked[0] = 0x99;
        socket.send_to(&marked, server.dns).unwrap();
        let mut answer = [0; 512];
        socket.recv(&mut answer).unwrap();
        assert_eq!(answer[0], 0x99, "{case}");
    }
    let no_question = [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut two = query(ZONE, RecordType::A);
    two.add_query(two.queries[0].clone());
    let two = two.to_vec().unwrap();
    let mut promised = good.clone();
    promised[4..6].copy_from_slice(&[0xFF, 0xFF]);
    let mut looping = good[..12].to_vec();
    looping.extend([0xC0, 12, 0, 1, 0, 1]);
    for (case, packet) in [
        ("no question", &no_question[..]),
        ("two questions", &two),
        ("65,535 questions", &promised),
        ("a name that points at itself", &looping),
        ("cut off in the question", &good[..20]),
    ] {
        let answer = server.ask_bytes(packet);
        assert_eq!(answer[..2], packet[..2], "{case}");
        assert_eq!(answer[3] & 0x0F, 1, "{case}: FORMERR");
    }
    assert_eq!(
        ips(&server.ask(&query(&name("some-app"), RecordType::A))).len(),
        1
    );
}

#[test]
fn edns_is_answered_with_our_own_size_and_version() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.7", &dir, &global);
    for size in [0, 512, 1232, 4096, 65_535] {
        let mut message = with_edns(&name("some-app"), RecordType::A);
        message.edns.as_mut().unwrap().set_max_payload(size);
        let answer = server.ask(&message);
        assert_eq!(answer.edns.unwrap().max_payload(), 1232, "{size}");
    }
    let mut message = with_edns(&name("some-app"), RecordType::A);
    message.edns.as_mut().unwrap().set_version(1);
    let answer = server.ask(&message);
    // 16 is also BADSIG, which is how hickory reads it.
    assert_eq!(u16::from(answer.metadata.response_code), 16, "BADVERS");
    assert_eq!(answer.edns.unwrap().version(), 0);
    assert!(answer.answers.is_empty());

    // Unknown options are ignored and not sent back; NSID only if asked for.
    let answer = server.ask(&with_option(
        &name("some-app"),
        RecordType::A,
        4711,
        vec![1, 2],
    ));
    assert_eq!(answer.answers.len(), 1);
    assert!(answer.edns.unwrap().options().as_ref().is_empty());
    let answer = server.ask(&with_option(
        &name("some-app"),
        RecordType::A,
        3,
        Vec::new(),
    ));
    let edns = answer.edns.unwrap();
    let Some(EdnsOption::NSID(nsid)) = edns.option(EdnsCode::NSID) else {
        panic!("no NSID: {edns:?}");
    };
    assert_eq!(nsid.as_ref(), b"dns-test");
}

#[test]
fn client_subnets_are_checked_and_echoed() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.8", &dir, &global);
    let app = name("some-app");
    // hickory itself refuses the first ones, and then sends no OPT record.
    for (case, by_us, value) in [
        ("unknown family", false, vec![0, 3, 8, 0, 1]),
        ("too few bytes", false, vec![0, 1, 24, 0, 1, 2]),
        ("cut off", false, vec![0, 1]),
        ("prefix over 32", false, vec![0, 1, 33, 0, 1, 2, 3, 4, 5]),
        ("too many bytes", true, vec![0, 1, 8, 0, 1, 2]),
        ("host bits", true, vec![0, 1, 7, 0, 1]),
        ("scope set", true, vec![0, 1, 8, 8, 1]),
    ] {
        let answer = server.ask(&with_option(&app, RecordType::A, 8, value));
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::FormErr,
            "{case}"
        );
        assert!(answer.edns.is_some() || !by_us, "{case}: FORMERR with OPT");
        assert!(subnet(&answer).is_none(), "{case}");
    }
    // Scope 0: answers that are the same for everybody, and networks not to be used.
    for (case, message) in [
        (
            "negative",
            with_subnet(&name("lhr.at"), RecordType::A, "141.2.0.0/16"),
        ),
        ("SOA", with_subnet(ZONE, RecordType::SOA, "141.2.0.0/16")),
        (
            "static",
            with_subnet(&name("fra.at"), RecordType::A, "141.2.0.0/16"),
        ),
        (
            "IPv6",
            with_subnet(&name("fra.at"), RecordType::A, "2001:db8::/32"),
        ),
    ] {
        let (source, scope) = subnet(&server.ask(&message)).unwrap();
        assert_eq!(scope, 0, "{case}");
        assert!(source == 16 || source == 32, "{case}");
    }
    assert_eq!(
        subnet(&server.ask(&with_subnet(&app, RecordType::A, "0.0.0.0/0"))),
        Some((0, 0))
    );
    // No subnet asked, none told.
    assert!(subnet(&server.ask(&with_edns(&app, RecordType::A))).is_none());
    let (source, scope) =
        subnet(&server.ask(&with_subnet(&app, RecordType::A, "141.2.0.0/16"))).unwrap();
    assert_eq!(source, 16);
    assert!(scope > 0, "the answer depends on where the client is");
}

#[test]
fn tcp_answers_queries_one_after_another_on_a_connection() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.9", &dir, &global);
    let mut stream = TcpStream::connect(server.dns).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = Vec::new();
    for id in 1..=3_u16 {
        let mut message = query(&name("some-app"), RecordType::A);
        message.metadata.id = id;
        let packet = message.to_vec().unwrap();
        sent.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
        sent.extend(packet);
    }
    stream.write_all(&sent).unwrap();
    for id in 1..=3_u16 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet).unwrap();
        let answer = Message::from_vec(&packet).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
    }
}

#[test]
fn tcp_survives_clients_that_break_off_and_tells_them_of_errors() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.12", &dir, &global);
    for sent in [
        &[][..],
        &[0],
        &[0, 5, 1, 2],
        &[0, 3, 1, 2, 3],
        &[0xFF, 0xFF, 0],
    ] {
        let mut stream = TcpStream::connect(server.dns).unwrap();
        stream.write_all(sent).unwrap();
    }
    let mut response = query(&name("some-app"), RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    assert_eq!(
        over_tcp(&server, &response),
        None,
        "a response is not answered"
    );
    let mut cut = query(&name("some-app"), RecordType::A).to_vec().unwrap();
    cut.truncate(20);
    let answer = over_tcp(&server, &cut).unwrap();
    assert_eq!((&answer[..2], answer[3] & 0x0F), (&cut[..2], 1), "FORMERR");
    let good = query(&name("some-app"), RecordType::A).to_vec().unwrap();
    assert_eq!(
        Message::from_vec(&over_tcp(&server, &good).unwrap())
            .unwrap()
            .answers
            .len(),
        1
    );
}

#[test]
fn one_address_cannot_take_every_tcp_connection() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let server = Server::with_regions("127.42.0.13", &dir, &global);
    let held: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(server.dns).unwrap())
        .collect();
    // Those beyond the limit are closed at once.
    let closed = held.iter().rev().any(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(stream.read(&mut [0]), Ok(0) | Err(_))
    });
    assert!(closed);
    drop(held);
    let good = query(&name("some-app"), RecordType::A).to_vec().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while over_tcp(&server, &good).is_none() {
        assert!(std::time::Instant::now() < deadline, "places come free");
    }
}

/// With few files to open there are fewer connections, and the rest is for what else the server does.
#[test]
fn tcp_connections_leave_descriptors_for_everything_else() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    global.offer(seal(1, &body(vec![iad(), fra(), nrt()])));
    let ip = "127.42.0.14";
    let config = config(ip, dir.path(), &[&global.url]);
    let daemon = command(dir.path(), &config);
    let mut few = std::process::Command::new("/bin/sh");
    few.args(["-c", "ulimit -Sn 60; ulimit -Hn 100; exec \"$@\"", "sh"])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let server = Server::start_by(few);
    server.until_revision(1);
    // From several addresses, each of which may have 32.
    let dns = socket2::SockAddr::from(server.dns);
    let held: Vec<_> = (1..=8)
        .flat_map(|last| std::iter::repeat_n(last, 25))
        .map(|last| {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            let from = std::net::SocketAddr::from(([127, 42, 14, last], 0));
            socket.bind(&from.into()).unwrap();
            socket.connect(&dns).unwrap();
            socket
        })
        .collect();
    assert_eq!(held.len(), 200);
    // Its own port and its file of the view need descriptors too.
    global.offer(seal(2, &body(vec![iad(), fra()])));
    server.until_revision(2);
    let answer = server.ask(&query(&name("some-app"), RecordType::A));
    assert_eq!(answer.answers.len(), 1);
    let said = server.log();
    let paused = said.iter().find(|line| line.contains("cannot accept"));
    assert_eq!(paused, None);
}

/// One query over a connection of its own; `None` if the server closes without an answer.
fn over_tcp(server: &Server, packet: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server.dns).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, packet].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn errors_say_more_to_those_who_speak_edns() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let waiting = Server::start("127.42.0.10", dir.path(), &[&global.url]);
    let extended = |answer: &Message| match answer.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, value) => Some(u16::from_be_bytes([value[0], value[1]])),
        _ => None,
    };
    let answer = waiting.ask(&with_edns("example.com", RecordType::A));
    assert_eq!(extended(&answer), Some(20), "not authoritative");
    // Without any view: what only a view tells is not ready, the rest is answered.
    let answer = waiting.ask(&with_edns(&name("some-app"), RecordType::A));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended(&answer), Some(14), "not ready");
    assert_eq!(waiting.ask(&query(ZONE, RecordType::NS)).answers.len(), 2);
    assert_eq!(waiting.get("/readyz").0, 503);
    assert_eq!(waiting.get("/healthz").0, 200);
}

#[test]
fn an_answer_too_large_for_udp_is_cut_whole_and_given_over_tcp() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    let mut view = crate::harness::body(
        (0..120)
            .map(|number| {
                crate::harness::region(
                    &format!("r{number}"),
                    &format!("192.0.2.{number}"),
                    0.0,
                    0.0,
                )
            })
            .collect(),
    );
    for region in &mut view.regions {
        region.verdict = api_wire::planes::VerdictBody::Down;
    }
    global.offer(crate::harness::seal(1, &view));
    let server = Server::start("127.42.0.11", dir.path(), &[&global.url]);
    server.until_revision(1);
    for (case, message, limit) in [
        ("plain", query(&name("some-app"), RecordType::A), 512),
        ("EDNS", with_edns(&name("some-app"), RecordType::A), 1232),
    ] {
        let bytes = server.ask_bytes(&message.to_vec().unwrap());
        assert!(bytes.len() <= limit, "{case}: {}", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(
            answer.metadata.truncation && answer.answers.is_empty(),
            "{case}"
        );
        assert_eq!(answer.edns.is_some(), message.edns.is_some(), "{case}");
    }
    let packet = query(&name("some-app"), RecordType::A).to_vec().unwrap();
    let answer = over_tcp(&server, &packet).unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 120);
}

#[test]
fn every_error_of_the_http_listener_is_json() {
    let (dir, global) = (tempdir().unwrap(), Global::start());
    // Without a view, so that what needs one is refused too.
    let server = Server::start("127.42.0.14", dir.path(), &[&global.url]);
    for (method, path, want) in [
        ("GET", "/nope", 404),
        ("GET", "/%ff", 404),
        ("GET", "/readyz", 503),
        ("GET", "/v1/explain?client=x", 400),
        ("GET", "/v1/explain?name=%ff&client=%ff", 400),
        ("GET", "/v1/explain?name=a&name=b", 400),
        ("GET", "/v1/explain?name=a&client=1.2.3.4", 503),
        ("POST", "/v1/explain", 405),
        ("PUT", "/v1/status", 405),
        ("DELETE", "/metrics", 405),
        ("TRACE", "/healthz", 405),
    ] {
        let (head, body) = server.ask_http(method, path);
        let case = format!("{method} {path}: {head}\n{body}");
        assert_eq!(head[9..12].parse(), Ok(want), "{case}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("content-type: application/json"), "{case}");
        let body: serde_json::Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{case}"));
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{case}"
        );
    }
    assert_eq!(server.get("/healthz").0, 200);
}
