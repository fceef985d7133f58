//! Lexer of request lines, which follows `scanf`.

use crate::{
    EdgeAddress, NodeName, Subnet,
    request::{MAX_WORD, RequestError, is_passed_on},
};

/// The rest of a line. Every method takes one field from the front. The error names the request and
/// the field that is missing or invalid.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    request: &'static str,
    passed_on: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a [u8]) -> Self {
        Self {
            rest: line,
            request: "",
            passed_on: false,
        }
    }

    /// Takes the number of the request, which `name_of` must know.
    pub(super) fn request(
        &mut self,
        name_of: impl Fn(i32) -> Option<&'static str>,
    ) -> Result<i32, RequestError> {
        let line = self.rest;
        if let Some(number) = self.decimal()
            && let Some(name) = name_of(number)
        {
            (self.request, self.passed_on) = (name, is_passed_on(number));
            return Ok(number);
        }
        let mut words = line.split(|b| is_blank(*b));
        let word = words.find(|word| !word.is_empty()).unwrap_or_default();
        let shown = &word[..word.len().min(32)];
        Err(RequestError::Unknown(String::from_utf8_lossy(shown).into()))
    }

    pub(super) fn name(&mut self, field: &'static str) -> Result<NodeName, RequestError> {
        NodeName::new(self.text(field)?).map_err(|_| self.bad(field))
    }

    /// Takes the two ends of an edge, which must differ.
    pub(super) fn two_nodes(&mut self) -> Result<(NodeName, NodeName), RequestError> {
        let from = self.name("from")?;
        let to = self.name("to")?;
        if from == to {
            return Err(self.bad("to"));
        }
        Ok((from, to))
    }

    pub(super) fn subnet(&mut self, field: &'static str) -> Result<Subnet, RequestError> {
        self.text(field)?.parse().map_err(|_| self.bad(field))
    }

    pub(super) fn address(&mut self, field: &'static str) -> Result<EdgeAddress, RequestError> {
        Ok(EdgeAddress::parse(self.text(field)?, self.text(field)?))
    }

    /// Takes a port as in ACK: a word of which only the leading number counts.
    pub(super) fn port(&mut self, field: &'static str) -> Result<u16, RequestError> {
        let mut word = Self::new(self.text(field)?.as_bytes());
        Ok(word.decimal().unwrap_or(0) as u16)
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<i32, RequestError> {
        self.decimal().ok_or_else(|| self.bad(field))
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, RequestError> {
        self.skip_blanks();
        let (word, rest) = self.rest.split_at(count(self.rest, |b| !is_blank(b)));
        if word.is_empty() || word.len() > MAX_WORD {
            return Err(self.bad(field));
        }
        self.rest = rest;
        str::from_utf8(word).map_err(|_| self.bad(field))
    }

    /// Takes `%d`, with the wrapping of 64-bit Linux: nodes must agree on weights.
    pub(super) fn decimal(&mut self) -> Option<i32> {
        self.skip_blanks();
        let (negative, digits) = sign(self.rest);
        let (digits, rest) = digits.split_at(count(digits, |b| b.is_ascii_digit()));
        if digits.is_empty() {
            return None;
        }
        self.rest = rest;
        let value = digits.iter().fold(0_i64, |value, digit| {
            let digit = i64::from(digit - b'0');
            let digit = if negative { -digit } else { digit };
            value.saturating_mul(10).saturating_add(digit)
        });
        Some(value as i32)
    }

    /// Takes `%x`, likewise.
    pub(super) fn hex(&mut self, field: &'static str) -> Result<u32, RequestError> {
        self.skip_blanks();
        let (negative, digits) = sign(self.rest);
        let prefixed = matches!(digits, [b'0', b'x' | b'X', ..]);
        let digits = if prefixed { &digits[2..] } else { digits };
        let (digits, rest) = digits.split_at(count(digits, |b| b.is_ascii_hexdigit()));
        if digits.is_empty() && !prefixed {
            return Err(self.bad(field));
        }
        self.rest = rest;
        let value = digits.iter().try_fold(0_u64, |value, digit| {
            let digit = char::from(*digit).to_digit(16).map(u64::from)?;
            value.checked_mul(16)?.checked_add(digit)
        });
        let value = value.map(|v| if negative { v.wrapping_neg() } else { v });
        Ok(value.unwrap_or(u64::MAX) as u32)
    }

    pub(super) fn has_more(&mut self) -> bool {
        self.skip_blanks();
        !self.rest.is_empty()
    }

    /// Returns the rest of the line.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn skip_blanks(&mut self) {
        self.rest = &self.rest[count(self.rest, is_blank)..];
    }

    /// Returns the error for a field of the request.
    pub(super) fn bad(&self, field: &'static str) -> RequestError {
        RequestError::about(self.request, self.passed_on, field)
    }
}

/// Returns the number of leading bytes of a kind.
fn count(bytes: &[u8], kind: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|b| kind(**b)).count()
}

/// Returns true for white space of C: space and 9 to 13.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

fn sign(number: &[u8]) -> (bool, &[u8]) {
    match number {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    }
}
