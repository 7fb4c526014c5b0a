//! JSON as Fn reads it, and JSON text kept as its author wrote it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Reads a request's body as Go's `encoding/json` reads a struct: it is an object or `null`, which
/// says nothing; names of members match in any case of ASCII letters; of a member given twice the
/// last counts. (Fn contract 1.2)
///
/// Unlike Go it refuses text after the object, and text that is not UTF-8.
///
/// # Errors
/// If it is anything else, an array included, or has a member of a wrong type.
pub fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, serde_json::Error> {
    let Members(members) = serde_json::from_slice(body)?;
    let members = members.iter().map(|(name, value)| (name.as_str(), *value));
    T::deserialize(MapDeserializer::new(members))
}

/// By their names in lower case, as those of all our forms are.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Members<'de>, E> {
        Ok(Members(BTreeMap::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((mut name, value)) = map.next_entry::<String, &RawValue>()? {
            name.make_ascii_lowercase();
            members.insert(name, value);
        }
        Ok(Members(members))
    }
}

/// JSON text without the whitespace between its tokens, key order kept (Fn contract 5.1).
///
/// `json` must be valid JSON; other text comes back unspecified but never panics.
#[must_use]
pub fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            out.push(c);
            (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
        } else if !matches!(c, ' ' | '\t' | '\n' | '\r') {
            out.push(c);
            in_string = c == '"';
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::{AppBody, FnBody};

    #[test]
    fn bodies_are_read_as_go_reads_them() {
        for (body, want) in [
            (r#"{"name":"a"}"#, r#"{"name":"a"}"#),
            (
                r#"{"NAME":"a","Syslog_URL":"b"}"#,
                r#"{"name":"a","syslog_url":"b"}"#,
            ),
            (r#"{"name":"a","Name":"b"}"#, r#"{"name":"b"}"#),
            (r#"{"Name":"a","name":"b","x":[1]}"#, r#"{"name":"b"}"#),
            (r#"{"name":null}"#, "{}"),
            (" null ", "{}"),
            ("{}", "{}"),
            // Go decodes null into the zero value of the map's elements.
            (
                r#"{"config":{"A":null,"a":"1"}}"#,
                r#"{"config":{"A":"","a":"1"}}"#,
            ),
            (
                r#"{"annotations":{"K":{"B":1,"a":[2]},"k":null}}"#,
                r#"{"annotations":{"K":{"B":1,"a":[2]},"k":null}}"#,
            ),
        ] {
            let read: AppBody = object(body.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), want, "{body}");
        }
        let read: FnBody = object(br#"{"Memory":1,"config":null}"#).unwrap();
        assert_eq!((read.memory, read.config), (Some(1), None));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [
            "",
            " ",
            "{",
            "[]",
            r#"["","x"]"#,
            r#""x""#,
            "1",
            "true",
            "nul",
            "{} {}",
            r#"{"name":1}"#,
            r#"{"name":["a"]}"#,
            r#"{"config":["a"]}"#,
            r#"{"config":{"a":1}}"#,
            r#"{"annotations":[]}"#,
            r#"{"name":"\ud800"}"#,
        ] {
            assert!(object::<AppBody>(body.as_bytes()).is_err(), "{body}");
        }
        assert!(object::<AppBody>(b"{\"name\":\"\xff\"}").is_err());
        for body in [
            r#"{"memory":-1}"#,
            r#"{"memory":1.0}"#,
            r#"{"timeout":"1"}"#,
        ] {
            assert!(object::<FnBody>(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn compaction_drops_whitespace_between_tokens_only() {
        for (text, want) in [
            (r#"{ "b" : 1, "a":[ 1 , 2 ] }"#, r#"{"b":1,"a":[1,2]}"#),
            (r#""a \" b""#, r#""a \" b""#),
            (r#"[ "\\" , "x y" ]"#, r#"["\\","x y"]"#),
        ] {
            assert_eq!(compact(text), want);
        }
    }
}
