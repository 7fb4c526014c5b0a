//! What helm makes of our charts, read as strictly as an API server would.
//!
//! [`Helm`] runs helm, [`read`] reads an object into the type that its kind has in Kubernetes and
//! refuses whatever that type does not keep. No cluster is asked: what only one can say, whether
//! policies let a packet through for one, is not decided here.

pub mod helm;
pub mod strict;

pub use helm::Helm;
pub use strict::{NotRead, documents, read};
