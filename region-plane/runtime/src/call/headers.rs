//! The header fields of a call, which nobody copies.

use std::ops::Deref;
use std::sync::Arc;

use http::{HeaderMap, request};

/// Fields that others may have too: a request that no instance takes may still be handed on.
#[derive(Debug, Clone)]
pub enum CallHeaders {
    /// Those of a request, as they are.
    OfTheRequest(Arc<request::Parts>),
    Made(Arc<HeaderMap>),
}

impl Deref for CallHeaders {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        match self {
            Self::OfTheRequest(head) => &head.headers,
            Self::Made(headers) => headers,
        }
    }
}

impl From<HeaderMap> for CallHeaders {
    fn from(headers: HeaderMap) -> Self {
        Self::Made(Arc::new(headers))
    }
}
