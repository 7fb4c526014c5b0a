//! Serving axum routers: what operators and planes ask, as opposed to calls.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;

use axum::Router;
use axum::extract::ConnectInfo;
use calls_door::{Body, Caller};
use hyper::service::Service;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub use calls_door::{BindError, Limits as HttpLimits, bind};

/// Serves `router` as [`calls_door::serve`] does. Handlers find the caller as
/// `ConnectInfo<SocketAddr>`.
///
/// # Errors
/// Only if the listening socket itself is broken.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    limits: HttpLimits,
) -> io::Result<()> {
    let routed = move |caller| Routed::new(router.clone(), caller);
    calls_door::serve(listener, routed, shutdown, limits).await
}

/// A router as a service behind the door, for one connection.
#[derive(Clone)]
pub struct Routed {
    router: Router,
    caller: Caller,
}

impl Routed {
    #[must_use]
    pub fn new(router: Router, caller: Caller) -> Self {
        Self { router, caller }
    }
}

impl Service<Request<Body>> for Routed {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Body>) -> Self::Future {
        let mut request = request.map(axum::body::Body::new);
        let caller = ConnectInfo(self.caller.address);
        request.extensions_mut().insert(caller);
        let answered = self.router.clone().oneshot(request);
        Box::pin(async move { answered.await.map(|response| response.map(Body::stream)) })
    }
}
