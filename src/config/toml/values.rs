//! Converts TOML values to text of tinc's form.

use std::time::Duration;

use ::toml::de::{DeInteger, DeValue};
use bytesize::ByteSize;

use super::keys::{ACCESS, Form, Key};

/// Returns the variable and its text; `None` if the value is the default. `name` is the key in the file. Errors follow
/// the name of the key in a message.
pub(super) fn read(
    key: &Key,
    name: &str,
    value: &DeValue<'_>,
) -> Result<Option<(&'static str, String)>, String> {
    let text = match (key.form, value) {
        (Form::Text, DeValue::String(text)) => text.to_string(),
        (Form::Flag, DeValue::Boolean(flag)) => if *flag { "yes" } else { "no" }.into(),
        (Form::Number, DeValue::Integer(number)) => whole(number)?.to_string(),
        (Form::Duration, DeValue::String(text)) => seconds(text)?.to_string(),
        (Form::Size, DeValue::Integer(number)) => whole(number)?.to_string(),
        (Form::Size, DeValue::String(text)) => bytes(text)?.to_string(),
        (Form::Endpoint, DeValue::String(text)) => endpoint(text)?,
        (Form::Labelled, DeValue::String(text)) => format!("{name}={text}"),
        (Form::Moment, DeValue::Datetime(at)) => at.to_string(),
        (Form::Access, DeValue::String(text)) => {
            let known = ACCESS.iter().find(|(word, _)| word == text);
            let (_, meaning) =
                known.ok_or_else(|| format!("must be {}, not {text:?}", key.wanted()))?;
            return Ok(meaning.map(|(var, value)| (var, value.to_owned())));
        }
        (_, other) => return Err(format!("must be {}, not {}", key.wanted(), kind(other))),
    };
    if text.is_empty() {
        return Err("must not be empty; remove the key".into());
    }
    // tinc's form, to which the file may be converted, cannot express them.
    match text.chars().any(char::is_control) || text != text.trim() {
        true => Err("must be one line without blanks around it".into()),
        false => Ok(Some((key.var, text))),
    }
}

fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Integer(number) => number.as_str().into(),
        DeValue::Datetime(at) => at.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}

/// Returns the number, if it fits into 63 bits.
pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn whole(number: &DeInteger<'_>) -> Result<i64, String> {
    integer(number).ok_or_else(|| format!("is too large: {}", number.as_str()))
}

fn seconds(text: &str) -> Result<u64, String> {
    let duration: Duration = humantime::parse_duration(text).map_err(|error| {
        format!("must be a time like \"90s\" or \"15m\", not {text:?} ({error})")
    })?;
    match duration.subsec_nanos() {
        0 => Ok(duration.as_secs()),
        _ => Err(format!("must be whole seconds, not {text:?}")),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let size: Result<ByteSize, _> = text.parse();
    size.map(|size| size.as_u64())
        .map_err(|_| format!("must be a size like \"64KiB\" or a number of bytes, not {text:?}"))
}

/// Returns `HOST:PORT` in tinc's form, `HOST PORT`.
fn endpoint(text: &str) -> Result<String, String> {
    let bad =
        || format!("must be \"HOST\", \"HOST:PORT\", \"IPV6\" or \"[IPV6]:PORT\", not {text:?}");
    if text.contains(char::is_whitespace) {
        return Err(bad());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        return match rest.strip_prefix(':') {
            Some(port) if !port.is_empty() => Ok(format!("{host} {port}")),
            None if rest.is_empty() => Ok(host.into()),
            _ => Err(bad()),
        };
    }
    match text.split_once(':') {
        // An IPv6 address without port.
        Some((_, rest)) if rest.contains(':') => Ok(text.into()),
        Some((host, port)) if !host.is_empty() && !port.is_empty() => Ok(format!("{host} {port}")),
        Some(_) => Err(bad()),
        None => Ok(text.into()),
    }
}
