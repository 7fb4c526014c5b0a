//! From a request to a response: what the protocol asks of any zone, around the zone.

use std::pin::Pin;
use std::sync::Arc;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsOption, NSIDPayload};
use hickory_proto::rr::{DNSClass, Record};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use metrics::{Counter, counter};
use tracing::debug;

use crate::config::canonical;
use crate::edns::{self, Options, UDP_BYTES_MAX};
use crate::steering::Block;
use crate::view::Views;
use crate::zone::{EDE_NOT_AUTHORITATIVE, Zone, ZoneAnswer};

/// A UDP answer without EDNS (RFC 1035 §4.2.1).
const PLAIN_UDP_BYTES_MAX: u16 = 512;

/// Answers requests from the view held at that moment. Cheap to clone.
#[derive(Clone)]
pub struct Handler {
    inner: Arc<Inner>,
}

struct Inner {
    zone: Zone,
    views: Arc<Views>,
    /// What NSID tells: which server answered (RFC 5001).
    nsid: Option<NSIDPayload>,
    counters: Counters,
}

/// A response before it meets its size limit.
struct Reply {
    metadata: Metadata,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    edns: Option<Edns>,
}

impl Handler {
    pub fn new(name: &str, zone: Zone, views: Arc<Views>) -> Self {
        Self {
            inner: Arc::new(Inner {
                zone,
                views,
                nsid: NSIDPayload::new(name.as_bytes()).ok(),
                counters: Counters::new(),
            }),
        }
    }

    /// The bytes of the response, for a transport of our own.
    ///
    /// # Errors
    /// If the response cannot be written, which none of ours is known to be.
    pub fn respond(&self, request: &Request) -> Result<Vec<u8>, ProtoError> {
        let mut reply = self.reply(request);
        reply.fit(request);
        self.inner.counters.code(reply.metadata.response_code);
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP_BYTES_MAX));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        reply.message(request).destructive_emit(&mut encoder)?;
        Ok(bytes)
    }

    /// Counts a query that was answered before it got here.
    pub fn count(&self, code: ResponseCode) {
        self.inner.counters.code(code);
    }

    fn reply(&self, request: &Request) -> Reply {
        let mut reply = Reply {
            metadata: Metadata::response_from_request(&request.metadata),
            answers: Vec::new(),
            authorities: Vec::new(),
            edns: request.edns.as_ref().map(|asked| {
                let mut edns = Edns::new();
                edns.set_max_payload(UDP_BYTES_MAX);
                edns.set_version(0);
                // RFC 3225 §3: copied, whatever the answer holds.
                edns.set_dnssec_ok(asked.flags().dnssec_ok);
                edns
            }),
        };
        if request.metadata.op_code != OpCode::Query {
            return reply.with_code(ResponseCode::NotImp);
        }
        // RFC 6891 §6.1.3: options of a version that is not known are not looked at.
        if request.version() > 0 {
            return reply.with_code(ResponseCode::BADVERS);
        }
        let options = match edns::options(request.as_slice()) {
            Ok(options) => options,
            Err(error) => {
                debug!(%error, client = %request.src(), "malformed query");
                return reply.with_code(ResponseCode::FormErr);
            }
        };
        // RFC 9619: a query has one question.
        let [question] = request.queries.queries() else {
            return reply.with_code(ResponseCode::FormErr);
        };
        if options.nsid
            && let (Some(edns), Some(nsid)) = (&mut reply.edns, &self.inner.nsid)
        {
            edns.options_mut().insert(EdnsOption::NSID(nsid.clone()));
        }
        let loaded = self.inner.views.current();
        let answer = if question.query_class() == DNSClass::IN {
            let client = client_block(request, &options);
            let kind = question.query_type();
            self.inner
                .zone
                .answer(loaded.as_deref(), question.name(), kind, &client)
        } else {
            // Nothing is told in other classes, the version (RFC 4892) included.
            ZoneAnswer::failed(ResponseCode::Refused, Some(EDE_NOT_AUTHORITATIVE))
        };
        if let (Some(region), Some(loaded)) = (answer.region, &loaded) {
            loaded.steering.count_answer(region);
        }
        reply.tell(question.original().name(), &options, answer);
        reply
    }
}

/// Whom to steer for: the client's network if the resolver gives it, else the resolver.
fn client_block(request: &Request, options: &Options) -> Block {
    let network = options.subnet.as_ref().and_then(edns::Subnet::network);
    match network {
        Some((ip, prefix)) => Block::network(ip, prefix),
        None => Block::host(canonical(request.src())),
    }
}

impl Reply {
    fn with_code(mut self, code: ResponseCode) -> Self {
        self.metadata.response_code = code;
        self
    }

    fn tell(&mut self, owner: &hickory_proto::rr::Name, options: &Options, answer: ZoneAnswer) {
        self.metadata.response_code = answer.code;
        self.metadata.authoritative = answer.authoritative;
        self.answers = answer
            .records
            .into_iter()
            .map(|data| Record::from_rdata(owner.clone(), answer.ttl_secs, data))
            .collect();
        self.authorities = answer
            .soa
            .into_iter()
            .map(|(zone, ttl_secs, soa)| Record::from_rdata(zone, ttl_secs, soa))
            .collect();
        let Some(edns) = &mut self.edns else {
            return;
        };
        if let Some(subnet) = &options.subnet {
            // RFC 7871 §7.2.1: scope 0 if the client's network was not to be used.
            let scope = if subnet.network().is_some() {
                answer.scope
            } else {
                0
            };
            let echo = subnet.echo(scope);
            edns.options_mut()
                .insert(EdnsOption::Unknown(edns::CLIENT_SUBNET, echo));
        }
        if let Some(code) = answer.extended_error {
            let info = code.to_be_bytes().to_vec();
            edns.options_mut()
                .insert(EdnsOption::Unknown(edns::EXTENDED_ERROR, info));
        }
    }

    /// Empties a response that its transport cannot carry, so that the client asks over TCP.
    ///
    /// hickory would cut an RRset in two and leave the OPT record out (RFC 2181 §9, RFC 6891 §7).
    fn fit(&mut self, request: &Request) {
        if request.protocol() != Protocol::Udp {
            return;
        }
        let limit = match &request.edns {
            None => PLAIN_UDP_BYTES_MAX,
            Some(_) => request.max_payload().min(UDP_BYTES_MAX),
        };
        if self.bytes_at_most(request) <= usize::from(limit) {
            return;
        }
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        let written = self.message(request).destructive_emit(&mut encoder);
        if written.is_ok() && bytes.len() <= usize::from(limit) {
            return;
        }
        self.answers.clear();
        self.authorities.clear();
        self.metadata.truncation = true;
    }

    /// What the response takes if no name in it is compressed: enough to know that most fit.
    fn bytes_at_most(&self, request: &Request) -> usize {
        const HEADER_BYTES: usize = 12;
        const QUESTION_FIXED_BYTES: usize = 4;
        const RECORD_FIXED_BYTES: usize = 10;
        /// Two names and five numbers in a SOA; every other record we have is shorter.
        const DATA_BYTES_MAX: usize = 160;
        /// OPT with NSID, client subnet and an extended error.
        const OPT_BYTES_MAX: usize = 11 + 4 + 255 + 24 + 6;
        let questions = request.queries.queries().iter();
        let questions: usize = questions
            .map(|question| question.name().len() + QUESTION_FIXED_BYTES)
            .sum();
        let records = self.answers.iter().chain(&self.authorities);
        let records: usize = records
            .map(|record| record.name.len() + RECORD_FIXED_BYTES + DATA_BYTES_MAX)
            .sum();
        let opt = self.edns.as_ref().map_or(0, |_| OPT_BYTES_MAX);
        HEADER_BYTES + questions + records + opt
    }

    fn message<'a>(
        &'a self,
        request: &'a Request,
    ) -> hickory_server::zone_handler::MessageResponse<
        'a,
        'a,
        std::slice::Iter<'a, Record>,
        std::slice::Iter<'a, Record>,
        std::iter::Empty<&'a Record>,
        std::iter::Empty<&'a Record>,
    > {
        MessageResponseBuilder::new(&request.queries, self.edns.as_ref()).build(
            self.metadata,
            &self.answers,
            &self.authorities,
            std::iter::empty(),
            std::iter::empty(),
        )
    }
}

impl RequestHandler for Handler {
    // The trait is made by `async_trait`; this is what its attribute would write.
    fn handle_request<'s, 'r, 'f, R, T>(
        &'s self,
        request: &'r Request,
        mut response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'f>>
    where
        R: ResponseHandler + 'f,
        T: Time + 'f,
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let mut reply = self.reply(request);
            reply.fit(request);
            self.inner.counters.code(reply.metadata.response_code);
            match response_handle.send_response(reply.message(request)).await {
                Ok(info) => info,
                Err(error) => {
                    debug!(%error, client = %request.src(), "answer not sent");
                    not_sent(request)
                }
            }
        })
    }
}

fn not_sent(request: &Request) -> ResponseInfo {
    let id = request.metadata.id;
    let mut metadata = Metadata::new(id, MessageType::Response, request.metadata.op_code);
    metadata.response_code = ResponseCode::ServFail;
    ResponseInfo::from(Header {
        metadata,
        counts: HeaderCounts::default(),
    })
}

/// Counters made once: looking one up costs more than an answer should.
struct Counters {
    no_error: Counter,
    form_err: Counter,
    serv_fail: Counter,
    nx_domain: Counter,
    not_imp: Counter,
    refused: Counter,
    bad_vers: Counter,
}

impl Counters {
    fn new() -> Self {
        let queries = |code: &'static str| counter!("tradewind_dns_queries_total", "rcode" => code);
        Self {
            no_error: queries("NOERROR"),
            form_err: queries("FORMERR"),
            serv_fail: queries("SERVFAIL"),
            nx_domain: queries("NXDOMAIN"),
            not_imp: queries("NOTIMP"),
            refused: queries("REFUSED"),
            bad_vers: queries("BADVERS"),
        }
    }

    fn code(&self, code: ResponseCode) {
        match code {
            ResponseCode::NoError => &self.no_error,
            ResponseCode::FormErr => &self.form_err,
            ResponseCode::NXDomain => &self.nx_domain,
            ResponseCode::NotImp => &self.not_imp,
            ResponseCode::Refused => &self.refused,
            ResponseCode::BADVERS => &self.bad_vers,
            _ => &self.serv_fail,
        }
        .increment(1);
    }
}
