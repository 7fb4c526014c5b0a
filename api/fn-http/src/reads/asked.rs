//! What a request asks for, read as leniently as Fn reads it.

use std::convert::Infallible;

use api_wire::{Cursor, page};
use axum::extract::{FromRequestParts, Path, Query};
use http::header::HOST;
use http::request::Parts;

use crate::endpoints::PUBLIC_URL;
use crate::{ApiError, Consistency, Reached};

/// The query, and how the request came here. Of a parameter given twice the first counts; an empty one is not given.
#[derive(Debug)]
pub struct Asked {
    query: Vec<(String, String)>,
    pub reached: Reached,
}

/// The id in a path. One that is not even text names nothing that is stored, as no stored id is empty
/// (Fn contract 1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.map(|Path(id)| id).unwrap_or_default()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let header = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        // HTTP/2 has the host in the target.
        let host = header(HOST).or_else(|| Some(parts.uri.authority()?.as_str()));
        Ok(Self {
            reached: Reached {
                host: host.map(str::to_owned),
                public_url: header(PUBLIC_URL).map(str::to_owned),
            },
            query: query.map(|Query(query)| query).unwrap_or_default(),
        })
    }
}

impl Asked {
    pub fn param(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub fn consistency(&self) -> Consistency {
        match self.param("consistency") {
            Some("stale") => Consistency::Stale,
            _ => Consistency::Linearizable,
        }
    }

    pub fn per_page(&self) -> usize {
        page::per_page(self.param("per_page"))
    }

    /// The cursor's parts, of which there must be `N`.
    pub fn cursor<const N: usize>(&self) -> Result<Option<[String; N]>, ApiError> {
        let invalid = || ApiError::invalid(page::PageError.to_string());
        let Some(text) = self.param("cursor") else {
            return Ok(None);
        };
        let Cursor(parts) = Cursor::decode(text).map_err(|_| invalid())?;
        parts.try_into().map(Some).map_err(|_| invalid())
    }
}
