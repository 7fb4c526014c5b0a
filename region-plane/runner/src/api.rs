//! Requests and what they are answered, see [`crate::protocol`].

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use api_bundle::UnpackError;
use api_types::{CallId, Digest, Platform, chain};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use region_plane_runtime::call::{self, BodyError};
use region_plane_runtime::{CallError, CallRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout, timeout_at};
use tracing::{debug, warn};

use crate::bundle::{self, BundleError};
use crate::instance::{Attendance, Instance, LaunchFailure, Seen};
use crate::pod::{Bundle, BundleRefused, EndReason, NotClaimed, ToLaunch};
use crate::protocol::{
    BUNDLE_PATH, CALL_BODY_BYTES_MAX, CALL_ERROR, CALL_PATH, CLAIM, CLAIM_BYTES_MAX, CLAIM_PATH,
    CallFailure, Claim, EVENTS_EVERY, EVENTS_PATH, Event, PLATFORM, Phase, READY_PATH,
    RELEASE_PATH, RESPONSE_BYTES_MAX, Release, STATE_PATH, TIMEOUT_MS, Trouble,
};

/// A claim's id is all there is to say.
const RELEASE_BYTES_MAX: usize = 4096;

/// A claim waits so long for the call that a claim before it left inside. Most calls are shorter, and
/// a pod made instead of this one would take longer.
const CLAIM_WAIT: Duration = Duration::from_millis(300);

/// The body of a claim comes within this. A gateway waits no longer for the answer.
const CLAIM_BODY_WAIT: Duration = Duration::from_secs(2);

/// How long a bundle has until it listens if its gateway does not say (Fn contract 9.2).
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer if its gateway does not say: what Fn's system tests and Oracle's service use (Fn
/// contract 6.4).
const RESPONSE_BYTES: usize = 6 << 20;

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Answers one request.
pub async fn answer(
    instance: Arc<Instance>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = match (request.method(), path.as_str()) {
        (&Method::GET, STATE_PATH) => json(StatusCode::OK, &state(&instance)),
        (&Method::POST, CLAIM_PATH) => claim(&instance, request.into_body()).await,
        (&Method::GET, READY_PATH) => ready(&instance, &request).await,
        (&Method::POST, CALL_PATH) => call(&instance, request).await,
        (&Method::GET, EVENTS_PATH) => events(&instance, &request),
        (&Method::POST, RELEASE_PATH) => release(&instance, request.into_body()).await,
        (&Method::GET, "/healthz") => text("ok\n".to_owned()),
        (&Method::GET, "/metrics") => text(metrics(&instance)),
        (method, path) => match path.strip_prefix(BUNDLE_PATH) {
            Some(digest) if method == Method::PUT => put(&instance, digest, request).await,
            _ => trouble(
                StatusCode::NOT_FOUND,
                format!("there is no {method} {path}"),
            ),
        },
    };
    Ok(answer)
}

fn state(instance: &Instance) -> crate::protocol::State {
    instance.pod(|pod, now| pod.state(now))
}

async fn claim(instance: &Instance, body: Incoming) -> Answer {
    if instance.shutdown().is_cancelled() {
        return stopping();
    }
    let Some(_place) = instance.place_of_claim() else {
        let message = "too many claims at once".to_owned();
        return trouble(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    let reading = read::<Claim>(body, CLAIM_BYTES_MAX);
    let claim = match timeout(CLAIM_BODY_WAIT, reading).await {
        Ok(Ok(claim)) => claim,
        Ok(Err(refusal)) => return refusal,
        Err(_) => {
            let message = "the claim did not come in time".to_owned();
            return trouble(StatusCode::REQUEST_TIMEOUT, message);
        }
    };
    let to_launch = match claim.launch {
        None => None,
        Some(launch) => match launch.digest.parse() {
            Ok(digest) => Some(ToLaunch {
                digest,
                environment: launch.env,
                start_timeout: launch
                    .start_timeout_ms
                    .map_or(START_TIMEOUT, Duration::from_millis),
            }),
            Err(error) => return trouble(StatusCode::BAD_REQUEST, format!("launch: {error}")),
        },
    };
    let deadline = Instant::now() + CLAIM_WAIT;
    let claimed = instance.claim(
        claim.pod.as_deref(),
        &claim.holder,
        to_launch.as_ref(),
        deadline,
    );
    match claimed.await {
        Ok(claimed) => json(StatusCode::OK, &claimed),
        Err(refused) => match refused.conflict() {
            Some(conflict) => json(StatusCode::CONFLICT, &conflict),
            None => trouble(StatusCode::BAD_REQUEST, refused.to_string()),
        },
    }
}

async fn put(instance: &Arc<Instance>, digest: &str, request: Request<Incoming>) -> Answer {
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return trouble(StatusCode::BAD_REQUEST, chain(&error)),
    };
    let claim = query(&request, "claim").unwrap_or_default().to_owned();
    let attendance = match instance.attend(&claim) {
        Ok(attendance) => attendance,
        Err(refusal) => return not_claimed(refusal),
    };
    let here = Platform::here().0;
    if let Some(built_for) = request.headers().get(PLATFORM)
        && built_for != here.as_str()
    {
        let built_for = String::from_utf8_lossy(built_for.as_bytes());
        let message = format!("the bundle was built for {built_for}, this machine is {here}");
        return trouble(StatusCode::UNPROCESSABLE_ENTITY, message);
    }
    match instance.pod(|pod, _| pod.put_bundle(&claim, &digest)) {
        Ok(Bundle::Wanted) => {}
        Ok(Bundle::Here) => return empty(StatusCode::NO_CONTENT),
        Err(refused @ BundleRefused::Other) => {
            return trouble(StatusCode::BAD_REQUEST, refused.to_string());
        }
        Err(refused) => return trouble(StatusCode::CONFLICT, refused.to_string()),
    }
    let for_task = Arc::clone(instance);
    // A task, so that one that is given up midway is not still written to when the next one comes.
    let received = instance.run_to_end(async move {
        receive(&for_task, &attendance, digest, request.into_body()).await
    });
    match received.await {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(error) => {
            let message = chain(&error);
            warn!(error = message, "bundle not received");
            trouble(error.status(), message)
        }
    }
}

/// A bundle that came was not started.
#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Launch(#[from] LaunchFailure),
}

impl PutError {
    /// By which the gateway knows whether to try another pod.
    fn status(&self) -> StatusCode {
        match self {
            Self::Bundle(BundleError::ClaimLost) | Self::Launch(LaunchFailure::NotClaimed(_)) => {
                StatusCode::CONFLICT
            }
            Self::Bundle(BundleError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Bundle(
                BundleError::Receive { .. }
                | BundleError::Unpack {
                    source: UnpackError::Digest { .. },
                },
            ) => StatusCode::BAD_REQUEST,
            Self::Bundle(
                BundleError::Write { .. }
                | BundleError::Unpack {
                    source: UnpackError::Write { .. },
                },
            )
            | Self::Launch(LaunchFailure::Watch { .. } | LaunchFailure::Tell { .. }) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Bundle(BundleError::Unpack {
                source: UnpackError::Read { source },
            }) if is_of_this_machine(source) => StatusCode::INTERNAL_SERVER_ERROR,
            // It is the one of that digest, so every pod would say the same of it.
            Self::Bundle(BundleError::Unpack { .. } | BundleError::Platform(_)) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        }
    }
}

/// Whether the system said it, of a file, and not a library, of what is in one. Those between wrap what
/// they are told.
fn is_of_this_machine(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if (error.downcast_ref::<io::Error>()).is_some_and(|error| error.raw_os_error().is_some()) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn receive(
    instance: &Arc<Instance>,
    attendance: &Attendance,
    digest: Digest,
    body: Incoming,
) -> Result<(), PutError> {
    let code_dir = &instance.settings().code_dir;
    match bundle::receive(code_dir, digest, body, attendance.lost()).await {
        Ok(manifest) => Ok(instance.launch(attendance.claim(), &manifest).await?),
        Err(error) => {
            instance.pod(|pod, _| pod.bundle_failed());
            Err(error.into())
        }
    }
}

async fn ready(instance: &Arc<Instance>, request: &Request<Incoming>) -> Answer {
    let claim = query(request, "claim").unwrap_or_default();
    let Some(timeout) = query(request, "timeout_ms").and_then(|text| text.parse().ok()) else {
        let message = "timeout_ms must be a number of milliseconds".to_owned();
        return trouble(StatusCode::BAD_REQUEST, message);
    };
    let _attendance = match instance.attend(claim) {
        Ok(attendance) => attendance,
        Err(refusal) => return not_claimed(refusal),
    };
    let mut pod = instance.watch_pod();
    let settled = pod.wait_for(|seen| {
        seen.claim.as_deref() != Some(claim) || seen.phase == Phase::Ready || seen.phase.is_over()
    });
    let settled = tokio::select! {
        settled = timeout_at(Instant::now() + Duration::from_millis(timeout), settled) => settled,
        () = instance.shutdown().cancelled() => {
            return stopping();
        }
    };
    let Ok(seen) = settled.map(|seen| seen.expect("the instance holds the sender").clone()) else {
        return trouble(
            StatusCode::GATEWAY_TIMEOUT,
            EndReason::StartTimedOut.to_string(),
        );
    };
    if seen.claim.as_deref() != Some(claim) {
        return not_claimed(NotClaimed);
    }
    match seen.reason {
        None => json(StatusCode::OK, &state(instance)),
        Some(reason @ EndReason::StartTimedOut) => {
            trouble(StatusCode::GATEWAY_TIMEOUT, reason.to_string())
        }
        Some(reason) => trouble(StatusCode::BAD_GATEWAY, reason.to_string()),
    }
}

/// A call that has been begun and is not inside the function yet.
struct Coming<'a> {
    instance: &'a Instance,
    entered: bool,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if !self.entered {
            self.instance.pod(|pod, _| pod.call_given_up());
        }
    }
}

async fn call(instance: &Arc<Instance>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let mut headers = head.headers;
    let Some(timeout) = headers
        .remove(TIMEOUT_MS)
        .and_then(|value| milliseconds(&value))
    else {
        let message = format!("{TIMEOUT_MS} must be a number of milliseconds");
        return trouble(StatusCode::BAD_REQUEST, message);
    };
    let deadline = Instant::now() + timeout;
    let response_bytes_max = headers
        .remove(RESPONSE_BYTES_MAX)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(RESPONSE_BYTES, |bytes: usize| {
            bytes.min(CALL_BODY_BYTES_MAX)
        });
    let claim = headers.remove(CLAIM);
    let claim = claim
        .as_ref()
        .and_then(|claim| claim.to_str().ok())
        .unwrap_or_default();
    if instance.shutdown().is_cancelled() {
        return refused_call(CallFailure::NotClaimed);
    }
    let Ok(attendance) = instance.attend(claim) else {
        return refused_call(CallFailure::NotClaimed);
    };
    // Before the body is read, so that no more than one is ever held.
    if let Err(failure) = instance.pod(|pod, _| pod.begin_call(claim)) {
        return refused_call(failure);
    }
    let mut coming = Coming {
        instance,
        entered: false,
    };
    let coming_whole = timeout_at(deadline, whole(body, CALL_BODY_BYTES_MAX));
    let body = tokio::select! {
        biased;
        body = coming_whole => body,
        // The next claim waits for this.
        () = attendance.lost() => return refused_call(CallFailure::NotClaimed),
    };
    let body = match body {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return refused_call(CallFailure::TimedOut),
    };
    // Either way it is not coming any more.
    coming.entered = true;
    if let Err(failure) = instance.pod(|pod, _| pod.enter_call(claim)) {
        return refused_call(failure);
    }
    let call = headers
        .get("fn-call-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    let request = CallRequest {
        call: CallId::new(call),
        headers: headers.into(),
        // The gateway has set it among the headers.
        deadline: None,
        body,
    };
    let for_task = Arc::clone(instance);
    let answered = instance.run_to_end(async move {
        let answer = for_task.call(request, deadline, response_bytes_max);
        answer.await
    });
    match answered.await {
        Ok(response) => {
            let mut answer = Response::new(Full::new(response.body).boxed());
            *answer.headers_mut() = response.headers;
            // It is ours to say.
            answer.headers_mut().remove(CALL_ERROR);
            answer
        }
        Err((failure, error)) => {
            debug!(%failure, error = chain(&error), "call failed");
            let status = match &error {
                CallError::InvalidStatus { status } => Some(status.as_u16()),
                _ => None,
            };
            let message = chain(&error);
            failed_call(failure, &Trouble { message, status })
        }
    }
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    // A day: what is longer is a mistake.
    let ms: u64 = value.to_str().ok()?.parse().ok()?;
    (ms <= 86_400_000).then(|| Duration::from_millis(ms))
}

fn refused_call(failure: CallFailure) -> Answer {
    let message = match failure {
        CallFailure::Busy => "the instance has a call or does not listen yet",
        CallFailure::Gone => "the instance is over",
        CallFailure::TimedOut => "the body did not come in time",
        _ => "the pod has no such claim",
    };
    let trouble = Trouble {
        message: message.to_owned(),
        status: None,
    };
    failed_call(failure, &trouble)
}

fn failed_call(failure: CallFailure, trouble: &Trouble) -> Answer {
    let mut answer = json(failure.status(), trouble);
    let name = HeaderValue::from_static(failure.as_str());
    answer.headers_mut().insert(CALL_ERROR, name);
    answer
}

/// An event stream on its way.
struct Events {
    instance: Arc<Instance>,
    pod: watch::Receiver<Seen>,
    beat: Interval,
    attendance: Attendance,
}

fn events(instance: &Arc<Instance>, request: &Request<Incoming>) -> Answer {
    let claim = query(request, "claim").unwrap_or_default();
    let attendance = match instance.attend(claim) {
        Ok(attendance) => attendance,
        Err(refusal) => return not_claimed(refusal),
    };
    // Its first tick is at once.
    let mut beat = interval(EVENTS_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        instance: Arc::clone(instance),
        pod: instance.watch_pod(),
        beat,
        attendance,
    };
    let lines = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        let mut line = serde_json::to_vec(&event).expect("events have string keys");
        line.push(b'\n');
        Some((Ok(Frame::data(Bytes::from(line))), events))
    });
    let mut answer = Response::new(StreamBody::new(lines).boxed());
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(CONTENT_TYPE, ndjson);
    answer
}

impl Events {
    /// `None` once the claim is not the pod's any more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let seen = self.pod.borrow_and_update().clone();
            if seen.claim.as_deref() != Some(self.attendance.claim()) {
                return None;
            }
            let phase = Event::Phase {
                phase: seen.phase,
                reason: seen.reason.as_ref().map(EndReason::to_string),
            };
            tokio::select! {
                biased;
                () = self.instance.shutdown().cancelled() => return None,
                changed = self.pod.changed() => {
                    changed.ok()?;
                    self.beat.reset_immediately();
                }
                _ = self.beat.tick() => return Some(phase),
                event = self.instance.log().next() => return Some(event),
            }
        }
    }
}

async fn release(instance: &Instance, body: Incoming) -> Answer {
    match read::<Release>(body, RELEASE_BYTES_MAX).await {
        Ok(release) => {
            instance.pod(|pod, _| pod.release(&release.claim));
            empty(StatusCode::NO_CONTENT)
        }
        Err(refusal) => refusal,
    }
}

fn metrics(instance: &Instance) -> String {
    let state = state(instance);
    let mut text = String::new();
    let mut line = |kind: &str, name: &str, help: &str, value: u64| {
        let _written = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    };
    line(
        "counter",
        "tradewind_runner_calls_total",
        "Calls that reached the function.",
        state.calls,
    );
    line(
        "gauge",
        "tradewind_runner_running",
        "Whether a call is inside the function.",
        state.running.into(),
    );
    line(
        "gauge",
        "tradewind_runner_claimed",
        "Whether a gateway has the pod.",
        state.claim.is_some().into(),
    );
    line(
        "gauge",
        "tradewind_runner_ready",
        "Whether the function listens.",
        (state.phase == Phase::Ready).into(),
    );
    line(
        "counter",
        "tradewind_runner_log_lines_dropped_total",
        "Lines of the function that nobody read in time.",
        instance.log().dropped_ever(),
    );
    text
}

/// A value of the query. Claims are of characters that need no escapes.
fn query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

async fn read<T: DeserializeOwned>(body: Incoming, bytes_max: usize) -> Result<T, Answer> {
    let whole = whole(body, bytes_max).await?;
    serde_json::from_slice(&whole)
        .map_err(|error| trouble(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

/// All of the body, or what to answer instead.
async fn whole(body: Incoming, bytes_max: usize) -> Result<Bytes, Answer> {
    call::whole(body, bytes_max).await.map_err(|error| {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Exchange { .. } => StatusCode::BAD_REQUEST,
        };
        trouble(status, chain(&error))
    })
}

fn not_claimed(refusal: NotClaimed) -> Answer {
    trouble(StatusCode::CONFLICT, refusal.to_string())
}

fn stopping() -> Answer {
    let message = "the runner is stopping".to_owned();
    trouble(StatusCode::SERVICE_UNAVAILABLE, message)
}

fn trouble(status: StatusCode, message: String) -> Answer {
    let trouble = Trouble {
        message,
        status: None,
    };
    json(status, &trouble)
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("bodies have string keys");
    let mut answer = Response::new(Full::from(body).boxed());
    *answer.status_mut() = status;
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(body: String) -> Answer {
    let mut answer = Response::new(Full::from(body).boxed());
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default().boxed());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io::{Read, Seek, SeekFrom};

    use api_bundle::Tree;

    use super::*;

    /// A file that can be read so many times before its disk fails.
    struct Failing {
        file: io::Cursor<Vec<u8>>,
        reads: usize,
    }

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.reads == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.reads -= 1;
            self.file.read(buffer)
        }
    }

    impl Seek for Failing {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.file.seek(to)
        }
    }

    #[test]
    fn only_what_is_wrong_with_a_bundle_itself_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = api_bundle::Manifest {
            schema: 1,
            name: "a".to_owned(),
            version: "1".to_owned(),
            runtime: "executable".to_owned(),
            platform: Platform::here().0,
            entrypoint: vec!["/function/a".to_owned()],
            cmd: Vec::new(),
        };
        let mut sound = Vec::new();
        Tree::default().pack(&manifest, &mut sound).unwrap();
        let torn = sound[..sound.len() / 2].to_vec();
        let long = usize::MAX;
        for (case, bytes, reads, status) in [
            ("the disk fails", &sound, 0, 500),
            ("the disk fails once it is hashed", &sound, 2, 500),
            ("it ends early", &torn, long, 422),
            ("it is no archive", &vec![7; 4096], long, 422),
        ] {
            let (digest, _) = api_bundle::digest(&mut bytes.as_slice()).unwrap();
            let file = Failing {
                file: io::Cursor::new(bytes.clone()),
                reads,
            };
            let dest = folder.path().join(case);
            let source = api_bundle::unpack(file, &digest, &dest).unwrap_err();
            let read = matches!(source, UnpackError::Read { .. });
            assert!(read, "{case}: {source:?}");
            let error = PutError::Bundle(BundleError::Unpack { source });
            assert_eq!(error.status(), status, "{case}: {error:?}");
        }
    }
}
