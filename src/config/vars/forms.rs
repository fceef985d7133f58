//! Readers of fields, by form. Each reads the lines of a variable and falls back to its default.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use meshd_proto::{
    mesh::settings::{HostAddress, MinProtocol, SubnetPolicy},
    route::{Broadcast, Forwarding, MTU, Mode, SourceCheck},
};
use meshd_wire::{Options, Subnet};

pub(super) use super::field::print;
use super::{find, print::Print};
use crate::{
    AddressFamily, DeviceType, MetricsListen, Routes, Sandbox, allow::Allow, reader::Reader,
    toml::keys::NO_SCRIPTS, values,
};

/// Largest replay window in bytes of 8 packets: 512 Ki packets, 64 KiB for each node. Higher values are lowered to it.
const MAX_REPLAY_BYTES: i32 = 65_536;
/// Nice values of ProcessPriority.
const PRIORITIES: [(&str, i32); 3] = [("low", 10), ("normal", 0), ("high", -10)];

/// An enumeration whose values are the words of a variable.
pub(super) trait Words: Copy + PartialEq + 'static {
    /// Words with their values. If several words have one value, the first one is printed.
    const WORDS: &'static [(&'static str, Self)];
}

macro_rules! words {
    ($type:ident { $($word:literal => $value:ident),+ $(,)? }) => {
        impl Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value)),+];
        }

        impl Print for $type {
            fn print(&self) -> Vec<String> {
                let mut words = Self::WORDS.iter();
                let word = words.find(|(_, value)| value == self);
                word.iter().map(|(word, _)| (*word).to_owned()).collect()
            }
        }
    };
}

words!(Mode { "router" => Router, "switch" => Switch, "hub" => Hub });
words!(Forwarding { "internal" => Internal, "off" => Off, "kernel" => Kernel });
words!(Broadcast { "mst" => Mst, "no" => No, "yes" => Mst, "direct" => Direct });
words!(SourceCheck { "native" => Native, "no" => No, "strict" => Strict });
words!(SubnetPolicy { "conflict" => Conflict, "open" => Open, "covered" => Covered, "strict" => Conflict });
words!(MinProtocol { "sptps" => Sptps, "legacy" => Legacy, "native" => Native });
words!(AddressFamily { "any" => Any, "ipv4" => V4, "ipv6" => V6 });
words!(Sandbox { "normal" => Normal, "off" => Off, "high" => High });
words!(DeviceType { "tun" => Tun, "tap" => Tap, "dummy" => Dummy });

impl<T: Print> Print for Option<T> {
    fn print(&self) -> Vec<String> {
        self.as_ref().map_or_else(Vec::new, Print::print)
    }
}

pub(super) fn flag(reader: &mut Reader<'_>, name: &'static str) -> bool {
    reader.flag(name)
}

/// Reads a switch without a default.
pub(super) fn flag_if(reader: &mut Reader<'_>, name: &'static str) -> Option<bool> {
    reader.boolean(name)
}

/// Sets a bit of the options.
pub(super) const fn set(options: &mut Options, bit: u32, on: bool) {
    if on {
        options.0 |= bit;
    } else {
        options.0 &= !bit;
    }
}

/// Reads a word of the row. A wrong one is an error, and the default counts.
pub(super) fn word<T: Words>(reader: &mut Reader<'_>, name: &'static str) -> T {
    let word = reader.word(name);
    let mut words = T::WORDS.iter();
    let found = words.find(|(known, _)| *known == word);
    found.unwrap_or(&T::WORDS[0]).1
}

/// Reads a word without a default. A wrong one is an error.
pub(super) fn word_if<T: Words>(reader: &mut Reader<'_>, name: &'static str) -> Option<T> {
    reader.tree.first(name)?;
    Some(word(reader, name))
}

/// Reads a number from `min` to `max`; another one is an error.
pub(super) fn number<T: TryFrom<u32> + Default>(
    reader: &mut Reader<'_>,
    name: &'static str,
    min: i32,
    max: i32,
) -> T {
    let number = reader.number(name, min, max).unsigned_abs();
    T::try_from(number).unwrap_or_default()
}

/// Reads a number from `min` to `max` without a default.
pub(super) fn number_if(
    reader: &mut Reader<'_>,
    name: &'static str,
    min: i32,
    max: i32,
) -> Option<u32> {
    reader.number_if(name, min, max).map(i32::unsigned_abs)
}

/// Reads any number, without a default.
pub(super) fn int_if(reader: &mut Reader<'_>, name: &'static str) -> Option<i32> {
    reader.int(name)
}

pub(super) fn seconds(reader: &mut Reader<'_>, name: &'static str) -> Duration {
    reader.seconds(name)
}

/// Reads seconds; a number below 1 is an error.
pub(super) fn seconds_from_one(reader: &mut Reader<'_>, name: &'static str) -> Duration {
    Duration::from_secs(number::<u32>(reader, name, 1, i32::MAX).into())
}

/// Reads bytes of a replay window as packets.
pub(super) fn replay_window(reader: &mut Reader<'_>, name: &'static str) -> u32 {
    let bytes = reader.number(name, 0, i32::MAX).min(MAX_REPLAY_BYTES);
    bytes.unsigned_abs() * 8
}

pub(super) fn print_replay_window(packets: &u32) -> Vec<String> {
    (packets / 8).print()
}

/// Reads a firewall mark: the bits of a signed number.
pub(super) fn mark(reader: &mut Reader<'_>, name: &'static str) -> u32 {
    reader.number(name, i32::MIN, i32::MAX).cast_unsigned()
}

pub(super) fn print_mark(mark: &u32) -> Vec<String> {
    mark.cast_signed().print()
}

/// Reads tinc's debug level, 0 to 10. Numbers outside mean the nearest one.
pub(super) fn level(reader: &mut Reader<'_>, name: &'static str) -> u8 {
    let level = reader.number(name, i32::MIN, i32::MAX).clamp(0, 10);
    u8::try_from(level).unwrap_or_default()
}

/// Reads a priority as a nice value.
pub(super) fn nice(reader: &mut Reader<'_>, name: &'static str) -> Option<i32> {
    reader.tree.first(name)?;
    let word = reader.word(name);
    let mut known = PRIORITIES.iter();
    known
        .find(|(known, _)| *known == word)
        .map(|(_, nice)| *nice)
}

pub(super) fn print_nice(nice: &Option<i32>) -> Vec<String> {
    let known = PRIORITIES.iter().filter(|(_, value)| Some(*value) == *nice);
    known.map(|(word, _)| (*word).to_owned()).collect()
}

/// Reads PMTU, in bytes with the Ethernet header.
pub(super) fn pmtu(reader: &mut Reader<'_>, name: &'static str) -> Option<u16> {
    let pmtu = reader.int(name).filter(|pmtu| *pmtu > 0)?;
    Some(u16::try_from(pmtu).unwrap_or(MTU).min(MTU))
}

/// Reads text; without a line it is empty.
pub(super) fn text(reader: &Reader<'_>, name: &'static str) -> String {
    reader.text(name).unwrap_or_default()
}

pub(super) fn text_if(reader: &Reader<'_>, name: &'static str) -> Option<String> {
    reader.text(name)
}

/// Reads a file name other than the default.
pub(super) fn path(reader: &Reader<'_>, name: &'static str) -> Option<PathBuf> {
    let text = reader.text(name);
    let other = text.filter(|text| find(name).is_none_or(|var| var.default != text));
    other.map(PathBuf::from)
}

/// Reads one value; an invalid one is an error.
pub(super) fn one<T, E: ToString>(
    reader: &mut Reader<'_>,
    name: &'static str,
    parse: fn(&str) -> Result<T, E>,
) -> Option<T> {
    reader.one(name, parse)
}

/// Reads a list; an invalid line is an error.
pub(super) fn each<T, E: ToString>(
    reader: &mut Reader<'_>,
    name: &'static str,
    parse: fn(&str) -> Result<T, E>,
) -> Vec<T> {
    reader.each(name, parse)
}

/// Reads subnets; an invalid line is a warning, because it affects only itself (config/tinc.md section 1.4).
pub(super) fn lenient_subnets(reader: &mut Reader<'_>, name: &'static str) -> Vec<Subnet> {
    let before = reader.problems.len();
    let subnets = reader.each(name, Subnet::from_config);
    let found = reader.problems[before..].iter_mut();
    found.for_each(|problem| problem.error = false);
    subnets
}

pub(super) fn port(reader: &mut Reader<'_>, name: &'static str) -> u16 {
    let port = reader.one(name, values::port);
    port.unwrap_or(values::DEFAULT_PORT)
}

/// Reads addresses; the Port of the same file is their default port.
pub(super) fn addresses(reader: &mut Reader<'_>, name: &'static str) -> Vec<HostAddress> {
    let default_port = port(reader, "Port");
    for entry in reader.tree.all(name) {
        if let Some((host, port)) = entry.value.split_once(':')
            && !host.is_empty()
            && port.bytes().all(|digit| digit.is_ascii_digit())
        {
            let text = format!(
                "{:?} is read as a host name; write `{host} {port}`",
                entry.value
            );
            reader.problems.push(entry.warning(text));
        }
    }
    reader.each(name, |text| values::address(text, default_port))
}

/// Reads the name of an interface, and warns if it is too long.
pub(super) fn interface(reader: &mut Reader<'_>, name: &'static str) -> Option<String> {
    let named = reader.one(name, values::interface_name)?;
    let entry = reader.tree.first(name)?;
    if named.len() < entry.value.len() {
        let text = format!("an interface name has at most 15 characters; meshd uses {named}");
        reader.problems.push(entry.warning(text));
    }
    Some(named)
}

/// Reads a kind of device that meshd supports. Without a line, `resolve` chooses one by the mode.
pub(super) fn device_type(reader: &mut Reader<'_>, name: &'static str) -> DeviceType {
    let word = reader.word(name);
    let mut known = DeviceType::WORDS.iter();
    if let Some((_, device)) = known.find(|(known, _)| *known == word) {
        return *device;
    }
    if let Some(entry) = reader.tree.first(name).filter(|_| !word.is_empty()) {
        let text = "meshd supports only DeviceType = tun, tap and dummy";
        reader.problems.push(entry.error(text));
    }
    DeviceType::default()
}

/// Reads networks to route, and the word `auto`.
pub(super) fn routes(reader: &mut Reader<'_>, name: &'static str) -> Routes {
    let routes = reader.each(name, values::interface_route);
    Routes {
        auto: routes.contains(&None),
        networks: routes.into_iter().flatten().collect(),
    }
}

impl Print for Routes {
    fn print(&self) -> Vec<String> {
        let auto = self.auto.then(|| "auto".to_owned());
        auto.into_iter().chain(self.networks.print()).collect()
    }
}

pub(super) fn metrics(reader: &mut Reader<'_>, name: &'static str) -> MetricsListen {
    let listen = reader.one(name, values::metrics_listen);
    listen.unwrap_or_default()
}

/// Reads names of scripts; `None` without a line.
pub(super) fn scripts(reader: &mut Reader<'_>, name: &'static str) -> Option<Vec<&'static str>> {
    reader.tree.first(name)?;
    let mut scripts = reader.each(name, values::script);
    scripts.retain(|script| *script != NO_SCRIPTS);
    Some(scripts)
}

pub(super) fn print_scripts(scripts: &Option<Vec<&'static str>>) -> Vec<String> {
    match scripts.as_deref() {
        None => Vec::new(),
        Some([]) => vec![NO_SCRIPTS.to_owned()],
        Some(scripts) => scripts.iter().map(ToString::to_string).collect(),
    }
}

/// Reads rules, in their order.
pub(super) fn rules(reader: &mut Reader<'_>, name: &'static str) -> Vec<Allow> {
    let mut rules = reader.each(name, Allow::parse);
    rules.sort();
    rules.dedup();
    rules
}

pub(super) fn labels(reader: &mut Reader<'_>, name: &'static str) -> BTreeMap<String, String> {
    reader.each(name, values::label).into_iter().collect()
}

/// True if the line is the word `none`.
pub(super) fn is_none(reader: &Reader<'_>, name: &'static str) -> bool {
    let line = reader.tree.first(name);
    line.is_some_and(|entry| entry.value.eq_ignore_ascii_case("none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::Kind;

    #[test]
    fn words_are_those_of_the_row_and_the_default_is_the_first() {
        fn check<T: Words>(name: &str) {
            let var = find(name).unwrap();
            let Kind::Word(words) = var.kind else {
                panic!("{name} has no words")
            };
            let known: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
            assert!(words.iter().all(|word| known.contains(word)), "{name}");
            assert_eq!(words.len(), known.len(), "{name}");
            if !var.default.is_empty() {
                assert_eq!(known[0], var.default, "{name}");
            }
        }
        check::<Mode>("Mode");
        check::<Forwarding>("Forwarding");
        check::<Broadcast>("Broadcast");
        check::<SourceCheck>("SourceCheck");
        check::<SubnetPolicy>("SubnetPolicy");
        check::<MinProtocol>("MinProtocol");
        check::<AddressFamily>("AddressFamily");
        check::<Sandbox>("Sandbox");
    }
}
