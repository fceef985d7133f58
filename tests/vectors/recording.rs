//! Reads the recordings of real daemons.

use data_encoding::HEXLOWER;
use serde_json::Value;

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list {key}"))
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key}"))
}

pub(crate) fn hex(value: &Value, key: &str) -> Vec<u8> {
    HEXLOWER.decode(text(value, key).as_bytes()).unwrap()
}
