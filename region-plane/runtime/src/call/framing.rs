//! What a message has of its connection, and its body held whole.

use bytes::{Bytes, BytesMut};
use calls_door::head::OF_THE_CONNECTION;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;

/// A body is not to be had whole. `E` is why it broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError<E: std::error::Error + 'static> {
    #[error("the body has more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("read the body")]
    Exchange {
        #[source]
        source: E,
    },
}

/// The headers that mean the same on any other connection.
#[must_use]
pub fn without_framing(mut headers: HeaderMap) -> HeaderMap {
    for name in OF_THE_CONNECTION {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
    headers
}

/// All of a body.
///
/// In one piece from the start where its length is known: to join pieces takes twice the memory.
///
/// # Errors
/// If it breaks off, or has more bytes than it may. Not a byte is read of what says so beforehand.
pub async fn whole<B>(mut body: B, bytes_max: usize) -> Result<Bytes, BodyError<B::Error>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(BodyError::TooLarge { bytes_max });
    }
    let mut whole = BytesMut::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| BodyError::Exchange { source })?;
        let Ok(data) = frame.into_data() else {
            continue; // Trailers: nobody here sends any.
        };
        if whole.len() + data.len() > bytes_max {
            return Err(BodyError::TooLarge { bytes_max });
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
