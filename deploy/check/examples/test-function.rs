//! The function in the images `test-function:v1` and `:v2`, for tests that upgrade, load and break
//! one. It answers which version it is, which pod it runs in, and what it was sent; the body may
//! ask for more:
//!
//! | key | what happens before the answer |
//! |---|---|
//! | `sleep_ms` | it takes so long |
//! | `allocate_mb` | it takes so much memory and writes to all of it, to be killed for it |
//! | `exit` | the process ends with that code |
//! | `print` | that line goes to standard output |

use std::process::ExitCode;
use std::time::Duration;

use fdk::{Bytes, Context, Response};
use serde_json::{Value, json};

fn main() -> ExitCode {
    fdk::handle(answer)
}

async fn answer(context: Context, body: Bytes) -> fdk::Result {
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(line) = asked["print"].as_str() {
        println!("{line}");
    }
    if let Some(code) = asked["exit"].as_i64() {
        std::process::exit(i32::try_from(code)?);
    }
    if let Some(megabytes) = asked["allocate_mb"].as_u64() {
        // Not zeros, which the kernel need not have any pages for.
        let taken = vec![1_u8; usize::try_from(megabytes << 20)?];
        std::hint::black_box(&taken);
    }
    if let Some(millis) = asked["sleep_ms"].as_u64() {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    let variable = |name| std::env::var(name).unwrap_or_default();
    let answer = json!({
        "version": variable("TEST_FUNCTION_VERSION"),
        "pod": variable("HOSTNAME"),
        "greeting": context.config().get("GREETING"),
        "body": asked,
    });
    Ok(Response::json(answer.to_string()))
}
