//! The serde forms of everything that crosses a socket, and their conversion to `api-types`.
//!
//! Forms are lenient where the Fn contract is (unknown members are ignored) and strict on what the
//! planes say to each other. Nothing here does IO.

pub mod bounds;
pub mod call_headers;
pub mod fns;
pub mod json;
pub mod object;
pub mod page;
pub mod planes;
pub mod time;
pub mod view;

pub use fns::{AppBody, FnBody, TriggerBody};
pub use object::{ObjectBody, ObjectError, WatchLine};
pub use page::{Cursor, Page, PageError};
