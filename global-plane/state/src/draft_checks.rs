//! The Fn contract's checks that need nothing but the object, in its order: the first that fails
//! is the answer.
//!
//! A server may ask before it proposes, to keep hopeless drafts out of the log; the state asks
//! again.

use api_types::fns::{
    DNS_NAME_ANNOTATION, HTTP_ENDPOINT_ANNOTATION, INVOKE_ENDPOINT_ANNOTATION, PLACEMENT_ANNOTATION,
};
use api_types::{Annotations, App, Config, Fn, Placement, Refusal, Trigger};

use crate::bounds;
use crate::command::{AnnotationChanges, AppDraft, FnDraft, RegionDraft, TriggerDraft};

type Checked = Result<(), Refusal>;

const NAME_BYTES_MAX: usize = 255;

pub(crate) const MEMORY_DEFAULT: u64 = 128;
pub(crate) const TIMEOUT_SECS_DEFAULT: i32 = 30;
pub(crate) const IDLE_TIMEOUT_SECS_DEFAULT: i32 = 30;
const MEMORY_MAX: u64 = 8192;
const TIMEOUT_SECS_MAX: i32 = 300;
const IDLE_TIMEOUT_SECS_MAX: i32 = 3600;

/// Fn contract 2.2, all but whether the name is taken.
///
/// # Errors
/// The first check that fails.
pub fn app_create(draft: &AppDraft) -> Checked {
    if !text(draft.id.as_ref()).is_empty() {
        return invalid("App ID cannot be supplied on create");
    }
    let name = text(draft.name.as_ref());
    if name.is_empty() {
        return invalid("Missing Name");
    }
    if name.len() > NAME_BYTES_MAX {
        return invalid("App name must be 255 characters or less");
    }
    if !is_word(name) {
        return invalid("Invalid app name");
    }
    created_annotations(draft.annotations.as_ref())?;
    syslog_url(text(draft.syslog_url.as_ref()))?;
    if !SHAPES.contains(&text(draft.shape.as_ref())) {
        return invalid("Invalid app shape");
    }
    config(draft.config.as_ref().unwrap_or(&Config::new()))
}

/// Fn contract 2.3: the object that a change would make.
pub(crate) fn app_merged(app: &App) -> Checked {
    annotations(&app.annotations)?;
    syslog_url(app.syslog_url.as_deref().unwrap_or_default())?;
    config(&app.config)
}

/// Fn contract 3.2, as far as it needs neither the app nor the bundles.
///
/// # Errors
/// The first check that fails.
pub fn fn_create(draft: &FnDraft) -> Checked {
    if !text(draft.id.as_ref()).is_empty() {
        return invalid("ID cannot be provided for Fn creation");
    }
    if text(draft.app_id.as_ref()).is_empty() {
        return invalid("Missing AppID on Fn");
    }
    let name = text(draft.name.as_ref());
    if name.is_empty() {
        return invalid("Missing Fn name");
    }
    if name.len() > NAME_BYTES_MAX {
        return invalid("Fn name must be 255 characters or less");
    }
    if !name.bytes().all(is_url_safe) {
        return invalid("name must be a valid string");
    }
    if text(draft.image.as_ref()).is_empty() {
        return invalid("Missing image on Fn");
    }
    fn_settings(draft)?;
    created_annotations(draft.annotations.as_ref())?;
    config(draft.config.as_ref().unwrap_or(&Config::new()))
}

/// Numbers as sent; 0 is the default on create and "unchanged" on update (Fn contract 3.1).
pub(crate) fn fn_settings(draft: &FnDraft) -> Checked {
    if !(0..=TIMEOUT_SECS_MAX).contains(&draft.timeout_secs.unwrap_or(0)) {
        return invalid("timeout value is out of range, must be between 0 and 300");
    }
    if !(0..=IDLE_TIMEOUT_SECS_MAX).contains(&draft.idle_timeout_secs.unwrap_or(0)) {
        return invalid("idle_timeout value is out of range, must be between 0 and 3600");
    }
    if draft.memory.unwrap_or(0) > MEMORY_MAX {
        return invalid("memory value is out of range. It should be between 0 and 8192");
    }
    Ok(())
}

/// Fn contract 3.3, after [`fn_settings`].
pub(crate) fn fn_merged(function: &Fn) -> Checked {
    annotations(&function.annotations)?;
    config(&function.config)
}

/// Fn contract 4.1, as far as it needs neither the app nor the function.
///
/// # Errors
/// The first check that fails.
pub fn trigger_create(draft: &TriggerDraft) -> Checked {
    if !text(draft.id.as_ref()).is_empty() {
        return invalid("ID cannot be provided for Trigger creation");
    }
    if draft.created_at_given {
        return invalid("Trigger Created At Provided for Create");
    }
    if draft.updated_at_given {
        return invalid("Trigger ID Provided for Create");
    }
    if text(draft.app_id.as_ref()).is_empty() {
        return invalid("Missing App ID on Trigger");
    }
    let name = text(draft.name.as_ref());
    if name.is_empty() {
        return invalid("Missing name on Trigger");
    }
    trigger_name(name)?;
    if text(draft.fn_id.as_ref()).is_empty() {
        return invalid("Missing Fn ID on Trigger");
    }
    if text(draft.kind.as_ref()) != "http" {
        return invalid("Trigger Type Not Supported");
    }
    let source = text(draft.source.as_ref());
    if source.is_empty() {
        return invalid("Missing Trigger Source");
    }
    trigger_source(source)?;
    created_annotations(draft.annotations.as_ref())
}

/// Fn contract 4.2, with the messages of create.
pub(crate) fn trigger_merged(trigger: &Trigger) -> Checked {
    trigger_name(&trigger.name)?;
    trigger_source(&trigger.source)?;
    annotations(&trigger.annotations)
}

/// What a region must say to be one that clients can be sent to.
///
/// # Errors
/// The first check that fails.
pub fn region(draft: &RegionDraft) -> Checked {
    if draft.ipv4.is_none() && draft.ipv6.is_none() {
        return invalid("a region needs an ipv4 or an ipv6 address");
    }
    for (what, address) in [("gateway", &draft.gateway), ("admin", &draft.admin)] {
        if !is_host_port(address) {
            return invalid(format!("{what} {address:?} is not host:port"));
        }
    }
    let (latitude, longitude) = (draft.location.latitude, draft.location.longitude);
    // Not-a-number is in no range.
    if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
        return invalid(
            "latitude must be between -90 and 90 degrees, longitude between -180 and 180",
        );
    }
    let fits = |label: &String| (1..=bounds::REGION_LABEL_BYTES_MAX).contains(&label.len());
    let labels = &draft.labels;
    if labels.len() > bounds::REGION_LABELS_MAX
        || !labels.iter().all(|(key, value)| fits(key) && fits(value))
    {
        return invalid(format!(
            "a region may have {} labels, keys and values of 1 to {} bytes",
            bounds::REGION_LABELS_MAX,
            bounds::REGION_LABEL_BYTES_MAX
        ));
    }
    Ok(())
}

/// Keys that the server sets on reading. Tools put back whole objects that they read, so they are
/// dropped from what is written (Fn contract 5.3).
#[must_use]
pub(crate) fn is_server_set(key: &str) -> bool {
    [
        INVOKE_ENDPOINT_ANNOTATION,
        HTTP_ENDPOINT_ANNOTATION,
        DNS_NAME_ANNOTATION,
    ]
    .contains(&key)
}

/// Whether the value sent deletes its key on update and is refused on create.
#[must_use]
pub(crate) fn is_no_value(value: Option<&String>) -> bool {
    value.is_none_or(|json| json.is_empty() || json == r#""""# || json == "null")
}

const SHAPES: [&str; 4] = ["", "GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM"];

const SYSLOG_SCHEMES: [&str; 5] = ["udp", "tcp", "unix", "unixgram", "tcp+tls"];

const ANNOTATION_KEYS_MAX: usize = 100;
const ANNOTATION_KEY_BYTES_MAX: usize = 128;
const ANNOTATION_VALUE_BYTES_MAX: usize = 512;

/// Fn contract 5.1. Keys are looked at in their order, so that every node refuses the same one.
fn created_annotations(sent: Option<&AnnotationChanges>) -> Checked {
    let mut kept = Annotations::new();
    for (key, value) in sent.into_iter().flatten() {
        if is_server_set(key) {
            continue;
        }
        let value = value.as_ref().filter(|_| !is_no_value(value.as_ref()));
        annotation(key, value)?;
        kept.extend(value.map(|value| (key.clone(), value.clone())));
    }
    annotations_together(&kept)
}

fn annotations(annotations: &Annotations) -> Checked {
    for (key, value) in annotations {
        annotation(key, Some(value))?;
    }
    annotations_together(annotations)
}

fn annotation(key: &str, value: Option<&String>) -> Checked {
    if key.is_empty() || !key.bytes().all(|byte| (b'!'..=b'~').contains(&byte)) {
        return invalid(
            "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace",
        );
    }
    if key.len() > ANNOTATION_KEY_BYTES_MAX {
        return invalid(
            "Invalid annotation key length, annotation keys may not be larger than 128 bytes",
        );
    }
    match value {
        None => invalid(
            "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays",
        ),
        Some(json) if json.len() > ANNOTATION_VALUE_BYTES_MAX => invalid(
            "Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON",
        ),
        Some(_) => Ok(()),
    }
}

fn annotations_together(annotations: &Annotations) -> Checked {
    if annotations.len() > ANNOTATION_KEYS_MAX {
        return invalid(
            "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)",
        );
    }
    match annotations
        .get(PLACEMENT_ANNOTATION)
        .map(|json| Placement::from_json(json))
    {
        Some(Err(error)) => invalid(error.to_string()),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn trigger_name(name: &str) -> Checked {
    if name.len() > NAME_BYTES_MAX {
        return invalid("Trigger name must be 255 characters or less");
    }
    if !is_word(name) {
        return invalid("Invalid name for Trigger");
    }
    Ok(())
}

fn trigger_source(source: &str) -> Checked {
    if !source.starts_with('/') {
        return invalid("Missing Trigger Source Prefix '/'");
    }
    Ok(())
}

fn syslog_url(url: &str) -> Checked {
    if url.is_empty() {
        return Ok(());
    }
    match syslog_problem(url) {
        None => Ok(()),
        Some(reason) => invalid(format!("invalid syslog url: \"{url}\" {reason}")),
    }
}

/// A URL as the syslog sender will read it: `SCHEME:[//HOST[:PORT]][PATH]`.
fn syslog_problem(url: &str) -> Option<&'static str> {
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return Some("has a space or a control character");
    }
    let Some((scheme, rest)) = url.split_once(':') else {
        return Some("has no scheme");
    };
    if !SYSLOG_SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) {
        return Some("must have the scheme udp, tcp, unix, unixgram or tcp+tls");
    }
    let authority = rest.strip_prefix("//").map_or("", |rest| {
        rest.split(['/', '?', '#']).next().unwrap_or_default()
    });
    // The colons of an IPv6 address are inside its brackets.
    let after_brackets = authority.rsplit(']').next().unwrap_or_default();
    let port = after_brackets.rsplit_once(':').map_or("", |(_, port)| port);
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return Some("has an invalid port");
    }
    None
}

fn config(config: &Config) -> Checked {
    let bytes: usize = config
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > bounds::CONFIG_BYTES_MAX {
        return invalid(format!(
            "config has {bytes} bytes together, at most {} are possible",
            bounds::CONFIG_BYTES_MAX
        ));
    }
    Ok(())
}

/// Unicode letters and numbers, `_` and `-`. Alphabetic also counts the vowel signs of some
/// scripts, which Go counts as marks: names that Fn refuses, and nothing depends on refusing them.
fn is_word(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_alphabetic() || c.is_numeric() || c == '_' || c == '-')
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte)
}

fn is_host_port(address: &str) -> bool {
    // RFC 1035 §2.3.4: a name has at most 255 bytes; a port has five digits.
    address.len() <= 261
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'/')
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
}

fn text(member: Option<&String>) -> &str {
    member.map_or("", String::as_str)
}

fn invalid(message: impl Into<String>) -> Checked {
    Err(Refusal::invalid(message))
}
