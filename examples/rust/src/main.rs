//! Greets whoever calls, by name if the body gives one: `{"name":"Ada"}`. Configuration `GREETING` is
//! said instead of `Hello`.

use std::process::ExitCode;

use fdk::{Bytes, Context, Response};
use serde_json::{Value, json};

fn main() -> ExitCode {
    fdk::handle(hello)
}

async fn hello(_: Context, body: Bytes) -> fdk::Result {
    // Whoever sends something else is greeted, too.
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = body["name"].as_str().unwrap_or("World");
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let message = format!("{greeting} {name}");
    Ok(Response::json(json!({ "message": message }).to_string()))
}
