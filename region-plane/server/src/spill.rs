//! Spillover: handing a call that this region does not run to a peer's gateway.
//!
//! One hop, and only a call that no function has seen: `calls-forward` offers it to one peer after
//! another until one takes it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_types::{App, Region, Revision};
use bytes::Bytes;
use calls_door::{Body, Refusal};
use calls_forward::{Call, ForwardError, Forwarded, Forwarder, Gateway, Outcome};
use http::{Response, StatusCode, request};
use http_body_util::Full;

use crate::gateway::error::CallRefused;

/// A call with its body, as the door admitted it.
#[derive(Debug)]
pub struct Received {
    pub caller: IpAddr,
    pub head: Arc<request::Parts>,
    pub body: Bytes,
}

/// No function has longer (Fn contract 3.1).
const FUNCTION_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Where a call may go instead, and what its gateway must know for it.
#[derive(Debug, Clone)]
pub struct Onward {
    pub regions: Vec<Region>,
    /// The newest among the function and its app, as this region has them.
    pub revision: Revision,
    /// The function's.
    pub timeout: Duration,
}

impl Onward {
    #[must_use]
    pub fn new(regions: Vec<Region>, app: &App, function: &api_types::Fn) -> Self {
        Self {
            regions,
            revision: app.revision.max(function.revision),
            timeout: Duration::from_secs(function.timeout_secs.into()),
        }
    }

    /// Of a call of something that this region does not know.
    #[must_use]
    pub fn unknown(regions: Vec<Region>) -> Self {
        Self {
            regions,
            revision: Revision(0),
            timeout: FUNCTION_TIMEOUT_MAX,
        }
    }
}

pub struct Spill {
    forwarder: Arc<Forwarder>,
}

impl Spill {
    #[must_use]
    pub fn new(forwarder: Arc<Forwarder>) -> Self {
        Self { forwarder }
    }

    /// The first peer's answer; `None` if no peer has started the call.
    ///
    /// # Errors
    /// If a peer may have started it and there is no answer.
    pub async fn send(
        &self,
        call: &Received,
        onward: &Onward,
    ) -> Result<Option<Response<Body>>, CallRefused> {
        let forwarding = Call {
            head: &call.head,
            body: Full::new(call.body.clone()),
            caller: Some(call.caller),
            min_revision: Some(onward.revision.0),
            timeout: onward.timeout,
        };
        let gateways: Vec<Gateway> = onward
            .regions
            .iter()
            .map(|peer| Gateway {
                region: peer.name.to_string(),
                address: peer.gateway.clone(),
            })
            .collect();
        match self.forwarder.forward(forwarding, &gateways, count).await {
            Ok(Forwarded::Answered(response)) => Ok(Some(response.map(Body::stream))),
            Ok(Forwarded::NotStarted { .. }) => Ok(None),
            Err(ForwardError::Broken { .. }) => {
                Err(Refusal::broken_off("the region broke the call off").into())
            }
            Err(ForwardError::Silent { .. }) => {
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the region has gone silent").into())
            }
            Err(ForwardError::TimedOut { .. }) => Err(Refusal::timed_out().into()),
            Err(ForwardError::Caller(never)) => match never {},
        }
    }
}

fn count(peer: &Gateway, outcome: Outcome) {
    metrics::counter!(
        "tradewind_region_spills_total",
        "region" => peer.region.clone(),
        "outcome" => outcome.as_str()
    )
    .increment(1);
}
