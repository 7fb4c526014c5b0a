//! JSON text kept as its author wrote it.

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
    use super::*;

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
